"""What goes: batches below a partition's start, those past retention, those of deleted topics; slice by slice.

A slice is a transaction of its own between two group commits, a few MiB at most, so that a large topic's end stops
nobody. Retention drops whole batches, from the oldest on, and stops before what a transaction has not decided. A batch
counts from its greatest record time; from its arrival if that is still to come, so that a clock that runs ahead keeps
nothing for ever. When this machine learns the time, what came before counts as if it had known it. (After a restart it
counts as it was stamped.)

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
JUMP_MS = 60_000
"""A wall clock that went ahead of the boot clock by more has been set."""


class _Row(NamedTuple):
    """Of the table of batches, without records."""

    id: int
    kept: int
    head: Header


class _Early(NamedTuple):
    """What arrived between these times, in ms, has a `kept` that is so much too early: then the clock was set."""

    first: int
    last: int
    late: int


class Janitor:
    """`look` when it is time, then `slice` while there is something `due`; `trim` when somebody asks for it."""

    def __init__(self, conn: sqlite3.Connection, catalog: Catalog, batches: Batches) -> None:
        self.conn, self.catalog, self.batches = conn, catalog, batches
        self._parts: deque[PartState] = deque()
        self._forgot_ms = self._since = clock.wall_ms()
        self._booted = _booted_ms(self._since)
        self._early: list[_Early] = []

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
        self._see_jump(now)
        decided = part.stable if "delete" in settings["cleanup.policy"] else part.start
        age, most = int(settings["retention.ms"]), int(settings["retention.bytes"])
        gone: list[_Row] = []
        left = part.size
        for row in self._oldest(part.id):
            left -= row.head.size
            if row.head.last_offset >= part.start:
                kept = not (0 <= age < now - self._time(row, now) or 0 <= most <= left)
                if kept or row.head.last_offset >= decided:
                    break
            gone.append(row)
        return gone

    def _time(self, row: _Row, now: int) -> int:
        """From which a batch's age counts."""
        time = row.head.max_time if 0 <= row.head.max_time <= now else row.kept
        late = sum(early.late for early in self._early if early.first <= row.kept <= early.last)
        return max(time, row.kept + late) if late else time

    def _see_jump(self, now: int) -> None:
        """Whether the wall clock was set since this was last asked."""
        jump = _booted_ms(now) - self._booted
        self._booted += jump
        if jump > JUMP_MS:
            last = now - jump
            self._early = [early._replace(late=early.late + jump) for early in self._early]
            self._early.append(_Early(self._since, last, jump))
            self._since = last + 1
        self._since = min(self._since, now)

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


def _booted_ms(now: int) -> int:
    """When the machine started, by the wall clock."""
    return now - clock.boot_ns() // 1_000_000
