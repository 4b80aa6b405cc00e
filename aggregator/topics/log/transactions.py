"""The tables of transactional ids: who produces under each, what its open transaction holds, which offsets wait for it.

**A transaction ends in one transaction of the file.** Markers in all its partitions, the index of what was aborted,
its offsets moved to the groups' or dropped, and the new state are there together or not at all. So none of Kafka's
states between (PrepareCommit, PrepareAbort) exists, and a kill leaves nothing to be finished.

An open transaction is known here before the first batch of it is stored: the guard refuses every other one. Where a
transaction has begun in a partition is the partition's own memory (log/batches.py).
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple

from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.log.batches import Batches
from aggregator.topics.log.catalog import Catalog
from aggregator.topics.log.committed import Committed
from aggregator.topics.log.schema import Offset
from aggregator.topics.log.states import PartState, Work
from aggregator.topics.log.views import Place
from aggregator.topics.record_batch import Header

log = logging.getLogger(__name__)

IDLE_MS = 7 * 86_400_000
"""Kafka's transactional.id.expiration.ms."""
LIMIT = 10_000
"""Transactional ids that are remembered; then those that were idle longest go. Some programs take new ones for ever."""
GROUP = -1
"""Partition number in the table of what is enlisted: the name is a group's, whose offsets the transaction commits."""


class State(StrEnum):
    """As Kafka names them in DescribeTransactions."""

    EMPTY = "Empty"
    ONGOING = "Ongoing"
    COMMITTED = "CompleteCommit"
    ABORTED = "CompleteAbort"


class Transactional(NamedTuple):
    """A transactional id (Kafka's TransactionMetadata)."""

    id: str
    producer: int
    epoch: int
    before: tuple[int, int] = (-1, -1)
    """Producer and epoch that it had until it asked for these itself (KIP-360)."""
    timeout_ms: int = 60_000
    state: State = State.EMPTY
    started_ms: int = -1
    """When the open transaction began."""
    touched_ms: int = 0
    partitions: frozenset[Place] = frozenset()
    groups: frozenset[str] = frozenset()

    @property
    def is_open(self) -> bool:
        """Whether it has a transaction that hasn't ended."""
        return self.state is State.ONGOING

    @property
    def enlisted(self) -> set[Place]:
        """Rows of the table: partitions, and groups under the number GROUP."""
        return {*self.partitions, *((group, GROUP) for group in self.groups)}


