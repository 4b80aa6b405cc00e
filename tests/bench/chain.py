"""The chain that is measured: driver -> collector (avro, channel, avro) -> receiver (avro, channel, null).

Flume and we get the same configuration text. Both chains stay up while a figure is measured, and are driven in turn:
so whatever else the machine does falls on both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.bench.machine import cpu_seconds, interpreter
from tests.peers.flume import Flume
from tests.peers.harness import ROOT, Program, free_port, http_get, wait_until

AGENT = """\
a1.sources = in
a1.channels = c
a1.sinks = out
a1.sources.in.type = avro
a1.sources.in.bind = 127.0.0.1
a1.sources.in.port = {port}
a1.sources.in.channels = c
a1.channels.c.type = {channel}
a1.channels.c.capacity = 1000000
a1.channels.c.transactionCapacity = 10000
{places}a1.sinks.out.channel = c
{sink}"""
PLACES = """\
a1.channels.c.checkpointDir = {folder}/checkpoint
a1.channels.c.dataDirs = {folder}/data
a1.channels.c.minimumRequiredSpace = 1048576
"""
AVRO_OUT = """\
a1.sinks.out.type = avro
a1.sinks.out.hostname = 127.0.0.1
a1.sinks.out.port = {port}
a1.sinks.out.batch-size = {batch}
"""
NULL = """\
a1.sinks.out.type = null
a1.sinks.out.batchSize = {batch}
"""
WAIT_SECONDS = 300
PYTHON_ENV = {
    "PYTHONDONTWRITEBYTECODE": "",
    "PYTHONPATH": os.pathsep.join((str(ROOT), sysconfig.get_path("purelib"))),
}
"""Byte code is kept, as on every installation; packages are those of this environment, whoever runs them."""


def agent_text(port: int, channel: str, folder: Path, sink: str) -> str:
    """A configuration of one agent that takes Avro in."""
    places = PLACES.format(folder=folder) if channel == "file" else ""
    return AGENT.format(port=port, channel=channel, places=places, sink=sink)


class Measured(Program):
    """One of our programs, with the Python that is to be measured."""

    def command(self) -> list[str]:
        return [interpreter() if part == sys.executable else part for part in super().command()]


def headrace(package: str, conf: str, folder: Path, wrap: Sequence[str] = ()) -> Program:
    """Not started yet."""
    return Measured(package, conf, folder, env=PYTHON_ENV, name=folder.name, wrap=wrap)


def taken(server: Program | Flume) -> int:
    """Events that left the channel for good; Flume's null sink counts nothing itself."""
    counters = json.loads(http_get(server.monitoring)[1])["CHANNEL.c"]
    return int(float(counters["EventTakeSuccessCount"]))


@dataclass
class Load:
    """What the driver sends."""

    events: int
    batch: int = 100
    connections: int = 1
    rate: float = 0.0
    size: int = 200

    def __call__(self, port: int) -> dict[str, float]:
        """Send it; the driver's answer (tests/bench/driver.py)."""
        keys = {"port": port, **vars(self)}
        args = [part for key, value in keys.items() for part in (f"--{key}", str(value))]
        done = subprocess.run(
            [interpreter(), "-m", "tests.bench.driver", *args],
            cwd=ROOT, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False,
        )  # fmt: skip
        if done.returncode:
            raise AssertionError(f"the driver failed: {done.stderr[-2000:]}")
        answer: dict[str, float] = json.loads(done.stdout)
        return answer


@dataclass
class Run:
    """One drive through a chain."""

    end_to_end: float
    """Events/s from the first call until the receiver has let go of the last event."""
    accepted: float
    """Events/s that the collector answered OK to."""
    collector_us: float
    receiver_us: float
    """CPU an event, over the whole time."""
    p50_ms: float
    p99_ms: float


@dataclass
class Chain:
    """Two agents. `with` starts and stops them."""

    who: str
    folder: Path
    channel: str = "file"
    batch: int = 100
    heap: str = "512m"
    wrap: Sequence[str] = ()
    """Before our collector's command."""
    store: Path | None = None
    """Where the collector's file channel lies, if not in its folder."""
    _open: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        self.port, to = free_port(), free_port()
        receiver = self._agent("receiver", to, NULL.format(batch=self.batch))
        collector = self._agent("collector", self.port, AVRO_OUT.format(port=to, batch=self.batch))
        self.receiver, self.collector = receiver, collector
        with ExitStack() as opened:
            for server in (receiver, collector):
                opened.enter_context(server)
            self._open = opened.pop_all()
        return self

    def _agent(self, role: str, port: int, sink: str) -> Program | Flume:
        folder = self.folder / role
        store = self.store if role == "collector" and self.store else folder
        text = agent_text(port, self.channel, store, sink)
        if self.who == "flume":
            return Flume(text, folder, heap=self.heap, name=f"flume-{role}")
        package, wrap = ("edge", self.wrap) if role == "collector" else ("aggregator", ())
        return headrace(package, text, folder, wrap)

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def drive(self, load: Load) -> Run:
        """Send a load and wait until it is through."""
        goal = taken(self.receiver) + load.events // load.batch * load.batch
        before = [cpu_seconds(server.pid) for server in (self.collector, self.receiver)]
        sent = load(self.port)
        wait_until(lambda: taken(self.receiver) >= goal, WAIT_SECONDS, "the receiver has every event")
        seconds = time.monotonic() - sent["began"]
        after = [cpu_seconds(server.pid) for server in (self.collector, self.receiver)]
        events = sent["events"]
        collector, receiver = ((b - a) / events * 1e6 for a, b in zip(before, after, strict=True))
        return Run(events / seconds, events / sent["seconds"], collector, receiver, sent["p50_ms"], sent["p99_ms"])
