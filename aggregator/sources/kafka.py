"""`type = kafka`: records of Kafka topics, as a member of a consumer group.

    poll -> hand (records of one batch) -> process(events, marks), by stretches -> commit the offsets to the group

**Exactly once into a file channel.** The offsets go into the store with the events, as marks, and to Kafka after that.
A kill between the two leaves the group behind the store; the mark says from where to where (`Mark`), so that this
source starts behind what it has. A partition that others have had meanwhile has a committed offset outside of that
range, and so has one that an operator has set back: then the group is right.

**A rebalance** happens only inside `poll`, when nothing is on its way into the channel. What of the hand belongs to
partitions that go is dropped: whoever gets them reads it. While the channel is full it polls with all partitions
paused, which keeps the membership.

What a killed aggregator has stored and not yet committed is read again by who takes its partitions over, under the same
identity (aggregator/kafka/identity.py).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import ClassVar, NamedTuple

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Consumer, Message

from agent import clock
from agent.avro import record
from agent.backoff import Backoff
from agent.config.fields import Config as AnyConfig
from agent.config.fields import Seconds, key
from agent.errors import ChannelFull, RemoteProtocolError
from agent.event import Batch, Event
from agent.source import DeadLetter, Source, SourceConfig
from agent.store.streams import identities_of
from aggregator.kafka import client, identity
from aggregator.kafka.identity import Name
from aggregator.kafka.member import Member, Place
from aggregator.kafka.records import headers_of, to_bytes, to_text

TIMESTAMP, PARTITION, OFFSET, KEY = "timestamp", "partition", "offset", "key"
"""Event headers that Flume's source sets where the event has none (KafkaSourceConstants)."""
SLICE = 0.25
"""Longest wait in one call of the thread, in seconds: so long may a stop have to wait."""
MOST_BYTES = 4 << 20
"""Of the bodies in a hand, about; then it is a batch, however few they are."""
LETTER = 64 << 10
"""Bytes of a record that a dead letter keeps."""


class KafkaConfig(SourceConfig):
    """Flume's keys. Offsets live in Kafka alone, so what speaks of ZooKeeper is refused."""

    REFUSED: ClassVar[dict[str, str]] = {
        "zookeeperConnect": "Kafka has no ZooKeeper any more: name brokers in kafka.bootstrap.servers",
        "migrateZookeeperOffsets": "offsets are in Kafka: set them once with kafka-consumer-groups --reset-offsets",
    }
    servers: str = key("kafka.bootstrap.servers", doc="brokers to begin with: host:port, separated by commas")
    topics: list[str] = key("kafka.topics", [], split=",", also=("topic",), doc="topics to read")
    regex: str = key("kafka.topics.regex", "", doc="read the topics that match it instead, new ones too")
    group: str = key("kafka.consumer.group.id", "flume", also=("groupId",), doc="members of one group share the topics")
    batchSize: int = key("batchSize", 1000, low=1, doc="most records of one batch")
    batchDuration: Seconds = key(
        "batchDurationMillis", Seconds(1.0), unit="ms", low=0.001, doc="longest wait for a full batch"
    )
    backoffSleepIncrement: Seconds = key(
        "backoffSleepIncrement", Seconds(1.0), unit="ms", low=0.001, doc="first wait when the channel is full; doubles"
    )
    maxBackoffSleep: Seconds = key(
        "maxBackoffSleep", Seconds(5.0), unit="ms", low=0.001, doc="longest wait when the channel is full"
    )
    useFlumeEventFormat: bool = key(
        "useFlumeEventFormat", False, doc="a record's value is an event of Flume's in Avro, headers included"
    )
    setTopicHeader: bool = key("setTopicHeader", True, doc="keep the topic's name in the header topicHeader")
    topicHeader: str = key("topicHeader", "topic", doc="the header that takes the topic's name")
    timestampHeader: str = key("timestampHeader", "", doc="a header that takes the record's time, ms since the epoch")
    headers: dict[str, str] = key("header.*", {}, doc="`header.NAME = R`: event header NAME takes record header R")
    consumer: dict[str, str] = key(
        "kafka.consumer.*", {}, secrets=client.SECRETS, doc="settings of the consumer, as Kafka names them"
    )

    def problems(self) -> list[tuple[str, str]]:
        if not (self.topics or self.regex):
            return [("kafka.topics", "is missing, and so is kafka.topics.regex: name the topics to read")]
        try:
            re.compile(self.regex)
        except re.error as error:
            return [("kafka.topics.regex", f"is no regular expression: {error}")]
        return client.problems("kafka.consumer.", self.consumer, Consumer)