class TransactionTable:
    """Not thread-safe; raises sqlite3.Error, TopicsError."""

    def __init__(self, conn: sqlite3.Connection, catalog: Catalog, batches: Batches, committed: Committed) -> None:
        self.conn, self.catalog, self.batches, self.committed = conn, catalog, batches, committed
        self.ids: dict[str, Transactional] = {}
        enlisted: dict[str, set[Place]] = {}
        for id_, name, number in conn.execute("SELECT * FROM enlisted"):
            enlisted.setdefault(id_, set()).add((name, number))
        for id_, producer, epoch, before, before_epoch, timeout, state, started, touched in conn.execute(
            "SELECT * FROM transactional"
        ):
            places = enlisted.get(id_, set())
            groups = {place for place in places if place[1] == GROUP}
            self.ids[id_] = Transactional(
                id_, producer, epoch, (before, before_epoch), timeout, State(state), started, touched,
                frozenset(places - groups), frozenset(name for name, _ in groups),
            )  # fmt: skip

    def keep(self, work: Work, new: Transactional) -> None:
        """Write how a transactional id stands now. TopicsError, if it is a new one and there are too many open."""
        old = self.ids.get(new.id)
        if old is None and len(self.ids) >= LIMIT:
            self._make_room(work)
        had, has = old.enlisted if old else set[Place](), new.enlisted
        self.conn.execute(
            "INSERT OR REPLACE INTO transactional VALUES(?,?,?,?,?,?,?,?,?)",
            (new.id, new.producer, new.epoch, *new.before, new.timeout_ms, new.state, new.started_ms, new.touched_ms),
        )
        for sql, places in (
            ("DELETE FROM enlisted WHERE id=? AND name=? AND number=?", had - has),
            ("INSERT INTO enlisted VALUES(?,?,?)", has - had),
        ):
            self.conn.executemany(sql, [(new.id, *place) for place in places])
        work.put(self.ids, new.id, new)

    # ---- what a transaction holds

    def guard(self, work: Work, part: PartState, head: Header, transactional_id: str | None) -> None:
        """TopicsError, if no open transaction holds this partition for the batch's producer (Kafka's
        TransactionCoordinator.validateTransaction and what AddPartitionsToTxnManager makes of its errors)."""
        known = self.ids.get(transactional_id or "")
        if known is None or known.producer != head.producer_id:
            raise TopicsError(
                Code.INVALID_PRODUCER_ID_MAPPING,
                f"producer {head.producer_id} isn't the one of transactional id {transactional_id}",
            )
        if known.epoch != head.producer_epoch:
            raise TopicsError(
                Code.INVALID_PRODUCER_EPOCH,
                f"transactional id {known.id} has epoch {known.epoch}, the batch {head.producer_epoch}",
            )
        if not known.is_open or (part.topic.name, part.number) not in known.partitions:
            raise TopicsError(
                Code.INVALID_TXN_STATE,
                f"no open transaction of {known.id} holds partition {part.number} of {part.topic.name}",
            )

    def pend(self, work: Work, id_: str, group: str, offsets: Mapping[Place, Offset]) -> None:
        """Keep a group's offsets until the end of the transaction."""
        self.conn.executemany(
            "INSERT OR REPLACE INTO pending VALUES(?,?,?,?,?,?,?)",
            [(id_, group, *place, *offset[:3]) for place, offset in offsets.items()],
        )
        places = frozenset(offsets)
        work.tell(lambda views: views.pends(group, id_, places))

    def end(self, work: Work, known: Transactional, epoch: int, commit: bool) -> None:
        """End the open transaction in its partitions, with markers of `epoch`, and in its groups. What it is then is
        the caller's to `keep`, in the same transaction. A partition that has been deleted, or has seen a newer epoch
        outside of transactions, can hold nothing of this one and misses no marker."""
        for place in sorted(known.partitions):
            try:
                self.batches.marker(work, self.catalog.part(*place), known.producer, epoch, commit)
            except TopicsError as error:
                log.warning("the transaction of %s ends without a marker: %s", known.id, error)
        if not known.groups:
            return
        if commit:
            for group, offsets in self._pending(known.id).items():
                self.committed.commit(work, group, offsets)
        self.conn.execute("DELETE FROM pending WHERE id=?", (known.id,))
        work.tell(lambda views: views.settled(known.id))

    def _pending(self, id_: str) -> dict[str, dict[Place, Offset]]:
        found: dict[str, dict[Place, Offset]] = {}
        for group, topic, number, *offset in self.conn.execute(
            "SELECT team, topic, number, place, epoch, metadata FROM pending WHERE id=?", (id_,)
        ):
            found.setdefault(group, {})[topic, number] = Offset(*offset)
        return found

    def pending(self) -> dict[str, dict[str, frozenset[Place]]]:
        """Group -> transactional id -> partitions whose offsets wait for its transaction."""
        found: dict[str, dict[str, frozenset[Place]]] = {}
        for one in [one for one in self.ids.values() if one.groups]:
            for group, offsets in self._pending(one.id).items():
                found.setdefault(group, {})[one.id] = frozenset(offsets)
        return found

    # ---- what is forgotten

    def forget_idle(self, work: Work, now_ms: int) -> None:
        """Forget ids that have done nothing for seven days."""
        self._forget(work, [one for one in self._idle() if one.touched_ms < now_ms - IDLE_MS])

    def _make_room(self, work: Work) -> None:
        self._forget(work, sorted(self._idle(), key=lambda one: one.touched_ms)[: LIMIT // 10])
        if len(self.ids) >= LIMIT:
            raise TopicsError(Code.COORDINATOR_NOT_AVAILABLE, f"{LIMIT} transactions are open already")

    def _idle(self) -> list[Transactional]:
        return [one for one in self.ids.values() if not one.is_open]

    def _forget(self, work: Work, idle: Iterable[Transactional]) -> None:
        for one in idle:
            self.conn.execute("DELETE FROM transactional WHERE id=?", (one.id,))
            work.drop(self.ids, one.id)
