"""The table of batches: appending, with every check of a producer, and reading headers back at open.

**Offsets are given, repeats recognised and producers fenced in the transaction that stores the batch.** An append is
judged whole before its first row is written, so that one which is refused leaves nothing behind.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import NamedTuple

from agent import clock
from aggregator.topics import record_batch
from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.log import producers
from aggregator.topics.log.catalog import Catalog
from aggregator.topics.log.schema import OFFSET_LIMIT, key
from aggregator.topics.log.states import PartState, Producer, Work
from aggregator.topics.log.views import Appended
from aggregator.topics.record_batch import SIZE, Header

SNAPSHOT_EVERY = 8192
"""Batches of a partition that are read again, of each the header, when the log opens after a kill."""

Batch = bytes | memoryview


class Append(NamedTuple):
    """Batches for one partition, all or nothing, which `record_batch.split` has checked.

    Their bytes belong to the log until the append is answered, also if nobody waits for the answer any more.
    """

    topic: str
    partition: int
    batches: Sequence[Batch]
    transactional_id: str | None = None


Guard = Callable[[Work, PartState, Header, str | None], None]


class _Judged(NamedTuple):
    """What an append will change; `repeat` is the offset of what is here already."""

    repeat: int | None = None
    producers: dict[int, Producer] = {}
    opened: dict[int, int] = {}


class Batches:
    """Appends. Not thread-safe; raises sqlite3.Error, TopicsError."""

    def __init__(self, conn: sqlite3.Connection, catalog: Catalog) -> None:
        self.conn, self.catalog = conn, catalog
        self.guard: Guard | None = None
        """Asked about each transactional batch of a client before it is stored; raises TopicsError."""
        for part in catalog.parts.values():
            self._load(part)

    # ---- open

    def _load(self, part: PartState) -> None:
        run = self.conn.execute
        low, high = key(part.id, 0), key(part.id, OFFSET_LIMIT - 1)
        last = run(
            "SELECT id, time, total FROM batch WHERE id BETWEEN ? AND ? ORDER BY id DESC LIMIT 1", (low, high)
        ).fetchone()
        if last:
            part.end, part.time = max(part.end, last[0] - low + 1), max(part.time, last[1])
            part.total = max(part.total, last[2])
        snapshot = run("SELECT upto, producers FROM snapshot WHERE id=?", (part.id,)).fetchone()
        if snapshot:
            part.snapped = snapshot[0]
            part.producers, part.open = producers.unpack(snapshot[1])
        rows = run(
            "SELECT head, kept FROM batch WHERE id BETWEEN ? AND ? ORDER BY id", (key(part.id, part.snapped), high)
        )
        for raw, kept in rows:
            self._replay(part, record_batch.header(raw), kept)

    def _replay(self, part: PartState, head: Header, kept: int) -> None:
        part.unsnapped += 1
        id_ = head.producer_id
        if id_ < 0:
            return
        part.producers[id_] = producers.after(part.producers.get(id_), head, head.base_offset, kept)
        if head.is_control:
            part.open.pop(id_, None)
        elif head.is_transactional:
            part.open.setdefault(id_, head.base_offset)

    # ---- append

    def append(self, work: Work, asked: Append) -> Appended:
        """Store it at the partition's end. TopicsError: nothing of it was stored."""
        part = self.catalog.part(asked.topic, asked.partition)
        now = clock.wall_ms()
        heads = [record_batch.header(batch) for batch in asked.batches]
        judged = self._judge(work, part, heads, asked.transactional_id, now)
        if judged.repeat is not None:
            return Appended(judged.repeat, -1, part.start)
        stamp = now if part.topic.settings["message.timestamp.type"] == "LogAppendTime" else -1
        base = part.end
        for id_, producer in judged.producers.items():
            work.put(part.producers, id_, producer)
        for id_, first in judged.opened.items():
            work.put(part.open, id_, first)
        self._store(work, part, heads, asked.batches, stamp, now)
        return Appended(base, stamp, part.start)

    def _judge(
        self, work: Work, part: PartState, heads: Sequence[Header], transactional_id: str | None, now: int
    ) -> _Judged:
        judged = _Judged(None, {}, {})
        repeats: list[int] = []
        at = part.end
        for head in heads:
            id_ = head.producer_id
            if id_ >= 0:
                known = judged.producers.get(id_) or part.producers.get(id_)
                found = producers.repeated(known, head)
                if found is None:
                    self._check(work, part, head, known, transactional_id)
                    if head.is_transactional and id_ not in part.open:
                        judged.opened.setdefault(id_, at)
                    judged.producers[id_] = producers.after(known, head, at, now)
                else:
                    repeats.append(found)
            at += head.last_delta + 1
        if at >= OFFSET_LIMIT:
            raise TopicsError(Code.INVALID_RECORD, f"partition {part.number} of {part.topic.name} has no offset left")
        if not repeats:
            return judged
        if len(repeats) < len(heads):
            raise TopicsError(Code.OUT_OF_ORDER_SEQUENCE_NUMBER, "repeated and new batches are mixed in one append")
        return _Judged(repeats[0])

    def _check(
        self, work: Work, part: PartState, head: Header, known: Producer | None, transactional_id: str | None
    ) -> None:
        producers.check(known, head)
        if head.is_transactional:
            if self.guard:
                self.guard(work, part, head, transactional_id)
        elif head.producer_id in part.open:
            raise TopicsError(
                Code.INVALID_TXN_STATE, f"producer {head.producer_id} has an open transaction; this batch is outside it"
            )

    def _store(
        self, work: Work, part: PartState, heads: Sequence[Header], batches: Sequence[Batch], stamp: int, now: int
    ) -> None:
        rows, stored = [], []
        offset, total, time = part.end, part.total, part.time
        for head, batch in zip(heads, batches, strict=True):
            whole = record_batch.placed(record_batch.with_time(batch, stamp) if stamp >= 0 else batch, offset)
            last = offset + head.last_delta
            total += len(whole)
            time = max(time, stamp if stamp >= 0 else head.max_time)
            rows.append((key(part.id, last), time, now, total, whole[:SIZE], memoryview(whole)[SIZE:]))
            stored.append((last, whole))
            offset = last + 1
        self.conn.executemany("INSERT INTO batch VALUES(?,?,?,?,?,?)", rows)
        for name, value in (("end", offset), ("total", total), ("time", time)):
            work.set(part, name, value)
        work.set(part, "unsnapped", part.unsnapped + len(rows))
        self.bound(work, part, now)
        if part.unsnapped >= SNAPSHOT_EVERY:
            self.snapshot(work, part, now)
        moved(work, part, stored)

    def marker(self, work: Work, part: PartState, producer_id: int, epoch: int, commit: bool) -> int:
        """End a producer's transaction in a partition with a control batch: its offset. TopicsError if the producer
        has a newer epoch there."""
        known, now = part.producers.get(producer_id), clock.wall_ms()
        if known and epoch < known.epoch:
            raise TopicsError(
                Code.INVALID_PRODUCER_EPOCH, f"producer {producer_id} has epoch {known.epoch} here, the marker {epoch}"
            )
        batch = record_batch.control(commit, producer_id, epoch, now)
        head, at = record_batch.header(batch), part.end
        work.put(part.producers, producer_id, producers.after(known, head, at, now))
        first = part.open.get(producer_id)
        if first is not None:
            work.drop(part.open, producer_id)
            if not commit:
                self.conn.execute("INSERT INTO aborted VALUES(?,?,?,?)", (part.id, at, producer_id, first))
                work.tell(lambda views: views.aborted(part.id, at, producer_id, first))
        self._store(work, part, [head], [batch], -1, now)
        return at

    # ---- producers

    def fence(self, work: Work, part: PartState, producer_id: int, epoch: int) -> None:
        """From now on the partition refuses older epochs of a producer (until a restart: what must last longer is the
        coordinator's to keep)."""
        known = part.producers.get(producer_id)
        if known is None or known.epoch < epoch:
            work.put(part.producers, producer_id, Producer(epoch, (), clock.wall_ms()))

    def bound(self, work: Work, part: PartState, now: int) -> None:
        """Forget producers beyond the bound."""
        if len(part.producers) > producers.LIMIT:
            self.forget_idle(work, part, now)

    def forget_idle(self, work: Work, part: PartState, now: int) -> None:
        for id_ in producers.idle(part.producers, part.open, now):
            work.drop(part.producers, id_)

    def snapshot(self, work: Work, part: PartState, now: int) -> None:
        """Keep what is known of the producers, so that no older header needs to be read at open."""
        self.forget_idle(work, part, now)
        self.conn.execute(
            "INSERT OR REPLACE INTO snapshot VALUES(?,?,?)",
            (part.id, part.end, producers.pack(part.producers, part.open)),
        )
        work.set(part, "snapped", part.end)
        work.set(part, "unsnapped", 0)


def moved(work: Work, part: PartState, stored: list[tuple[int, bytes]]) -> None:
    """Tell the loop where a partition stands now; `stored`: last offset and bytes of each new batch."""
    id_, now = part.id, (part.start, part.end, part.stable, part.size)
    work.tell(lambda views: views.moved(id_, *now, stored))
