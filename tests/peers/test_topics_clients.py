"""The topics service, met by the Kafka clients that people have: librdkafka, aiokafka, kafka-python, kcat.

Each writes and reads in its own way of batching and compressing; what they find must be what they sent.
"""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import aiokafka
import kafka
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.needs import need
from tests.peers.topics import Topics

COMPRESSIONS = ("none", "gzip", "snappy", "lz4", "zstd")
COUNT = 2000


@pytest.fixture(scope="module")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topics]:
    with Topics(tmp_path_factory.mktemp("topics"), partitions="1") as one:
        yield one


@pytest.fixture
def topic() -> str:
    return f"t-{uuid.uuid4().hex[:8]}"


def values(count: int = COUNT) -> list[bytes]:
    return [b"%06d " % number + b"x" * (number % 200) for number in range(count)]


def sent(bootstrap: str, topic: str, wanted: list[bytes], **settings: Any) -> None:
    """By confluent-kafka; AssertionError unless each is acknowledged."""
    acknowledged: list[bytes] = []

    def told(error: KafkaError | None, message: Any) -> None:
        assert error is None, error
        acknowledged.append(message.value())

    producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0, **settings})
    for value in wanted:
        producer.produce(topic, value, on_delivery=told)
        producer.poll(0)
    assert producer.flush(30) == 0
    assert acknowledged == wanted


# -- librdkafka


@pytest.mark.parametrize("idempotent", [False, True], ids=["plain", "idempotent"])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_confluent_kafka(topics: Topics, topic: str, compression: str, idempotent: bool) -> None:
    """Every compression comes back record by record, in order, at consecutive offsets."""
    settings = {"compression.type": compression, "enable.idempotence": idempotent}
    sent(topics.bootstrap, topic, values(), **settings)
    found = topics.consume(topic)
    assert [record.value for record in found] == values()
    assert [record.offset for record in found] == [*range(COUNT)]


def test_key_headers_and_time_come_back(topics: Topics, topic: str) -> None:
    """As they were sent, also a key and a value that are null."""
    producer = Producer({"bootstrap.servers": topics.bootstrap, "log_level": 0})
    now = int(time.time() * 1000)
    producer.produce(topic, b"21.5", key=b"pi-1", headers={"host": b"pi-1"}, timestamp=now)
    producer.produce(topic, None, key=None, timestamp=now + 1)
    assert producer.flush(30) == 0
    first, second = topics.consume(topic)
    assert (first.key, first.value, first.headers, first.time) == (b"pi-1", b"21.5", {"host": b"pi-1"}, now)
    assert (second.key, second.value, second.headers, second.time) == (None, None, {}, now + 1)


def test_an_offset_beyond_the_log_is_reset(topics: Topics, topic: str) -> None:
    """By the client's own policy: a group whose offset isn't there begins at the first record."""
    sent(topics.bootstrap, topic, values(10))
    group = {"group.id": topic, "auto.offset.reset": "earliest", "log_level": 0}
    consumer = Consumer({"bootstrap.servers": topics.bootstrap, **group})
    consumer.commit(offsets=[TopicPartition(topic, 0, 4711)], asynchronous=False)
    consumer.subscribe([topic])
    assert consumed(consumer, 10) == values(10)
    consumer.close()


def consumed(consumer: Consumer, count: int) -> list[bytes]:
    """So many values; AssertionError if they don't come."""
    found: list[bytes] = []
    end = time.monotonic() + 40
    while len(found) < count and time.monotonic() < end:
        for message in consumer.consume(count - len(found), timeout=1):
            assert message.error() is None, message.error()
            found.append(message.value())
    return found


def test_a_group_goes_on_where_it_stopped_over_a_sigkill(tmp_path: Path) -> None:
    """The service is killed between two consumers of a group: each record is read once."""
    with Topics(tmp_path) as own:
        settings = {"bootstrap.servers": own.bootstrap, "group.id": "g", "enable.auto.commit": False, "log_level": 0}
        sent(own.bootstrap, "t", values(100))
        first = Consumer({**settings, "auto.offset.reset": "earliest"})
        first.subscribe(["t"])
        found = consumed(first, 60)
        first.commit(asynchronous=False)
        own.kill9()
        own.start()
        first.close()
        second = Consumer({**settings, "auto.offset.reset": "error"})
        second.subscribe(["t"])
        found += consumed(second, 40)
        second.close()
    assert found == values(100)


