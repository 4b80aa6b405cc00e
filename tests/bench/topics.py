"""The embedded topics beside a real Kafka 4.3.1 with its own JVM settings (G1, -Xmx512m), one after the other in one
run, the same confluent-kafka client with its default batching against both.

Kafka answers acks=all when the batch is in the page cache of its (one) replica; we sync it to the device first. Client
and server share the machine's cores. Records have 100 bytes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.bench.chain import WAIT_SECONDS, headrace
from tests.bench.figure import Figure, Say, Target, middle
from tests.bench.machine import memory_mb
from tests.needs import missing
from tests.peers.harness import Program, Server, answers, free_port, wait_until
from tests.peers.kafka import Kafka

RECORDS = 1_000_000
RATE, SECONDS = 1_000, 15
VALUE = b"x" * 100
PARTITIONS = (1, 3)


class FullKafka(Kafka):
    """With the collector and compiler that a real one has; the tests' is leaner and slower."""

    def command(self) -> Sequence[str]:
        return [
            "java", "-Xmx512m", "-Xms256m", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20",
            "-XX:InitiatingHeapOccupancyPercent=35", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-cp", self.classpath, "kafka.Kafka", str(self.folder / "server.properties"),
        ]  # fmt: skip


@dataclass
class Found:
    """Of one server, a value a run."""

    produce: dict[int, list[float]] = field(default_factory=lambda: {count: [] for count in PARTITIONS})
    consume: dict[int, list[float]] = field(default_factory=lambda: {count: [] for count in PARTITIONS})
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)
    start: list[float] = field(default_factory=list)


def measure(folder: Path, runs: int, flume: bool, say: Say) -> list[Figure]:
    """Produce, consume, latency, memory and start of both. `flume` False: of ours alone."""
    whom = ["headrace", *(["kafka"] if flume and not missing("kafka") else [])]
    found = {who: Found() for who in whom}
    for turn in range(runs):
        for who in whom:
            _run(who, folder / f"{who}-{turn}", found[who], say)
    return _figures(found["headrace"], found.get("kafka"))


def _run(who: str, folder: Path, found: Found, say: Say) -> None:
    if who == "kafka":
        kafka = FullKafka(folder)
        kafka.configure()  # formatting is no part of its start
        server: Server = kafka
        bootstrap = kafka.bootstrap
    else:
        server, bootstrap = _ours(folder)
    began = time.monotonic()
    server.launch()
    try:
        _first(bootstrap)
        found.start.append(time.monotonic() - began)
        for count in PARTITIONS:
            topic = f"load-{count}"
            _create(bootstrap, topic, count)
            found.produce[count].append(_produce(bootstrap, topic))
            found.consume[count].append(_consume(bootstrap, topic, count))
        found.memory_mb.append(memory_mb(server.pid, "VmHWM"))
        p50, p99 = _latency(bootstrap)
        found.p50_ms.append(p50)
        found.p99_ms.append(p99)
    finally:
        server.kill9()
    speeds = ", ".join(f"{found.produce[c][-1]:,.0f}/s in, {found.consume[c][-1]:,.0f}/s out" for c in PARTITIONS)
    say(
        f"topics: {who} start {found.start[-1]:.2f} s; 1 and 3 partitions: {speeds}; "
        f"p50 {p50:.2f} ms, p99 {p99:.2f} ms; {found.memory_mb[-1]:.0f} MB"
    )


def _ours(folder: Path) -> tuple[Program, str]:
    port = free_port()
    text = "a1.services = topics\na1.services.topics.type = topics\n" + "".join(
        f"a1.services.topics.{key} = {value}\n" for key, value in {"port": port, "path": folder / "log"}.items()
    )
    return headrace("aggregator", text, folder), f"127.0.0.1:{port}"


def _client(bootstrap: str, **more: object) -> dict[str, object]:
    return {"bootstrap.servers": bootstrap, "log_level": 0, **more}


def _first(bootstrap: str) -> None:
    """Return when a record has been acknowledged. The client begins when somebody listens: it would wait between its
    own tries."""
    host, port = bootstrap.split(":")
    wait_until(lambda: answers(int(port), host), WAIT_SECONDS, "somebody listens")
    producer = Producer(_client(bootstrap, acks="all", **{"topic.metadata.refresh.fast.interval.ms": 20}))
    producer.produce("first", VALUE)
    left = producer.flush(WAIT_SECONDS)
    assert not left, "nothing was acknowledged"


def _create(bootstrap: str, topic: str, partitions: int) -> None:
    client = AdminClient(_client(bootstrap))  # which the answer needs to live
    client.create_topics([NewTopic(topic, partitions)])[topic].result(30)


def _produce(bootstrap: str, topic: str) -> float:
    """Records/s, from the first call until the last acknowledgement."""
    settings = {"queue.buffering.max.messages": 500_000, "delivery.report.only.error": True}
    failed: list[object] = []
    producer = Producer(_client(bootstrap, acks="all", on_delivery=lambda error, _: failed.append(error), **settings))
    began = time.monotonic()
    for _ in range(RECORDS):
        while True:
            try:
                producer.produce(topic, VALUE)
                break
            except BufferError:
                producer.poll(0.01)
    left = producer.flush(WAIT_SECONDS)
    seconds = time.monotonic() - began
    assert not left and not failed, f"{left} records were not acknowledged, {failed[:1]}"
    return RECORDS / seconds