class Mark(NamedTuple):
    """What a store knows of a partition of one group: its events reach to `after`; when they were put the group had
    committed `before`, or, where it had nothing, reading had begun there."""

    topic_id: bytes
    before: int
    after: int

    def __bytes__(self) -> bytes:
        return b"%s %d %d" % (self.topic_id.hex().encode(), self.before, self.after)

    @classmethod
    def read(cls, mark: bytes) -> Mark:
        topic_id, before, after = mark.decode().split()
        return cls(bytes.fromhex(topic_id), int(before), int(after))

    def start(self, topic_id: bytes, committed: int) -> int:
        """Where to begin when the group has committed this (OFFSET_INVALID: nothing, or forgotten since)."""
        if topic_id != self.topic_id:
            return committed
        if committed < 0 or 0 <= self.before <= committed < self.after:
            return self.after
        return committed


class Record(NamedTuple):
    """What was read: an event under its name, or why it is none."""

    place: Place
    offset: int
    name: Name
    event: Event
    fault: str


class KafkaSource(Source):
    """Exactly once into a file channel, a takeover by another aggregator aside; else at least once."""

    Config: ClassVar[type[AnyConfig]] = KafkaConfig
    config: KafkaConfig
    _member: Member | None = None

    async def open(self) -> None:
        self.ready = False
        config = self.config
        self._marks = dict(self.marks)
        self._hand: list[Record] = []
        self._next: dict[Place, int] = {}
        self._began: dict[Place, int] = {}
        """The first offset that was read of each partition."""
        self._owed: dict[Place, int] = {}
        topics = re.compile(config.regex) if config.regex else config.topics
        member = Member(client.consumer_settings(config.servers, config.group, config.consumer), topics, self.log)
        member.arrive, member.leave = self._arrive, self._leave
        self._member = member
        await member.open()

    async def close(self) -> None:
        if self._member:
            await self._member.close()

    async def run(self) -> None:
        assert self._member
        while True:
            await self._gather(self._member)
            self._say(self._member)
            await self._settle(self._member)

    async def _gather(self, member: Member) -> None:
        """A batch into the hand, or what there is after batchDurationMillis."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self.config.batchDuration
        size = 0
        while (wanted := self.config.batchSize - len(self._hand)) > 0 and (left := end - loop.time()) > 0:
            found = await member.poll(wanted, min(left, SLICE))
            self._take_up(member, found)
            size += sum(len(to_bytes(message.value())) for message in found)
            if member.trouble or size > MOST_BYTES:
                return

    def _take_up(self, member: Member, messages: list[Message]) -> None:
        """What a poll gave. What was fetched before a rebalance may come again behind it: each offset counts once."""
        for message in messages:
            found = self._record(member, message)
            if found.place in member.assigned and found.offset >= self._next.get(found.place, 0):
                self._next[found.place] = found.offset + 1
                self._began.setdefault(found.place, found.offset)
                self._hand.append(found)
                self.counter.EventReceivedCount += 1

    def _say(self, member: Member) -> None:
        if member.trouble and not self._hand:
            if self.counter.say(f"waiting: {member.trouble}"):
                self.log.warning("%s; waiting", member.trouble)
        elif member.joined:
            self.ready = True
            if self.counter.say("running"):
                self.log.info("a member of the group %s", self.config.group)

    # -- records

    def _record(self, member: Member, message: Message) -> Record:
        place, offset = Place(str(message.topic()), message.partition() or 0), message.offset() or 0
        value = to_bytes(message.value())
        headers: dict[str, str] = {}
        body, fault, name = value, "", None
        if self.config.useFlumeEventFormat:
            try:
                [(headers, body)] = record.decode(value, 1)
                name = identity.taken_off(headers)
            except RemoteProtocolError as error:
                fault = f"record {place}@{offset} is no event of Flume's: {error}"
        name = identity.carried(message) or name
        if name is None:
            name = identity.origin_of(member.ids[place.topic], *place), offset + 1
        self._describe(headers, message, place, offset)
        return Record(place, offset, name, Event(headers, body), fault)

    def _describe(self, headers: dict[str, str], message: Message, place: Place, offset: int) -> None:
        """Headers from the record, in the order of Flume's."""
        config, stamp = self.config, message.timestamp()
        time = str(clock.wall_ms() if stamp[0] == TIMESTAMP_NOT_AVAILABLE else stamp[1])
        headers.setdefault(TIMESTAMP, time)
        if config.timestampHeader:
            headers.setdefault(config.timestampHeader, time)
        if config.headers:
            found = dict(headers_of(message))
            headers |= {ours: to_text(found[theirs]) for ours, theirs in config.headers.items() if theirs in found}
        if config.setTopicHeader:
            headers.setdefault(config.topicHeader, place.topic)
        headers.setdefault(PARTITION, str(place.partition))
        headers.setdefault(OFFSET, str(offset))
        if message.key() is not None:
            headers.setdefault(KEY, to_text(message.key()))

    # -- into the channel

    async def _settle(self, member: Member) -> None:
        """Keep what is in the hand, in order, and tell the group."""
        if self._owed:
            owed, self._owed = self._owed, {}
            await member.commit(owed)
        while self._hand:
            stretch = _first_stretch(self._hand)
            try:
                await self._keep(member, stretch)
            except ChannelFull as full:
                await self._wait_for_room(member, full)
                continue
            self._hand = self._hand[len(stretch) :]
            await member.commit(_reached(stretch))
        if member.paused:
            await member.resume()

    async def _keep(self, member: Member, stretch: list[Record]) -> None:
        """Events of one stretch, or its dead letters, in one transaction with how far they reach."""
        marks = {
            self._mark_name(place): bytes(Mark(member.ids[place.topic], self._before(member, place), offset))
            for place, offset in _reached(stretch).items()
        }
        if stretch[0].fault:
            self.log.error("%d records go to the dead letters, the first: %s", len(stretch), stretch[0].fault)
            self.counter.EventReadFail += len(stretch)
            await self.bury([DeadLetter(r.event.headers, r.event.body[:LETTER], r.fault) for r in stretch], marks)
        else:
            names = identities_of(one.name for one in stretch)
            await self.process(Batch([one.event for one in stretch], identity=names), marks)
            self.counter.EventAcceptedCount += len(stretch)
            self.counter.AppendBatchAcceptedCount += 1
        self._marks |= marks

    def _before(self, member: Member, place: Place) -> int:
        committed = member.committed[place]
        return committed if committed >= 0 else self._began[place]

    async def _wait_for_room(self, member: Member, full: ChannelFull) -> None:
        """Poll with everything paused until a batch of the hand, or what a rebalance leaves of it, may fit."""
        self.counter.ChannelWriteFail += 1
        if self.counter.say(f"waiting: {full or 'the channel is full'}"):
            self.log.warning("holding back: %s", full or "the channel is full")
        loop = asyncio.get_running_loop()
        if not member.paused:
            self._room = Backoff(self.config.backoffSleepIncrement, self.config.maxBackoffSleep)
            await member.pause()
        end = loop.time() + self._room.next()
        while (left := end - loop.time()) > 0 and self._hand:
            self._take_up(member, await member.poll(1, min(left, SLICE)))

    # -- the group

    def _mark_name(self, place: Place) -> str:
        return f"{self.config.group}/{place}"

    def _arrive(self, committed: dict[Place, int]) -> Mapping[Place, int]:
        """Called by `poll` for new partitions: where to begin."""
        assert self._member
        start = {}
        for place, offset in committed.items():
            mark = self._marks.get(self._mark_name(place))
            start[place] = Mark.read(mark).start(self._member.ids[place.topic], offset) if mark else offset
            self._next[place] = max(start[place], 0)
            self._began.pop(place, None)
            if start[place] != offset:
                self._owed[place] = start[place]  # or else it is read again by whoever gets this partition next
                self.log.info("%s: the group is at %d, the channel has it up to %d", place, offset, start[place])
        if start:
            self.log.info("given %s", ", ".join(sorted(map(str, start))))
        return start

    def _leave(self, places: set[Place], lost: bool) -> Mapping[Place, int]:
        """Called by `poll`, so what is in the hand is in no channel: its new owner reads it."""
        self._hand = [one for one in self._hand if one.place not in places]
        self._owed = {place: offset for place, offset in self._owed.items() if place not in places}
        if places:
            self.log.info("%s %s", "lost" if lost else "gave back", ", ".join(sorted(map(str, places))))
        return {}


def _first_stretch(hand: list[Record]) -> list[Record]:
    """Records from the head that are all events, or none of them."""
    _, first = next(groupby(hand, lambda one: bool(one.fault)))
    return list(first)


def _reached(stretch: Iterable[Record]) -> dict[Place, int]:
    """The next offset to read, of each partition."""
    return {one.place: one.offset + 1 for one in stretch}
