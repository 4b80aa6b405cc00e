"""The hbase sinks and a real HBase 2.6 with its Thrift gateway."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.errors import DeliveryError, Rejected
from agent.event import Batch, Event
from agent.store.streams import Identity
from aggregator.sinks.hbase import HbaseConfig, HbaseSink
from tests.contracts.sink import FarSide, SinkContract
from tests.house.test_docs import fenced
from tests.needs import need
from tests.peers.harness import ROOT, Program, free_port, wait_until
from tests.peers.hbase import Hbase, shared_hbase

ORIGIN = bytes(range(16))


@pytest.fixture
def hbase() -> Hbase:
    need("hbase", "java")
    return shared_hbase()


@pytest.fixture
def table(request: pytest.FixtureRequest) -> str:
    """A name that no other test has."""
    return "".join(letter if letter.isalnum() else "_" for letter in f"t_{request.node.name}")


def make(hbase: Hbase, table: str, **keys: Any) -> HbaseSink:
    return HbaseSink("k", HbaseConfig(channel="c", table=table, columnFamily="d", thriftPort=hbase.port, **keys))


def named(*bodies: bytes, first: int = 1, **headers: str) -> Batch:
    return Batch([Event(headers, body) for body in bodies], identity=(Identity(ORIGIN, first, len(bodies)),))


def send(sink: HbaseSink, *batches: Batch) -> None:
    async def steps() -> None:
        async with sink:
            for batch in batches:
                await sink.send(batch)

    asyncio.run(steps())


class Table:
    """A table, which is disabled when it is to go away."""

    def __init__(self, hbase: Hbase, name: str) -> None:
        self.hbase, self.name = hbase, name
        self.sink = make(hbase, name, serializer="readings")

    async def arrived(self) -> list[str]:
        rows = [cells for _, cells in self.hbase.rows(self.name)]
        rows.sort(key=lambda cells: int(cells[b"d:headrace"].partition(b":")[2]))
        return [cells[b"d:body"].decode() for cells in rows]

    async def go_away(self) -> None:
        self.hbase.disable(self.name)

    async def come_back(self) -> None:
        self.hbase.enable(self.name)


class TestHbaseSink(SinkContract):
    """The contract of sinks, against a real gateway."""

    @pytest.fixture(autouse=True)
    def _place(self, hbase: Hbase, table: str) -> None:
        self.hbase, self.table = hbase, table

    @asynccontextmanager
    async def far_side(self) -> AsyncIterator[FarSide]:  # type: ignore[override]
        self.hbase.create(self.table, "d")
        yield Table(self.hbase, self.table)


@pytest.mark.parametrize("serializer", ["simple", "regex", "readings"])
def test_a_repeat_changes_nothing(hbase: Hbase, table: str, serializer: str) -> None:
    """A batch that comes again, whole or in part, to another sink, leaves each event in one row."""
    keys: dict[str, Any] = {"serializer": serializer, "createTable": True}
    if serializer == "simple":
        keys["serializerKeys"] = {"countEvents": "false"}
    send(make(hbase, table, **keys), named(b"1", b"2"), named(b"1", b"2"))
    before = hbase.rows(table)
    send(make(hbase, table, **keys), named(b"2", first=2))
    assert hbase.rows(table) == before and len(before) == 2
    assert hbase.count(table) == 2


def test_a_batch_of_several_calls(hbase: Hbase, table: str) -> None:
    """A batch with more bytes than one call holds arrives whole."""
    bodies = [bytes([65 + i]) * 400_000 for i in range(6)]
    send(make(hbase, table, serializer="readings", createTable=True), named(*bodies))
    assert sorted(cells[b"d:body"] for _, cells in hbase.rows(table)) == bodies


@pytest.mark.parametrize("coalesce", [False, True])
def test_counters(hbase: Hbase, table: str, coalesce: bool) -> None:
    """Flume's counter counts the events, coalesced or not."""
    send(make(hbase, table, coalesceIncrements=coalesce, createTable=True), named(b"1", b"2", b"3"))
    [count] = [cells[b"d:iCol"] for key, cells in hbase.rows(table) if key == b"incRow"]
    assert int.from_bytes(count, "big") == 3


def test_without_the_log(hbase: Hbase, table: str) -> None:
    """enableWal = false is taken."""
    send(make(hbase, table, serializer="readings", enableWal=False, createTable=True), named(b"x"))
    assert len(hbase.rows(table)) == 1


def test_a_missing_table(hbase: Hbase, table: str) -> None:
    """One line says how to make it, at open and when it goes away later; once it is there the sink delivers."""

    async def steps() -> None:
        sink = make(hbase, table, serializer="readings")
        with pytest.raises(DeliveryError, match=rf"no table {table}: create '{table}', 'd' .*createTable = true"):
            await sink.open()
        hbase.create(table, "d")
        async with make(hbase, table, serializer="readings") as sink:
            await sink.send(named(b"1"))
            with hbase.client() as client:
                client.delete_table(table, disable=True)
            with pytest.raises(DeliveryError, match=f"no table {table}: create"):
                await sink.send(named(b"2", first=2))
            hbase.create(table, "d")
            await sink.send(named(b"2", first=2))

    asyncio.run(steps())
    assert [cells[b"d:body"] for _, cells in hbase.rows(table)] == [b"2"]


