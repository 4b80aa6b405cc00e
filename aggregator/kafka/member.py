"""One member of a consumer group, in a thread of its own: what the kafka source and the kafka channel read with.

librdkafka calls back only inside `poll`, so a rebalance happens between two polls and never in the middle of what the
caller does with a batch: partitions leave when the caller is ready for it. Heartbeats go on in librdkafka's own thread
all the while, but a member that doesn't poll for `max.poll.interval.ms` is put out of its group, so whoever has to wait
polls with its partitions paused.

Offsets are committed by the caller alone, and not waited for: with the broker away a commit may take as long as the
broker does. `committed` says what the broker has confirmed; before partitions leave, librdkafka waits for commits under
way. What was seen of `Consumer.close` with the broker away is 40 s, so the thread is a daemon, given up after a bound.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import math
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
    Uuid,
)
from confluent_kafka.admin import AdminClient

from agent.errors import ConfigError, DeliveryError

TIMEOUT = 10.0
"""Seconds for one answer of the broker, and for the last words at close."""
CLIENT = ("bootstrap.", "metadata.broker.", "client.", "security.", "ssl.", "sasl.", "socket.", "broker.", "api.")
"""Settings that any client takes, a consumer or not."""
DOWN = (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._RESOLVE)
LATER = (
    *DOWN, KafkaError._WAIT_COORD, KafkaError._TIMED_OUT, KafkaError.REQUEST_TIMED_OUT,
    KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
)  # fmt: skip
"""Why a commit may fail that is worth another try."""
INTERNAL = ("__consumer_offsets", "__transaction_state", "__share_group_state")
"""Kafka's own topics, which no pattern means."""
Result = TypeVar("Result")


class Place(NamedTuple):
    """A partition."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"


class Daemon:
    """One thread that calls functions in order; it doesn't hold up the end of the process."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def _run(self) -> None:
        while job := self._jobs.get():
            job()

    async def call(self, function: Callable[..., Result], *args: Any) -> Result:
        """What it returns or raises. Cancelled: the call goes on, nobody hears of it."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()

        def tell(result: Any, error: BaseException | None) -> None:
            if not future.done():
                future.set_exception(error) if error else future.set_result(result)

        def job() -> None:
            result, error = None, None
            try:
                result = function(*args)
            except BaseException as raised:
                error = raised
            try:
                loop.call_soon_threadsafe(tell, result, error)
            except RuntimeError:  # the loop is closed: nobody waits any more
                pass

        self._jobs.put(job)
        return await future

    def end(self) -> None:
        """After the calls that wait."""
        self._jobs.put(None)


class Quiet:
    """librdkafka's log, a line a try: for debugging only. What must be said is in `Member.trouble`."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log

    def log(self, level: int, *text: object) -> None:
        self._log.debug("%s", " ".join(map(str, text)))


