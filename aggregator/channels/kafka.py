"""`type = kafka`: events wait in a Kafka topic, and whoever is a member of the group takes them.

    put:  one Kafka transaction, all or nothing          take: poll -> ready -> take -> commit | rollback
                                                                                 offsets, as far as all is done

Several agents may name one topic and one group: each takes its share of the partitions, and a share moves when an agent
comes or goes. An agent may have a source alone on it (it then only writes) or a sink alone (it only reads).

Order is that of a partition. Several takes may be open and end in any order: of each partition the offset that is
committed is the first that is not done. Before a partition leaves, open takes that hold some of it may end, for
`SETTLE` seconds.

**At least once.** The place in the topic is kept after the sink's far side has accepted, so what was sent and not yet
kept is sent again after a kill, under the same identity (aggregator/kafka/identity.py): keyed outputs and audits
recognise it. No marks of sources and no receipts of sinks are kept. Where an event is too large for the topic, what a
batch holds around it is written in parts, and after a failure between two of them the source puts the first again. For
exactly once put a kafka source in front of a file channel.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import merge
from operator import attrgetter
from typing import ClassVar

from confluent_kafka import Consumer, Message, Producer

from agent.avro import record
from agent.backoff import Backoff
from agent.channel import Channel, Put, SourceMarks, Take
from agent.config.fields import Config, Seconds, key
from agent.errors import AgentError, ChannelFull, Rejected, RemoteProtocolError
from agent.event import Batch, Event
from agent.source import DeadLetter, Kept
from agent.store.streams import identities_of
from aggregator.kafka import client, identity
from aggregator.kafka.identity import Name
from aggregator.kafka.member import Member, Place
from aggregator.kafka.records import to_bytes, to_text
from aggregator.kafka.transactions import Outgoing, Transactions

KEY = "key"
"""The event header that is the record's key, as in Flume."""
READY = 4 << 20
"""Bytes that wait for a take before reading pauses."""
MOST = 1000
"""Records of one poll."""
SETTLE = 10.0
"""Seconds for open takes to end before a partition goes."""


class KafkaChannelConfig(Config):
    """Flume's keys."""

    REFUSED: ClassVar[dict[str, str]] = {
        "zookeeperConnect": "Kafka has no ZooKeeper any more: name brokers in kafka.bootstrap.servers",
        "migrateZookeeperOffsets": "offsets are in Kafka: set them once with kafka-consumer-groups --reset-offsets",
        "readSmallestOffset": "give kafka.consumer.auto.offset.reset = earliest or latest",
    }
    servers: str = key(
        "kafka.bootstrap.servers", also=("brokerList",), doc="brokers to begin with: host:port, separated by commas"
    )
    topic: str = key("kafka.topic", "flume-channel", also=("topic",), doc="the topic that holds the events")
    group: str = key("kafka.consumer.group.id", "flume", also=("groupId",), doc="who takes from it, together")
    parseAsFlumeEvent: bool = key(
        "parseAsFlumeEvent", True, doc="a record's value is an event of Flume's in Avro; false: the body alone"
    )
    pollTimeout: Seconds = key(
        "kafka.pollTimeout", Seconds(0.5), unit="ms", low=0.01, also=("pollTimeout",), doc="longest wait of one poll"
    )
    defaultPartitionId: int = key("defaultPartitionId", -1, low=-1, doc="partition to write to; -1: by the key, or any")
    partitionIdHeader: str = key("partitionIdHeader", "", doc="the event header that names the partition to write to")
    producer: dict[str, str] = key(
        "kafka.producer.*", {}, secrets=client.SECRETS, doc="settings of the producer, as Kafka names them"
    )
    consumer: dict[str, str] = key(
        "kafka.consumer.*", {}, secrets=client.SECRETS, doc="settings of the consumer, as Kafka names them"
    )

    def problems(self) -> list[tuple[str, str]]:
        return [
            *client.problems("kafka.producer.", self.writing("to be made"), Producer),
            *client.problems("kafka.consumer.", self.consumer, Consumer),
        ]

    def writing(self, name: str) -> dict[str, str]:
        """Settings of the producer; `name` is its transactional.id unless one is set."""
        given = dict(self.producer)
        given.setdefault("transactional.id", name)
        given.setdefault("transaction.timeout.ms", "30000")
        return given


