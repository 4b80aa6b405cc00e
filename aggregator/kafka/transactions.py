"""A producer whose batches are all or nothing: each is one transaction of Kafka.

Whoever reads with `isolation.level = read_committed` never sees half of one. Between two tries there is one question
that may stay open: when the broker goes away while a commit is on its way, the batch may be there although `write`
failed. It asks again for a while; after that the batch may come twice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from agent.errors import ChannelFull, ConfigError, Rejected
from aggregator.kafka.member import TIMEOUT, Daemon, Quiet, said

PATIENCE = 3 * TIMEOUT
"""Seconds in which a commit is asked for again."""


PURGED = (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT)
"""What an abort says of records on their way."""


class Outgoing(NamedTuple):
    """A record to be; `partition` -1: by the key, or anywhere."""

    value: bytes
    key: str | None
    partition: int
    headers: list[tuple[str, str | bytes | None]]


class Transactions:
    """Writes to one topic, in a thread of its own. `settings` hold a `transactional.id` that nobody else uses. A record
    for a partition that the topic lacks goes to `partition`."""

    def __init__(self, settings: Mapping[str, object], topic: str, log: logging.Logger, partition: int = -1) -> None:
        self.settings, self.topic, self.log, self.partition = dict(settings), topic, log, partition
        self._daemon = Daemon(f"kafka {topic}")
        self._producer: Producer | None = None
        self._refused: KafkaError | None = None
        self._partitions = 0
        """So many the topic had when it was asked last."""

    async def write(self, records: Sequence[Outgoing]) -> None:
        """All of them, or none: ChannelFull, or Rejected if one is too large. ConfigError for a setting that librdkafka
        doesn't take."""
        await self._daemon.call(self._write, records)

    def close(self) -> None:
        """Nothing is under way any more."""
        self._daemon.end()

    def _write(self, records: Sequence[Outgoing]) -> None:
        producer = self._producer or self._open()
        self._refused = None
        try:
            placed = self._placed(producer, records)
            producer.begin_transaction()
            for one in placed:
                self._produce(producer, one)
            self._commit(producer)
        except KafkaException as error:
            refused = self._refused or error.args[0]
            self._undo(producer, error)
            raise self._translated(refused) from error

    def _open(self) -> Producer:
        """A new producer; an old one of its id is fenced off, and what it left open is undone."""
        try:
            producer = Producer({**self.settings, "error_cb": lambda error: None}, logger=Quiet(self.log))
        except KafkaException as error:
            raise ConfigError(f"kafka: {said(error)}") from error
        try:
            producer.init_transactions(TIMEOUT)
        except KafkaException as error:
            raise ChannelFull(f"topic {self.topic}: {said(error)}") from error
        self._producer = producer
        return producer

    def _placed(self, producer: Producer, records: Sequence[Outgoing]) -> Sequence[Outgoing]:
        """In partitions that are there."""
        highest = max(one.partition for one in records)
        if highest < self._partitions or highest < 0:
            return records
        found = producer.list_topics(self.topic, TIMEOUT).topics[self.topic]
        if found.error:
            raise KafkaException(found.error)
        known, self._partitions = self._partitions, len(found.partitions)
        if highest >= self._partitions > known:
            self.log.warning("topic %s has %d partitions: an event for partition %d goes where one without goes",
                             self.topic, self._partitions, highest)  # fmt: skip
        return [one if one.partition < self._partitions else one._replace(partition=self.partition) for one in records]

    def _produce(self, producer: Producer, one: Outgoing) -> None:
        while True:
            try:
                producer.produce(
                    self.topic, one.value, one.key, one.partition, on_delivery=self._delivered, headers=one.headers
                )
                return
            except BufferError:
                producer.poll(0.1)

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error and error.code() not in PURGED and self._refused is None:
            self._refused = error

    def _commit(self, producer: Producer) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                producer.commit_transaction(TIMEOUT)
                return
            except KafkaException as error:
                if not error.args[0].retriable() or time.monotonic() > end:
                    raise

    def _undo(self, producer: Producer, error: KafkaException) -> None:
        """Abort. The producer is given up where it can't, and where a record was refused, which leaves librdkafka's
        count of records and the broker's apart; what it left open is undone by its successor."""
        self._producer, self._partitions = None, 0
        if error.args[0].fatal():
            return
        try:
            producer.abort_transaction(TIMEOUT)
            self._producer = None if self._refused else producer
        except KafkaException as failed:
            self.log.debug("abort: %s", said(failed))

    def _translated(self, error: KafkaError) -> ChannelFull | Rejected:
        text = f"topic {self.topic}: {error.str()}"
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            return Rejected(f"{text}: raise kafka.producer.max.request.size, and max.message.bytes of the topic")
        if error.code() == KafkaError._UNKNOWN_PARTITION:
            return ChannelFull(f"{text}: defaultPartitionId names one that the topic doesn't have")
        return ChannelFull(text)
