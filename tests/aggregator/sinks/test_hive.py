"""hive: rows in the files of a table's partitions, with a metastore in this process."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import fastavro
import pytest

from agent.config.reading import read
from agent.errors import DeliveryError, Rejected
from agent.event import Batch, Event
from agent.sink import Sink
from agent.store.streams import Identity
from aggregator.metastore.table import place_of
from aggregator.sinks.hive import HiveConfig, HiveSink
from tests.aggregator.metastore.fake import FakeMetastore
from tests.contracts.sink import FarSide, SinkContract
from tests.peers.harness import wait_until

KEYS = {
    "channel": "c",
    "hive.database": "d",
    "hive.table": "t",
    "serializer": "JSON",
    "createTable": "true",
    "hive.columns": "id bigint",
}
PARTITIONED = {"hive.partition": "%{room}", "hive.partitionColumns": "room"}


def make(server: FakeMetastore, **keys: str) -> HiveSink:
    reading = read(HiveConfig, {"hive.metastore": server.url, **KEYS, **keys}, "sink k")
    assert reading.config and not reading.faults, reading.faults
    return HiveSink("k", reading.config)


def table_files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "d.db").rglob("*") if path.is_file())


def growing(folder: Path) -> list[Path]:
    return [path for path in table_files(folder) if path.name.startswith("_")]


def rows(*paths: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for path in paths:
        reader: Any = fastavro.reader(io.BytesIO(path.read_bytes()))
        found += reader
    return found


def event(number: int, room: str = "a") -> Event:
    return Event({"room": room}, b'{"id": %d}' % number)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeMetastore]:
    with FakeMetastore(tmp_path) as server:
        yield server


def run(sink: HiveSink, steps: Callable[[], Awaitable[None]], close: bool = True) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await sink.open()
            await steps()
            if close:
                await sink.close()

    asyncio.run(bounded())


class Table:
    """The far side; each `send` is for a new partition, and so needs the metastore."""

    def __init__(self, server: FakeMetastore) -> None:
        self.server = server
        self.sink: Sink = make(
            server,
            **{
                "hive.columns": "body string", "serializer": "DELIMITED", "serializer.fieldnames": "body",
                "hive.partition": "%t", "hive.partitionColumns": "t bigint", "useLocalTimeStamp": "true",
                "callTimeout": "2000",
            },
        )  # fmt: skip

    async def arrived(self) -> list[str]:
        paths = sorted(table_files(self.server.folder), key=lambda path: path.stat().st_mtime_ns)
        return [str(row["body"]) for row in rows(*paths)]

    async def go_away(self) -> None:
        self.server.stop()

    async def come_back(self) -> None:
        self.server.start()


class TestHiveSink(SinkContract):
    """The contract of sinks."""

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    @asynccontextmanager
    async def far_side(self) -> AsyncIterator[FarSide]:
        with FakeMetastore(self.folder) as server:
            yield Table(server)


def test_a_partition_is_known_before_its_first_file(server: FakeMetastore, tmp_path: Path) -> None:
    """Each new value is registered once, its rows lie in its folder, and the name of an open file begins with _."""
    sink = make(server, **PARTITIONED)

    async def steps() -> None:
        await sink.send(Batch([event(1), event(2, "b/c"), event(3)]))
        await sink.send(Batch([event(4)]))
        assert [(path.parent.name, path.name[0]) for path in table_files(tmp_path)] == [
            ("room=a", "_"), ("room=b%2Fc", "_"),
        ]  # fmt: skip

    run(sink, steps)
    assert server.calls.count("add_partitions_req") == 2
    first, second = table_files(tmp_path)
    assert (rows(first), rows(second)) == ([{"id": 1}, {"id": 3}, {"id": 4}], [{"id": 2}])
    assert first.suffix == ".avro" and not first.name.startswith("_")
    assert {key[2] for key in server.partitions} == {("a",), ("b/c",)}


def test_known_partitions_need_no_metastore(server: FakeMetastore, tmp_path: Path) -> None:
    """While it is down rows for them go on and are finished; a new one waits."""
    sink = make(server, **PARTITIONED, rollCount="2")

    async def steps() -> None:
        await sink.send(Batch([event(1)]))
        server.stop()
        await sink.send(Batch([event(2)]))
        with pytest.raises(DeliveryError, match="metastore"):
            await sink.send(Batch([event(3, "b")]))

    run(sink, steps)
    assert rows(*table_files(tmp_path)) == [{"id": 1}, {"id": 2}]


def test_a_table_without_partitions(server: FakeMetastore, tmp_path: Path) -> None:
    """Its files lie in its own folder."""
    sink = make(server)

    async def steps() -> None:
        await sink.send(Batch([event(1)]))

    run(sink, steps)
    assert [path.parent.name for path in table_files(tmp_path)] == ["t"]


def test_a_partition_that_may_not_be_made(server: FakeMetastore) -> None:
    """With autoCreatePartitions = false a missing one waits, and goes on when somebody has made it."""
    sink = make(server, **PARTITIONED, autoCreatePartitions="false")

    async def steps() -> None:
        with pytest.raises(DeliveryError, match="has no partition room=a, and autoCreatePartitions = false"):
            await sink.send(Batch([event(1)]))
        await sink.ask(lambda metastore: metastore.register(sink.table, ["a"], f"{sink.table.location}/room=a"))
        await sink.send(Batch([event(1)]))

    run(sink, steps)


def test_a_missing_table(server: FakeMetastore) -> None:
    """The line has the statement that makes it."""
    sink = make(server, **PARTITIONED, createTable="false")
    with pytest.raises(
        DeliveryError, match=r"no table d\.t; make it: CREATE EXTERNAL TABLE d\.t \(`id` bigint\) PARTIT"
    ):
        asyncio.run(sink.open())


def test_other_partition_columns(server: FakeMetastore) -> None:
    """As many values as the table has columns, or it waits with both."""
    run(make(server), _nothing)
    sink = make(server, **PARTITIONED)
    with pytest.raises(DeliveryError, match=r"d\.t has 0 partition columns \(none\), hive\.partition has 1 values"):
        asyncio.run(sink.open())


def test_a_column_that_the_table_does_not_have(server: FakeMetastore) -> None:
    """A name in serializer.fieldnames must be one."""
    run(make(server), _nothing)
    sink = make(server, **{"serializer": "DELIMITED", "serializer.fieldnames": "id,,what"})
    with pytest.raises(DeliveryError, match="no column what"):
        asyncio.run(sink.open())


def test_a_bad_row_leaves_no_trace(server: FakeMetastore, tmp_path: Path) -> None:
    """Rejected before any row of the batch is written."""
    sink = make(server, **PARTITIONED)

    async def steps() -> None:
        with pytest.raises(Rejected, match="column id takes bigint"):
            await sink.send(Batch([event(1), Event({"room": "b"}, b'{"id": "x"}')]))
        assert not table_files(tmp_path)
        await sink.send(Batch([event(1)]))

    run(sink, steps)
    assert rows(*table_files(tmp_path)) == [{"id": 1}]


def test_old_files_are_finished_without_a_batch(server: FakeMetastore, tmp_path: Path) -> None:
    """Rows are seen after rollInterval, idleTimeout, rollCount or rollSize, although nothing more comes."""
    rules = {"rollInterval": "100ms", "idleTimeout": "100ms", "rollCount": "1", "rollSize": "9"}
    for number, (name, value) in enumerate(rules.items(), 1):
        sink = make(server, **{name: value})

        async def steps(sink: HiveSink = sink, number: int = number) -> None:
            await sink.send(Batch([event(number)]))
            await asyncio.to_thread(wait_until, lambda: not growing(tmp_path), 30, "the file is finished")

        run(sink, steps)
    assert sorted(row["id"] for row in rows(*table_files(tmp_path))) == [1, 2, 3, 4]


class Kept:
    """A channel's memory of receipts: `crash` is what a new sink would get after a death right now."""

    def __init__(self, sink: HiveSink, receipt: bytes | None = None) -> None:
        self.sink, self.receipt = sink, receipt
        sink.receipt, sink.durable, sink.keep = receipt, True, self._keep

    async def _keep(self, receipt: bytes) -> None:
        self.receipt = receipt


