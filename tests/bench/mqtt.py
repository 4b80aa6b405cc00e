"""Readings by MQTT QoS 1 into the store, acknowledged, and out to files: three publishers, broker beside them.

The broker and the publishers have one core, the collector another.
"""

from __future__ import annotations

import json
import resource
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench.chain import WAIT_SECONDS, headrace
from tests.bench.figure import Figure, Say, Target, middle
from tests.bench.machine import cores, cpu_seconds, interpreter
from tests.needs import find
from tests.peers.harness import ROOT, Program, progress, wait_until
from tests.peers.mosquitto import Mosquitto

PUBLISHERS = 3
READINGS = 50_000
"""Of each publisher."""
CONF = """\
a1.sources = in
a1.channels = c
a1.sinks = out
a1.sources.in.type = mqtt
a1.sources.in.url = {url}
a1.sources.in.topics = sensors/#
a1.sources.in.channels = c
a1.channels.c.type = file
a1.channels.c.path = {folder}/store
a1.sinks.out.type = file_roll
a1.sinks.out.sink.directory = {folder}/files
a1.sinks.out.sink.batchSize = 1000
a1.sinks.out.channel = c
"""


class PinnedBroker(Mosquitto):
    """On one core, and it logs no message."""

    core = 0

    def configure(self) -> None:
        super().configure()
        conf = self.folder / "mosquitto.conf"
        conf.write_text(conf.read_text().replace("log_type all\n", "log_type error\n"))

    def command(self) -> Sequence[str]:
        return _pinned(self.core, *super().command())


def _pinned(core: int, *command: str) -> list[str]:
    return [find("taskset") or "taskset", "-c", str(core), *command]


def measure(folder: Path, runs: int, flume: bool, say: Say) -> list[Figure]:
    """Readings/s from the first publish until the last line is written and its receipt kept; CPU of each."""
    if not find("mosquitto"):
        say("MQTT is not measured: no mosquitto")
        return []
    core, other = cores()[0], cores()[-1]
    broker = PinnedBroker(folder / "broker")
    broker.core = core
    with broker:
        text = CONF.format(url=broker.url, folder=folder / "collector")
        collector = headrace("edge", text, folder / "collector", _pinned(other))
        with collector:
            _through(collector, broker, core, 10_000)
            found = []
            for _ in range(runs):
                found.append(_through(collector, broker, core, READINGS))
                rate, ours, brokers, publishers = found[-1]
                say(
                    f"mqtt: {rate:,.0f} readings/s, CPU {ours:.1f} us each; "
                    f"broker {brokers:.1f}, publishers {publishers:.1f}"
                )
    rate, ours, brokers, publishers = (middle(run[i] for run in found) for i in range(4))
    name = "MQTT QoS 1 -> file channel -> file_roll"
    return [
        Figure(name, "readings/s", rate, None, Target(20_000)),
        Figure(f"{name}: CPU at the collector", "us/reading", ours, None, Target(25, False)),
        Figure(f"{name}: CPU of the broker", "us/reading", brokers),
        Figure(f"{name}: CPU of the publishers", "us/reading", publishers),
    ]


def _through(collector: Program, broker: Mosquitto, core: int, each: int) -> tuple[float, float, float, float]:
    """(readings/s, CPU us a reading of collector, broker, publishers)."""
    total = PUBLISHERS * each
    goal = collector.count("SINK.out", "EventDrainSuccessCount") + total
    before = [cpu_seconds(collector.pid), cpu_seconds(broker.pid), _children()]
    command = [interpreter(), "-m", "tests.bench.publisher", "--port", str(broker.port), "--count", str(each)]
    progress("publishing")
    publishers = [
        subprocess.Popen(
            _pinned(core, *command, "--topic", f"sensors/{number}"), cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for number in range(PUBLISHERS)
    ]
    answers = [json.loads(one.communicate(timeout=WAIT_SECONDS)[0]) for one in publishers]
    wait_until(lambda: collector.count("SINK.out", "EventDrainSuccessCount") >= goal, WAIT_SECONDS, "all are written")
    seconds = time.monotonic() - min(answer["began"] for answer in answers)
    after = [cpu_seconds(collector.pid), cpu_seconds(broker.pid), _children()]
    ours, brokers, theirs = ((b - a) / total * 1e6 for a, b in zip(before, after, strict=True))
    return total / seconds, ours, brokers, theirs


def _children() -> float:
    """CPU seconds of the publishers that have ended (nobody else ends meanwhile)."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
