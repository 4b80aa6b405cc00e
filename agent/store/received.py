"""What was received of each stream: so that a repeat is recognised, in the transaction that stores the events.

A number that is covered, or not above `settled`, is a repeat. Of a batch that overlaps, only the new numbers are
stored (docs/delivery.md). The table is bounded: 10,000 streams of 1,000 holes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from agent import clock
from agent.avro import record
from agent.errors import ChannelFull
from agent.store.connection import checked_rows
from agent.store.coverage import Coverage, pack_ranges, unpack_ranges
from agent.store.requests import Part
from agent.store.schema import value_crc
from agent.store.states import StreamState, Work
from agent.store.streams import Runs, Transit, identities_of

STREAM_LIMIT, RANGE_LIMIT = 10_000, 1_000
STREAM_IDLE_MS = 90 * 86_400_000
Key = tuple[bytes, str]
"""Origin and channel of the sender."""


class Received:
    """The table `stream`."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self.conn = conn
        self.streams: dict[Key, StreamState] = {
            (bytes(row[1]), row[2]): StreamState(row[0], Coverage(row[3], unpack_ranges(row[4])), row[5])
            for row in checked_rows(conn, "stream")
        }
        self._next = max((stream.id for stream in self.streams.values()), default=0) + 1

    def fresh(self, part: Part, work: Work) -> Part | None:
        """The part without what is here already; None if all of it is. ChannelFull beyond a bound."""
        if part.transit is None:
            return part
        new = self.unseen(part.transit, work.streams)
        if new == part.transit.numbers:
            return part
        return cut(part, new) if new else None

    def unseen(self, transit: Transit, changed: Mapping[Key, StreamState]) -> Runs:
        """The numbers that are not here already. `changed`: streams as this transaction has left them. ChannelFull
        beyond a bound."""
        key = transit.origin, transit.channel
        stream = changed.get(key) or self.streams.get(key)
        if stream is None:
            self._check_room(len(changed))
            return Coverage().fresh(transit.numbers, transit.settled)
        if len(stream.coverage.ranges) >= RANGE_LIMIT and _widens(stream.coverage, transit):
            raise ChannelFull(
                f"a stream of {transit.origin.hex()} has {RANGE_LIMIT} holes; its sender must settle first"
            )
        return stream.coverage.fresh(transit.numbers, transit.settled)

    def _check_room(self, new: int) -> None:
        if len(self.streams) + new >= STREAM_LIMIT:
            self.forget_idle()
        if len(self.streams) + new >= STREAM_LIMIT:
            raise ChannelFull(f"the store knows {STREAM_LIMIT} streams already; it takes no new sender")

    def cover(self, parts: Sequence[Part], work: Work) -> None:
        """Note the numbers of these parts as received."""
        for part in parts:
            if part.transit is not None:
                self.note(part.transit, work.streams)

    def note(self, transit: Transit, changed: dict[Key, StreamState]) -> None:
        """Note its numbers as received, in `changed`."""
        key = transit.origin, transit.channel
        stream = changed.get(key)
        if stream is None:
            old = self.streams.get(key)
            if old is None:
                stream = StreamState(self._next, Coverage(), 0)
                self._next += 1
            else:
                stream = StreamState(old.id, old.coverage.copy(), 0)
            changed[key] = stream
        stream.coverage.settle(transit.settled)
        stream.coverage.cover(transit.after + 1, transit.last)

    def write(self, key: Key, stream: StreamState, version: int) -> None:
        stream.touched_ms = clock.wall_ms()
        coverage = stream.coverage
        row = (stream.id, *key, coverage.settled, pack_ranges(coverage.ranges), stream.touched_ms, version)
        self.conn.execute("INSERT OR REPLACE INTO stream VALUES(?,?,?,?,?,?,?,?)", (*row, value_crc(*row)))

    def forget_idle(self) -> None:
        """Drop the streams of which nothing has come for 90 days."""
        old = clock.wall_ms() - STREAM_IDLE_MS
        for name, stream in list(self.streams.items()):
            if stream.touched_ms < old:
                self.conn.execute("DELETE FROM stream WHERE id=?", (stream.id,))
                del self.streams[name]

    def resume(self, old: Received) -> None:
        """Go on after the file was replaced: what memory knows was committed, and is never older than the file."""
        self.streams.update(old.streams)
        self._next = max(self._next, old._next)


def _widens(coverage: Coverage, transit: Transit) -> bool:
    """Whether a batch would leave the set with more ranges than it has: what settles or fills holes is always taken."""
    then = coverage.copy()
    then.settle(transit.settled)
    then.cover(transit.after + 1, transit.last)
    return len(then.ranges) > len(coverage.ranges)


def cut(part: Part, new: Runs) -> Part:
    """The events of a received part that carry the numbers `new`."""
    assert part.transit is not None
    wanted = {number for first, count in new for number in range(first, first + count)}
    ends = record.offsets(part.block, part.events)
    keep, at = [], 0
    for first, count in part.transit.numbers:
        for number in range(first, first + count):
            if number in wanted:
                keep.append(at)
            at += 1
    block = b"".join(part.block[ends[i - 1] if i else 0 : ends[i]] for i in keep)
    t = part.transit
    identity = part.identity
    if identity is not None:
        ids = [(run.origin, run.first + i) for run in identity for i in range(run.count)]
        identity = identities_of(ids[i] for i in keep)
    return Part(
        part.channels, block, len(keep), Transit(t.origin, t.channel, t.after, new, t.settled, t.chain), identity
    )
