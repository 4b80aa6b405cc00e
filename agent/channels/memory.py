"""`type = memory`: keeps batches in the process; what is inside is lost when it ends.

Batches stay encoded: a put appends one, a take hands out the same object, joins small ones or cuts a large one. Every
batch has a position (events put before it), so that takes may end in any order and a rollback finds its place. A put
that finds no room waits in line; whoever makes room stores it then and there, so a waiting put that is cancelled has
either happened or not.

The sender's labels end here (`transit`): they promise what only a store can keep. Identity stays with the events.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar, NamedTuple

from agent.avro import record
from agent.channel import Channel, Put, SourceMarks, Take
from agent.config.fields import Bytes, Config, Seconds, key
from agent.errors import ChannelFull
from agent.event import Batch
from agent.source import Kept
from agent.store.streams import slice_identity

UNLIMITED = 200 << 30
"""byteCapacity = 0, as in Flume."""


class MemoryConfig(Config):
    """Keys and defaults of Flume's MemoryChannel; its byteCapacity is 80 % of the Java heap and counts bodies only."""

    IGNORED: ClassVar[dict[str, str]] = {
        "byteCapacityBufferPercentage": "headers are counted against byteCapacity as they are, no reserve is needed",
    }
    capacity: int = key("capacity", 100, low=1, doc="most events inside")
    transactionCapacity: int = key("transactionCapacity", 100, low=1, doc="most events of one put")
    keepAlive: Seconds = key("keep-alive", Seconds(3.0), unit="s", low=0.0, doc="how long a put waits for room")
    byteCapacity: Bytes = key(
        "byteCapacity", Bytes(64 << 20), low=0, doc="most bytes inside, headers and bodies as encoded; 0: 200 GB"
    )

    def problems(self) -> list[tuple[str, str]]:
        if self.transactionCapacity > self.capacity:
            return [("transactionCapacity", f"{self.transactionCapacity} is more than capacity = {self.capacity}")]
        return []


class Entry(NamedTuple):
    """A batch inside: its position and when it came (time.monotonic)."""

    position: int
    since: float
    batch: Batch


@dataclass(slots=True, eq=False)
class Waiting:
    """A put in line for room; `done` is set by whoever stored it."""

    puts: Sequence[Put]
    events: int
    size: int
    done: asyncio.Future[None]


class MemoryTake(Take):
    def __init__(self, channel: MemoryChannel, entries: list[Entry]) -> None:
        self._channel, self._entries = channel, entries
        self.batch = entries[0].batch if len(entries) == 1 else _join([entry.batch for entry in entries])

    def commit(self, receipt: bytes | None = None) -> None:
        self._channel.counter.EventTakeSuccessCount += len(self.batch)
        self._end()
        self._channel._leave(len(self.batch), self.batch.size)

    def rollback(self) -> None:
        self._channel._put_back(self._end(), len(self.batch))

    async def bury(self, reason: str) -> None:
        self._channel.log.error("dropped %d events that can never be delivered: %s", len(self.batch), reason)
        self._channel.counter.dropped += len(self.batch)
        self._end()
        self._channel._leave(len(self.batch), self.batch.size)

    def _end(self) -> list[Entry]:
        entries, self._entries = self._entries, []
        if not entries:
            raise RuntimeError("this take has ended already")
        self._channel._open.discard(self)
        return entries


