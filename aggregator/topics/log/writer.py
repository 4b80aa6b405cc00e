"""The log's thread: it owns the connection that writes, and makes one commit of whatever has come together.

Work is done in the order in which it was handed in; what it led to is told on the event loop in the same order, and
only once its commit has returned. Where the disk has no room appends are refused and the rest goes on
(agent/store/space.py); anything else that goes wrong ends the log.
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
from typing import Any, Protocol

from agent.errors import ChannelError
from agent.store.connection import WAL_BYTES, Damaged
from agent.store.space import Space
from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.log.commit import Job, Outcome, transact
from aggregator.topics.log.database import Database
from aggregator.topics.log.reader import Turns
from aggregator.topics.log.settings import Options
from aggregator.topics.log.states import Tell

log = logging.getLogger(__name__)

GROUP_BYTES = 4 << 20
"""Appends beyond this sum go into the next commit: it bounds the WAL and with it the reserve."""
WAL_LIMIT = 4 * WAL_BYTES
"""Beyond this the writer waits for the reader, so that the WAL can start over."""
GROUP_JOBS = 1000
"""And so many of them, as a small one takes time, too: the commit's answers wait for all."""
LOOSE_BYTES, LOOSE_SHARE, VACUUM_STEP = 8 << 20, 3, 256
"""With more free bytes than this, and a third of the file, pages are given back, so many at a time, while there is
nothing else to do. Fewer are soon filled again: to give them back would move every byte of a log once more."""
REST_SECONDS = 1.0


class Told(Protocol):
    """What is told on the loop."""

    def done(self, outcome: Outcome, tells: list[Tell]) -> None:
        """A commit has returned; or jobs were refused."""

    def fail(self, error: ChannelError) -> None:
        """The thread has ended; jobs that were not done never will be."""


class Writer:
    """`open`, then `start`; `join` ends it when all that was handed in is done."""

    def __init__(self, path: Path, options: Options, told: Told, loop: asyncio.AbstractEventLoop, turns: Turns) -> None:
        self.path, self.options, self.told, self.loop, self.turns = path, options, told, loop, turns
        self.space = Space(path.parent, 0, options.max_bytes, path.stem)
        self.jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._wal_limit = WAL_LIMIT
        self._rested = time.monotonic()
        self._looked = -options.check_seconds
        self._tidied = True
        """The last slice of tidying found room."""
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
            if not self.space.is_full(error):
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
            self._post(self.told.fail, ChannelError(f"the topics' log {self.path} can't go on: {error}"))
            self.db.close()

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
        for group in self._groups(self._taken(0.0 if janitor.due and self._tidied else REST_SECONDS)):
            self._commit(group)
        if janitor.due:
            self._tidied = self._spare(self._slice)
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
            if groups[-1] and (size + job.size > GROUP_BYTES or len(groups[-1]) == GROUP_JOBS):
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
            tells = self._disk_full(group, outcome)
        self._post(self.told.done, outcome, tells)
        if self.space.wal_size() > self._wal_limit and not self._spare(self._restart_wal):
            self.space.ran_out(0)
        self._count_used()
        self.space.keep_reserve()

    def _restart_wal(self) -> None:
        try:
            with self.turns.alone():
                self.db.restart_wal()
        finally:
            # Somebody else reads the file (an operator's sqlite3), or it can't grow: not at every commit again.
            size = self.space.wal_size()
            self._wal_limit = size + WAL_LIMIT if size > WAL_LIMIT else WAL_LIMIT

    def _refuse(self, group: list[Job], outcome: Outcome) -> list[Job]:
        error = TopicsError(Code.KAFKA_STORAGE_ERROR, self.space.full)
        outcome += [(job, error) for job in group if job.size]
        return [job for job in group if not job.size]

    def _disk_full(self, group: list[Job], outcome: Outcome) -> list[Tell]:
        """Refuse appends, free the reserve, checkpoint, and try the rest once more."""
        self.space.ran_out(sum(job.size for job in group))
        group = self._refuse(group, outcome)
        try:
            self.db.checkpoint()
            return self._transact(group, outcome)
        except sqlite3.OperationalError as error:
            if not self.space.is_full(error):
                raise
            refusal = TopicsError(Code.KAFKA_STORAGE_ERROR, self.space.full)
            outcome += [(job, refusal) for job in group]
            return []

    def _transact(self, group: list[Job], outcome: Outcome | None = None) -> list[Tell]:
        """One transaction: adds to the outcome; what is to be told. sqlite3.Error: nothing has changed."""
        done, tells = transact(self.db, group)
        if outcome is not None:
            outcome += done
        return tells

    def _post(self, call: Callable[..., None], *args: Any) -> None:
        try:
            self.loop.call_soon_threadsafe(call, *args)
        except RuntimeError:
            pass  # the loop is closed: nobody waits any more

    # ---- what has time: retention, a full disk, free pages

    def _spare(self, work: Callable[[], None]) -> bool:
        """Work that may find no room (False) and is tried again later."""
        try:
            work()
        except sqlite3.OperationalError as error:
            if not self.space.is_full(error):
                raise
            log.debug("no room to tidy the topics' log now: %s", error)
            return False
        return True

    def _slice(self) -> None:
        self._post(self.told.done, [], self._transact([Job(lambda db, work: db.janitor.slice(work))]))

    def _rest(self) -> None:
        """Once a second: begin a round of retention, try to end a full disk, give free pages back when idle."""
        if self._rested - self._looked >= self.options.check_seconds:
            self._looked = self._rested
            self._transact([Job(lambda db, work: db.janitor.look(work))])
        if self.space.full:
            self.db.checkpoint()
        if self._is_loose():
            while self.jobs.empty() and self.db.vacuum(VACUUM_STEP):
                pass
            self.db.checkpoint()
        if self.space.full:
            self._end_full()

    def _is_loose(self) -> bool:
        """Whether the file should give pages back; while the disk is full each counts."""
        free = self.db.free_pages()
        if self.space.full:
            return free > 0
        return free * self.db.page_size > LOOSE_BYTES and free * LOOSE_SHARE > self.db.pages()

    def _end_full(self) -> None:
        """Take in again if there is room and the reserve can be built."""
        self._count_used()
        if self.space.has_room():
            self._restart_wal()
            if self.space.make_reserve():
                self.space.end_full()

    def _count_used(self) -> None:
        most = self.options.max_bytes
        if most:
            self.space.used = self.db.used_bytes()
            if self.space.used > most and not self.space.full:
                self.space.say_full(f"the topics' log {self.path} holds its {most} bytes")
