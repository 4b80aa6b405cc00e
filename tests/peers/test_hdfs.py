"""The hdfs sink before a real HDFS: contract, failures, names, a sink that died; read by Hadoop's tools."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.errors import DeliveryError, Rejected
from agent.event import Batch, Event
from agent.metrics import SinkCounter
from aggregator.hdfs.native import HdfsFileSystem
from aggregator.sinks.hdfs import HdfsConfig, HdfsSink
from tests.contracts.channel import batch
from tests.contracts.sink import SinkContract
from tests.needs import need
from tests.peers.harness import ROOT, Program, free_port, wait_until
from tests.peers.hdfs import Hdfs, shared_hdfs, site

pytestmark = pytest.mark.limit(200)


def make(path: str, **keys: object) -> HdfsSink:
    """Lines of text; nothing rolls unless asked to; the channel keeps receipts."""
    about: dict[str, object] = {
        "channel": "c", "path": path, "fileType": "DataStream", "rollCount": 0, "rollSize": 0, "rollInterval": 0.0,
        "callTimeout": 10.0, "retryInterval": 1.0,
    }  # fmt: skip
    sink = HdfsSink("k1", HdfsConfig(**(about | keys)))  # type: ignore[arg-type]
    sink.counter, sink.durable = SinkCounter("k1"), True
    return sink


async def finished(true: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while True:
            if true():
                return
            await asyncio.sleep(0.05)


async def delivers(sink: HdfsSink, of: Batch) -> bytes:
    """Send it until it is accepted, as the runner does."""
    async with asyncio.timeout(60):
        while True:
            try:
                receipt = await sink.send(of)
                assert receipt
                return receipt
            except DeliveryError:
                await asyncio.sleep(0.2)


def finals(server: Hdfs, folder: str) -> dict[str, bytes]:
    """Finished files below a folder, by hdfs-native, which needs no second to start."""
    files = HdfsFileSystem(server.url)
    return {path: b"".join(files.read(path, length)) for path, length in files.files(folder)}


def abandon(sink: HdfsSink) -> None:
    """What a SIGKILL leaves of it: files that are open and a lease. (A writer that is garbage closes its file.)"""
    assert sink.output and sink.output.timer
    sink.output.timer.cancel()
    KEPT_ALIVE.append(sink)


KEPT_ALIVE: list[HdfsSink] = []


def hdfs() -> Hdfs:
    need("hdfs", "java")
    return shared_hdfs()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hdfs]:
    """One whose servers may be killed."""
    need("hdfs", "java")
    with Hdfs(tmp_path_factory.mktemp("hdfs")) as one:
        yield one


class Far:
    def __init__(self, server: Hdfs, folder: str, where: Path) -> None:
        self.server, self.folder = server, folder
        self.sink = make(f"{server.url}{folder}")

    async def arrived(self) -> list[str]:
        for _ in range(5):
            try:
                text = await asyncio.to_thread(self.server.cat, f"{self.folder}/*")
                return text.decode().splitlines()
            except AssertionError as error:
                if "File does not exist" not in str(error):
                    raise
                await asyncio.sleep(1)  # a file got its name between the listing and the look
        raise AssertionError(f"files of {self.folder} don't come to rest")

    async def go_away(self) -> None:
        await asyncio.to_thread(self.server.kill_namenode)

    async def come_back(self) -> None:
        await asyncio.to_thread(self.server.start_namenode)


class TestHdfsSink(SinkContract):
    back_seconds = 40.0

    @pytest.fixture(autouse=True)
    def _server(self, own: Hdfs, tmp_path: Path) -> None:
        self.server, self.folder = own, tmp_path

    @asynccontextmanager
    async def far_side(self) -> AsyncIterator[Far]:  # type: ignore[override]
        yield Far(self.server, f"/{self.folder.name}", self.folder)


# Waits with a reason, and goes on.


async def waits(sink: HdfsSink, reason: str, heal: Callable[[], object]) -> None:
    """The batch is the destination's fault; healed, the same sink delivers and everything gets its name."""
    with pytest.raises(DeliveryError, match=reason) as found:
        await sink.send(batch("a"))
    assert not isinstance(found.value, Rejected) and "\tat " not in str(found.value) and len(str(found.value)) < 900
    await asyncio.to_thread(heal)
    await delivers(sink, batch("a"))
    await sink.close()


def test_safe_mode(own: Hdfs) -> None:
    """Safe mode is waited out."""

    async def steps() -> None:
        sink = make(f"{own.url}/safe")
        await sink.open()
        await asyncio.to_thread(own.admin, "-safemode", "enter")
        await waits(sink, "safe mode", lambda: own.admin("-safemode", "leave"))

    asyncio.run(steps())
    assert list(finals(own, "/safe").values()) == [b"a\n"]