@dataclass(slots=True, eq=False)
class Track:
    """A partition for as long as it is ours: what was read of it and isn't done."""

    place: Place
    waiting: deque[int] = field(default_factory=deque)
    done: set[int] = field(default_factory=set)
    reached: int = -1
    """The first offset that isn't done; -1: as it was."""
    said: int = -1
    """What of that the group has been told."""
    gone: bool = False

    def finish(self, offset: int) -> None:
        self.done.add(offset)
        while self.waiting and self.waiting[0] in self.done:
            self.reached = self.waiting.popleft() + 1
            self.done.discard(self.reached - 1)


@dataclass(slots=True, eq=False)
class Entry:
    """One event that was read: `serial` is its turn, `piece` its encoding."""

    serial: int
    track: Track
    offset: int
    name: Name
    piece: bytes


class KafkaTake(Take):
    def __init__(self, channel: KafkaChannel, entries: list[Entry]) -> None:
        self.channel, self.entries = channel, entries
        names = identities_of(entry.name for entry in entries)
        self.batch = Batch(None, b"".join([entry.piece for entry in entries]), len(entries), None, names)

    def commit(self, receipt: bytes | None = None) -> None:
        self.channel.counter.EventTakeSuccessCount += len(self.entries)
        self.channel.finish(self)

    def rollback(self) -> None:
        self.channel.put_back(self)

    async def bury(self, reason: str) -> None:
        self.channel.log.error("dropped %d events that can never be delivered: %s", len(self.entries), reason)
        self.channel.counter.dropped += len(self.entries)
        self.channel.finish(self)


