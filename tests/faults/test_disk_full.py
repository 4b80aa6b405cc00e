"""A full disk, on a small file system of its own: a tmpfs that only its holder, and who enters with nsenter, can see.

The collector takes readings in over three protocols (netcat, MQTT through mosquitto, Avro) and keeps its store there.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest

from agent.avro.connection import FAILED, OK, Answer, ClientConnection
from agent.channels.file import FileChannel, FileChannelConfig
from agent.config.fields import Bytes, Seconds
from agent.errors import ChannelFull
from agent.event import Batch, Event
from agent.metrics import ChannelCounter
from tests.needs import find, need
from tests.peers.harness import Program, free_port, wait_until
from tests.peers.road import Road, differences

pytestmark = pytest.mark.fault

MIB = 1 << 20
COLLECTOR = """\
c.sources = lines mq rpc
c.channels = ch
c.sinks = out
c.sources.lines.type = netcat
c.sources.lines.bind = 127.0.0.1
c.sources.lines.port = {lines}
c.sources.lines.max-line-length = 20000
c.sources.lines.channels = ch
c.sources.mq.type = mqtt
c.sources.mq.url = {broker}
c.sources.mq.topics = sensors/#
c.sources.mq.clientId = collector
c.sources.mq.batchDuration = 20ms
c.sources.mq.channels = ch
c.sources.rpc.type = avro
c.sources.rpc.bind = 127.0.0.1
c.sources.rpc.port = {rpc}
c.sources.rpc.channels = ch
c.channels.ch.type = file
c.channels.ch.path = {store}
c.channels.ch.keep-alive = 0
{keys}
c.sinks.out.type = avro
c.sinks.out.hostname = 127.0.0.1
c.sinks.out.port = {avro}
c.sinks.out.channel = ch
c.sinks.out.backoff = 50ms
c.sinks.out.maxBackoff = 500ms
"""
NO_MINIMUM = "c.channels.ch.minimumRequiredSpace = 0"


class SmallDisk:
    """A tmpfs at `folder` of a mount namespace, as long as its holder lives."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.size = folder, size
        folder.mkdir(parents=True)
        flags = ["--mount"] if os.geteuid() == 0 else ["--mount", "--map-root-user"]
        script = f"mount -t tmpfs -o size={size},mode=0700 tmpfs {folder} && echo ready && exec cat"
        self.holder = subprocess.Popen(
            [find("unshare") or "unshare", *flags, "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.holder.stdout is not None
        assert self.holder.stdout.readline() == b"ready\n"
        self.seen = Path(f"/proc/{self.holder.pid}/root{folder}")
        """The folder as it looks from outside."""

    @property
    def enter(self) -> list[str]:
        """What runs a command in the namespace."""
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        return [find("nsenter") or "nsenter", "--target", str(self.holder.pid), "--mount", *user]

    @property
    def free(self) -> int:
        stat = os.statvfs(self.seen)
        return stat.f_bavail * stat.f_frsize

    def fill(self) -> None:
        """Another file takes every free byte, also those that become free while it grows."""
        with (self.seen / "other").open("ab", buffering=0) as other:
            while True:
                try:
                    other.write(bytes(4096))
                except OSError as error:
                    assert error.errno == errno.ENOSPC
                    return

    def clear(self) -> None:
        """The other file goes."""
        (self.seen / "other").unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.holder.kill()
        self.holder.communicate()


class Place:
    """The collector on its small disk, the road behind it, and what each peer was told."""

    def __init__(self, folder: Path, disk: SmallDisk, keys: str) -> None:
        self.disk, self.road = disk, Road(folder)
        self.lines, self.rpc = free_port(), free_port()
        text = COLLECTOR.format(
            **self.road.places, lines=self.lines, rpc=self.rpc, store=disk.folder / "store", keys=keys
        )
        self.collector = Program("edge", text, folder / "collector", name="collector", wrap=disk.enter)
        self.sent: Counter[str] = Counter()
        """Bodies that were acknowledged, or that the broker holds."""

    def say(self, bodies: list[str]) -> list[str]:
        """Lines by netcat's protocol, a window at a time; the answers."""
        answers: list[str] = []
        with socket.create_connection(("127.0.0.1", self.lines), 30) as sock, sock.makefile("rb") as back:
            for at in range(0, len(bodies), 20):
                some = bodies[at : at + 20]
                sock.sendall("".join(f"{body}\n" for body in some).encode())
                answers += [back.readline().decode().rstrip("\n") for _ in some]
        self.sent.update(body for body, answer in zip(bodies, answers, strict=True) if answer == "OK")
        return answers

    def call(self, bodies: list[str]) -> Answer:
        """One appendBatch and its answer."""
        wire = ClientConnection()
        with socket.create_connection(("127.0.0.1", self.rpc), 30) as sock:
            sock.sendall(b"".join(wire.hello()))
            while not wire.is_open:
                wire.receive(sock.recv(1 << 16))
            batch = Batch([Event({}, body.encode()) for body in bodies])
            sock.sendall(b"".join(wire.call(batch.block, batch.count, {})[1]))
            while not (answers := wire.receive(sock.recv(1 << 16))):
                pass
        if answers[0].status == OK:
            self.sent.update(bodies)
        return answers[0]

    def publish(self, bodies: list[str]) -> None:
        """Readings to the broker, which answers at once; the collector's own answer is `pubacks`."""
        self.road.publish("a", bodies)
        self.sent.update(bodies)

    @property
    def pubacks(self) -> int:
        return self.road.broker.log.count("Received PUBACK from collector")

    def fill_up(self) -> None:
        """The other file takes every byte, and what the store gives up when it finds itself full."""
        self.disk.fill()
        bodies = iter(range(1 << 20))
        wait_until(lambda: "OK" not in self.say([f"{next(bodies)} to the brim ".ljust(9000, "x")]), 10, "a full disk")
        self.disk.fill()

    def told(self, text: str) -> None:
        """Each peer is told in its own protocol, and the reason names the disk."""
        (answer,) = self.say(["refused by netcat"])
        assert answer.startswith("FAILED: ") and text in answer, answer
        refused = self.call(["refused by avro"])
        assert refused.status == FAILED and text in refused.metadata["headrace.reason"].decode()
        before = self.pubacks
        self.publish([f"held back {i}" for i in range(20)])
        wait_until(lambda: "mq is held back" in self.collector.log, 10, "a broker that is held back")
        assert self.pubacks == before

    def takes_again(self) -> None:
        """All three ways in are open, without a restart."""
        wait_until(lambda: self.say(["again by netcat"]) == ["OK"], 20, "netcat's OK")
        assert self.call(["again by avro"]).status == OK
        self.publish(["again by mqtt"])

    def audit(self, seconds: float = 60) -> None:
        """Both outputs hold what was acknowledged, once."""
        road = self.road
        wait_until(lambda: min(len(road.table()), len(road.files())) >= self.sent.total(), seconds, "all to arrive")
        for found in (road.table(), road.files()):
            sent = Counter(("", body) for body in self.sent.elements())
            assert differences(sent, Counter(("", body) for _, body in found)) == {}


@contextmanager
def place(folder: Path, keys: str, size: int = 32 * MIB) -> Iterator[Place]:
    """Broker and collector run, the aggregator doesn't yet."""
    need("mosquitto", "mosquitto_pub", "mount-namespace", "nsenter")
    with SmallDisk(folder / "disk", size) as disk:
        one = Place(folder, disk, keys)
        with one.road.broker, one.collector:
            yield one


@pytest.mark.parametrize("keys", [NO_MINIMUM, ""], ids=["to the last byte", "minimumRequiredSpace"])
def test_full_of_something_else(tmp_path: Path, keys: str) -> None:
    """Each source is told, what was kept drains, and taking in resumes by itself when the other file goes."""
    with place(tmp_path, keys) as one:
        assert set(one.say([f"before {i}" for i in range(100)])) == {"OK"}
        one.publish([f"published {i}" for i in range(100)])
        wait_until(lambda: one.collector.count("CHANNEL.ch", "ChannelSize") == 200, 10, "all kept")
        one.fill_up()
        one.told("disk")
        with one.road.aggregator:
            wait_until(lambda: one.collector.count("CHANNEL.ch", "ChannelSize") == 0, 20, "an empty channel")
            one.told("disk")
            one.disk.clear()
            one.takes_again()
            one.audit()
        assert "Traceback" not in one.collector.log


@pytest.mark.parametrize("keys", [NO_MINIMUM, ""], ids=["to the last byte", "minimumRequiredSpace"])
def test_full_of_its_own(tmp_path: Path, keys: str) -> None:
    """While the aggregator is away the store fills the disk; then all drains, space comes back, it takes again."""
    with place(tmp_path, keys) as one:
        fresh = one.disk.free
        refused = turn = 0
        while refused < 4:  # the WAL gives back what it can once or twice
            turn += 1
            answers = one.say([f"{turn} {i} ".ljust(10_000, "x") for i in range(100)])
            refused = 0 if "OK" in answers else refused + 1
            time.sleep(0.5 if refused else 0)
        assert one.sent.total() > 1000
        one.told("disk")
        with one.road.aggregator:
            one.takes_again()
            one.audit()
            wait_until(lambda: one.disk.free > fresh - 12 * MIB, 20, "free space")
        assert one.collector.log.count(" ERROR ") <= 1
        assert "Traceback" not in one.collector.log


@pytest.mark.parametrize("reserve", [True, False], ids=["with the reserve", "with the reserve gone"])
def test_opened_on_a_full_disk(tmp_path: Path, reserve: bool) -> None:
    """A collector that was killed starts on a disk without a free byte: it drains, and takes in when there is room."""
    with place(tmp_path, NO_MINIMUM) as one:
        assert set(one.say([f"before {i}" for i in range(500)])) == {"OK"}
        if reserve:
            one.disk.fill()
        else:
            one.fill_up()
        one.collector.kill9()
        one.disk.fill()
        one.collector.start()
        if not reserve:
            one.told("disk")
        with one.road.aggregator:
            wait_until(lambda: one.collector.count("CHANNEL.ch", "ChannelSize") == 0, 20, "an empty channel")
            one.collector.restart()
            wait_until(lambda: one.collector.count("CHANNEL.ch", "ChannelSize") == 0, 20, "an empty channel")
            one.disk.clear()
            one.takes_again()
            one.audit()
        assert "Traceback" not in one.collector.log


def test_created_on_a_full_disk(tmp_path: Path) -> None:
    """Without a store there is nothing to drain: the error names the disk and the program ends, to be started again."""
    need("mount-namespace", "nsenter")
    with SmallDisk(tmp_path / "disk", MIB) as disk:
        conf = (
            "c.sources = s\nc.channels = ch\nc.sinks = k\nc.sources.s.type = seq\nc.sources.s.channels = ch\n"
            "c.sources.s.totalEvents = 10\n"
            f"c.channels.ch.type = file\nc.channels.ch.path = {disk.folder}/store\nc.sinks.k.type = null\n"
            "c.sinks.k.channel = ch\n"
        )
        program = Program("edge", conf, tmp_path / "collector", wrap=disk.enter)
        try:
            disk.fill()
            program.launch()
            assert program.wait_exit() == 1
            assert "is full: free some of it" in program.log and "Traceback" not in program.log
            disk.clear()
            program.start()
            wait_until(lambda: program.count("SINK.k", "EventDrainSuccessCount") == 10, 10, "what the source made")
        finally:
            program.stop()


def test_max_bytes_counts_pages(tmp_path: Path) -> None:
    """With small rows the file would reach its bound long before their sum does: puts are refused with the key's name,
    acknowledgements go on, and what they free can be used again."""

    async def test() -> None:
        channel = FileChannel("ch", FileChannelConfig(path=str(tmp_path), maxBytes=Bytes(MIB), keepAlive=Seconds(0)))  # type: ignore[call-arg]
        channel.counter = ChannelCounter("ch")
        await channel.open()
        try:
            for _ in range(3):
                put = 0
                with pytest.raises(ChannelFull, match="maxBytes of 1048576"):
                    while True:
                        await channel.put(Batch([Event({}, b"x" * 600)]))
                        put += 1
                assert put > 500
                assert (tmp_path / "headrace.db").stat().st_size < 1.1 * MIB
                while channel.depth:
                    async with await channel.take(100):
                        pass
                await asyncio.sleep(1.5)
        finally:
            await channel.close()

    asyncio.run(asyncio.wait_for(test(), 60))