def test_a_missing_family(hbase: Hbase, table: str) -> None:
    """It is named with those that there are and the line that adds it."""
    hbase.create(table, "x", "y")
    with pytest.raises(DeliveryError, match=rf"no column family d, it has x, y: alter '{table}', NAME => 'd'"):
        send(make(hbase, table, createTable=True))


def test_a_disabled_table(hbase: Hbase, table: str) -> None:
    """It is the destination's fault: DeliveryError with HBase's reason, and not Rejected."""
    hbase.create(table, "d")

    async def steps() -> None:
        async with make(hbase, table, serializer="readings") as sink:
            hbase.disable(table)
            with pytest.raises(DeliveryError, match="NotServingRegionException") as caught:
                await sink.send(named(b"1"))
            assert not isinstance(caught.value, Rejected)
            hbase.enable(table)
            await sink.send(named(b"1"))

    asyncio.run(steps())
    assert len(hbase.rows(table)) == 1


def test_a_cell_that_is_too_large(hbase: Hbase, table: str) -> None:
    """An event above HBase's 10 MiB for a cell is Rejected, and the sink goes on."""

    async def steps() -> None:
        async with make(hbase, table, serializer="readings", createTable=True) as sink:
            with pytest.raises(Rejected, match="KeyValue size too large"):
                await sink.send(named(b"x" * (11 << 20)))
            await sink.send(named(b"y", first=2))

    asyncio.run(steps())
    assert len(hbase.rows(table)) == 1


FLOW = """\
a.sources = r
a.channels = c
a.sinks = k
a.sources.r.type = netcat
a.sources.r.bind = 127.0.0.1
a.sources.r.port = {lines}
a.sources.r.channels = c
a.channels.c.type = file
a.channels.c.path = {store}
a.sinks.k.type = {type}
a.sinks.k.channel = c
a.sinks.k.thriftPort = {thrift}
a.sinks.k.table = {table}
a.sinks.k.columnFamily = d
a.sinks.k.createTable = true
a.sinks.k.serializer = regex
a.sinks.k.serializer.regex = (\\\\w+) ([0-9.]+)
a.sinks.k.serializer.colNames = sensor,value
"""


def tell(port: int, text: str) -> bytes:
    """What a netcat source answers to lines."""
    with socket.create_connection(("127.0.0.1", port), 5) as peer:
        peer.sendall(text.encode())
        answers = peer.makefile("rb")
        return b"".join(answers.readline() for _ in text.splitlines())


@pytest.mark.parametrize("type_name", ["hbase2", "asynchbase"])
def test_what_no_regex_matches_is_a_dead_letter(
    hbase: Hbase, table: str, type_name: str, program: Callable[..., Program], tmp_path: Path
) -> None:
    """It goes to the dead letters with the reason, and the others of its batch become rows."""
    lines = free_port()
    text = FLOW.format(lines=lines, store=tmp_path / "store", thrift=hbase.port, table=table, type=type_name)
    agent = program("aggregator", text)
    assert tell(lines, "boiler 71.5\nnonsense\nboiler 72\n") == b"OK\nOK\nOK\n"
    wait_until(lambda: table in _tables(hbase) and len(hbase.rows(table)) == 2, 30, "two rows")
    agent.wait_log("is a dead letter now: an event's body does not match regex")
    assert sorted(cells[b"d:value"] for _, cells in hbase.rows(table)) == [b"71.5", b"72"]


@pytest.mark.limit(180)
def test_framed_and_compact(tmp_path: Path) -> None:
    """A gateway with framed transport and compact protocol is spoken to as it wants; in the wrong way nothing hangs."""
    need("hbase", "java")
    with Hbase(tmp_path, framed=True, compact=True) as hbase:
        keys: dict[str, Any] = {"serializer": "readings", "createTable": True, "callTimeout": 10.0}
        send(make(hbase, "t", thriftTransport="framed", thriftProtocol="compact", **keys), named(b"1", b"2"))
        assert len(hbase.rows("t")) == 2
        with pytest.raises(DeliveryError):
            send(make(hbase, "t", **keys))


def test_the_page(hbase: Hbase, program: Callable[..., Program], tmp_path: Path) -> None:
    """The configuration of docs/hbase.md makes its table and stores the reading as shown; ports and folder differ."""
    page = ROOT / "docs" / "hbase.md"
    [flow, session, shown] = [fenced(page, language)[0] for language in ("properties", "sh", "text")]
    lines = free_port()
    for old, new in (("6666", lines), ("9090", hbase.port), ("/var/lib/headrace/aggregator", tmp_path / "store")):
        assert str(old) in flow
        flow = flow.replace(str(old), str(new))
    program("aggregator", flow)
    said = session.split("'")[1]
    assert tell(lines, f"{said}\n") == b"OK\n"
    wait_until(lambda: "readings" in _tables(hbase) and hbase.rows("readings"), 30, "a row in the table")
    [(key, cells)] = hbase.rows("readings")
    printed = dict(line.split("=", 1) for line in shown.strip().splitlines()[1:])
    assert {k.strip(): v.strip() for k, v in printed.items() if "headrace" not in k} == {
        column.decode(): value.decode() for column, value in cells.items() if column != b"d:headrace"
    }
    sensor, late, identity = key.decode().split("|")
    assert sensor == shown.split("|")[0] and len(late) == 19
    assert cells[b"d:headrace"].decode() == identity.replace("-", ":")


def _tables(hbase: Hbase) -> list[str]:
    with hbase.client() as client:
        return [name.decode() for name in client.tables()]
