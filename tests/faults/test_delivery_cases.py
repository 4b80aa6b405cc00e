"""The cases that break a simpler protocol: cloned and restored stores, lost and swapped receivers, several ways.

Lines go in by netcat, which answers OK after the commit; every line is a reading of its own, so what the tables hold
is compared with what was acknowledged, line by line.
"""

from __future__ import annotations

import shutil
import socket
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.peers.harness import Program, free_port, wait_until

pytestmark = pytest.mark.fault

COLLECTOR = """\
c.sources = in
c.sources.in.type = netcat
c.sources.in.bind = 127.0.0.1
c.sources.in.port = {lines}
c.channels.ch.type = file
c.channels.ch.path = {store}
"""
ONE_WAY = """\
c.channels = ch
c.sources.in.channels = ch
"""
SINK = """\
c.sinks.{name}.type = avro
c.sinks.{name}.hostname = 127.0.0.1
c.sinks.{name}.port = {port}
c.sinks.{name}.channel = {channel}
c.sinks.{name}.batch-size = {batch}
c.sinks.{name}.backoff = 50ms
c.sinks.{name}.maxBackoff = 200ms
"""
RECEIVER = """\
r.sources = in
r.channels = ch
r.sinks = table
r.sources.in.type = avro
r.sources.in.bind = 127.0.0.1
r.sources.in.port = {port}
r.sources.in.channels = ch
r.channels.ch.type = file
r.channels.ch.path = {folder}/store
r.sinks.table.type = sqlite
r.sinks.table.database = {folder}/events.db
r.sinks.table.channel = ch
"""


class Scene:
    """Collectors and receivers of one test."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.stack = folder, stack
        self.ports = {"a": free_port(), "b": free_port()}

    def receiver(self, name: str, start: bool = True, extra: str = "") -> Program:
        """Receiver "a" or "b", with a store and a table of its own."""
        folder = self.folder / name
        conf = RECEIVER.format(port=self.ports[name], folder=folder) + extra
        return self._program("aggregator", conf, name, start)

    def collector(
        self, name: str = "collector", sinks: str = "", wiring: str = ONE_WAY, to: str = "a", store: str = "",
        start: bool = True,
    ) -> Collector:  # fmt: skip
        """A collector whose sink "out" goes to a receiver, unless `sinks` says more."""
        lines = free_port()
        sinks = sinks or "c.sinks = out\n" + self.sink("out", to)
        conf = COLLECTOR.format(lines=lines, store=store or self.folder / name / "store") + wiring + sinks
        return Collector(self._program("edge", conf, name, start), lines)

    def sink(self, name: str, to: str, channel: str = "ch", batch: int = 7) -> str:
        """The keys of an avro sink to a receiver."""
        return SINK.format(name=name, port=self.ports[to], channel=channel, batch=batch)

    def _program(self, package: str, conf: str, name: str, start: bool) -> Program:
        program = Program(package, conf, self.folder / name, name=name)
        self.stack.callback(program.__exit__)
        return program.start() if start else program

    def table(self, name: str = "a") -> set[tuple[str, int, str]]:
        """(origin, number, line) of each row of a receiver's table."""
        try:
            with closing(sqlite3.connect(f"file:{self.folder / name / 'events.db'}?mode=ro", uri=True)) as db:
                return set(db.execute("select origin, number, body from events"))
        except sqlite3.OperationalError:
            return set()

    def settled(self, lines: list[str], *names: str) -> None:
        """Return when the receivers' tables together hold exactly these lines, each under one identity.

        A line may stand in two tables after a kill and a change of receiver: under the same identity.
        """
        wanted = Counter(lines)

        def found() -> Counter[str]:
            rows = set[tuple[str, int, str]]().union(*(self.table(name) for name in names or ("a",)))
            return Counter(line for _, _, line in rows)

        wait_until(lambda: found() >= wanted, 30, f"{wanted.total()} lines in the tables of {names or 'a'}")
        assert found() == wanted


class Collector:
    """A collector that takes lines."""

    def __init__(self, program: Program, port: int) -> None:
        self.program, self.port = program, port

    def put(self, lines: list[str]) -> list[str]:
        """Send lines; each is answered OK, that is: kept."""
        with socket.create_connection(("127.0.0.1", self.port), 10) as sock, sock.makefile("rb") as answers:
            sock.sendall("".join(f"{line}\n" for line in lines).encode())
            for line in lines:
                assert answers.readline() == b"OK\n", line
        return lines

    def drained(self) -> None:
        """Return when its channels are empty."""
        metrics = self.program.metrics
        empty = lambda: all(v["ChannelSize"] == "0" for k, v in metrics().items() if k.startswith("CHANNEL"))  # noqa: E731
        wait_until(empty, 30, "empty channels")


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(tmp_path, stack)


def copy(store: Path, to: Path) -> None:
    """The files of a store that nobody holds."""
    shutil.copytree(store, to, ignore=shutil.ignore_patterns("*.sock"))


def numbered(word: str, count: int) -> list[str]:
    return [f"{word}-{number}" for number in range(count)]


def test_a_cloned_store(scene: Scene) -> None:
    """A card is copied with events inside: both collectors deliver, what both hold arrives once."""
    collector = scene.collector()
    lines = collector.put(numbered("before", 40))
    collector.program.kill9()
    copy(scene.folder / "collector" / "store", scene.folder / "clone" / "store")
    scene.receiver("a")
    collector.program.start()
    clone = scene.collector("clone")
    lines += collector.put(numbered("one", 30)) + clone.put(numbered("other", 30))
    scene.settled(lines)