@pytest.mark.parametrize(
    ("quota", "clear", "more"),
    [(("-setQuota", "1"), "-clrQuota", "NameSpace quota"), (("-setSpaceQuota", "1k"), "-clrSpaceQuota", "DiskSpace")],
    ids=["names", "space"],
)
def test_a_quota(quota: tuple[str, str], clear: str, more: str) -> None:
    """A quota is waited out, and what the tries began is gone."""
    server, folder = hdfs(), f"/quota{quota[0]}"
    server.fs("-mkdir", folder)
    server.admin(*quota, folder)

    async def steps() -> None:
        sink = make(f"{server.url}{folder}")
        await sink.open()
        await waits(sink, f"a quota is exceeded: .*{more}", lambda: server.admin(clear, folder))

    asyncio.run(steps())
    assert list(finals(server, folder).values()) == [b"a\n"]


def test_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may not write waits for who lets him."""
    server = hdfs()
    server.fs("-mkdir", "-p", "/denied")
    monkeypatch.setenv("HADOOP_USER_NAME", "sensors")

    async def steps() -> None:
        sink = make(f"{server.url}/denied/x")
        await sink.open()
        reason = "permission denied: .*user=sensors, access=WRITE"
        await waits(sink, reason, lambda: server.fs("-chmod", "777", "/denied", user="root"))

    asyncio.run(steps())
    monkeypatch.undo()
    assert list(finals(server, "/denied").values()) == [b"a\n"]


def test_a_file_where_a_folder_should_be() -> None:
    """Somebody's file has the folder's name: the batch waits until it is out of the way."""
    server = hdfs()
    server.put("/clash/day", b"a file")

    async def steps() -> None:
        sink = make(f"{server.url}/clash/day")
        await sink.open()
        await waits(sink, "a file lies where a folder should be", lambda: server.fs("-rm", "/clash/day"))

    asyncio.run(steps())
    assert list(finals(server, "/clash").values()) == [b"a\n"]


def test_a_header_that_makes_an_impossible_folder() -> None:
    """Headers can't leave the path or break it; one that is too long for a name is the event's fault."""
    server = hdfs()

    async def steps() -> None:
        sink = make(f"{server.url}/headers/%{{s}}")
        await sink.open()
        for text in ("../../up", "a:b", "/x//y", "."):
            await sink.send(Batch([Event({"s": text}, text.encode())]))
        with pytest.raises(Rejected, match=r"can't be made: .*path component name limit"):
            await sink.send(Batch([Event({"s": "x" * 300}, b"long")]))
        await sink.send(Batch([Event({"s": "good"}, b"good")]))
        await sink.close()

    asyncio.run(steps())
    folders = {path.rsplit("/", 1)[0] for path in finals(server, "/headers")}
    assert folders == {"/headers/_./_./up", "/headers/a_b", "/headers/x/y", "/headers/_", "/headers/good"}


# Servers that die, a sink that dies.


def test_a_datanode_is_killed(own: Hdfs) -> None:
    """The only DataNode dies between two batches and comes back: the second is in another file, each line is there
    once, and nothing is open."""

    async def steps() -> None:
        sink = make(f"{own.url}/datanode")
        await sink.open()
        await sink.send(batch("a"))
        await asyncio.to_thread(own.kill_datanode)
        for _ in range(2):
            with pytest.raises(DeliveryError):
                await sink.send(batch("b"))
        await asyncio.to_thread(own.start_datanode)
        await delivers(sink, batch("b"))
        assert sink.output
        await finished(lambda: sink.output and not sink.output.ending)
        await delivers(sink, batch("c"))
        await sink.close()

    asyncio.run(steps())
    assert sorted(own.cat("/datanode/*").split()) == [b"a", b"b", b"c"]
    found = own.fsck("/datanode")
    assert found.healthy and not found.open_files and len(own.ls("/datanode")) == 2


@pytest.mark.parametrize("known", range(3))
def test_a_sink_that_died_is_taken_over(known: int) -> None:
    """From any receipt that was kept: its open files are finished with the lines it knows of, the rest is sent again;
    the old writer, should it live, can write no more."""
    server, folder = hdfs(), f"/takeover{known}"

    async def steps() -> None:
        old = make(f"{server.url}{folder}/%{{s}}")
        kept: list[bytes] = []

        async def keep(receipt: bytes) -> None:
            kept.append(receipt)

        old.keep = keep
        await old.open()
        sent = [batch("a", headers={"s": "x"}), batch("b", "c", headers={"s": "x"})]
        receipts = [await delivers(old, one) for one in sent]
        assert len(kept) == 1, "before the file is made"
        abandon(old)
        new = make(f"{server.url}{folder}/%{{s}}")
        new.receipt = [*kept, *receipts][known]
        await new.open()
        with pytest.raises(DeliveryError):
            await old.send(batch("late", headers={"s": "x"}))
        for one in sent[known:]:
            await delivers(new, one)
        await new.close()

    asyncio.run(steps())
    found = finals(server, folder)
    assert sorted(b"".join(found.values()).split()) == [b"a", b"b", b"c"]
    assert all(path.startswith(f"{folder}/x/FlumeData.") and not path.endswith(".tmp") for path in found)
    assert not server.fsck(folder).open_files


# Names.


def test_an_open_file_is_hidden_and_rolls_by_itself() -> None:
    """With inUsePrefix = _ what grows begins with _, has every acknowledged line for Hadoop's reader, and gets its name
    by idleTimeout or rollInterval without another event; each partition has its own."""
    server, folder = hdfs(), "/partitions"

    async def steps() -> None:
        keys = {"inUsePrefix": "_", "timeZone": "UTC", "filePrefix": "r", "idleTimeout": 1.0}
        sink = make(f"{server.url}{folder}/day=%Y-%m-%d/s=%{{s}}", **keys)
        await sink.open()
        events = [
            Event({"timestamp": str(1_700_000_000_000 + day * 86_400_000), "s": s}, f"{day}{s}".encode())
            for day in range(2) for s in "ab"
        ]  # fmt: skip
        await sink.send(Batch(events))
        files = sink.output.fs if sink.output else None
        assert files
        growing = [path for path, _ in files.files(folder)]
        assert len(growing) == 4 and all("/_r." in path and path.endswith(".tmp") for path in growing)
        await finished(lambda: not any("/_r." in path for path, _ in files.files(folder)))
        await sink.close()

    asyncio.run(steps())
    found = {path.rsplit("/r.", 1)[0]: data for path, data in finals(server, folder).items()}
    days = ("2023-11-14", "2023-11-15")
    assert found == {f"{folder}/day={name}/s={s}": f"{days.index(name)}{s}\n".encode() for name in days for s in "ab"}


def test_what_is_acknowledged_is_readable_while_the_file_grows() -> None:
    """Hadoop's own reader sees each line of a batch that was accepted, under the in-use name."""
    server = hdfs()

    async def steps() -> None:
        sink = make(f"{server.url}/grows")
        await sink.open()
        await sink.send(batch("a", "b"))
        assert await asyncio.to_thread(server.cat, "/grows/*.tmp") == b"a\nb\n"
        await sink.send(batch("c"))
        assert await asyncio.to_thread(server.cat, "/grows/*.tmp") == b"a\nb\nc\n"
        await sink.close()

    asyncio.run(steps())


