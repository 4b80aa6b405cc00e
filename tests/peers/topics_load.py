"""Transactions without end against the topics service, and a copy of them, for tests that kill it meanwhile.

A transaction writes its number into each partition, so that one that is torn, lost or done twice shows. The clients
are used as their pages say; what fails fatally is made anew, and its transaction is then done or not, which nobody
tells: the next one has another number.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError as AioError
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from tests.peers.topics import Topics


def confluent(server: Topics, id_: str, **settings: Any) -> Producer:
    """A transactional producer that is ready.

    While its only broker is down librdkafka forgets it (KIP-899, its default); offsets of a transaction that
    wait for that one's connection then wait until their time-out, which makes kills slow to follow each other.
    """
    producer = Producer(
        {
            "bootstrap.servers": server.bootstrap,
            "transactional.id": id_,
            "metadata.recovery.strategy": "none",
            "linger.ms": 0,
            "log_level": 0,
            **settings,
        }
    )
    producer.init_transactions(30)
    return producer


class Load:
    """Transactions of one client until they are told to stop: each writes its number into every partition of `in`.
    `done`: those that the client was told are committed."""

    def __init__(self, server: Topics, word: str, partitions: int) -> None:
        self.server, self.word, self.partitions, self.done = server, word, partitions, set[bytes]()
        self.stop = threading.Event()

    def has_done(self, goal: int) -> bool:
        return len(self.done) >= goal

    def values(self) -> Iterator[bytes]:
        number = 0
        while not self.stop.is_set():
            number += 1
            yield f"{self.word}-{number}".encode()

    def confluent(self) -> None:
        """A producer is made anew when the old one is of no use; which of its transactions it has committed is told
        or never known."""
        values = self.values()
        while not self.stop.is_set():
            with suppress(KafkaException):
                producer = confluent(self.server, self.word)
                for value in values:
                    self._commit(producer, value)

    def _commit(self, producer: Producer, value: bytes) -> None:
        producer.begin_transaction()
        for partition in range(self.partitions):
            producer.produce("in", value, partition=partition)
        while True:
            try:
                producer.commit_transaction(30)
            except KafkaException as error:
                if error.args[0].retriable():
                    continue
                if not error.args[0].txn_requires_abort():
                    raise
                producer.abort_transaction(30)
                return
            self.done.add(value)
            return

    def aiokafka(self) -> None:
        asyncio.run(self._aiokafka())

    async def _aiokafka(self) -> None:
        values = self.values()
        while not self.stop.is_set():
            client = AIOKafkaProducer(bootstrap_servers=self.server.bootstrap, transactional_id=self.word)
            with suppress(AioError, TimeoutError):
                async with asyncio.timeout(30), client:
                    for value in values:
                        async with client.transaction():
                            for partition in range(self.partitions):
                                await client.send("in", value, partition=partition)
                        self.done.add(value)


class Copier:
    """Reads `in` as a member of a group and writes `out` with its offsets in the transaction: exactly once."""

    def __init__(self, server: Topics) -> None:
        self.server, self.stop = server, threading.Event()
        self.read: dict[tuple[int, int], bytes] = {}
        """All that read_committed has ever shown it, by partition and offset."""
        self.changed: list[tuple[int, int]] = []
        """Places that have shown two different records."""

    def run(self) -> None:
        while not self.stop.is_set():
            consumer = Consumer(
                {
                    "bootstrap.servers": self.server.bootstrap,
                    "group.id": "copier",
                    "auto.offset.reset": "earliest",
                    "enable.auto.commit": False,
                    "isolation.level": "read_committed",
                    "session.timeout.ms": 6000,
                    "log_level": 0,
                }
            )
            try:
                consumer.subscribe(["in"])
                producer = confluent(self.server, "copier")
                while not self.stop.is_set():
                    self._copy(consumer, producer)
            except KafkaException:
                pass
            finally:
                consumer.close()

    def _copy(self, consumer: Consumer, producer: Producer) -> None:
        """A transaction. Whatever goes wrong, the next one begins where the group has committed: with a new member."""
        first = consumer.consume(1, 0.5)
        messages = [one for one in first + consumer.consume(200, 0.05) if one.error() is None]
        if not messages:
            return
        ends: dict[int, int] = {}
        producer.begin_transaction()
        for one in messages:
            place = (one.partition(), one.offset())
            if self.read.setdefault(place, one.value()) != one.value():
                self.changed.append(place)
            ends[one.partition()] = one.offset() + 1
            producer.produce("out", one.value(), partition=one.partition())
        offsets = [TopicPartition("in", partition, end) for partition, end in ends.items()]
        producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata(), 30)
        producer.commit_transaction(30)