def _consume(bootstrap: str, topic: str, partitions: int) -> float:
    """Records/s, from the first call until the last record."""
    consumer = Consumer(_client(bootstrap, **{"group.id": "load", "enable.auto.commit": False}))
    consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
    began, count = time.monotonic(), 0
    while count < RECORDS:
        messages = consumer.consume(10_000, 1.0)
        count += len(messages)
        assert messages or time.monotonic() - began < WAIT_SECONDS, f"{count} of {RECORDS} records came"
    seconds = time.monotonic() - began
    consumer.close()
    return RECORDS / seconds


def _latency(bootstrap: str) -> tuple[float, float]:
    """p50 and p99 in ms, from `produce` until the consumer has it, at a steady rate; its first second isn't counted."""
    _create(bootstrap, "steady", 1)
    total = RATE * SECONDS
    consumer = Consumer(_client(bootstrap, **{"group.id": "steady", "enable.auto.commit": False}))
    consumer.assign([TopicPartition("steady", 0, 0)])
    consumer.poll(1.0)
    driver = threading.Thread(target=_drive, args=(bootstrap, total))
    driver.start()
    took: list[float] = []
    end = time.monotonic() + WAIT_SECONDS
    while len(took) < total and time.monotonic() < end:
        message = consumer.poll(1.0)
        if message is not None and not message.error():
            value = message.value()
            assert isinstance(value, bytes)
            took.append((time.perf_counter_ns() - int(value[:20])) / 1e6)
    driver.join()
    consumer.close()
    assert len(took) == total, f"{len(took)} of {total} records came"
    counted = sorted(took[RATE:])
    return counted[len(counted) // 2], counted[len(counted) * 99 // 100]


def _drive(bootstrap: str, total: int) -> None:
    producer = Producer(_client(bootstrap, acks="all"))
    began = time.monotonic()
    for number in range(total):
        wait = began + number / RATE - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        producer.produce("steady", (b"%020d" % time.perf_counter_ns()).ljust(100, b"x"))
        producer.poll(0)
    producer.flush(WAIT_SECONDS)


def _figures(ours: Found, kafka: Found | None) -> list[Figure]:
    def figure(name: str, unit: str, own: list[float], theirs: list[float] | None, target: Target | None) -> Figure:
        return Figure(f"topics: {name}", unit, middle(own), middle(theirs) if theirs else None, target)

    def at_least(bound: float) -> Target:
        return Target(bound, True, True, whose="Kafka")

    def at_most(bound: float, text: str = "") -> Target:
        return Target(bound, False, True, text, "Kafka")

    lines = []
    for count in PARTITIONS:
        partitions = f"{count} partition{'s' if count > 1 else ''}"
        lines += [
            figure(f"produce, acks=all, {partitions}", "records/s", ours.produce[count],
                   kafka.produce[count] if kafka else None, at_least(1)),
            figure(f"consume, {partitions}", "records/s", ours.consume[count],
                   kafka.consume[count] if kafka else None, at_least(1)),
        ]  # fmt: skip
    return [
        *lines,
        figure("p50 from produce to consume at 1,000 records/s", "ms", ours.p50_ms, kafka.p50_ms if kafka else None,
               None),
        figure("p99 from produce to consume at 1,000 records/s", "ms", ours.p99_ms, kafka.p99_ms if kafka else None,
               at_most(1)),
        figure("RSS at most, under this load", "MB", ours.memory_mb, kafka.memory_mb if kafka else None,
               at_most(1 / 8, "1/8")),
        figure("start to first produce", "s", ours.start, kafka.start if kafka else None, at_most(1 / 10, "1/10")),
    ]  # fmt: skip


# -- the sink

SINK = """\
a1.channels = c
a1.channels.c.type = file
a1.channels.c.path = {folder}/store
a1.channels.c.capacity = 2000000
a1.channels.c.transactionCapacity = 10000
"""
FILL = """\
a1.sources = in
a1.sources.in.type = org.apache.flume.source.StressSource
a1.sources.in.size = 100
a1.sources.in.batchSize = 1000
a1.sources.in.maxTotalEvents = {total}
a1.sources.in.channels = c
"""
OUT = """\
a1.sinks = t
a1.services = topics
a1.sinks.t.type = topics
a1.sinks.t.channel = c
a1.sinks.t.topic = readings
a1.services.topics.type = topics
a1.services.topics.port = {port}
a1.services.topics.path = {folder}/log
"""


def sink(folder: Path, runs: int, flume: bool, say: Say) -> list[Figure]:
    """A million events of 100 bytes from a full file channel into a topic, from the start of the process on."""
    rates = []
    for turn in range(runs):
        rates.append(_sink_once(folder / f"sink-{turn}"))
        say(f"topics sink: {rates[-1]:,.0f} events/s")
    return [Figure("topics sink: 1,000,000 events from a file channel", "events/s", middle(rates), None,
                   Target(150_000))]  # fmt: skip


def _sink_once(home: Path) -> float:
    with headrace("aggregator", SINK.format(folder=home) + FILL.format(total=RECORDS), home) as filling:
        wait_until(lambda: _count(filling, "CHANNEL.c", "ChannelSize") == RECORDS, WAIT_SECONDS, "a full channel")
    server = headrace("aggregator", SINK.format(folder=home) + OUT.format(folder=home, port=free_port()), home)
    began = time.monotonic()
    with server:
        wait_until(lambda: _count(server, "SINK.t", "EventDrainSuccessCount") == RECORDS, WAIT_SECONDS, "all sent")
        return RECORDS / (time.monotonic() - began)


def _count(server: Program, component: str, name: str) -> int:
    try:
        return server.count(component, name)
    except (OSError, KeyError, ValueError):
        return 0