def test_a_hadoop_configuration_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A path without a server goes where core-site.xml of hdfs.configDir says; so does a name service of hdfs-site.xml,
    with a NameNode that is down listed first."""
    server = hdfs()
    site(tmp_path / "core-site.xml", {"fs.defaultFS": "hdfs://plant"})
    service: dict[str, object] = {"dfs.nameservices": "plant", "dfs.ha.namenodes.plant": "n1,n2",
               "dfs.namenode.rpc-address.plant.n1": f"127.0.0.1:{free_port()}",
               "dfs.namenode.rpc-address.plant.n2": f"127.0.0.1:{server.port}"}  # fmt: skip
    site(tmp_path / "hdfs-site.xml", service)
    monkeypatch.delenv("HADOOP_CONF_DIR", raising=False)

    async def steps() -> None:
        for path, folder in (("/config/a", server.conf), ("hdfs://plant/config/b", tmp_path), ("/config/c", tmp_path)):
            sink = make(path, configDir=str(folder))
            await sink.open()
            await sink.send(batch(path))
            await sink.close()

    asyncio.run(steps())
    assert set(b"".join(finals(server, "/config").values()).split()) == {
        b"/config/a",
        b"hdfs://plant/config/b",
        b"/config/c",
    }


def test_the_page(program: Callable[..., Program], tmp_path: Path) -> None:
    """The configuration of docs/hdfs.md writes the reading, and its command shows it; server, port, folder differ."""
    server, port = hdfs(), free_port()
    page = (ROOT / "docs" / "hdfs.md").read_text()
    [flow, send, show] = re.findall(r"```(?:properties|sh)\n(.*?)```", page, re.DOTALL)
    ours = {"127.0.0.1:8020": f"127.0.0.1:{server.port}", "/var/lib/headrace": str(tmp_path), "6666": str(port)}
    for old, new in ours.items():
        assert old in flow
        flow = flow.replace(old, new)
    one = program("aggregator", flow)
    said = send.split("'")[1]
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.sendall(f"{said}\n".encode())
        assert connection.recv(3) == b"OK\n"
    wait_until(lambda: one.count("SINK.lake", "EventDrainSuccessCount") == 1, 60, one.log[-2000:])
    assert one.stop() == 0
    shown = json.loads(server.text(show.split("'")[1]))
    assert shown["body"] == said and len(finals(server, "/readings")) == 1