@pytest.mark.parametrize("died", ["before the commit", "after the commit", "half a block later"])
def test_after_a_crash(died: str, server: FakeMetastore, tmp_path: Path) -> None:
    """What was acknowledged is finished, what wasn't is left behind, whatever the open file holds."""
    sink = make(server, **PARTITIONED)
    kept = Kept(sink)

    async def steps() -> None:
        kept.receipt = await sink.send(Batch([event(1), event(2, "b")]))
        after = await sink.send(Batch([event(3), event(4, "new")]))
        if died != "before the commit":
            kept.receipt = after
        if died == "half a block later":
            for path in table_files(tmp_path):
                with path.open("ab") as file:
                    file.write(b"\x02\x04")

    run(sink, steps, close=False)
    again = make(server, **PARTITIONED)
    Kept(again, kept.receipt)
    run(again, _nothing)
    assert not growing(tmp_path)
    expected = [1, 2] if died == "before the commit" else [1, 2, 3, 4]
    assert sorted(row["id"] for row in rows(*table_files(tmp_path))) == expected


def test_a_crash_between_name_and_receipt(server: FakeMetastore, tmp_path: Path) -> None:
    """A file that has its name is finished, whatever the older receipt says."""
    sink = make(server)
    kept = Kept(sink)

    async def steps() -> None:
        await sink.send(Batch([event(1)]))

    run(sink, steps)
    assert kept.receipt
    again = make(server)
    Kept(again, kept.receipt)
    run(again, _nothing)
    assert rows(*table_files(tmp_path)) == [{"id": 1}]