class Member:
    """Set by the caller before `open`, called in the thread, inside `poll`: `arrive`, where to start partitions that
    were assigned (offsets by place; OFFSET_INVALID: as `auto.offset.reset` says); `leave`, partitions that go (`lost`:
    somebody else may have them already), which returns offsets to commit before they do.

    A pattern is for whole names of topics; it is matched here, since librdkafka would take it for a POSIX one, where
    `\\d` and `(?:` mean nothing. New topics are looked for as often as `topic.metadata.refresh.interval.ms` says.
    """

    arrive: Callable[[dict[Place, int]], Mapping[Place, int]] = staticmethod(lambda committed: committed)
    leave: Callable[[set[Place], bool], Mapping[Place, int]] = staticmethod(lambda places, lost: {})

    def __init__(
        self, settings: Mapping[str, object], topics: Sequence[str] | re.Pattern[str], log: logging.Logger
    ) -> None:
        self.settings, self.log = dict(settings), log
        self.pattern = topics if isinstance(topics, re.Pattern) else None
        self.topics = [] if isinstance(topics, re.Pattern) else list(topics)
        self._look_at = -math.inf if self.pattern else math.inf
        self.committed: dict[Place, int] = {}
        """What the broker is known to have, for each partition that is ours; OFFSET_INVALID: nothing."""
        self.ids: dict[str, bytes] = {}
        """The id (16 bytes) of each topic: a topic that was deleted and made anew has another."""
        self.trouble = ""
        """Why nothing comes, if that is so."""
        self.paused = False
        self.assigned: set[Place] = set()
        self.joined = False
        """Whether it has been given its share, which may be nothing."""
        self.cooperative = (
            "cooperative" in str(self.settings.get("partition.assignment.strategy", ""))
            or self.settings.get("group.protocol") == "consumer"
        )
        self._failure: Exception | None = None
        self._asked: dict[Place, int] = {}
        """The last offset of each partition that a commit was asked for."""
        self._again: dict[Place, int] = {}

    async def open(self) -> None:
        """Join; returns at once. ConfigError for a setting that librdkafka doesn't take."""
        self._daemon = Daemon(f"kafka {self.settings.get('group.id')}")
        await self._daemon.call(self._open)

    def _open(self) -> None:
        own = {"enable.auto.commit": False, "enable.auto.offset.store": False}
        calls = {"error_cb": self._error, "on_commit": self._on_commit}
        try:
            self._consumer = Consumer({**self.settings, **own, **calls}, logger=Quiet(self.log))
            if self.topics:
                self._subscribe()
        except KafkaException as error:
            raise ConfigError(f"kafka: {said(error)}") from error

    def _subscribe(self) -> None:
        calls = {"on_assign": self._on_assign, "on_revoke": self._on_revoke, "on_lost": self._on_lost}
        self._consumer.subscribe(self.topics, **calls)

    async def close(self) -> None:
        """Leave the group, with commits under way; after a bound without."""
        if not hasattr(self, "_daemon"):
            return
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._daemon.call(self._close)
        except TimeoutError:
            self.log.warning("kafka doesn't answer; left the group %s without a word", self.settings.get("group.id"))
        self._daemon.end()

    def _close(self) -> None:
        if hasattr(self, "_consumer"):
            self._consumer.close()

    # -- reading

    async def poll(self, most: int, seconds: float) -> list[Message]:
        """The next records that are there, at most so many; waits so long for one. DeliveryError: make a new member."""
        return await self._daemon.call(self._poll, most, seconds)

    def _poll(self, most: int, seconds: float) -> list[Message]:
        found = self._consumer.consume(1, seconds)
        if found and most > 1:
            found += self._consumer.consume(most - 1, 0.0)
        if self._failure:
            failure, self._failure = self._failure, None
            raise failure
        records = [message for message in found if not message.error()]
        for message in found:
            if error := message.error():
                self._error(error)
        if records:
            self.trouble = ""
        if (self.trouble and not found) or time.monotonic() > self._look_at:
            self._probe()
        elif not found and self._again:
            self._commit(self._again)
        return records

    def _error(self, error: KafkaError) -> None:
        """Of the client or of a topic."""
        if error.fatal():
            self._failure = DeliveryError(f"kafka: {error.str()}")
        elif error.code() == KafkaError._AUTO_OFFSET_RESET:
            self._failure = DeliveryError(f"kafka: {error.str()}: set it with kafka-consumer-groups --reset-offsets")
        elif error.code() == KafkaError._ALL_BROKERS_DOWN:
            self.trouble = f"no broker of {self.settings.get('bootstrap.servers')} answers"
        elif error.code() == KafkaError._MAX_POLL_EXCEEDED:
            self.log.warning("put out of the group %s: %s", self.settings.get("group.id"), error.str())
        elif error.code() not in (*DOWN, KafkaError._PARTITION_EOF):
            self.trouble = error.str()

    def _probe(self) -> None:
        """Which topics there are, and whether what was wrong is over: nothing tells us."""
        try:
            topics = self._consumer.list_topics(timeout=1.0).topics
        except KafkaException:
            return
        self.trouble = ""
        if self.pattern:
            self._match(self.pattern, topics)
        if missing := [topic for topic in self.topics if topic not in topics]:
            self.trouble = f"there is no topic {', '.join(missing)}, or it may not be read by this user"

    def _match(self, pattern: re.Pattern[str], topics: Iterable[str]) -> None:
        every = self.settings.get("topic.metadata.refresh.interval.ms", self.settings.get("metadata.max.age.ms"))
        self._look_at = time.monotonic() + max(1.0, int(str(every or 300_000)) / 1000)
        found = sorted(name for name in topics if pattern.fullmatch(name) and name not in INTERNAL)
        if found and found != self.topics:
            self.topics = found
            self._subscribe()
        elif not self.topics:
            self.trouble = f"no topic matches {pattern.pattern}, or none that may be read by this user"

    async def pause(self) -> None:
        """Read nothing more; `poll` goes on to keep the membership."""
        await self._daemon.call(self._pause, True)

    async def resume(self) -> None:
        await self._daemon.call(self._pause, False)

    def _pause(self, paused: bool) -> None:
        self.paused = paused
        places = self._consumer.assignment()
        if places:
            (self._consumer.pause if paused else self._consumer.resume)(places)

    # -- committing

    async def commit(self, offsets: Mapping[Place, int]) -> None:
        """Ask the broker to keep these (the next to be read, by partition); not waited for."""
        await self._daemon.call(self._commit, offsets)

    def _commit(self, offsets: Mapping[Place, int]) -> None:
        mine = {place: offset for place, offset in offsets.items() if place in self.assigned}
        self._again = {place: offset for place, offset in self._again.items() if place not in offsets}
        self._asked |= mine
        if mine:
            self._consumer.commit(offsets=[TopicPartition(*one, mine[one]) for one in mine], asynchronous=True)

    def _on_commit(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        for one in partitions:
            place, failure = Place(one.topic, one.partition), error or one.error
            if place in self.assigned and not failure:
                self.committed[place] = one.offset
            elif failure and failure.code() in LATER and one.offset == self._asked.get(place):
                self._again[place] = one.offset  # only the last one: offsets must not go back
        if error and error.code() not in (KafkaError._NO_OFFSET, KafkaError._DESTROY, *LATER):
            self.log.info("the group doesn't take these offsets, others have them now: %s", error.str())

    # -- the group

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """An exception here would leave it half assigned: it is raised by `poll`."""
        try:
            self.joined = True
            offsets = self._known(consumer, partitions)
            self.assigned |= offsets.keys()
            self.committed |= offsets
            start = self.arrive(offsets)
            self._assign(consumer, [TopicPartition(*place, offset) for place, offset in start.items()])
            if partitions:  # librdkafka remembers the state of a partition that was ours before
                (consumer.pause if self.paused else consumer.resume)(partitions)
            self.trouble = ""
        except KafkaException as error:
            self._assign(consumer, [])
            self._failure = DeliveryError(f"kafka: {said(error)}")
        except Exception as error:
            self._assign(consumer, [])
            self._failure = error

    def _assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Where members keep what doesn't move, these are in addition to what is there."""
        (consumer.incremental_assign if self.cooperative else consumer.assign)(partitions)

    def _known(self, consumer: Consumer, partitions: list[TopicPartition]) -> dict[Place, int]:
        """The committed offset of each, OFFSET_INVALID where there is none; the ids of topics are known afterwards."""
        if not partitions:
            return {}
        known: dict[Place, int] = {}
        for one in consumer.committed(partitions, TIMEOUT):
            if one.error:
                raise KafkaException(one.error)
            known[Place(one.topic, one.partition)] = one.offset if one.offset >= 0 else OFFSET_INVALID
        self.ids |= topic_ids(self.settings, {place.topic for place in known}, self.log)
        return known

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._go(partitions, False)

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._go(partitions, True)

    def _go(self, partitions: list[TopicPartition], lost: bool) -> None:
        places = {Place(one.topic, one.partition) for one in partitions}
        try:
            offsets = self.leave(places, lost)
            if not lost:
                self._commit(offsets)
        except Exception as error:
            self._failure = error
        self.assigned -= places
        for place in places:
            self.committed.pop(place, None)
            self._again.pop(place, None)
            self._asked.pop(place, None)


def topic_ids(settings: Mapping[str, object], topics: set[str], log: logging.Logger) -> dict[str, bytes]:
    """The id (16 bytes) of each topic. KafkaException if the broker doesn't say it."""
    client: dict[str, Any] = {name: value for name, value in settings.items() if name.startswith(CLIENT)}
    admin = AdminClient(client, logger=Quiet(log))
    found = admin.describe_topics(TopicCollection(sorted(topics)), request_timeout=TIMEOUT)
    return {topic: id_bytes(future.result().topic_id) for topic, future in found.items()}


def id_bytes(uuid: Uuid) -> bytes:
    """Kafka writes 16 bytes as 22 letters of base64, with either alphabet."""
    return base64.b64decode(str(uuid).replace("-", "+").replace("_", "/") + "==")


def said(error: KafkaException) -> str:
    """The library's words."""
    first = error.args[0] if error.args else error
    return first.str() if isinstance(first, KafkaError) else str(first)
