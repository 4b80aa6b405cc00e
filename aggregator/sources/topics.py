"""`type = topics`: reads topics that the agent's own service `topics` holds, from where it left off (docs/topics.md).

With interceptors and a topics sink it is a stream processor: topic -> interceptors -> topic.

**Exactly once into a file channel.** The offset goes into the store with the events, as a mark, and to the group after
that, where everybody sees it. A kill between the two leaves the group behind; the mark says where it stood (`Mark`), so
that an operator's reset of the group's offsets is told from that. A reset is followed, at once while the source runs.

It is the one reader of its group: where several shall share the work, Kafka's clients and the kafka source do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import ClassVar, NamedTuple

from agent import clock
from agent.backoff import Backoff
from agent.config.fields import Config as AnyConfig
from agent.config.fields import Seconds, key
from agent.errors import ChannelFull, DeliveryError
from agent.event import Batch, Event
from agent.serializers.avro_event import NUMBER, ORIGIN
from agent.source import DeadLetter, Source, SourceConfig
from agent.store.streams import identities_of
from aggregator.kafka.identity import Name, name_in, origin_of
from aggregator.services.topics import service_in
from aggregator.topics.broker import Broker
from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.following import Broken, Following
from aggregator.topics.log.log import Offset, Partition, Place
from aggregator.topics.record import Record

LETTER = 64 << 10
"""Bytes of a batch that a dead letter keeps."""
LOOK_SECONDS = 1.0
"""How often it looks for topics and partitions that are new."""
DAY_MS = 86_400_000
NOTHING = Offset(-1)
OURS = (ORIGIN, NUMBER)


class TopicsConfig(SourceConfig):
    service: str = key("service", "", doc="the service of type topics; needed where there are several")
    topics: list[str] = key("topics", split=",", doc="topics to read; one that isn't there yet is waited for")
    group: str = key("groupId", "", doc="the group that its offsets are kept for; else agent and source, as a1.r1")
    reset: str = key(
        "auto.offset.reset", "earliest", choices=("earliest", "latest"), doc="where to begin what was never read"
    )
    batchSize: int = key("batchSize", 1000, low=1, doc="most records of one batch")
    backoff: Seconds = key("backoff", Seconds(0.1), unit="ms", low=0.001, doc="first wait for room; doubles")
    maxBackoff: Seconds = key("maxBackoff", Seconds(5.0), unit="ms", low=0.001, doc="longest wait for room")

    def problems(self) -> list[tuple[str, str]]:
        return [] if self.topics else [("topics", "is empty: name the topics to read")]


class Mark(NamedTuple):
    """What the channel's store knows of a partition: its events reach to `after`; when the last of them were put the
    group stood at `before` (-1: at nothing), as was committed at `time_ms`."""

    topic_id: bytes
    before: int
    time_ms: int
    after: int

    def __bytes__(self) -> bytes:
        return b"%s %d %d %d" % (self.topic_id.hex().encode(), self.before, self.time_ms, self.after)

    @classmethod
    def read(cls, mark: bytes) -> Mark:
        topic_id, *numbers = mark.decode().split()
        return cls(bytes.fromhex(topic_id), *map(int, numbers))


class TopicsSource(Source):
    """Exactly once into a file channel, at least once into others; in order for each partition."""

    Config: ClassVar[type[AnyConfig]] = TopicsConfig
    config: TopicsConfig
    broker: Broker

    async def open(self) -> None:
        """DeliveryError: the service isn't open."""
        self.broker = await service_in(self.services(), self.config.service)
        self.group = self.config.group or f"{self.agent}.{self.name}"
        self._marks = {name: Mark.read(mark) for name, mark in self.marks.items()}
        self._followed: dict[Place, Following] = {}
        self._told: dict[Place, int] = {}
        """What the group has committed, as far as this source knows; -1: nothing."""

    async def run(self) -> None:
        self._look()
        while True:
            moved = False
            for place, followed in list(self._followed.items()):
                if self._committed(place).offset != self._told[place]:
                    followed = self._set(place)
                moved |= await self._step(followed)
            if not moved:
                await self._wait()
                self._look()
                await self._renew()

    async def _wait(self) -> None:
        """For something new in a partition; a new one is found by looking."""
        partitions = [one.partition for one in self._followed.values()]
        changed = self.broker.log.changed(partitions)
        if not any(one.behind for one in self._followed.values()):
            await asyncio.wait([changed], timeout=LOOK_SECONDS)
        changed.cancel()

    # -- where to begin

    def _look(self) -> None:
        """Take up what is new, let go of what is gone."""
        log = self.broker.log
        if log.failed:
            raise DeliveryError(str(log.failed))
        found = {
            (topic.name, partition.index): partition
            for topic in map(log.topics.get, self.config.topics)
            if topic
            for partition in topic.partitions
        }
        for place, partition in found.items():
            if place not in self._followed or self._followed[place].partition is not partition:
                self._told[place] = self._committed(place).offset
                self._followed[place] = self._from(partition, self._start(partition))
        for place in self._followed.keys() - found.keys():
            del self._followed[place]
        missing = [name for name in self.config.topics if name not in log.topics]
        if self.counter.say(f"waiting: there is no topic {', '.join(missing)}" if missing else "running") and missing:
            self.log.warning("there is no topic %s yet; waiting", ", ".join(missing))

    def _start(self, partition: Partition) -> int:
        """The mark's place, unless the topic is another one, or the group's offset was set since."""
        known = self._committed((partition.topic, partition.index))
        mark = self._marks.get(self._mark_name(partition))
        if mark and mark.topic_id == self._topic_id(partition):
            ours = known.offset in (-1, mark.after) or (known.offset, known.time_ms) == (mark.before, mark.time_ms)
            if ours:
                return mark.after
        return known.offset if known.offset >= 0 else self._reset(partition)

    def _reset(self, partition: Partition) -> int:
        return partition.start if self.config.reset == "earliest" else partition.stable

    def _from(self, partition: Partition, offset: int) -> Following:
        """From there, unless the log was set back (a lost tail, a restored copy) and has never had that offset."""
        if offset > partition.end:
            self.log.warning(
                "%s-%d ends at %d, and was read to %d: the log was set back; from its %s on it is read again",
                partition.topic, partition.index, partition.end, offset, self.config.reset,
            )  # fmt: skip
            offset = self._reset(partition)
        return Following(self.broker.log, partition, offset)

    def _set(self, place: Place) -> Following:
        """Somebody has set the group's offset, or removed it."""
        partition, offset = self._followed[place].partition, self._committed(place).offset
        self._told[place] = offset
        self.log.info("the group's offset of %s-%d was set to %d", *place, offset)
        self._followed[place] = self._from(partition, offset if offset >= 0 else self._reset(partition))
        return self._followed[place]

    def _committed(self, place: Place) -> Offset:
        """-1 where the group has nothing."""
        return self.broker.log.committed(self.group).get(place, NOTHING)

    async def _renew(self) -> None:
        """It is no member of its group, whose offsets would be forgotten if nothing came for a week."""
        for place, followed in list(self._followed.items()):
            known = self._committed(place)
            if known.offset >= 0 and clock.wall_ms() - known.time_ms > DAY_MS:
                await self._commit(followed.partition, known.offset)

    def _mark_name(self, partition: Partition) -> str:
        return f"{self.group}/{partition.topic}-{partition.index}"

    def _topic_id(self, partition: Partition) -> bytes:
        return self.broker.topic(partition.topic).id

    # -- records to events

    async def _step(self, followed: Following) -> bool:
        """Whether there was something to do."""
        began = followed.offset
        try:
            records = await followed.take(self.config.batchSize)
            if records:
                self.counter.EventReceivedCount += len(records)
                await self._keep(followed, records)
            elif followed.offset != began:
                await self._commit(followed.partition, followed.offset)  # markers and what was aborted, alone
        except Broken as broken:
            await self._bury(followed, broken)
        except TopicsError as error:
            self._lost(followed, error)
        return followed.offset != began

    def _lost(self, followed: Following, error: TopicsError) -> None:
        partition = followed.partition
        if error.code is Code.UNKNOWN_TOPIC_OR_PARTITION:
            return  # the next look lets go of it
        if error.code is not Code.OFFSET_OUT_OF_RANGE:
            raise DeliveryError(f"{partition.topic}-{partition.index}: {error}") from error
        self.log.warning(
            "%s-%d begins at %d by now: what it held from %d on was never read (retention)",
            partition.topic, partition.index, partition.start, followed.offset,
        )  # fmt: skip
        to = Following(self.broker.log, partition, self._reset(partition))
        self._followed[partition.topic, partition.index] = to

    def _event(self, partition: Partition, record: Record) -> Event:
        """The record's headers; then, where they don't say it, its topic, partition, offset, time and key, named as by
        the kafka source."""
        headers = {name: _text(value) for name, value in record.headers if name not in OURS}
        headers.setdefault("timestamp", str(record.time))
        headers.setdefault("topic", partition.topic)
        headers.setdefault("partition", str(partition.index))
        headers.setdefault("offset", str(record.offset))
        if record.key is not None:
            headers.setdefault("key", _text(record.key))
        return Event(headers, record.value or b"")

    def _names(self, partition: Partition, records: Iterable[Record]) -> Iterable[Name]:
        """Whose the events are: what the record says, else where it lies."""
        origin = origin_of(self._topic_id(partition), partition.topic, partition.index)
        return [name_in(record.headers) or (origin, record.offset + 1) for record in records]

    # -- into the channel

    async def _keep(self, followed: Following, records: list[Record]) -> None:
        partition = followed.partition
        batch = Batch(
            [self._event(partition, record) for record in records],
            identity=identities_of(self._names(partition, records)),
        )
        marks = self._mark(partition, followed.offset)
        backoff = Backoff(self.config.backoff, self.config.maxBackoff)
        while True:
            try:
                await self.process(batch, {name: bytes(mark) for name, mark in marks.items()})
                break
            except ChannelFull as full:
                self.counter.ChannelWriteFail += 1
                if self.counter.say(f"waiting: {full or 'the channel is full'}"):
                    self.log.warning("holding back: %s", full or "the channel is full")
                await asyncio.sleep(backoff.next())
        self.counter.say("running")
        self.counter.EventAcceptedCount += len(records)
        self.counter.AppendBatchAcceptedCount += 1
        self._marks |= marks
        await self._commit(partition, followed.offset)

    async def _bury(self, followed: Following, broken: Broken) -> None:
        """A batch that can't be read is a dead letter."""
        partition = followed.partition
        place = f"{partition.topic}-{partition.index}@{broken.offset}"
        self.log.error("the batch at %s goes to the dead letters: %s", place, broken)
        self.counter.EventReadFail += broken.after - broken.offset
        marks = self._mark(partition, broken.after)
        letter = DeadLetter({"topic": partition.topic}, broken.raw[:LETTER], f"batch {place}: {broken}")
        await self.bury([letter], {name: bytes(mark) for name, mark in marks.items()})
        self._marks |= marks
        await self._commit(partition, broken.after)

    def _mark(self, partition: Partition, after: int) -> dict[str, Mark]:
        known = self._committed((partition.topic, partition.index))
        return {self._mark_name(partition): Mark(self._topic_id(partition), known.offset, known.time_ms, after)}

    async def _commit(self, partition: Partition, offset: int) -> None:
        place = partition.topic, partition.index
        await self.broker.log.commit(self.group, {place: Offset(offset)})
        self._told[place] = offset


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")