def test_topics_are_managed(topics: Topics, topic: str) -> None:
    """Created, listed with partitions, found, deleted."""
    admin = AdminClient({"bootstrap.servers": topics.bootstrap, "log_level": 0})
    admin.create_topics([NewTopic(topic, 3, 1)])[topic].result(30)
    assert {*admin.list_topics(timeout=10).topics[topic].partitions} == {0, 1, 2}
    with pytest.raises(KafkaException) as caught:
        admin.create_topics([NewTopic(topic, 3, 1)])[topic].result(30)
    assert caught.value.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS
    admin.delete_topics([topic])[topic].result(30)
    assert topic not in admin.list_topics(timeout=10).topics


@pytest.mark.parametrize("committed", [True, False])
def test_a_transaction_is_there_whole_or_not_at_all(topics: Topics, topic: str, committed: bool) -> None:
    """Who reads only what is committed sees all of a committed transaction and nothing of an aborted one."""
    sent(topics.bootstrap, topic, [b"before"])
    producer = Producer({"bootstrap.servers": topics.bootstrap, "transactional.id": topic, "log_level": 0})
    producer.init_transactions(20)
    producer.begin_transaction()
    for value in values(50):
        producer.produce(topic, value)
    producer.flush(20)
    assert [record.value for record in topics.consume(topic, committed=True)] == [b"before"]
    (producer.commit_transaction if committed else producer.abort_transaction)(20)
    sent(topics.bootstrap, topic, [b"after"])
    want = [b"before", *(values(50) if committed else []), b"after"]
    assert [record.value for record in topics.consume(topic, committed=True)] == want


# -- aiokafka, kafka-python


@pytest.mark.parametrize("compression", [None, "gzip", "snappy", "lz4", "zstd"])
def test_aiokafka(topics: Topics, topic: str, compression: str | None) -> None:
    """An idempotent producer with each compression, and a group."""

    async def steps() -> list[bytes]:
        where = {"bootstrap_servers": topics.bootstrap}
        producer = aiokafka.AIOKafkaProducer(**where, enable_idempotence=True, compression_type=compression)
        async with producer:
            for value in values(500):
                await producer.send(topic, value)
        consumer = aiokafka.AIOKafkaConsumer(topic, **where, group_id=topic, auto_offset_reset="earliest")
        async with asyncio.timeout(40), consumer:
            return [(await consumer.getone()).value for _ in range(500)]

    assert asyncio.run(steps()) == values(500)


@pytest.mark.parametrize("idempotent", [False, True])
def test_kafka_python(topics: Topics, topic: str, idempotent: bool) -> None:
    """Producer and group."""
    producer = kafka.KafkaProducer(
        bootstrap_servers=topics.bootstrap, enable_idempotence=idempotent, compression_type="gzip"
    )
    for value in values(500):
        producer.send(topic, value)
    producer.flush(30)
    producer.close()
    consumer = kafka.KafkaConsumer(
        topic, bootstrap_servers=topics.bootstrap, group_id=topic, auto_offset_reset="earliest",
        consumer_timeout_ms=20_000,
    )  # fmt: skip
    assert [message.value for _, message in zip(range(500), consumer, strict=False)] == values(500)
    consumer.close()


# -- kcat


def kcat(topics: Topics, *args: str, stdin: bytes = b"") -> bytes:
    need("kcat")
    command = ["kcat", "-b", topics.bootstrap, *args]
    return subprocess.run(command, input=stdin, capture_output=True, check=True, timeout=60).stdout


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_kcat(topics: Topics, topic: str, compression: str) -> None:
    """Lines in, the same lines out; and what is compressed arrives so, although this librdkafka is an old one."""
    lines = b"".join(b"%06d a reading of a sensor\n" % number for number in range(COUNT))
    kcat(topics, "-P", "-t", topic, "-z", compression, stdin=lines)
    assert kcat(topics, "-C", "-t", topic, "-e", "-q") == lines
    assert (stored(topics, topic) > len(lines)) == (compression == "none")


def stored(topics: Topics, topic: str) -> int:
    """Bytes of records in the file, as they came."""
    join = "batch JOIN part ON batch.id >> 44 = part.id JOIN topic ON part.topic = topic.id"
    with closing(sqlite3.connect(f"file:{topics.folder / 'log' / 'topics.db'}?mode=ro", uri=True)) as file:
        (size,) = file.execute(f"SELECT sum(length(body)) FROM {join} WHERE name = ?", [topic]).fetchone()
    return int(size)


def test_kcat_finds_a_time(topics: Topics, topic: str) -> None:
    """-Q with a time: the offset of the first record from then on."""
    now = int(time.time() * 1000)
    producer = Producer({"bootstrap.servers": topics.bootstrap, "log_level": 0})
    for number in range(10):
        producer.produce(topic, b"x", timestamp=now + number * 1000)
    assert producer.flush(30) == 0
    assert kcat(topics, "-Q", "-t", f"{topic}:0:{now + 6500}").decode().split() == [topic, "[0]", "offset", "7"]