class KafkaChannel(Channel):
    """At least once: events outlive the agent, marks and receipts aren't kept."""

    Config = KafkaChannelConfig
    config: KafkaChannelConfig

    async def open(self) -> None:
        """Nothing is asked of Kafka before the first put or take."""
        self._ready: deque[Entry] = deque()
        self._open: set[KafkaTake] = set()
        self._tracks: dict[Place, Track] = {}
        self._serial = self._ready_bytes = 0
        self._data, self._room, self._settled = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._transactions: Transactions | None = None
        self._line = asyncio.Lock()
        self._reading: asyncio.Task[None] | None = None
        self._leaving = False
        self.counter.gauges |= {"ChannelSize": lambda: self.depth, "bytes": lambda: self._ready_bytes}

    async def close(self) -> None:
        if self._reading:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        if self._transactions:
            async with self._line:
                self._transactions.close()

    @property
    def volatile(self) -> bool:
        return False

    @property
    def depth(self) -> int:
        """Events that were read and aren't done; how many more lie in the topic only Kafka knows."""
        return len(self._ready) + sum(len(take.entries) for take in self._open)

    # -- putting

    async def put_all(self, puts: Sequence[Put], marks: SourceMarks | None = None) -> Kept:
        """In one transaction; ChannelFull while Kafka doesn't take it. Marks are not kept.

        An event that is too large for the topic is dropped and counted; then the others are in several transactions.
        """
        records = [one for put in puts for one in self._outgoing(put.batch)]
        self.counter.EventPutAttemptCount += len(records)
        if not records:
            return Kept(0, 0)
        writing = asyncio.ensure_future(self._write(records))
        try:
            dropped = await asyncio.shield(writing)
        except asyncio.CancelledError:
            # What was handed over is kept or not, and whoever put it waits until that is decided.
            await asyncio.gather(writing, return_exceptions=True)
            raise
        except ChannelFull:
            if any(put.channels for put in puts):
                raise
            self.counter.dropped += len(records)
            return Kept(0, 0)
        self.counter.EventPutSuccessCount += len(records) - dropped
        return Kept(max(0, sum(put.batch.count for put in puts if put.channels) - dropped), 0)

    async def _write(self, records: list[Outgoing]) -> int:
        """All but so many that are too large. Where all of two or more are, that is the topic's fault."""
        async with self._line:
            if self._transactions is None:
                unique = f"headrace-{self.agent}-{self.name}-{os.urandom(8).hex()}"
                settings = client.producer_settings(self.config.servers, self.config.writing(unique))
                default = self.config.defaultPartitionId
                self._transactions = Transactions(settings, self.config.topic, self.log, default)
            refused = await self._write_parts(self._transactions, records)
        if len(refused) == len(records) > 1:
            raise ChannelFull(refused[0].reason)
        if refused:
            await self.bury(refused)
        return len(refused)

    async def _write_parts(self, to: Transactions, records: list[Outgoing]) -> list[DeadLetter]:
        """In one, or by halves to find the events at fault."""
        try:
            await to.write(records)
            return []
        except Rejected as error:
            if len(records) == 1:
                return [DeadLetter({}, records[0].value, f"{len(records[0].value):,} bytes: {error}")]
        half = len(records) // 2
        return [*await self._write_parts(to, records[:half]), *await self._write_parts(to, records[half:])]

    def _outgoing(self, batch: Batch) -> Iterator[Outgoing]:
        names = [(run.origin, run.first + i) for run in batch.identities or () for i in range(run.count)]
        for index, event in enumerate(batch.events):
            value = record.encode([event]) if self.config.parseAsFlumeEvent else event.body
            headers = identity.record_headers(names[index]) if names else []
            yield Outgoing(value, event.headers.get(KEY), self._partition(event), headers)

    def _partition(self, event: Event) -> int:
        text = event.headers.get(self.config.partitionIdHeader, "") if self.config.partitionIdHeader else ""
        is_number = text.isascii() and text.isdigit() and len(text) < 10
        return int(text) if is_number else self.config.defaultPartitionId

    # -- taking

    async def take(self, limit: int, max_bytes: int = 1 << 20) -> Take:
        self._start_reading()
        while not self._ready:
            self.counter.EventTakeAttemptCount += 1
            self._data.clear()
            await self._data.wait()
        entries = [self._pop()]
        size = len(entries[0].piece)
        while self._ready and len(entries) < limit and size + len(self._ready[0].piece) <= max_bytes:
            entries.append(self._pop())
            size += len(entries[-1].piece)
        take = KafkaTake(self, entries)
        self._open.add(take)
        self.counter.EventTakeAttemptCount += len(entries)
        if self._ready_bytes < READY // 2:
            self._room.set()
        return take

    def _pop(self) -> Entry:
        entry = self._ready.popleft()
        self._ready_bytes -= len(entry.piece)
        return entry

    def finish(self, take: KafkaTake) -> None:
        """Its events are done; their place is kept with the next poll."""
        self._end(take)
        for entry in take.entries:
            entry.track.finish(entry.offset)

    def put_back(self, take: KafkaTake) -> None:
        """Its events are taken again, at their turn; not those of partitions that have gone meanwhile."""
        self._end(take)
        self.counter.rolled_back += len(take.entries)
        left = [entry for entry in take.entries if not entry.track.gone]
        self._ready = deque(merge(left, self._ready, key=attrgetter("serial")))
        self._ready_bytes += sum(len(entry.piece) for entry in left)
        self._data.set()

    def _end(self, take: KafkaTake) -> None:
        if take not in self._open:
            raise RuntimeError("this take has ended already")
        self._open.remove(take)
        self._settled.set()

    # -- reading

    def _start_reading(self) -> None:
        """With the first take: an agent that only puts is no member of the group."""
        if self._reading is None:
            self._reading = asyncio.create_task(self._read(), name=f"read {self.name}")

    async def _read(self) -> None:
        """Be a member of the group, again and again."""
        backoff = Backoff(1.0, 30.0)
        while True:
            settings = client.consumer_settings(
                self.config.servers, self.config.group, {"auto.offset.reset": "earliest", **self.config.consumer}
            )
            member = Member(settings, [self.config.topic], self.log)
            try:
                await self._as_member(member)
            except Exception as error:
                if self.counter.say(f"waiting: {error}"):
                    known = isinstance(error, AgentError)
                    self.log.error("can't read: %s; tries again", error, exc_info=None if known else error)
            finally:
                self._leaving = True
                await member.close()
                self._leaving = False
                self._forget(set(self._tracks))
            await asyncio.sleep(backoff.next())

    async def _as_member(self, member: Member) -> None:
        loop = asyncio.get_running_loop()

        def leave(places: set[Place], lost: bool) -> Mapping[Place, int]:
            """In the member's thread: the loop lets go of these."""
            return asyncio.run_coroutine_threadsafe(self._let_go(places, lost), loop).result(SETTLE + 5)

        member.arrive, member.leave = self._arrive, leave
        await member.open()
        while True:
            await self._have_room(member)
            most = 1 if member.paused else MOST
            self._take_in(member, await member.poll(most, 0.05 if member.paused else self.config.pollTimeout))
            self._say(member)
            if reached := self._reached():
                await member.commit(reached)

    async def _have_room(self, member: Member) -> None:
        """Wait a little for takes; then read nothing more, but go on polling."""
        full = self._ready_bytes > READY
        if full and not member.paused:
            self._room.clear()
            try:
                async with asyncio.timeout(1.0):
                    await self._room.wait()
            except TimeoutError:
                await member.pause()
        elif member.paused and not full:
            await member.resume()

    def _take_in(self, member: Member, messages: list[Message]) -> None:
        for message in messages:
            place, offset = Place(str(message.topic()), message.partition() or 0), message.offset() or 0
            track = self._tracks.get(place)
            if track is None or (track.waiting and offset <= track.waiting[-1]) or offset < track.reached:
                continue
            track.waiting.append(offset)
            try:
                piece = self._piece(message)
            except RemoteProtocolError as error:
                self.log.error("dropped record %s@%d, which is no event of Flume's: %s", place, offset, error)
                self.counter.dropped += 1
                track.finish(offset)
                continue
            name = identity.carried(message) or (identity.origin_of(member.ids[place.topic], *place), offset + 1)
            self._serial += 1
            self._ready.append(Entry(self._serial, track, offset, name, piece))
            self._ready_bytes += len(piece)
        if self._ready:
            self._data.set()

    def _piece(self, message: Message) -> bytes:
        """The event's encoding; the record's key is its header `key` (RemoteProtocolError if it is malformed)."""
        value, record_key = to_bytes(message.value()), message.key()
        if not self.config.parseAsFlumeEvent:
            headers = {} if record_key is None else {KEY: to_text(record_key)}
            return record.encode([(headers, value)])
        record.check(value, 1)
        if record_key is None or KEY.encode() in value:
            return value
        [(headers, body)] = record.decode(value, 1)
        return record.encode([({**headers, KEY: to_text(record_key)}, body)])

    def _say(self, member: Member) -> None:
        if member.trouble:
            if self.counter.say(f"waiting: {member.trouble}"):
                self.log.warning("%s; waiting", member.trouble)
        elif member.joined and self.counter.say("running"):
            self.log.info("a member of the group %s", self.config.group)

    # -- the group

    def _reached(self) -> dict[Place, int]:
        """Offsets to commit; each is said once."""
        reached = {track.place: track.reached for track in self._tracks.values() if track.reached > track.said}
        for place, offset in reached.items():
            self._tracks[place].said = offset
        return reached

    def _arrive(self, committed: dict[Place, int]) -> Mapping[Place, int]:
        for place in committed:
            self._tracks[place] = Track(place)
        if committed:
            self.log.info("given %s", ", ".join(sorted(map(str, committed))))
        return committed

    async def _let_go(self, places: set[Place], lost: bool) -> Mapping[Place, int]:
        """What waits is somebody else's; what is under way may end."""
        self._drop(places)
        try:
            async with asyncio.timeout(0 if lost or self._leaving else SETTLE):
                while any(entry.track.place in places for take in self._open for entry in take.entries):
                    self._settled.clear()
                    await self._settled.wait()
                    self._drop(places)
        except TimeoutError:
            self.log.warning("what is under way of partitions that go now may be delivered twice")
        reached = {place: track.reached for place in places if (track := self._tracks[place]).reached >= 0}
        self._forget(places)
        return reached

    def _drop(self, places: set[Place]) -> None:
        self._ready = deque(entry for entry in self._ready if entry.track.place not in places)
        self._ready_bytes = sum(len(entry.piece) for entry in self._ready)

    def _forget(self, places: set[Place]) -> None:
        self._drop(places)
        for place in places:
            self._tracks.pop(place).gone = True
        if places:
            self.log.info("gave up %s", ", ".join(sorted(map(str, places))))
