"""The kafka sink, 200-byte events, batch 1000, acks = all: stress source, memory channel, kafka sink -> a real Kafka.

Flume and we get the same configuration; our client is idempotent by default, Flume's is not. Each agent makes its
events itself, without end, so one runs at a time: it is started, warmed up, and then the time is taken until so many
have left its channel. The broker needs its share of the cores from either.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from tests.bench.chain import WAIT_SECONDS, headrace, taken
from tests.bench.figure import Figure, Say, Target, middle
from tests.bench.machine import cpu_seconds, memory_mb
from tests.needs import missing
from tests.peers.flume import Flume
from tests.peers.flume_kafka import FlumeKafka
from tests.peers.harness import Program, wait_until
from tests.peers.kafka import Kafka

BATCH = 1000
WARM_UP = 600_000
EVENTS = 600_000
AGENT = """\
a1.sources = in
a1.channels = c
a1.sinks = out
a1.sources.in.type = org.apache.flume.source.StressSource
a1.sources.in.size = 200
a1.sources.in.batchSize = {batch}
a1.sources.in.channels = c
a1.channels.c.type = memory
a1.channels.c.capacity = 200000
a1.channels.c.transactionCapacity = {batch}
a1.sinks.out.type = org.apache.flume.sink.kafka.KafkaSink
a1.sinks.out.channel = c
a1.sinks.out.kafka.bootstrap.servers = {servers}
a1.sinks.out.kafka.topic = {topic}
a1.sinks.out.flumeBatchSize = {batch}
a1.sinks.out.kafka.producer.acks = all
{more}"""
WHO = {"flume": "", "headrace": "", "transactional": "a1.sinks.out.transactional = true\n"}


@dataclass
class Run:
    """Events/s, CPU an event, and the most memory."""

    rate: float
    cpu_us: float
    memory_mb: float


def measure(folder: Path, runs: int, flume: bool, say: Say) -> list[Figure]:
    """The three in turn, as often as there are runs. AssertionError without Kafka."""
    assert not missing("kafka"), f"no Kafka: {missing('kafka')}"
    whom = [who for who in WHO if who != "flume" or (flume and not missing("flume-kafka"))]
    found: dict[str, list[Run]] = {who: [] for who in whom}
    with Kafka(folder / "kafka") as kafka:
        for turn in range(runs):
            for who in whom:
                found[who].append(run := once(kafka, who, folder / f"{who}-{turn}"))
                say(f"kafka sink: {who} {run.rate:,.0f} events/s, CPU {run.cpu_us:.1f} us, {run.memory_mb:.0f} MB")
    return _figures(found)


def once(kafka: Kafka, who: str, folder: Path) -> Run:
    """One agent's life; its topic goes with it, for the sake of the disk."""
    kafka.create_topic(folder.name, segment_bytes=64 << 20)
    text = AGENT.format(batch=BATCH, servers=kafka.bootstrap, topic=folder.name, more=WHO[who])
    server: Program | Flume = FlumeKafka(text, folder) if who == "flume" else headrace("aggregator", text, folder)
    with server:
        _reach(server, WARM_UP)
        before, cpu, began = taken(server), cpu_seconds(server.pid), time.monotonic()
        _reach(server, before + EVENTS)
        events, seconds = taken(server) - before, time.monotonic() - began
        used = (cpu_seconds(server.pid) - cpu) / events * 1e6
        run = Run(events / seconds, used, memory_mb(server.pid, "VmHWM"))
    kafka.delete_topic(folder.name)
    return run


def _reach(server: Program | Flume, events: int) -> None:
    wait_until(lambda: taken(server) >= events, WAIT_SECONDS, "the sink goes on")


def _figures(found: dict[str, list[Run]]) -> list[Figure]:
    theirs = found.get("flume")

    def figure(who: str, name: str, unit: str, of: str, target: Target | None = None) -> Figure:
        other = middle(getattr(run, of) for run in theirs) if theirs else None
        title = "kafka sink" + (", transactional" if who == "transactional" else "")
        return Figure(f"{title}: {name}", unit, middle(getattr(run, of) for run in found[who]), other, target)

    return [
        figure("headrace", "written", "events/s", "rate", Target(1.2, ratio=True)),
        figure("headrace", "CPU of the agent", "us/event", "cpu_us"),
        figure("headrace", "RSS at most", "MB", "memory_mb", Target(1 / 3, False, True, "1/3")),
        figure("transactional", "written", "events/s", "rate"),
        figure("transactional", "CPU of the agent", "us/event", "cpu_us"),
    ]
