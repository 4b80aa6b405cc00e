"""The table of what has been compacted: how far, and when; what is dirty since; and the change of batches.

A row of it says that the partition was clean up to an offset at a time. The newest tells where the next pass begins;
one that is delete.retention.ms old tells below which offset tombstones and markers may go. Times are rounded up to a
64th of that, so that no more than about 64 rows are kept of a partition.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from agent import clock
from aggregator.topics import record_batch
from aggregator.topics.log.batches import Batches, moved
from aggregator.topics.log.catalog import Catalog
from aggregator.topics.log.cleaning import Change
from aggregator.topics.log.schema import OFFSET_LIMIT, key
from aggregator.topics.log.states import PartState, Work
from aggregator.topics.record_batch import SIZE

STEPS = 64


class Dirt(NamedTuple):
    """What of a partition can be compacted: from offset `first` to before `upto`."""

    first: int
    upto: int
    ratio: float
    """Its part of the bytes that could be clean."""
    since_ms: int
    """When the first of it came."""
    ripe: int
    """Tombstones and markers below this offset may go."""


def dirt(
    conn: sqlite3.Connection, part: int, start: int, stable: int, size: int, settings: Mapping[str, str], now: int
) -> Dirt | None:
    """What can be compacted of a partition that holds `size` bytes; None: nothing. What came in min.compaction.lag.ms
    can't, nor what isn't decided; nor can the newest batch below that: where a reader of committed records ends there
    is always one, so that it gets there."""
    marks = conn.execute("SELECT time, upto FROM cleaned WHERE part=? ORDER BY upto", (part,)).fetchall()
    first = max(start, marks[-1][1] if marks else 0)
    before = now - int(settings["delete.retention.ms"])
    ripe = max((upto for time, upto in marks if time <= before), default=0)
    lag = int(settings["min.compaction.lag.ms"])
    low = key(part, first)
    high = _young(conn, low, key(part, stable), now - lag) if lag else key(part, stable)
    rows = "SELECT head, kept, total FROM batch WHERE id>=? AND id<? ORDER BY id"
    oldest = conn.execute(f"{rows} LIMIT 1", (low, high)).fetchone()
    if oldest is None:
        return None
    newest = conn.execute(f"{rows} DESC LIMIT 1", (low, high)).fetchone()
    upto = record_batch.header(newest[0]).base_offset
    if upto <= first:
        return None
    last = conn.execute(f"{rows} DESC LIMIT 1", (low, key(part, OFFSET_LIMIT - 1))).fetchone()
    clean, dirty = size - (last[2] - _before(oldest)), _before(newest) - _before(oldest)
    return Dirt(first, upto, dirty / max(1, dirty, clean + dirty), oldest[1], ripe)


def _before(row: tuple[bytes, int, int]) -> int:
    """`total` of the batch before it."""
    return row[2] - record_batch.header(row[0]).size


def _young(conn: sqlite3.Connection, low: int, high: int, limit: int) -> int:
    """The first row id from which on batches came after `limit`, in ms; found by halving, as arrivals rise."""
    while low < high:
        middle = (low + high) // 2
        row = conn.execute(
            "SELECT id, kept FROM batch WHERE id>=? AND id<? ORDER BY id LIMIT 1", (middle, high)
        ).fetchone()
        if row is None or row[1] > limit:
            high = middle
        else:
            low = row[0] + 1
    return low


class Place(NamedTuple):
    """A partition, and the topic to which it belonged when it was read."""

    part: int
    topic: bytes


class Cleaned:
    """The changes. Each leaves a partition alone, and says False, that isn't there or to be compacted any more.
    Not thread-safe; raises sqlite3.Error."""

    def __init__(self, conn: sqlite3.Connection, catalog: Catalog, batches: Batches) -> None:
        self.conn, self.catalog, self.batches = conn, catalog, batches

    def _part(self, place: Place) -> PartState | None:
        part = self.catalog.parts.get(place.part)
        if part is None or part.topic.uuid != place.topic or "compact" not in part.topic.settings["cleanup.policy"]:
            return None
        return part

    def change(self, work: Work, place: Place, changes: Iterable[Change], upto: int) -> bool:
        """Change batches that are as they were; others have gone meanwhile. `upto` is where the sweep will end: what
        memory holds of the partition's batches below that is forgotten."""
        part = self._part(place)
        if part is None:
            return False
        freed = 0
        for change in changes:
            if change.new is None and change.last >= part.snapped:
                # Who wrote it is remembered, as in Kafka, for longer than what they wrote.
                self.batches.snapshot(work, part, clock.wall_ms())
            freed += self._freed(part, change)
        work.set(part, "dropped", part.dropped + freed)
        self.catalog.keep(part)
        moved(work, part, [])
        work.tell(lambda views: views.compacted(place.part, upto))
        return True

    def _freed(self, part: PartState, change: Change) -> int:
        """Bytes."""
        same = (key(part.id, change.last), change.head)
        if change.new is None:
            done = self.conn.execute("DELETE FROM batch WHERE id=? AND head=?", same)
        else:
            pieces = (change.new[:SIZE], memoryview(change.new)[SIZE:])
            done = self.conn.execute("UPDATE batch SET head=?, body=? WHERE id=? AND head=?", (*pieces, *same))
        return done.rowcount * (record_batch.header(change.head).size - len(change.new or b""))

    def forget_aborted(self, work: Work, place: Place, markers: Sequence[int]) -> bool:
        """Of the transactions that ended at these offsets nothing is left."""
        part = self._part(place)
        if part is None:
            return False
        rows = [(part.id, marker) for marker in markers]
        self.conn.executemany("DELETE FROM aborted WHERE part=? AND last=?", rows)
        work.tell(lambda views: views.forgot_aborted(place.part, frozenset(markers)))
        return True

    def note(self, place: Place, upto: int, ripe: int) -> bool:
        """The partition is clean up to there."""
        part = self._part(place)
        if part is None:
            return False
        step = max(1, int(part.topic.settings["delete.retention.ms"]) // STEPS)
        time = -(-clock.wall_ms() // step) * step
        self.conn.execute("DELETE FROM cleaned WHERE part=? AND upto<?", (part.id, ripe))
        self.conn.execute("INSERT OR REPLACE INTO cleaned VALUES(?,?,?)", (part.id, time, upto))
        return True
