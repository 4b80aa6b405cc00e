"""What a kafka sink's thread does: records out, and the answer whether all of them are there. Every call may block.

librdkafka tells of a delivery by a callback inside `poll` and `flush`. A callback in Python for each record costs as
much as everything else together, so they are asked for failures alone (`delivery.report.only.error`): when `flush` says
that nothing is left and nobody complained, every record was accepted. The library frees what it keeps for a record in
either case.

A batch is all or nothing on our side: after a failure what is left in the client's queue is thrown away with the
client, so that nothing of it arrives behind our back and in front of the retry. What was on its way by then may have
arrived: at least once.

**With transactions it is exactly once.** A batch is a transaction, and our position (aggregator/kafka/position.py) is
committed in it as the offset of a group of our own: both or neither. Whenever a client is made it first ends what its
predecessor left open (`init_transactions`; the broker fences the predecessor off), and then reads the position: so what
became of a commit without an answer is known before anything is sent again, and what the channel repeats is cut by
number. It doesn't matter how the channel splits its batches the next time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from agent.errors import ConfigError, DeliveryError, Rejected
from agent.store.streams import Transit
from aggregator.kafka.client import Settings
from aggregator.kafka.member import CLIENT, Quiet, said
from aggregator.kafka.position import Position

EVENTS_FAULT = {
    KafkaError.MSG_SIZE_TOO_LARGE: "max.message.bytes of the topic and kafka.producer.max.request.size bound a record",
    KafkaError.INVALID_RECORD: "the topic may want a key (cleanup.policy = compact)",
    KafkaError.INVALID_TIMESTAMP: "see message.timestamp.after.max.ms of the topic",
    KafkaError._UNKNOWN_PARTITION: "the topic has no such partition",
}
"""Errors whose cause is in a record, with what to look at."""
PASSING = (
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
    KafkaError.UNSTABLE_OFFSET_COMMIT,
)
"""A broker that has just started says so for a while."""
CALM = 0.1
"""Seconds between two looks."""


class Records(NamedTuple):
    """Records of one topic in order: keyword arguments of `produce`; `plain` if key and value are all they have."""

    topic: str
    records: list[dict[str, Any]]
    plain: bool


class Sender:
    """One client, made when it is needed. `group` and `place` (a topic) are where a transactional one keeps its
    position."""

    def __init__(
        self, settings: Settings, seconds: float, log: logging.Logger, group: str = "", place: str = ""
    ) -> None:
        self.settings, self.seconds, self.log, self.group, self.place = settings, seconds, log, group, place
        self.position = Position()
        self._membership = _membership(group) if group else None
        self._producer: Producer | None = None
        self._beginning: Producer | None = None
        """One whose first words to the broker had no answer yet."""
        self._failed: KafkaError | None = None
        self._trouble = ""

    def open(self) -> None:
        """Have a client. ConfigError, DeliveryError (transactions alone ask the broker)."""
        if self._producer is None:
            self._failed, self._trouble = None, ""
            producer, self._beginning = self._beginning or self._make(), None
            if self.group:
                self._begin(producer)
            self._producer = producer

    def _make(self) -> Producer:
        calls = {"error_cb": self._error, "delivery.report.only.error": True}
        try:
            return Producer({**self.settings, **calls}, logger=Quiet(self.log))
        except KafkaException as error:
            raise ConfigError(f"kafka: {said(error)}") from error

    def close(self) -> None:
        """Throw away what wasn't delivered."""
        producer, self._producer = self._producer, None
        if producer:
            try:
                producer.purge()
                producer.poll(0)
            except (KafkaException, SystemError) as error:  # fatal: it is of no more use, whatever it says
                self.log.debug("close: %s", error)

    def missing(self, transit: Transit | None) -> list[int] | None:
        """Indexes of the events of a batch that aren't there yet; None: all of them."""
        self.open()
        if not self.group or transit is None:
            return None
        found = self.position.missing(transit)
        return None if len(found) == transit.count else found

    def send(self, groups: Sequence[Records], transit: Transit | None) -> None:
        """Return when all of them are there. Rejected, DeliveryError: they may be there in part, or with transactions
        all of them (then `missing` knows)."""
        self.open()
        assert self._producer
        try:
            if self.group:
                self._transact(self._producer, groups, transit)
            else:
                self._deliver(self._producer, groups)
        except KafkaException as error:
            self._give_up(self._producer)
            raise self._translated(error.args[0]) from error
        except SystemError as error:  # librdkafka's fatal error, raised in the middle of somebody else's callback
            self._give_up(self._producer)
            raise self._translated(self._fatal(error)) from error
        except BaseException:
            self._give_up(self._producer)
            raise

    def _give_up(self, producer: Producer) -> None:
        if self.group:
            try:
                producer.purge()
                producer.abort_transaction(self.seconds)
            except KafkaException as error:  # the successor's init_transactions does it
                self.log.debug("abort: %s", said(error))
        self.close()

    # -- records

    def _deliver(self, producer: Producer, groups: Sequence[Records]) -> None:
        for group in groups:
            (self._together if group.plain else self._one_by_one)(producer, group)
        left = producer.flush(self.seconds)
        if self._failed:
            raise KafkaException(self._failed)
        if left:
            raise DeliveryError(self._words(f"no answer for {left} records in {self.seconds:g} s"))

    def _together(self, producer: Producer, group: Records) -> None:
        """`produce_batch` is half as dear as a call a record; it leaves headers, partition and time out."""
        waiting = group.records
        end = time.monotonic() + self.seconds
        while waiting:
            taken = producer.produce_batch(group.topic, waiting, on_delivery=self._report)
            if taken == len(waiting):
                return
            refused = [one for one in waiting if "_error" in one]
            for one in refused:
                error = one.pop("_error")
                if error.code() != KafkaError._QUEUE_FULL:
                    raise KafkaException(error)
            waiting = refused
            self._wait(producer, end)

    def _one_by_one(self, producer: Producer, group: Records) -> None:
        end = time.monotonic() + self.seconds
        for one in group.records:
            while True:
                try:
                    producer.produce(group.topic, on_delivery=self._report, **one)
                    break
                except BufferError:
                    self._wait(producer, end)

    def _wait(self, producer: Producer, end: float) -> None:
        """The client's queue is full."""
        producer.poll(CALM)
        if self._failed:
            raise KafkaException(self._failed)
        if time.monotonic() > end:
            raise DeliveryError(self._words(f"no room for records in {self.seconds:g} s"))

    def _report(self, error: KafkaError | None, message: Message) -> None:
        """Only failures come here. An event's own fault says more than what it brought about."""
        if error and (self._failed is None or error.code() in EVENTS_FAULT):
            self._failed = error

    def _error(self, error: KafkaError) -> None:
        """Of the client: what is wrong with the brokers."""
        if error.fatal():
            self._failed = error
        self._trouble = error.str()

    # -- transactions

    def _begin(self, producer: Producer) -> None:
        """Become the only client of this transactional.id and learn how far the last one came."""
        try:
            producer.init_transactions(self.seconds)
        except KafkaException as error:
            self._beginning = producer if error.args[0].retriable() else None
            raise self._translated(error.args[0]) from error
        try:
            found = self._committed()
        except KafkaException as error:
            text = f"the position in group {self.group} can't be read: {said(error)}"
            raise DeliveryError(self._words(text)) from error
        try:
            self.position = Position((found.metadata or "") if found.offset >= 0 else "")
        except ValueError as error:
            raise DeliveryError(f"group {self.group}, topic {self.place}: {error}: it isn't ours") from error
        if self.position.outdated:
            self.log.warning("the position in group %s is of an older version: what was sent last may come twice",
                             self.group)  # fmt: skip

    def _committed(self) -> TopicPartition:
        """The group's offset once no transaction of it is open.

        librdkafka 2.16 crashes when a broker tells an admin client that it isn't the coordinator (yet), so this is a
        consumer. One that has no answer can't be closed for 40 s, which a thread waits for.
        """
        client = {name: value for name, value in self.settings.items() if name.startswith(CLIENT)}
        more = {"group.id": self.group, "isolation.level": "read_committed", "error_cb": lambda error: None}
        reader = Consumer({**client, **more}, logger=Quiet(self.log))
        end = time.monotonic() + self.seconds
        try:
            while True:
                try:
                    return self._offset(reader, max(CALM, end - time.monotonic()))
                except KafkaException as error:
                    if error.args[0].code() not in PASSING or time.monotonic() > end:
                        raise
                    self._trouble = error.args[0].str()
                time.sleep(CALM)
        finally:
            threading.Thread(target=reader.close, daemon=True).start()

    def _offset(self, reader: Consumer, seconds: float) -> TopicPartition:
        [found] = reader.committed([TopicPartition(self.place, 0)], seconds)
        if found.error:
            raise KafkaException(found.error)
        return found

    def _transact(self, producer: Producer, groups: Sequence[Records], transit: Transit | None) -> None:
        position = self.position.with_batch(transit) if transit else self.position
        producer.begin_transaction()
        self._deliver(producer, groups)
        place = TopicPartition(self.place, 0, 0, metadata=str(position))
        producer.send_offsets_to_transaction([place], self._membership, self.seconds)
        self._commit(producer)
        self.position = position

    def _commit(self, producer: Producer) -> None:
        """Until there is an answer, or the time is up: then the next client finds out."""
        end = time.monotonic() + self.seconds
        while True:
            try:
                return producer.commit_transaction(max(0.1, end - time.monotonic()))
            except KafkaException as error:
                if not error.args[0].retriable() or time.monotonic() > end:
                    raise

    # -- words

    def _translated(self, error: KafkaError) -> DeliveryError:
        code = error.code()
        if code in EVENTS_FAULT:
            return Rejected(f"kafka: {error.str()}: {EVENTS_FAULT[code]}")
        if code in (KafkaError._FENCED, KafkaError.PRODUCER_FENCED):
            used = self.settings.get("transactional.id")
            return DeliveryError(f"kafka: another sink uses the transactional.id {used}: give each one of its own")
        return DeliveryError(self._words(error.str()))

    def _fatal(self, error: SystemError) -> KafkaError:
        """What is behind it; at times the client's module forgets to say."""
        cause = error.__cause__
        if isinstance(cause, KafkaException):
            found: KafkaError = cause.args[0]
            return found
        return self._failed or KafkaError(KafkaError._FATAL, str(error))

    def _words(self, text: str) -> str:
        return f"kafka: {text}" + (f" ({self._trouble})" if self._trouble and self._trouble not in text else "")


def _membership(group: str) -> Any:
    """Of somebody who commits for a group and is no member of it; no broker is asked."""
    outsider = Consumer({"group.id": group, "bootstrap.servers": "127.0.0.1:1", "log_level": 0})
    try:
        return outsider.consumer_group_metadata()
    finally:
        outsider.close()
