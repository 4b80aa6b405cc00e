"""The topics sink on a real Kafka: the same flow after the move, by a change of configuration."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import pytest

from agent.config.reading import read
from agent.event import Batch, Event
from agent.metrics import SinkCounter
from agent.store.streams import Transit
from aggregator.sinks.topics import TopicsConfig, TopicsSink
from aggregator.topics import record_batch
from tests.aggregator.sinks.test_topics import Here
from tests.needs import need
from tests.peers.kafka import Record, shared_kafka

pytestmark = pytest.mark.peer
ORIGIN = bytes(range(16))


def batch(first: int, count: int) -> Batch:
    events = [
        Event({"topic": f"plant/s{n % 5}", "unit": "C", "timestamp": str(1_700_000_000_000 + n)}, b"%d" % n)
        for n in range(first, first + count)
    ]
    return Batch(events, transit=Transit(ORIGIN, "c", first - 1, ((first, count),), 0))


def sink(topic: str, **keys: str) -> TopicsSink:
    given = {
        "channel": "c", "topic": topic, "key": "%{topic}", "kafka.bootstrap.servers": shared_kafka().bootstrap,
        "callTimeout": "20s", **keys,
    }  # fmt: skip
    reading = read(TopicsConfig, given, "topics")
    assert not reading.faults, reading.faults
    made = TopicsSink("t", reading.config)
    made.durable, made.counter = True, SinkCounter("t")
    return made


Told = tuple[int, bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...], int]


def here(folder: Path, topic: str) -> set[Told]:
    """The same batches in the embedded log: partition, key, value, headers, time."""
    one, found = Here(folder, partitions="3"), set[Told]()

    async def steps() -> None:
        await one.open()
        async with one.make(topic=topic, key="%{topic}") as embedded:
            await embedded.send(batch(1, 20))
        log = one.service.broker.log
        for partition in log.topics[topic].partitions:
            for raw in await log.read(partition, 0, 1 << 20, partition.end):
                found.update(
                    (partition.index, r.key, r.value, tuple(sorted(r.headers)), r.time)
                    for r in record_batch.records(raw)
                )
        await one.close()

    asyncio.run(steps())
    return found


def told(records: list[Record]) -> set[Told]:
    return {(r.partition, r.key, r.value, tuple(sorted(r.headers.items())), r.time) for r in records}


def test_the_same_records_after_the_move(tmp_path: Path) -> None:
    """Partition, key, value, headers and time are those of the embedded log; a repeat, whole or in part, changes
    nothing, also for a sink that is made anew."""
    need("kafka", "java")
    kafka, topic = shared_kafka(), f"t-{uuid.uuid4().hex}"
    kafka.create_topic(topic, 3)

    async def steps() -> None:
        async with sink(topic, **{"transactional.id": topic}) as one:
            await one.send(batch(1, 10))
            await one.send(batch(1, 10))
        async with sink(topic, **{"transactional.id": topic}) as one:
            await one.send(batch(6, 15))

    asyncio.run(steps())
    records = kafka.consume(topic, committed=True)
    assert len(records) == 20
    assert told(records) == here(tmp_path, topic)


def test_a_topic_of_each(tmp_path: Path) -> None:
    """MQTT topics have the names that they have here."""
    need("kafka", "java")
    kafka, prefix = shared_kafka(), f"p{uuid.uuid4().hex}"
    kafka.create_topic(prefix)

    async def steps() -> None:
        pattern = f"{prefix}.%{{topic}}"
        async with sink(pattern, **{"transactional.id": prefix, "positionTopic": prefix}) as one:
            await one.send(batch(1, 10))

    asyncio.run(steps())
    assert [r.value for r in kafka.consume(f"{prefix}.plant.s3", committed=True)] == [b"3", b"8"]
