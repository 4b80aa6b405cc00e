"""Transactions of unmodified clients against the topics service: each client's own, read by the others, over kills.

Each client has a test of its producer, whose topic is then read by all of them, with either isolation level.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka import TopicPartition as AioPartition
from aiokafka.errors import ProducerFenced
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from kafka import KafkaConsumer, KafkaProducer
from kafka import TopicPartition as PythonPartition
from kafka.structs import OffsetAndMetadata

from tests.needs import need
from tests.peers import jars
from tests.peers.harness import wait_until
from tests.peers.kafka import QUIET, TOOLS, Record
from tests.peers.topics import Topics
from tests.peers.topics_load import Copier, Load, confluent

PARTITIONS = 3
KILLS = int(os.environ.get("HEADRACE_KILLS", "5"))
"""`make soak`: 50."""
Seen = list[bytes]


@pytest.fixture(scope="module")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topics]:
    with Topics(tmp_path_factory.mktemp("topics"), partitions=str(PARTITIONS)) as server:
        yield server


# ---- readers, one of each client


def by_confluent(server: Topics, topic: str, committed: bool, count: int = 0) -> Seen:
    return [one.value or b"" for one in server.consume(topic, committed=committed)]


def by_aiokafka(server: Topics, topic: str, committed: bool, count: int = 0) -> Seen:
    async def read() -> Seen:
        level = "read_committed" if committed else "read_uncommitted"
        client = AIOKafkaConsumer(bootstrap_servers=server.bootstrap, isolation_level=level)
        await client.start()
        try:
            places = [AioPartition(topic, partition) for partition in range(PARTITIONS)]
            client.assign(places)
            await client.seek_to_beginning()
            ends, found = await client.end_offsets(places), []
            while any([await client.position(place) < ends[place] for place in places]):
                for messages in (await client.getmany(timeout_ms=100)).values():
                    found += [message.value for message in messages]
            return found
        finally:
            await client.stop()

    return asyncio.run(read())


def by_kafka_python(server: Topics, topic: str, committed: bool, count: int = 0) -> Seen:
    level = "read_committed" if committed else "read_uncommitted"
    client = KafkaConsumer(bootstrap_servers=server.bootstrap, isolation_level=level)
    try:
        places = [PythonPartition(topic, partition) for partition in range(PARTITIONS)]
        client.assign(places)
        client.seek_to_beginning()
        ends, found = client.end_offsets(places), []
        while any(client.position(place) < ends[place] for place in places):
            for messages in client.poll(timeout_ms=100).values():
                found += [message.value for message in messages]
        return found
    finally:
        client.close()


def by_java(server: Topics, topic: str, committed: bool, count: int = 0) -> Seen:
    """Its tool has to be told when to stop: `count`."""
    level = "read_committed" if committed else "read_uncommitted"
    return [line.encode() for line in server.console(topic, count, "--isolation-level", level)]


READERS = [by_confluent, by_aiokafka, by_kafka_python, by_java]


def check_read(server: Topics, topic: str, committed: Seen, aborted: Seen) -> None:
    """Whatever reads the topic sees the committed records, and the aborted ones only where it wants to."""
    for reader in READERS:
        if reader is by_java:
            need("java", "kafka")
        assert sorted(reader(server, topic, True, len(committed))) == sorted(committed), reader
        everything = [*committed, *aborted]
        assert sorted(reader(server, topic, False, len(everything))) == sorted(everything), reader


def offset(server: Topics, group: str, topic: str, partition: int = 0) -> int:
    """What a group has committed."""
    client = Consumer({"bootstrap.servers": server.bootstrap, "group.id": group, "log_level": 0})
    try:
        (found,) = client.committed([TopicPartition(topic, partition)], 20)
        return int(found.offset)
    finally:
        client.close()


# ---- confluent-kafka


def test_confluent_commits_and_aborts(topics: Topics) -> None:
    """Of confluent-kafka's transactions every reader sees those that it committed."""
    producer = confluent(topics, "confluent")
    for word in (b"yes", b"no", b"again"):
        producer.begin_transaction()
        for partition in range(PARTITIONS):
            producer.produce("confluent", word, partition=partition)
        producer.flush(20)
        (producer.abort_transaction if word == b"no" else producer.commit_transaction)(20)
    check_read(topics, "confluent", [b"yes", b"again"] * PARTITIONS, [b"no"] * PARTITIONS)


