"""Compacted topics of the service, met by Kafka's clients: they write, wait for a round of compaction, and read."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import aiokafka
import kafka
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.needs import need
from tests.peers.topics import Topics

pytestmark = pytest.mark.limit(180)
COMPRESSIONS = ("none", "gzip", "snappy", "lz4", "zstd")
UPDATES, KEYS = 10_000, 100
COLD = {b"cold %d" % n: b"once" for n in range(50)}
"""Written once, among what becomes old: a part of those batches stays."""
LAST = COLD | {b"key %d" % (n % KEYS): b"%d" % n for n in range(UPDATES - KEYS, UPDATES)}
MOST = 2000
"""Records that are left of a topic at most, the newest batch among them."""


@pytest.fixture(scope="module")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topics]:
    """With a topic for each compression, and one written in transactions, all compacted."""
    with Topics(tmp_path_factory.mktemp("topics")) as topics:
        for compression in COMPRESSIONS:
            topics.create_topic(compression, cleanup_policy="compact", min_cleanable_dirty_ratio="0.01")
            fill(topics, compression)
        topics.create_topic("transactions", cleanup_policy="compact", min_cleanable_dirty_ratio="0.01")
        fill_in_transactions(topics)
        end = time.monotonic() + 90
        for topic in (*COMPRESSIONS, "transactions"):
            while len(topics.consume(topic)) > MOST:
                assert time.monotonic() < end, f"{topic} isn't compacted"
                time.sleep(0.5)
        yield topics


def producer(topics: Topics, **settings: Any) -> Producer:
    common = {"bootstrap.servers": topics.bootstrap, "log_level": 0, "linger.ms": 5}
    return Producer(common | {"enable.idempotence": True, "batch.num.messages": 500} | settings)


def fill(topics: Topics, topic: str) -> None:
    ours = producer(topics, **{"compression.type": topic})
    for n in range(UPDATES):
        if n % 100 == 50 and n < 5000:
            ours.produce(topic, b"once", b"cold %d" % (n // 100))
        ours.produce(topic, b"%d" % n, b"key %d" % (n % KEYS))
        ours.poll(0)
    assert ours.flush(30) == 0


def fill_in_transactions(topics: Topics) -> None:
    """Every second one is aborted, the last one isn't."""
    ours = producer(topics, **{"transactional.id": "compaction"})
    ours.init_transactions(30)
    for n, first in enumerate(range(0, UPDATES, 500)):
        ours.begin_transaction()
        for m in range(first, first + 500):
            ours.produce("transactions", b"%d" % m if n % 2 else b"aborted", b"key %d" % (m % KEYS))
        if n % 2:
            ours.commit_transaction(30)
        else:
            ours.abort_transaction(30)


def read(topics: Topics, topic: str, offset: int = 0, **settings: Any) -> dict[bytes, bytes]:
    """By confluent-kafka: the last value of each key, from `offset` on until its position is the log's end."""
    common = {"bootstrap.servers": topics.bootstrap, "group.id": "compaction", "log_level": 0}
    reader = Consumer(common | {"auto.offset.reset": "error", "enable.partition.eof": True} | settings)
    place, found = TopicPartition(topic, 0, offset), dict[bytes, bytes]()
    _, end = reader.get_watermark_offsets(TopicPartition(topic, 0), 10)
    reader.assign([place])
    while True:
        message = reader.poll(10)
        assert message is not None
        if error := message.error():
            assert error.code() == KafkaError._PARTITION_EOF, error
            break
        found[message.key()] = message.value()
    assert message.offset() == end
    reader.close()
    return found


@pytest.mark.parametrize("topic", COMPRESSIONS)
def test_a_fresh_consumer_sees_the_last_of_each_key(topics: Topics, topic: str) -> None:
    """In batches of every compression, of which compaction has left a part."""
    assert len(topics.consume(topic)) <= MOST
    assert read(topics, topic) == LAST


@pytest.mark.parametrize("offset", [1, 50, 4999, 9000])
def test_a_consumer_reads_on_from_an_offset_that_has_gone(topics: Topics, offset: int) -> None:
    """It gets what comes next, without a reset."""
    found = read(topics, "none", offset)
    assert found.items() <= LAST.items()
    assert {b"key %d" % n for n in range(KEYS)} <= found.keys()


