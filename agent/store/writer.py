"""The writer's thread: it owns the database, and makes one commit of whatever has come together.

Work is done in the order in which it was handed in; what it led to is told on the event loop in the same order. A
damaged file is salvaged under way; on a full disk puts are refused and the rest goes on (agent/store/space.py);
anything else that goes wrong ends the store.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from agent.errors import ChannelError, ChannelFull
from agent.store.connection import Damaged
from agent.store.database import Database
from agent.store.recovery import damage, mended, missing, open_database
from agent.store.requests import BuryRequest, PutRequest, Request, size_of
from agent.store.schema import Row
from agent.store.space import Space
from agent.store.states import CursorState

log = logging.getLogger(__name__)

GROUP_BYTES = 4 << 20
"""Puts beyond this sum go into the next commit: it bounds the WAL and with it the reserve."""
VACUUM_PAGES, VACUUM_STEP = 8 << 10, 512
"""Above this many free pages the file gives them back, so many at a time, while it has nothing else to do."""
REST_SECONDS = 1.0

Answer = TypeVar("Answer")


class Options(NamedTuple):
    """What the channels of a store agree on; bytes."""

    synchronous: str = "FULL"
    max_bytes: int = 0
    required_space: int | None = None
    letter_limit: int = 64 << 20


class Job(NamedTuple):
    """Work for the thread: a request that joins a commit, or a call of its own; None ends it."""

    work: Request | Callable[[Database], Any] | None
    future: asyncio.Future[Any] | None = None
    then: Callable[[Any], None] | None = None
    """Called on the loop with the answer, in the writer's order."""
    decided: Callable[[], None] | None = None
    """Called on the loop in any case, also when nobody waits any more."""


class Told(Protocol):
    """What is told on the loop."""

    def committed(self, outcome: list[tuple[Job, Any]], rows: list[Row]) -> None: ...

    def answered(self, job: Job, answer: Any) -> None: ...

    def salvaged(self, lost: Mapping[str, tuple[int, int]], missing: int) -> None:
        """Events and bytes that each channel has lost; all that the store has lost."""

    def freed(self) -> None:
        """Fewer bytes are in use."""

    def fail(self, error: ChannelError, jobs: list[Job]) -> None:
        """The thread has ended; these and later jobs were not done."""


