"""The log's thread: it owns the connection that writes, and makes one commit of whatever has come together.

Work is done in the order in which it was handed in; what it led to is told on the event loop in the same order, and
only once its commit has returned. One that is refused, by itself or with a bug in it, leaves the others of its commit
as they are. Where the disk has no room appends are refused and the rest goes on (agent/store/space.py); anything else
that goes wrong ends the log.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from agent.errors import ChannelError
from agent.store.connection import Damaged
from agent.store.space import Space
from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.log.database import Database
from aggregator.topics.log.settings import Options
from aggregator.topics.log.states import Tell, Work

log = logging.getLogger(__name__)

GROUP_BYTES = 4 << 20
"""Appends beyond this sum go into the next commit: it bounds the WAL and with it the reserve."""
VACUUM_BYTES, VACUUM_STEP = 8 << 20, 256
"""Above this many free bytes the file gives pages back, so many at a time, while there is nothing else to do."""
REST_SECONDS = 1.0

Call = Callable[[Database, Work], Any]


class Job(NamedTuple):
    """A change to make; None ends the thread."""

    call: Call | None
    future: asyncio.Future[Any] | None = None
    size: int = 0
    """Bytes that it appends; what appends none goes on when the disk is full."""
    whole: bool = False
    """It leaves nothing behind when it fails, without a savepoint."""


Outcome = list[tuple[Job, Any]]


class Told(Protocol):
    """What is told on the loop."""

    def done(self, outcome: Outcome, tells: list[Tell]) -> None:
        """A commit has returned; or jobs were refused."""

    def fail(self, error: ChannelError) -> None:
        """The thread has ended; jobs that were not done never will be."""


class _Broken(Exception):
    """A job failed half-way, without a savepoint: the transaction has to begin again without it."""

    def __init__(self, job: Job, error: Exception) -> None:
        self.job, self.error = job, error


class Writer:
    """`open`, then `start`; `join` ends it when all that was handed in is done."""

    def __init__(self, path: Path, options: Options, told: Told, loop: asyncio.AbstractEventLoop) -> None:
        self.path, self.options, self.told, self.loop = path, options, told, loop
        self.space = Space(path.parent, 0, options.max_bytes, path.stem)
        self.jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._rested = time.monotonic()
        self._looked = -options.check_seconds
        self._ending = False
        self._thread = threading.Thread(target=self._run, name=f"topics {path.parent.name}", daemon=True)

    # ---- for the loop

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        """End, when all that was handed in is done."""
        self.jobs.put(Job(None))
        self._thread.join()

    def open(self) -> None:
        """Open the file, or make it. ChannelError."""
        try:
            self.db = self._opened()
        except (Damaged, sqlite3.Error) as error:
            why = self.space.no_room if self.space.is_full(error) else str(error)
            raise ChannelError(f"can't open the topics' log {self.path}: {why}") from error
        if not self.space.make_reserve():
            self.space.say_full(self.space.no_room)
        self._count_used()

    def _opened(self) -> Database:
        try:
            return Database(self.path, self.options)
        except sqlite3.Error as error:
            if not (self.space.is_full(error) or self.space.reserve.exists()):
                raise
            # The memory that readers share is a small file: a full disk keeps nobody from reading.
            self.space.give_reserve_up()
            return Database(self.path, self.options)

    # ---- the thread

    def _run(self) -> None:
        try:
            while not self._ending:
                self._turn()
            self._close()
        except BaseException as error:
            log.exception("the topics' log %s can't go on", self.path)
            self.db.close()
            self._post(self.told.fail, ChannelError(f"the topics' log {self.path} can't go on: {error}"))

    def _close(self) -> None:
        try:
            self._transact([Job(lambda db, work: db.snapshot_all(work))])
        except sqlite3.OperationalError as error:
            if not self.space.is_full(error):
                raise
        self.db.close()

    def _turn(self) -> None:
        """Wait for work and do what has come together, then a little of what has time."""
        janitor = self.db.janitor
        for group in self._groups(self._taken(0.0 if janitor.due else REST_SECONDS)):
            self._commit(group)
        if janitor.due:
            self._spare(lambda: self._transact([Job(lambda db, work: janitor.slice(work))]))
        if time.monotonic() - self._rested > REST_SECONDS:
            self._rested = time.monotonic()
            self._spare(self._rest)

    def _taken(self, wait: float) -> list[Job]:
        jobs: list[Job] = []
        try:
            jobs.append(self.jobs.get(timeout=wait) if wait else self.jobs.get_nowait())
            while True:
                jobs.append(self.jobs.get_nowait())
        except queue.Empty:
            return jobs

    def _groups(self, jobs: list[Job]) -> list[list[Job]]:
        groups: list[list[Job]] = [[]]
        size = 0
        for job in jobs:
            if job.call is None:
                self._ending = True
                continue
            if size + job.size > GROUP_BYTES and groups[-1]:
                groups.append([])
                size = 0
            groups[-1].append(job)
            size += job.size
        return [group for group in groups if group]

    def _commit(self, group: list[Job]) -> None:
        """One commit of these jobs; each is answered."""
        outcome: Outcome = []
        if self.space.full:
            group = self._refuse(group, outcome)
        try:
            tells = self._transact(group, outcome)
        except sqlite3.OperationalError as error:
            if not self.space.is_full(error):
                raise
            self._disk_full(group, outcome)
            return
        self._post(self.told.done, outcome, tells)
        self._count_used()
        self.space.keep_reserve()

    def _refuse(self, group: list[Job], outcome: Outcome) -> list[Job]:
        error = TopicsError(Code.KAFKA_STORAGE_ERROR, self.space.full)
        outcome += [(job, error) for job in group if job.size]
        return [job for job in group if not job.size]

    def _disk_full(self, group: list[Job], outcome: Outcome) -> None:
        """Refuse appends, free the reserve, checkpoint, and try the rest once more."""
        self.space.ran_out(sum(job.size for job in group))
        outcome.clear()
        group = self._refuse(group, outcome)
        tells: list[Tell] = []
        try:
            self.db.checkpoint()
            tells = self._transact(group, outcome)
        except sqlite3.OperationalError as error:
            if not self.space.is_full(error):
                raise
            refusal = TopicsError(Code.KAFKA_STORAGE_ERROR, self.space.full)
            outcome += [(job, refusal) for job in group]
        self._post(self.told.done, outcome, tells)
        self._count_used()

    # ---- a transaction

    def _transact(self, group: list[Job], outcome: Outcome | None = None) -> list[Tell]:
        """Do these jobs in one transaction. An sqlite3.Error leaves file and memory as they were."""
        group, failed = list(group), Outcome()
        while group:
            work, done = Work(), Outcome()
            try:
                with self.db.transaction():
                    for job in group:
                        done.append((job, self._one(job, work)))
            except _Broken as broken:
                work.back()
                group.remove(broken.job)
                failed.append((broken.job, broken.error))
                continue
            except BaseException:
                work.back()
                raise
            if outcome is not None:
                outcome += failed + done
            return work.tells
        if outcome is not None:
            outcome += failed
        return []

    def _one(self, job: Job, work: Work) -> Any:
        """A job's result, or what it failed with; then nothing of it is left."""
        assert job.call is not None
        mark = work.mark
        if not job.whole:
            self.db.conn.execute("SAVEPOINT job")
        try:
            result = job.call(self.db, work)
        except sqlite3.OperationalError:
            raise
        except Exception as error:
            if not isinstance(error, TopicsError):
                log.exception("a request to the topics' log failed with a bug")
            if job.whole:
                raise _Broken(job, error) from None
            work.back(mark)
            self.db.conn.execute("ROLLBACK TO job")
            result = error
        if not job.whole:
            self.db.conn.execute("RELEASE job")
        return result

    def _post(self, call: Callable[..., None], *args: Any) -> None:
        try:
            self.loop.call_soon_threadsafe(call, *args)
        except RuntimeError:
            pass  # the loop is closed: nobody waits any more

    # ---- what has time: retention, a full disk, free pages

    def _spare(self, work: Callable[[], list[Tell] | None]) -> None:
        """Work that may find no room and is tried again later."""
        try:
            if tells := work():
                self._post(self.told.done, [], tells)
        except sqlite3.OperationalError as error:
            if not self.space.is_full(error):
                raise
            log.debug("no room to tidy the topics' log now: %s", error)

    def _rest(self) -> list[Tell] | None:
        """Once a second: begin a round of retention, try to end a full disk, give free pages back when idle."""
        tells: list[Tell] = []
        if self._rested - self._looked >= self.options.check_seconds:
            self._looked = self._rested
            tells = self._transact([Job(lambda db, work: db.janitor.look(work))])
        if self.space.full:
            self.db.checkpoint()
        if self.jobs.empty() and self._loose() > VACUUM_BYTES:
            while self.jobs.empty() and self.db.vacuum(VACUUM_STEP):
                pass
            self.db.checkpoint()
        if self.space.full:
            self._end_full()
        return tells

    def _loose(self) -> int:
        """Bytes of free pages; while the disk is full each counts."""
        return self.db.free_pages() * int(self.db.page_size) + (VACUUM_BYTES if self.space.full else 0)

    def _end_full(self) -> None:
        """Take in again if there is room and the reserve can be built."""
        self._count_used()
        if self.space.has_room():
            self.db.checkpoint("TRUNCATE")
            if self.space.make_reserve():
                self.space.end_full()

    def _count_used(self) -> None:
        if self.options.max_bytes:
            self.space.used = self.db.used_bytes()