@pytest.mark.parametrize("topic", COMPRESSIONS)
def test_aiokafka(topics: Topics, topic: str) -> None:
    """The same."""

    async def main() -> dict[bytes, bytes]:
        place = aiokafka.TopicPartition(topic, 0)
        reader = aiokafka.AIOKafkaConsumer(bootstrap_servers=topics.bootstrap, auto_offset_reset="none")
        await reader.start()
        reader.assign([place])
        reader.seek(place, 0)
        end, found = (await reader.end_offsets([place]))[place], dict[bytes, bytes]()
        while await reader.position(place) < end:
            message = await asyncio.wait_for(reader.getone(), 10)
            found[message.key] = message.value
        await reader.stop()
        return found

    assert asyncio.run(main()) == LAST


@pytest.mark.parametrize("topic", ["none", "gzip"])
def test_kafka_python(topics: Topics, topic: str) -> None:
    """The same; it has no other compressions here."""
    reader = kafka.KafkaConsumer(bootstrap_servers=topics.bootstrap, consumer_timeout_ms=2000)
    place = kafka.TopicPartition(topic, 0)
    reader.assign([place])
    reader.seek(place, 0)
    assert {message.key: message.value for message in reader} == LAST
    reader.close()


def test_kcat(topics: Topics) -> None:
    """The same, with what it was built to read."""
    need("kcat")
    command = ["kcat", "-C", "-b", topics.bootstrap, "-t", "lz4", "-o", "beginning", "-e", "-q", "-f", "%k=%s\n"]
    out = subprocess.run(command, capture_output=True, timeout=60, check=True).stdout
    assert dict(line.split(b"=") for line in out.splitlines()) == LAST


@pytest.mark.parametrize("topic", [*COMPRESSIONS, "transactions"])
def test_java(topics: Topics, topic: str) -> None:
    """The console consumer of Kafka 4; it ends when it has read as many as the others do."""
    need("java", "kafka")
    count = len(topics.consume(topic, committed=True))
    committed = ("--isolation-level", "read_committed", "--formatter-property", "print.key=true")
    lines = topics.console(topic, count, *committed)
    assert len(lines) == count
    found = {key.encode(): value.encode() for key, value in (line.split("\t") for line in lines)}
    assert found == (LAST if topic != "transactions" else {key: LAST[key] for key in LAST.keys() - COLD.keys()})


def test_nothing_that_was_aborted_is_left(topics: Topics) -> None:
    """For who reads what isn't committed, too, but for the newest batch; who reads the rest gets to the end."""
    wanted = {key: LAST[key] for key in LAST.keys() - COLD.keys()}
    for level in ("read_committed", "read_uncommitted"):
        assert read(topics, "transactions", **{"isolation.level": level}) == wanted
    assert b"aborted" not in {record.value for record in topics.consume("transactions")}


def test_what_a_compacted_topic_refuses(topics: Topics) -> None:
    """A record without a key, and to have its records deleted; each with Kafka's code."""
    told: list[KafkaError | None] = []
    ours = producer(topics)
    ours.produce("none", b"no key", on_delivery=lambda error, _: told.append(error))
    ours.flush(30)
    (error,) = told
    assert error is not None and error.code() == KafkaError.INVALID_RECORD
    admin = AdminClient({"bootstrap.servers": topics.bootstrap})
    with pytest.raises(KafkaException) as caught:
        admin.delete_records([TopicPartition("none", 0, 10)])[TopicPartition("none", 0)].result(30)
    assert caught.value.args[0].code() == KafkaError.POLICY_VIOLATION


def test_times_are_found_among_what_is_left(topics: Topics) -> None:
    """The offset of a record that is there; nothing for a time to come."""
    reader = Consumer({"bootstrap.servers": topics.bootstrap, "group.id": "compaction", "log_level": 0})
    offsets = {(record.offset, record.time) for record in topics.consume("zstd")}
    some = sorted(offsets)[len(offsets) // 2]
    (found,) = reader.offsets_for_times([TopicPartition("zstd", 0, some[1])], timeout=10)
    assert (found.offset, some[1]) in offsets
    (none,) = reader.offsets_for_times([TopicPartition("zstd", 0, some[1] + 10**9)], timeout=10)
    assert none.offset == -1 or none.offset == 10_050
    reader.close()


def test_producers_go_on(topics: Topics) -> None:
    """After a kill: their state has outlived their batches."""
    topics.kill9()
    topics.start()
    ours = producer(topics, **{"transactional.id": "compaction"})
    ours.init_transactions(30)
    ours.begin_transaction()
    ours.produce("transactions", b"new", b"key 0")
    ours.commit_transaction(30)
    assert read(topics, "transactions", **{"isolation.level": "read_committed"})[b"key 0"] == b"new"