class Writer:
    """`open`, then `start`; ends with a job of None."""

    def __init__(self, path: Path, options: Options, told: Told, loop: asyncio.AbstractEventLoop) -> None:
        self.path, self.folder, self.options, self.told, self.loop = path, path.parent, options, told, loop
        self.space = Space(self.folder, options.required_space, options.max_bytes)
        self.jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._moved_lock = threading.Lock()
        self._cursors: dict[int, CursorState] = {}
        self._receipts: dict[int, bytes] = {}
        self._taken: list[Job] = []
        """Jobs that were taken and not answered."""
        self._rested = time.monotonic()
        self._began = 0.0
        self._thread = threading.Thread(target=self._run, name=f"store {self.folder.name}", daemon=True)

    # ---- for the loop

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        """End, when all that was handed in is done."""
        self.jobs.put(Job(None))
        self._thread.join()

    def moved(self, channel: int, place: CursorState, receipt: bytes | None) -> None:
        """Keep a channel's place with the next commit."""
        with self._moved_lock:
            self._cursors[channel] = place
            if receipt is not None:
                self._receipts[channel] = receipt

    @property
    def waiting_receipts(self) -> frozenset[int]:
        """Channels whose receipt is not on the device yet."""
        with self._moved_lock:
            return frozenset(self._receipts)

    @property
    def stalled_seconds(self) -> float:
        """How long the commit under way has taken; 0 while there is none (health and watchdog look at it)."""
        began = self._began
        return time.monotonic() - began if began else 0.0

    # ---- opening

    def open(self) -> None:
        """Open or salvage the file and begin an opening. ChannelError."""
        try:
            db = open_database(self.path, self._database)
        except sqlite3.OperationalError as error:
            why = self.space.no_room if self.space.is_full(error) else str(error)
            raise ChannelError(f"can't open the store {self.path}: {why}") from error
        try:
            db.start()
        except sqlite3.OperationalError as error:
            if not self.space.is_full(error):
                raise
            # A full disk keeps nobody from draining: the opening's row is kept as soon as there is room.
            self.space.give_reserve_up()
            self.space.say_full(self.space.no_room)
        else:
            if not self.space.make_reserve():
                self.space.say_full(self.space.no_room)
        self.db = db
        self._count_used()

    def _database(self) -> Database:
        return Database(self.path, self.options.synchronous, self.options.max_bytes, self.options.letter_limit)

    # ---- the thread

    def _run(self) -> None:
        try:
            while self._turn():
                pass
            self._commit([])
            self.db.close()
        except BaseException as error:
            log.exception("the store %s can't go on", self.folder)
            self.db.close()
            self._post(self.told.fail, ChannelError(f"the store {self.folder} can't go on: {error}"), self._taken)

    def _turn(self) -> bool:
        """Wait for work and do what has come together; False when it is time to stop."""
        try:
            self._taken.append(self.jobs.get(timeout=REST_SECONDS))
            while True:
                self._taken.append(self.jobs.get_nowait())
        except queue.Empty:
            pass
        jobs = list(self._taken)
        group: list[Job] = []
        size = 0
        for job in jobs:
            if isinstance(job.work, PutRequest | BuryRequest):
                group.append(job)
                size += size_of(job.work)
                if size >= GROUP_BYTES:
                    self._commit(group)
                    group, size = [], 0
            else:
                self._commit(group)
                group, size = [], 0
                if job.work is not None:
                    self._answer(job)
                del self._taken[:1]
        if group:
            self._commit(group)
        if time.monotonic() - self._rested > REST_SECONDS:
            self._rest()
        return not any(job.work is None for job in jobs)

    def _commit(self, group: list[Job]) -> None:
        """One commit of these puts and letters and of what has moved."""
        size = len(group)
        with self._moved_lock:
            cursors, self._cursors = self._cursors, {}
            receipts, self._receipts = self._receipts, {}
        outcome: list[tuple[Job, Any]] = []
        if self.space.full:
            outcome = [(job, ChannelFull(self.space.full)) for job in group if isinstance(job.work, PutRequest)]
            group = [job for job in group if isinstance(job.work, BuryRequest)]
        rows: list[Row] = []
        if group or cursors or receipts:
            requests = [job.work for job in group if isinstance(job.work, PutRequest | BuryRequest)]
            try:
                results, rows = self._guarded(lambda: self._apply(requests, cursors, receipts))
                outcome += zip(group, results, strict=True)
            except sqlite3.OperationalError as error:
                if not self.space.is_full(error):
                    raise
                self._disk_full(cursors, receipts, sum(size_of(request) for request in requests))
                outcome += [(job, ChannelFull(self.space.full)) for job in group]
            self._count_used()
            self.space.keep_reserve()
        if outcome or rows:
            self._post(self.told.committed, outcome, rows)
        del self._taken[:size]

    def _apply(self, *work: Any) -> tuple[list[Any], list[Row]]:
        self._began = time.monotonic()
        try:
            return self.db.apply(*work)
        finally:
            self._began = 0.0

    def _answer(self, job: Job) -> None:
        work = job.work
        assert callable(work)
        answer: Any
        try:
            answer = self._guarded(lambda: work(self.db))
        except (ChannelError, sqlite3.OperationalError) as error:
            answer = ChannelFull(self.space.no_room) if self.space.is_full(error) else error
        except (TypeError, ValueError, KeyError) as error:  # of a command that makes no sense; nothing was committed
            answer = ChannelError(f"the command can't be done: {error!r}")
        self._post(self.told.answered, job, answer)

    def _post(self, call: Callable[..., None], *args: Any) -> None:
        try:
            self.loop.call_soon_threadsafe(call, *args)
        except RuntimeError:
            pass  # the loop is closed: nobody waits any more

    def _guarded(self, work: Callable[[], Answer]) -> Answer:
        """Run it; if the file turns out to be damaged, salvage what is readable and run it again."""
        try:
            return work()
        except (Damaged, sqlite3.DatabaseError) as error:
            reason = damage(error)
            if not reason:
                raise
        self.db, lost = mended(self.db, reason, self._database)
        self._post(self.told.salvaged, lost, missing(self.db))
        return work()

    # ---- a full disk, and free pages

    def _disk_full(self, cursors: Mapping[int, CursorState], receipts: Mapping[int, bytes], asked: int) -> None:
        """Refuse puts, free the reserve, checkpoint, and get the acknowledgements written. `asked`: bytes of puts."""
        self.space.ran_out(asked)
        try:
            self.db.checkpoint()
            self.db.apply([], cursors, receipts)
        except sqlite3.OperationalError as error:
            if not self.space.is_full(error):
                raise
            # Not even that: they wait in memory for the next try.
            with self._moved_lock:
                self._cursors = {**cursors, **self._cursors}
                self._receipts = {**receipts, **self._receipts}

    def _rest(self) -> None:
        """Once a second: try to end a full disk; give free pages back when there is nothing else to do."""
        self._rested = time.monotonic()
        space = self.space
        short, space.short = space.short, False
        try:
            if space.full:
                self._guarded(lambda: self.db.checkpoint())
                self._commit([])  # acknowledgements that found no room
            idle = self.jobs.empty()
            if space.full or short or (idle and self._guarded(lambda: self.db.free_pages()) > VACUUM_PAGES):
                self._guarded(lambda: self._shrink("TRUNCATE" if short else "PASSIVE"))
            if space.full:
                self._end_full()
        except sqlite3.OperationalError as error:
            if not space.is_full(error):
                raise
            log.debug("can't give free pages back now: %s", error)

    def _shrink(self, mode: str) -> None:
        while self.jobs.empty() and self.db.vacuum(VACUUM_STEP):
            pass
        self.db.checkpoint(mode)

    def _end_full(self) -> None:
        """Take in again if there is room and the reserve can be built."""
        self._count_used()
        if not self.space.has_room():
            return
        self._guarded(lambda: self.db.checkpoint("TRUNCATE"))
        if self.space.make_reserve():
            self._post(self._end_heard)

    def _end_heard(self) -> None:
        """On the loop, a turn after the last refusal: what was handed in before who was refused knew of it is refused
        as well, so that nothing overtakes."""
        self.loop.call_soon(self.jobs.put, Job(lambda db: self.space.end_full()))

    def _count_used(self) -> None:
        if self.options.max_bytes:
            before, self.space.used = self.space.used, self.db.used_bytes()
            if self.space.used < before:
                self._post(self.told.freed)