def test_confluent_is_fenced(topics: Topics) -> None:
    """A second producer with the id aborts what the first had open, and the first can't go on: a fatal error."""
    old = confluent(topics, "fenced")
    old.begin_transaction()
    old.produce("fenced", b"old", partition=0)
    old.flush(20)
    new = confluent(topics, "fenced")
    with pytest.raises(KafkaException) as caught:
        old.commit_transaction(20)
    error = caught.value.args[0]
    assert (error.code(), error.fatal()) == (KafkaError._FENCED, True)
    new.begin_transaction()
    new.produce("fenced", b"new", partition=0)
    new.commit_transaction(20)
    assert by_confluent(topics, "fenced", True) == [b"new"]


def test_confluent_out_of_time(topics: Topics) -> None:
    """A transaction beyond its timeout is aborted, readers go on, and its producer is fenced."""
    producer = confluent(topics, "late", **{"transaction.timeout.ms": 1000})
    producer.begin_transaction()
    producer.produce("late", b"late", partition=0)
    producer.flush(20)
    other = confluent(topics, "in time")
    other.begin_transaction()
    other.produce("late", b"in time", partition=0)
    other.commit_transaction(20)
    wait_until(lambda: by_confluent(topics, "late", True) == [b"in time"], 20)
    with pytest.raises(KafkaException) as caught:
        producer.commit_transaction(20)
    assert caught.value.args[0].fatal()


def test_confluent_commits_offsets(topics: Topics) -> None:
    """Offsets that a consumer sends into the transaction are the group's when it is committed, not when aborted."""
    feed = Producer({"bootstrap.servers": topics.bootstrap})
    for number in range(6):
        feed.produce("offsets", b"%d" % number, partition=0)
    feed.flush(20)
    consumer = Consumer({"bootstrap.servers": topics.bootstrap, "group.id": "og", "auto.offset.reset": "earliest"})
    consumer.subscribe(["offsets"])
    producer = confluent(topics, "offsets")
    for commit in (True, False):
        read = consumer.consume(2, 20)
        assert len(read) == 2
        producer.begin_transaction()
        at = [TopicPartition("offsets", 0, read[-1].offset() + 1)]
        producer.send_offsets_to_transaction(at, consumer.consumer_group_metadata(), 20)
        (producer.commit_transaction if commit else producer.abort_transaction)(20)
        assert offset(topics, "og", "offsets") == 2
    consumer.close()


# ---- aiokafka


def test_aiokafka_commits_and_aborts(topics: Topics) -> None:
    """The same of aiokafka's transactions, offsets in them, and its producer is fenced by the next one."""

    async def produce() -> None:
        async with AIOKafkaProducer(bootstrap_servers=topics.bootstrap, transactional_id="aio") as producer:
            for word in (b"yes", b"no", b"again"):
                with suppress(ValueError):
                    async with producer.transaction():
                        for partition in range(PARTITIONS):
                            await producer.send("aio", word, partition=partition)
                        await producer.send_offsets_to_transaction({AioPartition("aio", 0): len(word)}, "ag")
                        await producer.flush()
                        if word == b"no":
                            raise ValueError
            async with AIOKafkaProducer(bootstrap_servers=topics.bootstrap, transactional_id="aio"):
                with pytest.raises(ProducerFenced):
                    async with producer.transaction():
                        await producer.send_and_wait("aio", b"zombie", partition=0)

    asyncio.run(produce())
    check_read(topics, "aio", [b"yes", b"again"] * PARTITIONS, [b"no"] * PARTITIONS)
    assert offset(topics, "ag", "aio") == len(b"again")


# ---- kafka-python


def test_kafka_python_commits_and_aborts(topics: Topics) -> None:
    """The same of kafka-python's."""
    producer = KafkaProducer(bootstrap_servers=topics.bootstrap, transactional_id="python")
    producer.init_transactions()
    for word in (b"yes", b"no", b"again"):
        producer.begin_transaction()
        for partition in range(PARTITIONS):
            producer.send("python", word, partition=partition)
        place = PythonPartition("python", 0)
        producer.send_offsets_to_transaction({place: OffsetAndMetadata(len(word), "", -1)}, "pg")
        producer.flush()
        (producer.abort_transaction if word == b"no" else producer.commit_transaction)()
    producer.close()
    check_read(topics, "python", [b"yes", b"again"] * PARTITIONS, [b"no"] * PARTITIONS)
    assert offset(topics, "pg", "python") == len(b"again")


