"""What came from the broker and is not acknowledged: encoded at arrival, in order, until it is worth a commit.

A commit costs the flash about the same whatever it holds, so readings linger: until `linger` seconds passed since the
first, a batch is full, or half of what the broker sends without an acknowledgement is here (it would fall silent).
How much that is no broker says; 20 is mosquitto's default, and more is believed when more was seen.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple

from agent import clock
from agent.mqtt import leg, reading
from agent.mqtt.packet import CUT, DUP, Publish
from agent.mqtt.window import Window, digest

READING, REPEAT, BATCH, AGAIN, POISON = range(5)
"""REPEAT and AGAIN are stored already: a reading, and what may be a forwarded batch, whose sender wants its answer."""
Item = tuple[int, int, bytes, bytes, bytes, bytes]
"""(kind, DUP or 0, identifier, digest, what to keep: an event's record or the payload, topic)."""

MOST_BYTES = 4 << 20
"""Bytes that wait before the connection is to be paused."""
IN_FLIGHT = 20


class Limits(NamedTuple):
    """From the configuration: `batch` items, `linger` seconds, `event` bytes, `in_flight` messages (0: learn)."""

    batch: int
    linger: float
    event: int
    in_flight: int = 0


class Inbox:
    """One for each connection."""

    def __init__(self, limits: Limits, window: Window, heads: reading.Heads) -> None:
        self.limits, self.window, self.heads = limits, window, heads
        self._items: deque[Item] = deque()
        self._bytes = self._alone = 0
        self._outstanding = 0
        self._in_flight = limits.in_flight or IN_FLIGHT
        self._news = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._due = False

    @property
    def crowded(self) -> bool:
        """Whether to read no more for now."""
        return self._bytes > MOST_BYTES or len(self._items) > 4 * self.limits.batch

    @property
    def roomy(self) -> bool:
        """Whether to read on."""
        return self._bytes <= MOST_BYTES // 2 and len(self._items) <= self.limits.batch

    def receive(self, published: list[Publish]) -> None:
        """Take messages in. RemoteProtocolError if the properties of one are malformed."""
        window, heads, add = self.window, self.heads, self._items.append
        stamp, most, size = reading.stamp(clock.wall_ms()), self.limits.event, 0
        for flags, identifier, topic, properties, payload in published:
            head, stamped, stable = heads(topic, properties)
            mark = digest(topic, stable, payload)
            kind = READING
            if window.open:
                if not flags & DUP:
                    window.close()
                elif window.repeated(identifier, mark):
                    kind = REPEAT
            if len(payload) > most or flags & CUT or payload.startswith(leg.MAGIC):
                kind = self._unusual(kind, flags, payload)
            if kind >= BATCH:
                self._alone += 1
                piece = payload
            else:
                piece = (head + stamp if stamped else head) + reading.body(payload)
            size += len(piece)
            add((kind, flags & DUP, identifier, mark, piece, topic))
        self._bytes += size
        self._outstanding += len(published)
        self._in_flight = max(self._in_flight, self._outstanding)
        self._news.set()

    def _unusual(self, kind: int, flags: int, payload: bytes) -> int:
        """The kind of what may be a forwarded batch, or is too long for a reading."""
        if payload.startswith(leg.MAGIC) and not flags & CUT:
            return BATCH if kind == READING else AGAIN
        return POISON if kind == READING else REPEAT

    def wake(self) -> None:
        """The connection ended: let `gather` look."""
        self._news.set()

    async def gather(self, lost: asyncio.Future[None]) -> None:
        """Return when a batch is worth its commit, or the last ones of a lost connection wait; raise what `lost` has.

        What waits then is kept too: a broker that was killed may have lost it.
        """
        while not self._enough():
            if lost.done():
                if self._items:
                    return
                lost.result()
            if self._items and not self._timer:
                self._timer = asyncio.get_running_loop().call_later(self.limits.linger, self._ripe)
            self._news.clear()
            await self._news.wait()

    def _enough(self) -> bool:
        waiting = len(self._items)
        full = waiting >= min(self.limits.batch, max(1, self._in_flight // 2))
        return full or bool(waiting and (self._due or self._alone))

    def _ripe(self) -> None:
        self._timer, self._due = None, True
        self._news.set()

    def next(self) -> list[Item]:
        """The first items of one kind: readings (and repeats among them), or a batch or poison that stands alone."""
        waiting, most = self._items, self.limits.batch
        if not self._alone and len(waiting) <= most:
            items = list(waiting)
            waiting.clear()
        else:
            items = [waiting.popleft()]
            while waiting and len(items) < most and items[0][0] < BATCH and waiting[0][0] < BATCH:
                items.append(waiting.popleft())
        if items[0][0] >= BATCH:
            self._alone -= 1
        self._bytes -= sum([len(item[4]) for item in items])
        if not waiting:
            self.close()
        return items

    def settled(self, items: list[Item]) -> None:
        """These are acknowledged."""
        self._outstanding -= len(items)

    def close(self) -> None:
        """End the linger."""
        self._due = False
        if self._timer:
            self._timer.cancel()
            self._timer = None
