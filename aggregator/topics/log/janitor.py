"""What goes: batches below a partition's start, those past retention, those of deleted topics; slice by slice.

A slice is a transaction of its own between two group commits, a few MiB at most, so that a large topic's end stops
nobody. Retention drops whole batches, from the oldest on, and stops before what a transaction has not decided. A batch
counts from its greatest record time, but never from later than its arrival: a clock that runs ahead keeps nothing for
ever.

Topics whose cleanup.policy is `compact` alone keep their batches; those are for compaction to rewrite (compaction.py).
"""

from __future__ import annotations

import sqlite3
from collections import deque
from typing import NamedTuple

from agent import clock
from aggregator.topics import record_batch
from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.log.batches import Batches, moved
from aggregator.topics.log.catalog import Catalog
from aggregator.topics.log.schema import OFFSET_LIMIT, key
from aggregator.topics.log.states import PartState, Work
from aggregator.topics.record_batch import Header

SLICE_ROWS, SLICE_BYTES = 256, 4 << 20
FORGET_MS = 3_600_000
"""Idle producers are looked for so often."""


class _Row(NamedTuple):
    """Of the table of batches, without records."""

    id: int
    kept: int
    head: Header


class Janitor:
    """`look` when it is time, then `slice` while there is something `due`; `trim` when somebody asks for it."""

    def __init__(self, conn: sqlite3.Connection, catalog: Catalog, batches: Batches) -> None:
        self.conn, self.catalog, self.batches = conn, catalog, batches
        self._parts: deque[PartState] = deque()
        self._forgot_ms = clock.wall_ms()

    @property
    def due(self) -> bool:
        """Whether there may be something to drop."""
        return bool(self._parts or self.catalog.doomed)

    def look(self, work: Work) -> None:
        """Go through all partitions; once an hour forget producers that sent nothing for seven days."""
        self._parts = deque(self.catalog.parts.values())
        now = clock.wall_ms()
        if now - self._forgot_ms >= FORGET_MS:
            self._forgot_ms = now
            for part in self._parts:
                self.batches.forget_idle(work, part, now)

    def slice(self, work: Work) -> None:
        """Drop a little. In a transaction of its own."""
        if self.catalog.doomed:
            self._bury(work, next(iter(self.catalog.doomed)))
            return
        part = self._parts[0]
        # Its number may be another topic's by now.
        if self.catalog.parts.get(part.id) is not part or not self._drop(work, part):
            self._parts.popleft()

    # ---- deleted topics

    def _bury(self, work: Work, id_: int) -> None:
        rows = self._oldest(id_)
        if not rows:
            self.catalog.buried(work, id_)
            return
        self._delete(id_, rows[-1].id)

    # ---- trimming and retention

    def trim(self, work: Work, part: PartState, offset: int) -> int:
        """The partition begins at `offset`, or where it does if that is later; the batches before it go by and by."""
        if not 0 <= offset <= part.end:
            raise TopicsError(Code.OFFSET_OUT_OF_RANGE, f"partition {part.number} holds {part.start} to {part.end}")
        if offset > part.start:
            self._begin(work, part, offset)
            self._parts.appendleft(part)
        return part.start

    def _begin(self, work: Work, part: PartState, offset: int) -> None:
        """The partition begins at `offset`, if it doesn't later; kept with what else has changed of it."""
        work.set(part, "start", max(part.start, offset))
        self.conn.execute("DELETE FROM aborted WHERE part=? AND last<?", (part.id, part.start))
        self.catalog.keep(part)
        moved(work, part, [])

    def _drop(self, work: Work, part: PartState) -> bool:
        """Drop a slice of a partition; False if nothing is left to drop now."""
        gone = self._gone(part)
        if not gone:
            return False
        last = gone[-1]
        if last.head.last_offset >= part.snapped:
            # Who wrote it is remembered, as in Kafka, for longer than what they wrote.
            self.batches.snapshot(work, part, clock.wall_ms())
        self._delete(part.id, last.id)
        work.set(part, "dropped", part.dropped + sum(row.head.size for row in gone))
        self._begin(work, part, last.head.last_offset + 1)
        return True

    def _gone(self, part: PartState) -> list[_Row]:
        """The oldest batches that are to go now, no more than a slice."""
        settings, now = part.topic.settings, clock.wall_ms()
        decided = part.stable if "delete" in settings["cleanup.policy"] else part.start
        age, most = int(settings["retention.ms"]), int(settings["retention.bytes"])
        gone: list[_Row] = []
        left = part.size
        for row in self._oldest(part.id):
            left -= row.head.size
            if row.head.last_offset >= part.start:
                time = min(row.head.max_time, row.kept) if row.head.max_time >= 0 else row.kept
                kept = not (0 <= age < now - time or 0 <= most <= left)
                if kept or row.head.last_offset >= decided:
                    break
            gone.append(row)
        return gone

    def _oldest(self, id_: int) -> list[_Row]:
        """A slice from the partition's front."""
        rows: list[_Row] = []
        size = 0
        for row_id, kept, raw in self.conn.execute(
            "SELECT id, kept, head FROM batch WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?",
            (key(id_, 0), key(id_, OFFSET_LIMIT - 1), SLICE_ROWS),
        ):
            head = record_batch.header(raw)
            size += head.size
            if rows and size > SLICE_BYTES:
                break
            rows.append(_Row(row_id, kept, head))
        return rows

    def _delete(self, id_: int, last: int) -> None:
        self.conn.execute("DELETE FROM batch WHERE id BETWEEN ? AND ?", (key(id_, 0), last))