class MemoryChannel(Channel):
    """Flume's memory channel."""

    Config: ClassVar[type[Config]] = MemoryConfig
    config: MemoryConfig

    async def open(self) -> None:
        self._queue: deque[Entry] = deque()
        self._open: set[MemoryTake] = set()
        self._events = self._bytes = self._position = 0
        self._puts: deque[Waiting] = deque()
        self._takes: deque[asyncio.Future[None]] = deque()
        self._capacity, self._most_bytes = self.config.capacity, self.config.byteCapacity or UNLIMITED
        self.counter.gauges |= {
            "ChannelSize": lambda: self._events,
            "ChannelCapacity": lambda: self._capacity,
            "ChannelFillPercentage": lambda: 100.0 * self._events / self._capacity,
            "bytes": lambda: self._bytes,
            "oldest_seconds": self._oldest,
        }

    @property
    def depth(self) -> int:
        return self._events

    def _oldest(self) -> float:
        """Age in seconds of the oldest event, of open takes too."""
        first = min((take._entries[0] for take in self._open), default=self._queue[0] if self._queue else None)
        return time.monotonic() - first.since if first else 0.0

    async def put_all(self, puts: Sequence[Put], marks: SourceMarks | None = None) -> Kept:
        """All of this channel's: its home is its own. Marks are not kept."""
        events = size = 0
        for put in puts:
            if put.channels:
                events += put.batch.count
                size += put.batch.size
        self.counter.EventPutAttemptCount += events
        self._judge(events, size)
        if events and (self._puts or not self._fits(events, size)):
            await self._wait_for_room(puts, events, size)
        else:
            self._store(puts)
        return Kept(events, 0)

    def _judge(self, events: int, size: int) -> None:
        """ChannelFull for what will never fit, naming the key."""
        if events > self.config.transactionCapacity:
            limit = self.config.transactionCapacity
            raise ChannelFull(f"channel {self.name}: a batch of {events} events is over transactionCapacity = {limit}")
        if size > self._most_bytes:
            raise ChannelFull(f"channel {self.name}: a batch of {size} bytes is over byteCapacity = {self._most_bytes}")

    def _fits(self, events: int, size: int) -> bool:
        return self._events + events <= self._capacity and self._bytes + size <= self._most_bytes

    async def _wait_for_room(self, puts: Sequence[Put], events: int, size: int) -> None:
        waiting = Waiting(puts, events, size, asyncio.get_running_loop().create_future())
        self._puts.append(waiting)
        try:
            async with asyncio.timeout(self.config.keepAlive):
                await waiting.done
        except TimeoutError:
            if waiting in self._puts:
                raise ChannelFull(f"channel {self.name} is full: no room within keep-alive") from None
        finally:
            if waiting in self._puts:
                self._puts.remove(waiting)
                self._admit()

    def _store(self, puts: Sequence[Put]) -> None:
        """Append what is required and, of what is optional, what there is room for beside it."""
        now = time.monotonic()
        spare = self._capacity - self._events - sum(put.batch.count for put in puts if put.channels)
        for put in puts:
            batch = put.batch
            if not put.channels:
                if batch.count > spare or self._bytes + batch.size > self._most_bytes:
                    self.counter.dropped += batch.count
                    continue
                spare -= batch.count
                self.counter.EventPutAttemptCount += batch.count
            if not batch.count:
                continue
            if batch.transit is not None:
                batch = Batch(None, batch.block, batch.count, None, batch.identities)
            self._queue.append(Entry(self._position, now, batch))
            self._position += batch.count
            self._events += batch.count
            self._bytes += batch.size
            self.counter.EventPutSuccessCount += batch.count
        self._wake()

    def _admit(self) -> None:
        """Store the puts in line that now have room, in order."""
        while self._puts and self._fits(self._puts[0].events, self._puts[0].size):
            waiting = self._puts.popleft()
            self._store(waiting.puts)
            if not waiting.done.done():
                waiting.done.set_result(None)

    def _wake(self) -> None:
        while self._queue and self._takes:
            waiter = self._takes.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    async def take(self, limit: int, max_bytes: int = 1 << 20) -> Take:
        while not self._queue:
            await self._wait_for_data()
        entries = self._cut(limit, max_bytes)
        take = MemoryTake(self, entries)
        self._open.add(take)
        self.counter.EventTakeAttemptCount += len(take.batch)
        if self._takes:
            self._wake()
        return take

    async def _wait_for_data(self) -> None:
        self.counter.EventTakeAttemptCount += 1
        waiter = asyncio.get_running_loop().create_future()
        self._takes.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter in self._takes:
                self._takes.remove(waiter)
            else:
                self._wake()
            raise

    def _cut(self, limit: int, max_bytes: int) -> list[Entry]:
        """Entries from the head: one that is too large is cut in pieces, small ones are joined while they are alike."""
        queue = self._queue
        head = queue.popleft()
        count, size = head.batch.count, head.batch.size
        if count > limit or (size > max_bytes and count > 1):
            pieces = _pieces(head, limit, max_bytes)
            queue.extendleft(reversed(pieces[1:]))
            return pieces[:1]
        entries = [head]
        while queue and count < limit:
            batch = queue[0].batch
            count += batch.count
            size += batch.size
            if count > limit or size > max_bytes or (batch.identity is None) != (head.batch.identity is None):
                break
            entries.append(queue.popleft())
        return entries

    def _put_back(self, entries: list[Entry], count: int) -> None:
        queue = self._queue
        before = []
        while queue and queue[0].position < entries[0].position:
            before.append(queue.popleft())
        queue.extendleft(reversed(entries))
        queue.extendleft(reversed(before))
        self.counter.rolled_back += count
        self._wake()

    def _leave(self, events: int, size: int) -> None:
        self._events -= events
        self._bytes -= size
        if self._puts:
            self._admit()


def _join(batches: list[Batch]) -> Batch:
    identity = None
    if batches[0].identity is not None:
        identity = tuple(chain.from_iterable(batch.identity or () for batch in batches))
    count = sum(batch.count for batch in batches)
    return Batch(None, b"".join([batch.block for batch in batches]), count, None, identity)


def _pieces(entry: Entry, limit: int, max_bytes: int) -> list[Entry]:
    """An entry cut in pieces within the limits (one event at least), in one walk of its block."""
    block, identity = entry.batch.block, entry.batch.identity
    ends = [0, *record.offsets(block, entry.batch.count)]
    pieces = []
    start = 0
    while start < entry.batch.count:
        stop = start + 1
        while stop < entry.batch.count and stop - start < limit and ends[stop + 1] - ends[start] <= max_bytes:
            stop += 1
        names = None if identity is None else slice_identity(identity, start, stop)
        piece = Batch(None, block[ends[start] : ends[stop]], stop - start, None, names)
        pieces.append(Entry(entry.position + start, entry.since, piece))
        start = stop
    return pieces