# ---- Java


@pytest.mark.limit(300)
def test_java_copies_exactly_once(topics: Topics) -> None:
    """Kafka's own TransactionalMessageCopier (KIP-447), which aborts at random, copies each record once; Kafka's tool
    for transactions lists what is left of it."""
    need("java", "kafka")
    count = 1000
    feed = Producer({"bootstrap.servers": topics.bootstrap})
    for number in range(count):
        feed.produce("java-in", b"%d" % number)
    assert feed.flush(20) == 0
    jars.run(
        "java", *jars.LEAN, QUIET, "-cp", topics.classpath, f"{TOOLS}.TransactionalMessageCopier",
        "--broker-list", topics.bootstrap, "--input-topic", "java-in", "--input-partition", "0",
        "--output-topic", "java-out", "--consumer-group", "jg", "--transactional-id", "java",
        "--transaction-size", "50", "--enable-random-aborts", "--group-mode", "--use-group-metadata",
    )  # fmt: skip
    wanted = [b"%d" % number for number in range(count)]
    assert sorted(by_confluent(topics, "java-out", True)) == sorted(wanted)
    assert sorted(by_java(topics, "java-out", True, count)) == sorted(wanted)
    assert len(by_confluent(topics, "java-out", False)) > count
    assert sum(offset(topics, "jg", "java-in", partition) for partition in range(PARTITIONS)) == count
    listed = topics.tool("TransactionsCommand", "list")
    assert any(line.split()[0] == "java" and "Complete" in line for line in listed.splitlines()), listed


# ---- kills


@pytest.mark.fault
@pytest.mark.limit(280 + 20 * KILLS)
def test_sigkill_under_transactions(tmp_path: Path) -> None:
    """Killed under transactions of two clients and a copy of them with offsets: what a client was told is
    committed is there, in each partition once, in the copy once; nothing is torn; what was once seen never changes."""
    server = Topics(tmp_path, partitions=str(PARTITIONS))
    loads = [Load(server, word, PARTITIONS) for word in ("confluent", "aiokafka")]
    copier = Copier(server)
    with server, ThreadPoolExecutor(3) as pool:
        producing = [pool.submit(loads[0].confluent), pool.submit(loads[1].aiokafka)]
        copying = pool.submit(copier.run)
        try:
            for _ in range(KILLS):
                _kill(server, loads, copier)
            for load, job in zip(loads, producing, strict=True):
                load.stop.set()
                job.result(120)
                confluent(server, load.word)  # ends what the last kill may have left open
            count = len(server.consume("in", committed=True))
            wait_until(lambda: len(server.consume("out", committed=True)) >= count, 90, "the copy is whole")
        finally:
            for one in (*loads, copier):
                one.stop.set()
        copying.result(120)
        _judge(server.consume("in", committed=True), server.consume("out", committed=True), loads, copier)


def _kill(server: Topics, loads: list[Load], copier: Copier) -> None:
    """When everyone has got on since the last one; the very moment is chance."""
    goals = [len(load.done) + 20 for load in loads]
    copied = len(copier.read) + 60
    wait_until(lambda: len(copier.read) >= copied, 90, server.log[-2000:])
    for load, goal in zip(loads, goals, strict=True):
        wait_until(partial(load.has_done, goal), 90, server.log[-2000:])
    time.sleep(random.uniform(0, 0.05))
    server.kill9()
    server.start()


def _judge(came: list[Record], copied: list[Record], loads: list[Load], copier: Copier) -> None:
    seen = Counter((one.partition, one.value) for one in came)
    assert set(seen.values()) == {1}, "a transaction was done twice"
    whole = Counter(one.value for one in came)
    assert set(whole.values()) == {PARTITIONS}, "a transaction is torn"
    for load in loads:
        assert load.done <= whole.keys(), "what was acknowledged is lost"
    assert Counter((one.partition, one.value) for one in copied) == seen, "the copy isn't exactly once"
    assert not copier.changed and copier.read == {(one.partition, one.offset): one.value for one in came}
