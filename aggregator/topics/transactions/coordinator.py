"""The coordinator of transactions: requests as changes of the log, and the time that a transaction may take.

Every request is one change: what it is judged by and what it does are the same transaction of the log, so that two
producers with one transactional id can't both be right. An open transaction has a timer here, set when the log has
told of it, also if who asked for it is gone; at `open` again for those that the file holds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Set
from typing import Any, Protocol

from agent import clock
from agent.errors import ChannelError
from aggregator.topics.errors import TopicsError
from aggregator.topics.log.log import Database, Log, Offset, Place, Work
from aggregator.topics.log.transactions import Transactional
from aggregator.topics.transactions import rules
from aggregator.topics.transactions.rules import Identity

log = logging.getLogger(__name__)

TIDY_SECONDS = 3600.0
"""Idle transactional ids are looked for so often."""
AGAIN_SECONDS = 10.0
"""A transaction that could not be aborted at its time is tried again."""


class Timer(Protocol):
    """What `call_later` returns."""

    def cancel(self) -> None: ...


CallLater = Callable[..., Timer]
"""(seconds, function, *arguments) -> Timer, as the event loop's."""
Change = Callable[[Database, Work, Transactional | None], Any]
Judge = Callable[[Transactional], None]
"""Raises TopicsError if who asks may not end what the transactional id holds; called on the writer's thread."""


