"""The hdfs sink into one file, batch 1000: driver -> avro source, memory channel, hdfs sink -> a real HDFS.

Flume and we get the same configuration text. It flushes each batch, we wait for hsync. Both agents stay up while a
figure is measured and are driven in turn; what the NameNode, the DataNode and the driver need of the cores is the same
for both.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.bench.chain import WAIT_SECONDS, Load, agent_text, headrace, taken
from tests.bench.figure import Figure, Say, Target, middle
from tests.bench.machine import cpu_seconds, memory_mb
from tests.needs import missing
from tests.peers.flume import Flume
from tests.peers.flume_hdfs import FlumeHdfs
from tests.peers.harness import Program, free_port, wait_until
from tests.peers.hdfs import Hdfs

BATCH = 1000
EVENTS = 100_000
WARM_UP = 60_000
HEAP = "512m"
SINK = """\
a1.sinks.out.type = hdfs
a1.sinks.out.hdfs.path = {url}/bench/{who}
a1.sinks.out.hdfs.batchSize = {batch}
a1.sinks.out.hdfs.rollInterval = 0
a1.sinks.out.hdfs.rollSize = 0
a1.sinks.out.hdfs.rollCount = 0
"""
KINDS = {
    "avro": ("Avro container", "a1.sinks.out.hdfs.fileType = DataStream\na1.sinks.out.serializer = avro_event\n"),
    "text": ("text", "a1.sinks.out.hdfs.fileType = DataStream\n"),
    "gzip": ("gzip", "a1.sinks.out.hdfs.fileType = CompressedStream\na1.sinks.out.hdfs.codeC = gzip\n"),
}


@dataclass
class Run:
    """Events/s from the first call until the channel is empty, CPU an event, and the most memory so far."""

    rate: float
    cpu_us: float
    memory_mb: float


class Writer:
    """An agent with an hdfs sink."""

    def __init__(self, who: str, kind: str, folder: Path, hdfs: Hdfs) -> None:
        self.port = free_port()
        sink = SINK.format(url=hdfs.url, who=who, batch=BATCH) + KINDS[kind][1]
        text = agent_text(self.port, "memory", folder, sink)
        self.server: Program | Flume = (
            FlumeHdfs(text, folder, hadoop=hdfs.conf, heap=HEAP)
            if who == "flume"
            else headrace("aggregator", text, folder)
        )

    def drive(self, events: int) -> Run:
        """Send so many and wait until the sink has written them."""
        goal, before = taken(self.server) + events, cpu_seconds(self.server.pid)
        sent = Load(events, BATCH)(self.port)
        wait_until(lambda: taken(self.server) >= goal, WAIT_SECONDS, "the sink has written every event")
        rate = events / (time.monotonic() - sent["began"])
        pid = self.server.pid
        return Run(rate, (cpu_seconds(pid) - before) / events * 1e6, memory_mb(pid, "VmHWM"))


def measure(folder: Path, runs: int, flume: bool, say: Say, *, kind: str = "avro", least: float = 1.0) -> list[Figure]:
    """Each run of ours follows one of Flume's. AssertionError without HDFS."""
    assert not missing("hdfs"), f"no HDFS: {missing('hdfs')}"
    title = f"hdfs sink, {KINDS[kind][0]}, batch {BATCH}"
    whom = ["flume", "headrace"] if flume and not missing("flume-hdfs") else ["headrace"]
    found: dict[str, list[Run]] = {who: [] for who in whom}
    with Hdfs(folder / "hdfs") as hdfs, ExitStack() as opened:
        writers = {who: Writer(who, kind, folder / who, hdfs) for who in whom}
        for writer in writers.values():
            opened.enter_context(writer.server)
            writer.drive(WARM_UP)
        for _ in range(runs):
            for who, writer in writers.items():
                run = writer.drive(EVENTS if who == "flume" else 3 * EVENTS)
                found[who].append(run)
                say(f"{title}: {who} {run.rate:,.0f} events/s, CPU {run.cpu_us:.1f} us, {run.memory_mb:.0f} MB")
    return _figures(title, found, least, kind == "avro")


def _figures(title: str, found: dict[str, list[Run]], least: float, memory: bool) -> list[Figure]:
    ours, theirs = found["headrace"], found.get("flume")

    def figure(name: str, unit: str, of: str, target: Target | None = None) -> Figure:
        other = middle(getattr(run, of) for run in theirs) if theirs else None
        return Figure(f"{title}: {name}", unit, middle(getattr(run, of) for run in ours), other, target)

    return [
        figure("written", "events/s", "rate", Target(least, ratio=True)),
        figure("CPU of the agent", "us/event", "cpu_us"),
        figure("RSS at most", "MB", "memory_mb", Target(1 / 3, False, True, "1/3") if memory else None),
    ]