def test_what_its_files_hold(server: FakeMetastore, tmp_path: Path) -> None:
    """An audit hears of each file which events it has, and of one that is gone that it isn't there."""
    sink = make(server, **PARTITIONED)
    Kept(sink)
    sink.folder = tmp_path
    numbers = Identity(bytes(16), 1, 3)

    async def steps() -> None:
        await sink.send(Batch([event(1), event(2, "b"), event(3)], identity=(numbers,)))

    run(sink, steps)
    in_a, in_b = table_files(tmp_path)
    in_b.unlink()
    assert [found for found in sink.held() if found.runs] == [
        ((Identity(bytes(16), 1, 1), Identity(bytes(16), 3, 1)), str(in_a), ""),
        ((Identity(bytes(16), 2, 1),), str(in_b), "is not there"),
    ]


def test_a_write_that_failed(server: FakeMetastore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is finished with what was acknowledged, and the batch goes into another."""
    sink = make(server)

    async def steps() -> None:
        await sink.send(Batch([event(1)]))
        assert sink.output
        [file] = sink.output.open_files.values()
        assert file.writer
        with monkeypatch.context() as patch:

            def fails() -> None:
                raise DeliveryError("no sync")

            patch.setattr(file.writer, "sync", fails)
            with pytest.raises(DeliveryError, match="no sync"):
                await sink.send(Batch([event(2)]))
        await sink.send(Batch([event(2)]))

    run(sink, steps)
    assert sorted(row["id"] for row in rows(*table_files(tmp_path))) == [1, 2]
    assert len(table_files(tmp_path)) == 2


def test_where_a_table_lies() -> None:
    """On a local disk or in HDFS, by the location in the metastore; a folder's % is no escape of a URL."""
    for location, place in (
        ("file:/a/b%20c", ("file://", "/a/b%20c")),
        ("file:///a/b", ("file://", "/a/b")),
        ("hdfs://h:8020/a/b%20c", ("hdfs://h:8020", "/a/b%20c")),
        ("hdfs://service/a", ("hdfs://service", "/a")),
    ):
        assert place_of(location) == place
    with pytest.raises(DeliveryError, match="there are hdfs:// and file://"):
        place_of("s3a://bucket/t")


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"hive.metastore": "http://h:1"}, "is no thrift://host:port"),
        ({"hive.columns": ""}, "createTable needs the columns"),
        ({"hive.columns": "a map<int,int>"}, "can't be written"),
        ({"hive.partition": "a"}, "1 values in hive.partition need as many"),
        ({"hive.partition": "%[nowhere]", "hive.partitionColumns": "p"}, "is no escape"),
        ({"timeZone": "Europe/Nowhere"}, "there is no time zone"),
        ({"serializer": "DELIMITED"}, "needs the column of each field"),
        ({"serializer.delimiter": '""'}, "nothing stands between fields"),
        ({"serializer.delimiter": ""}, "nothing stands between fields"),
    ],
)
def test_a_configuration_that_can_not_be(keys: dict[str, str], fault: str) -> None:
    """It is said by key before anything opens."""
    reading = read(HiveConfig, {"hive.metastore": "thrift://h:1", **KEYS, **keys}, "sink k")
    assert any(fault in found.text for found in reading.faults)


def test_keys_of_flume_that_mean_nothing_here() -> None:
    """Each is accepted with a warning."""
    names = ("hive.txnsPerBatchAsk", "heartBeatInterval", "maxOpenConnections", "serializer.serdeSeparator")
    reading = read(HiveConfig, {"hive.metastore": "thrift://h:1", **KEYS, **dict.fromkeys(names, "5")}, "sink k")
    assert reading.config and [name for name, _ in reading.notes] == list(names)


async def _nothing() -> None:
    """Open and close is all."""