class Transactions:
    """`open` before the first request, `close` before the log is. Raises TopicsError, ChannelError."""

    def __init__(self, log: Log, call_later: CallLater | None = None) -> None:
        self.log = log
        self._call_later = call_later
        self._timers: dict[str, Timer] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._tidying: Timer | None = None

    # ---- life

    async def open(self) -> None:
        """From now on the log takes transactional batches for open transactions alone."""
        for one in await self.log.run(_begin, whole=True):
            self._seen(one)
        self._tidy()

    async def close(self) -> None:
        """Open transactions stay open: producers go on with them when the log is served again."""
        for timer in [*self._timers.values(), *([self._tidying] if self._tidying else ())]:
            timer.cancel()
        self._timers.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ---- requests

    async def init(
        self, id_: str, timeout_ms: int, expected: Identity | None = None, judge: Judge | None = None
    ) -> Identity:
        """InitProducerId: producer id and epoch, with which everyone before is fenced and what is open aborted.
        TopicsError: as rules.initiated."""

        def change(db: Database, work: Work, known: Transactional | None) -> Identity:
            new = rules.initiated(known, id_, timeout_ms, expected, lambda: db.producer_id(work), clock.wall_ms())
            if known is not None and known.is_open:
                db.transactions.end(work, known, rules.fence(known), commit=False)
            self._keep(db, work, known, new)
            return new.producer, new.epoch

        producer, epoch = await self._change(id_, change, judge)
        return producer, epoch

    async def add(
        self, id_: str, producer: int, epoch: int, partitions: Set[Place] = frozenset(), groups: Set[str] = frozenset()
    ) -> None:
        """AddPartitionsToTxn, AddOffsetsToTxn: the transaction holds these from now on; it begins with the first.
        TopicsError: INVALID_PRODUCER_ID_MAPPING, PRODUCER_FENCED, INVALID_REQUEST."""

        def change(db: Database, work: Work, known: Transactional | None) -> None:
            mine = rules.current(known, producer, epoch)
            self._keep(db, work, mine, rules.enlisted(mine, partitions, groups, clock.wall_ms()))

        await self._change(id_, change)

    async def commit_offsets(
        self, id_: str, producer: int, epoch: int, group: str, offsets: Mapping[Place, Offset]
    ) -> None:
        """TxnOffsetCommit: the group's offsets, if the transaction is committed. TopicsError: as `add`, and
        INVALID_TXN_STATE if it doesn't hold the group."""

        def change(db: Database, work: Work, known: Transactional | None) -> None:
            rules.check_pending(rules.current(known, producer, epoch), group)
            db.transactions.pend(work, id_, group, offsets)

        size = sum(len(topic) + len(one.metadata) for (topic, _), one in offsets.items())
        await self._change(id_, change, size=size)

    async def end(self, id_: str, producer: int, epoch: int, commit: bool, judge: Judge | None = None) -> None:
        """EndTxn: all of it is there, or nothing. TopicsError: as `add`, and INVALID_TXN_STATE."""

        def change(db: Database, work: Work, known: Transactional | None) -> None:
            mine = rules.current(known, producer, epoch)
            new = rules.ended(mine, commit, clock.wall_ms())
            if new is not mine:
                db.transactions.end(work, mine, epoch, commit)
            self._keep(db, work, mine, new)

        await self._change(id_, change, judge)

    async def all(self) -> list[Transactional]:
        """Every transactional id as it stands."""
        found: list[Transactional] = await self.log.run(lambda db, work: [*db.transactions.ids.values()], whole=True)
        return found

    async def _change(self, id_: str, change: Change, judge: Judge | None = None, size: int = 0) -> Any:
        def judged(db: Database, work: Work) -> Any:
            known = db.transactions.ids.get(id_)
            if known is not None and judge is not None:
                judge(known)
            return change(db, work, known)

        return await self.log.run(judged, size=size)

    def _keep(self, db: Database, work: Work, old: Transactional | None, new: Transactional) -> None:
        if new is not old:
            db.transactions.keep(work, new)
            work.tell(lambda views: self._seen(new))

    # ---- time

    def _seen(self, one: Transactional) -> None:
        """On the loop, after the commit: a transaction is open, or none is any more."""
        if not one.is_open:
            if timer := self._timers.pop(one.id, None):
                timer.cancel()
        elif one.id not in self._timers:
            # A clock that was set while nothing ran makes it neither shorter nor longer than it may be.
            left = min(max(0, one.started_ms + one.timeout_ms - clock.wall_ms()), one.timeout_ms)
            self._timers[one.id] = self._later(left / 1000, self._over, one)

    def _later(self, seconds: float, function: Callable[..., None], *arguments: Any) -> Timer:
        return (self._call_later or asyncio.get_running_loop().call_later)(seconds, function, *arguments)

    def _over(self, one: Transactional) -> None:
        self._do(f"time-out of {one.id}", self._expire(one))

    async def _expire(self, one: Transactional) -> None:
        """Abort it, if it hasn't ended meanwhile."""

        def change(db: Database, work: Work, known: Transactional | None) -> None:
            if known and known.is_open and known.started_ms == one.started_ms and known.epoch == one.epoch:
                log.warning("transaction of %s: aborted after %d ms", known.id, known.timeout_ms)
                db.transactions.end(work, known, rules.fence(known), commit=False)
                self._keep(db, work, known, rules.expired(known, clock.wall_ms()))

        try:
            await self._change(one.id, change)
        except TopicsError as error:
            log.warning("transaction of %s can't be aborted now: %s", one.id, error)
            self._timers[one.id] = self._later(AGAIN_SECONDS, self._over, one)

    def _tidy(self) -> None:
        self._do("idle transactional ids", self._forget_idle())
        self._tidying = self._later(TIDY_SECONDS, self._tidy)

    async def _forget_idle(self) -> None:
        try:
            await self.log.run(lambda db, work: db.transactions.forget_idle(work, clock.wall_ms()), whole=True)
        except TopicsError as error:
            log.debug("idle transactional ids stay for now: %s", error)

    def _do(self, name: str, what: Any) -> None:
        task = asyncio.get_running_loop().create_task(_until_closed(what), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _until_closed(what: Any) -> None:
    try:
        await what
    except ChannelError as error:
        log.debug("the log can't go on, as who serves it knows: %s", error)


def _begin(db: Database, work: Work) -> list[Transactional]:
    db.batches.guard = db.transactions.guard
    return [one for one in db.transactions.ids.values() if one.is_open]