def test_an_old_copy_is_restored(scene: Scene) -> None:
    """A backup from before is put back: what it holds again is recognised, what comes after is new."""
    collector = scene.collector()
    lines = collector.put(numbered("before", 40))
    collector.program.stop()
    store, backup = scene.folder / "collector" / "store", scene.folder / "backup"
    copy(store, backup)
    scene.receiver("a")
    collector.program.start()
    lines += collector.put(numbered("later", 40))
    collector.drained()
    collector.program.stop()
    shutil.rmtree(store)
    copy(backup, store)
    collector.program.start()
    lines += collector.put(numbered("after", 40))
    scene.settled(lines)


def test_the_receivers_store_is_lost(scene: Scene) -> None:
    """A receiver that forgot everything takes what comes from then on, and nothing of it twice."""
    receiver = scene.receiver("a")
    collector = scene.collector()
    lines = collector.put(numbered("before", 40))
    scene.settled(lines)
    collector.drained()
    receiver.kill9()
    shutil.rmtree(scene.folder / "a" / "store")
    lines += collector.put(numbered("meanwhile", 40))
    receiver.start()
    lines += collector.put(numbered("after", 40))
    scene.settled(lines)


def test_receivers_are_swapped(scene: Scene) -> None:
    """The sink is pointed at another receiver and back; each event is at one of them, once."""
    scene.receiver("a")
    scene.receiver("b")
    collector = scene.collector()
    lines = collector.put(numbered("to-a", 40))
    collector.drained()
    conf = collector.program.conf
    for target in ("b", "a"):
        collector.program.kill9()
        collector.program.conf = conf.replace(str(scene.ports["a"]), str(scene.ports[target]))
        collector.program.start()
        lines += collector.put(numbered(f"to-{target}-then", 40))
        collector.drained()
    scene.settled(lines, "a", "b")


def test_two_sinks_share_a_channel(scene: Scene) -> None:
    """Two sinks drain one channel into one receiver out of order, killed meanwhile: each event once."""
    collector = scene.collector(sinks="c.sinks = x y\n" + scene.sink("x", "a") + scene.sink("y", "a", batch=11))
    receiver = scene.receiver("a")
    lines: list[str] = []
    for turn in range(4):
        lines += collector.put(numbered(f"turn{turn}", 150))
        (collector.program if turn % 2 else receiver).kill9()
        (collector.program if turn % 2 else receiver).start()
    scene.settled(lines)


def test_multiplexing(scene: Scene) -> None:
    """Events are dealt out to two channels of one store: the streams have holes, each event is delivered once."""
    wiring = (
        "c.channels = even odd\nc.sources.in.channels = even odd\n"
        "c.sources.in.interceptors = deal\n"
        "c.sources.in.interceptors.deal.type = tests.faults.dealing:DealingInterceptor\n"
        "c.sources.in.selector.type = multiplexing\nc.sources.in.selector.header = parity\n"
        "c.sources.in.selector.mapping.even = even\nc.sources.in.selector.mapping.odd = odd\n"
    )
    store = scene.folder / "collector" / "store"
    for channel in ("even", "odd"):
        wiring += f"c.channels.{channel}.type = file\nc.channels.{channel}.path = {store}\n"
    sinks = "c.sinks = x y\n" + scene.sink("x", "a", "even") + scene.sink("y", "b", "odd")
    collector = scene.collector(wiring=wiring, sinks=sinks, start=False)
    collector.program.conf = "\n".join(
        line for line in collector.program.conf.splitlines() if not line.startswith("c.channels.ch.")
    )
    collector.program.start()
    scene.receiver("a")
    lines = collector.put(numbered("line", 100))
    collector.program.kill9()
    scene.receiver("b")
    collector.program.start()
    lines += collector.put(numbered("more", 100))
    scene.settled(lines, "a", "b")
    assert all(int(line.rpartition("-")[2]) % 2 == 0 for _, _, line in scene.table("a"))


def test_an_interceptor_that_drops(scene: Scene) -> None:
    """The receiver leaves events out on purpose: the others arrive once, and a repeat after a kill changes nothing."""
    extra = (
        "r.sources.in.interceptors = drop\n"
        "r.sources.in.interceptors.drop.type = tests.faults.dropping:DroppingInterceptor\n"
    )
    receiver = scene.receiver("a", extra=extra)
    collector = scene.collector()
    lines = collector.put(numbered("line", 100))
    receiver.kill9()
    lines += collector.put(numbered("more", 100))
    receiver.start()
    scene.settled([line for line in lines if not line.endswith("0")])
    collector.drained()


def test_batches_of_several_collectors_are_joined(scene: Scene) -> None:
    """Three collectors through one in the middle that is killed: batches of several origins, each event once."""
    scene.receiver("a")
    middle_port = free_port()
    middle = scene.collector("middle", start=False)
    middle.program.conf = middle.program.conf.replace("netcat", "avro").replace(str(middle.port), str(middle_port))
    middle.program.start()
    lines: list[str] = []
    leaves = []
    for name in ("x", "y", "z"):
        leaf = scene.collector(name, start=False)
        leaf.program.conf = leaf.program.conf.replace(str(scene.ports["a"]), str(middle_port))
        leaf.program.start()
        leaves.append(leaf)
    for turn in range(3):
        for leaf in leaves:
            lines += leaf.put(numbered(f"{leaf.program.name}{turn}", 60))
        middle.program.kill9()
        middle.program.start()
    scene.settled(lines)
