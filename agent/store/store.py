"""The store under the file channels of an agent: one folder, one writer thread, group commit.

**An acknowledgement means that the transaction is on the device.** A put is handed to the writer thread and answered
when its commit has returned. What arrives while a commit is under way joins the next one, so the price of a commit
(one flush, about 8 kB) is shared by whoever waits. Cursors that moved are merged into the next commit of a put, or
written after a second: a repeat after a kill is recognised by its number at the receiver.

Files of the folder: headrace.db (and -wal), headrace.lock, headrace.reserve (given up when the disk is full, so that
acknowledgements still find room), headrace.sock (commands; agent/store/control.py).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from agent import clock
from agent.errors import ChannelError, ChannelFull
from agent.store import control, schema
from agent.store.database import (
    WAL_PAGES,
    BuryRequest,
    ChannelState,
    CursorState,
    Damaged,
    Database,
    Kept,
    PutRequest,
    Request,
)
from agent.store.lock import StoreLock
from agent.store.queue import ChannelQueue, Segment
from agent.store.schema import Row

if TYPE_CHECKING:
    from agent.store.salvage import Report

log = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0
"""A cursor that moved waits at most this long for a commit to travel with."""
GROUP_BYTES = 4 << 20
"""Puts beyond this sum go into the next commit: it bounds the WAL and with it the reserve."""
VACUUM_PAGES, VACUUM_STEP = 8 << 10, 512
"""Above this many free pages the file gives them back, so many at a time, while it has nothing else to do."""

RESERVE_SHARE = 16
"""The reserve is this part of the disk at least (but no more than the WAL usually has), and as large as the WAL is."""
RESERVE_STEP = 1 << 20
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
ORPHAN_SECONDS = 5.0
"""So long after the store was opened, or one of its channels was closed, the channels that nobody drains are named."""
SAY_SECONDS = 60.0
"""A disk that is full, has room and is full again is said so often at most."""

Answer = TypeVar("Answer")


class Options(NamedTuple):
    """What the channels of a store agree on; bytes."""

    synchronous: str = "FULL"
    max_bytes: int = 0
    required_space: int | None = None
    letter_limit: int = 64 << 20


class _Job(NamedTuple):
    """Work for the writer thread: a request that joins a commit, or a call of its own."""

    work: Request | Callable[[Database], Any] | None
    future: asyncio.Future[Any] | None
    then: Callable[[Any], None] | None = None
    """Called on the loop with the answer, in the writer's order."""
    decided: Callable[[], None] | None = None
    """Called on the loop in any case, also when nobody waits any more."""


class Store:
    """Shared by the channels of one folder (`acquire`, `release`). Raises ChannelError when it can't go on."""

    _open: ClassVar[dict[Path, Store]] = {}

    def __init__(self, folder: Path, options: Options) -> None:
        self.folder, self.options = folder, options
        self.path = folder / "headrace.db"
        self.reserve = folder / "headrace.reserve"
        self.queues: dict[str, ChannelQueue] = {}
        self.on_rows: dict[str, Callable[[], None]] = {}
        """Called on the loop when a channel has new rows, or the store has failed."""
        self.on_room: dict[str, Callable[[], None]] = {}
        """Called on the loop when fewer bytes are in use than before, where there is a maxBytes."""
        self.failed: ChannelError | None = None
        self.full = ""
        """Why puts are refused since SQLite found no room; empty while there is."""
        self.used = 0
        """Bytes of the file's pages in use; counted only where there is a maxBytes."""
        self.missing = 0
        """Events that salvage could not read, since the file was created."""
        self.users = 0
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._dirty_lock = threading.Lock()
        self._dirty: dict[int, CursorState] = {}
        self._receipts: dict[int, bytes] = {}
        self._flush: asyncio.TimerHandle | None = None
        self._server: asyncio.Server | None = None
        self._orphan_watch: asyncio.TimerHandle | None = None
        self._orphans_named: set[str] = set()
        self._chains: dict[bytes, tuple[bytes, int]] = {}
        self._space_checked = 0.0
        self._short = False
        """A put was refused for minimumRequiredSpace since the last rest."""
        self._reserved = 0
        """Bytes of the reserve."""
        self._full_said = 0.0
        self._full_logged = False
        self._rested = time.monotonic()
        self._began = 0.0
        self._taken: list[_Job] = []
        """What the thread has taken and not answered."""

    # ---- life

    @classmethod
    async def acquire(cls, folder: Path, options: Options) -> Store:
        """The store of a folder (an absolute path), opened if nobody in this process has it yet."""
        store = cls._open.get(folder)
        if store is None:
            store = cls._open[folder] = cls(folder, options)
            try:
                await store._start()
            except BaseException:
                del cls._open[folder]
                raise
        elif store.options != options:
            log.warning(
                "channels of %s differ in synchronous, maxBytes or minimumRequiredSpace: the first one's count", folder
            )
        store.users += 1
        return store

    async def release(self) -> None:
        """The last user closes it: cursors are flushed, the WAL is checkpointed."""
        self.users -= 1
        if self.users == 0:
            self._open.pop(self.folder, None)
            await self._stop()
        else:
            self._watch_orphans()

    async def _start(self) -> None:
        self._loop = asyncio.get_running_loop()
        _make_folder(self.folder)
        self.lock = StoreLock(self.folder / "headrace.lock")
        try:
            self.db = await asyncio.to_thread(self._open_database)
            self.missing = _missing(self.db)
        except BaseException:
            self.lock.release()
            raise
        self._chains = self.db.chains()
        self._thread = threading.Thread(target=self._run, name=f"store {self.folder.name}", daemon=True)
        self._thread.start()
        try:
            self._server = await control.serve(self)
        except OSError as error:
            log.warning("the store %s takes no commands while it is open: no socket there: %s", self.folder, error)
        except BaseException:
            await self._stop()
            raise
        self._watch_orphans()

    def _open_database(self) -> Database:
        if any(self.folder.glob("headrace.db.salvage*")):
            _resume(self.path)
        try:
            db = self._database()
        except (Damaged, sqlite3.DatabaseError) as error:
            if self._is_full(error):
                raise ChannelError(f"can't open the store {self.path}: {_no_room(self.folder)}") from error
            if isinstance(error, sqlite3.OperationalError) and not _is(error, sqlite3.SQLITE_CORRUPT):
                raise ChannelError(f"can't open the store {self.path}: {error}") from error
            self._report(_salvage(self.path, str(error)))
            db = self._database()
        try:
            db.start()
        except sqlite3.OperationalError as error:
            if not self._is_full(error):
                raise
            # A full disk keeps nobody from draining: the opening's row is kept as soon as there is room.
            self._give_reserve_up()
            self._say_full(_no_room(self.folder))
        else:
            if not self._make_reserve():
                self._say_full(_no_room(self.folder))
        self._count_used(db)
        return db

    def _database(self) -> Database:
        return Database(self.path, self.options.synchronous, self.options.max_bytes, self.options.letter_limit)

    async def _stop(self) -> None:
        if self._server:
            self._server.close()
            (self.folder / control.SOCKET).unlink(missing_ok=True)
        for timer in (self._flush, self._orphan_watch):
            if timer:
                timer.cancel()
        self._jobs.put(_Job(None, None))
        await asyncio.to_thread(self._thread.join)
        self.lock.release()

    @property
    def marks(self) -> Mapping[str, Mapping[str, bytes]]:
        """The sources' marks, as committed."""
        return self.db.marks

    async def queue(self, name: str) -> ChannelQueue:
        """The channel's queue; a channel that the store doesn't know starts at the end."""

        def begin(found: tuple[ChannelState, int]) -> None:
            # In the writer's order: a row that is committed next is announced to it.
            state, end = found
            self.queues[name] = ChannelQueue(state, end)
            self.queues[name].receipt = self.db.receipts.get(state.id)

        if name not in self.queues:
            await self.call(lambda db: db.channel(name), begin)
            if self.queues[name].depth:
                await self.load(self.queues[name])
        return self.queues[name]

    # ---- what channels ask for (on the loop)

    def put(self, request: PutRequest, decided: Callable[[], None] | None = None) -> asyncio.Future[Kept]:
        """Hand a put to the writer; the future is set once its commit is on the device.

        Cancelling the future calls nothing off; `decided` is called when the put is kept or has failed.
        """
        if self.failed:
            raise self.failed
        reason = self.full or self._no_space()
        if reason:
            raise ChannelFull(reason)
        return self._submit(request, None, decided)

    def bury(self, request: BuryRequest) -> asyncio.Future[Kept]:
        """Keep dead letters; done even when the disk refuses puts, as long as there is any room."""
        if self.failed:
            raise self.failed
        return self._submit(request)

    def call(
        self, work: Callable[[Database], Answer], then: Callable[[Answer], None] | None = None
    ) -> asyncio.Future[Answer]:
        """Run something on the writer's thread, after what was handed in before."""
        if self.failed:
            raise self.failed
        return self._submit(work, then)

    def _submit(
        self,
        work: Request | Callable[[Database], Any],
        then: Callable[[Any], None] | None = None,
        decided: Callable[[], None] | None = None,
    ) -> asyncio.Future[Any]:
        future = self._loop.create_future()
        self._jobs.put(_Job(work, future, then, decided))
        return future

    def moved(self, channel: ChannelQueue, receipt: bytes | None = None) -> None:
        """A channel's place changed: keep it with the next commit, or within a second."""
        snapshot = channel.snapshot()
        with self._dirty_lock:
            self._dirty[channel.id] = snapshot
            if receipt is not None:
                self._receipts[channel.id] = channel.receipt = receipt
        if self._flush is None and not self.failed:
            self._flush = self._loop.call_later(FLUSH_SECONDS, self._flush_now)

    def _flush_now(self) -> None:
        self._flush = None
        self._jobs.put(_Job(_nothing, None))

    def receipt(self, channel: ChannelQueue) -> bytes | None:
        """The receipt kept with a channel's cursor."""
        return channel.receipt

    def chain(self, segments: list[Segment]) -> tuple[bytes, int] | None:
        """For an audit: the origin before that of these events, and its last number."""
        return self._chains.get(segments[0].row.origin) if segments[0].after == 0 else None

    async def load(self, channel: ChannelQueue) -> None:
        """Read ahead from the file for a channel that is behind; one call at a time for a channel."""
        if self.failed:
            raise self.failed
        after = channel.read_to
        future = self._loop.create_future()
        # Rows enter the queue in the writer's order, between the commits before and after.
        self._jobs.put(_Job(lambda db: db.read(channel.id, after, 1 << 20), future, channel.loaded))
        await future

    def _no_space(self) -> str:
        now = time.monotonic()
        if now - self._space_checked < 1.0:
            return ""
        disk = _disk(self.folder)
        required = self.options.required_space
        if required is None:
            required = min(500 << 20, disk.size // 20)
        if disk.free >= required:
            self._space_checked = now
            return ""
        self._short = True  # and the file gives its free pages back
        return (
            f"less than {_bytes(required)} are free on the disk of {self.folder} (minimumRequiredSpace): "
            "free some, or set that key lower"
        )

    # ---- the writer's thread

    def _run(self) -> None:
        try:
            while self._turn():
                pass
            self._commit([])
            self.db.close()
        except BaseException as error:
            log.exception("the store %s can't go on", self.folder)
            self.db.close()
            self._post(self._fail, ChannelError(f"the store {self.folder} can't go on: {error}"), self._taken)

    def _turn(self) -> bool:
        """Wait for work and do what has come together; False when it is time to stop."""
        try:
            self._taken.append(self._jobs.get(timeout=1.0))
            while True:
                self._taken.append(self._jobs.get_nowait())
        except queue.Empty:
            pass
        jobs = list(self._taken)
        group: list[_Job] = []
        size = 0
        for job in jobs:
            if isinstance(job.work, PutRequest | BuryRequest):
                group.append(job)
                size += _size(job.work)
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
        if time.monotonic() - self._rested > 1.0:
            self._rest()
        return not any(job.work is None for job in jobs)

    def _commit(self, group: list[_Job]) -> None:
        size = len(group)
        with self._dirty_lock:
            cursors, self._dirty = self._dirty, {}
            receipts, self._receipts = self._receipts, {}
        outcome: list[tuple[_Job, Any]] = []
        if self.full:
            outcome = [(job, ChannelFull(self.full)) for job in group if isinstance(job.work, PutRequest)]
            group = [job for job in group if isinstance(job.work, BuryRequest)]
        rows: list[Row] = []
        if group or cursors or receipts:
            requests = [job.work for job in group if isinstance(job.work, PutRequest | BuryRequest)]
            try:
                results, rows = self._guarded(lambda: self._apply(requests, cursors, receipts))
                outcome += zip(group, results, strict=True)
            except sqlite3.OperationalError as error:
                if not self._is_full(error):
                    raise
                self._disk_full(cursors, receipts, sum(_size(request) for request in requests))
                outcome += [(job, ChannelFull(self.full)) for job in group]
            self._count_used(self.db)
            if self._reserved < self._wal_size() and not self.full and not self._make_reserve():
                self._say_full(_no_room(self.folder))
        if outcome or rows:
            self._post(self._committed, outcome, rows)
        del self._taken[:size]

    def _apply(self, *work: Any) -> tuple[list[Any], list[Row]]:
        self._began = time.monotonic()
        try:
            return self.db.apply(*work)
        finally:
            self._began = 0.0

    @property
    def stalled_seconds(self) -> float:
        """How long the commit under way has taken; 0 while there is none (health and watchdog look at it)."""
        began = self._began
        return time.monotonic() - began if began else 0.0

    def _answer(self, job: _Job) -> None:
        work = job.work
        assert callable(work)
        answer: Any
        try:
            answer = self._guarded(lambda: work(self.db))
        except (ChannelError, sqlite3.OperationalError) as error:
            answer = ChannelFull(_no_room(self.folder)) if self._is_full(error) else error
        except (TypeError, ValueError, KeyError) as error:  # of a command that makes no sense; nothing was committed
            answer = ChannelError(f"the command can't be done: {error!r}")
        self._post(self._answered, job, answer)

    def _guarded(self, work: Callable[[], Answer]) -> Answer:
        """Run it; if the file turns out to be damaged, salvage what is readable and run it again."""
        try:
            return work()
        except Damaged as error:
            reason = str(error)
        except sqlite3.DatabaseError as error:
            if not (_is(error, sqlite3.SQLITE_CORRUPT) or _is(error, sqlite3.SQLITE_NOTADB)):
                raise
            reason = str(error)
        old = self.db
        old.close()
        report = _salvage(self.path, reason, {c.id: c.name for c in old.channels.values()})
        self.db = self._database()
        self.db.resume(old)
        self._report(report)
        now = self.db.channels
        lost = {
            c.name: (c.put_events - now[i].put_events, c.put_bytes - now[i].put_bytes) for i, c in old.channels.items()
        }
        self._post(self._salvaged, lost, _missing(self.db))
        return work()

    def _report(self, report: Report) -> None:
        log.error(
            "%s was damaged (%s): %d events salvaged into a new file, %d numbers missing; the damaged one is kept: %s",
            self.path, report.reason, report.events, report.lost_events, report.damaged,
        )  # fmt: skip
        for origin, first, count in report.lost:
            log.error("missing: %d events of origin %s from number %d", count, origin.hex(), first)
        for note in report.notes:
            log.warning("salvage: %s", note)

    # ---- a full disk

    def _is_full(self, error: Exception) -> bool:
        """Whether SQLite found no room. A quota that is used up is an I/O error to it, without the reason."""
        return _is(error, sqlite3.SQLITE_FULL) or (_is(error, sqlite3.SQLITE_IOERR) and _over_quota(self.folder))

    def _reserve_floor(self) -> int:
        return min(2 * WAL_PAGES * schema.PAGE_SIZE, _disk(self.folder).size // RESERVE_SHARE)

    def _wal_size(self) -> int:
        return _file_size(self.path.with_name(self.path.name + "-wal"))

    def _make_reserve(self) -> bool:
        """Build it, or let it grow with the WAL; False, and what there is stays, if the disk has no room.

        It is as large as the WAL was after any commit: a checkpoint, which lets acknowledgements use the WAL from its
        start again, may have to add all of that to the file.
        """
        size = max(self._reserve_floor(), -(-self._wal_size() // RESERVE_STEP) * RESERVE_STEP)
        try:
            fd = os.open(self.reserve, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, size)
                self._reserved = os.fstat(fd).st_size
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            return False
        return True

    def _give_reserve_up(self) -> None:
        self._reserved = 0
        if self.reserve.exists():
            os.truncate(self.reserve, 0)

    def _disk_full(self, cursors: Mapping[int, CursorState], receipts: Mapping[int, bytes], asked: int) -> None:
        """Refuse puts, free the reserve, checkpoint, and get the acknowledgements written. `asked`: bytes of puts."""
        limit = self.options.max_bytes
        if limit and self.used + 2 * asked > limit:
            self._say_full(f"the store {self.folder} holds its maxBytes of {limit}")
        else:
            self._say_full(_no_room(self.folder))
            self._give_reserve_up()
        try:
            self.db.checkpoint()
            self.db.apply([], cursors, receipts)
        except sqlite3.OperationalError as error:
            if not self._is_full(error):
                raise
            # Not even that: they wait in memory for the next try.
            with self._dirty_lock:
                self._dirty = {**cursors, **self._dirty}
                self._receipts = {**receipts, **self._receipts}

    def _say_full(self, reason: str) -> None:
        now = time.monotonic()
        if not self.full and (not self._full_said or now - self._full_said > SAY_SECONDS):
            self._full_said, self._full_logged = now, True
            log.error("%s; draining and acknowledgements go on", reason)
        self.full = reason

    def _rest(self) -> None:
        """Once a second: try to end a full disk; give free pages back when there is nothing else to do."""
        self._rested = time.monotonic()
        short, self._short = self._short, False
        try:
            if self.full:
                self._guarded(self.db.checkpoint)
                self._commit([])  # acknowledgements that found no room
            if self.full or short or (self._jobs.empty() and self._guarded(self.db.free_pages) > VACUUM_PAGES):
                self._guarded(lambda: self._shrink("TRUNCATE" if short else "PASSIVE"))
            if self.full:
                self._end_full()
        except sqlite3.OperationalError as error:
            if not self._is_full(error):
                raise
            log.debug("can't give free pages back now: %s", error)

    def _shrink(self, mode: str) -> None:
        while self._jobs.empty() and self.db.vacuum(VACUUM_STEP):
            pass
        self.db.checkpoint(mode)

    def _end_full(self) -> None:
        """Take in again if the reserve stands and as much again is free. The WAL lends its room, if that will do: until
        then it keeps what it has, for the acknowledgements."""
        disk = _disk(self.folder)
        self._count_used(self.db)
        room = disk.free + self._wal_size() + self._reserved
        if room < 2 * self._reserve_floor() or self.used > self.options.max_bytes:
            return
        self._guarded(lambda: self.db.checkpoint("TRUNCATE"))
        if self._make_reserve():
            self._post(self._end_heard)

    def _end_heard(self) -> None:
        """On the loop, a turn after the last refusal: what was handed in before who was refused knew of it is refused
        as well, so that nothing overtakes."""
        self._loop.call_soon(self._jobs.put, _Job(self._take_in, None))

    def _take_in(self, db: Database) -> None:
        self.full = ""
        if self._full_logged:
            self._full_logged = False
            log.info("the store %s has room again: taking in", self.folder)

    def _count_used(self, db: Database) -> None:
        if self.options.max_bytes:
            before, self.used = self.used, db.used_bytes()
            if self.used < before:
                self._post(self._freed)

    def _freed(self) -> None:
        for wake in list(self.on_room.values()):
            wake()

    # ---- back on the loop

    def _post(self, call: Callable[..., None], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *args)
        except RuntimeError:
            pass  # the loop is closed: nobody waits any more

    def _committed(self, outcome: list[tuple[_Job, Any]], rows: list[Row]) -> None:
        self._announce(rows)
        for job, result in outcome:
            self._answered(job, result)

    def _announce(self, rows: list[Row]) -> None:
        touched = set()
        for row in rows:
            for name, channel in self.queues.items():
                if row.channels >> channel.id & 1:
                    channel.stored(row)
                    touched.add(name)
        for name in touched:
            if name in self.on_rows:
                self.on_rows[name]()

    def _answered(self, job: _Job, answer: Any) -> None:
        if job.decided:
            job.decided()
        if job.future is None or job.future.done():
            return
        if isinstance(answer, Exception):
            job.future.set_exception(answer)
        else:
            if job.then:
                job.then(answer)
            job.future.set_result(answer)

    def _salvaged(self, lost: Mapping[str, tuple[int, int]], missing: int) -> None:
        self.missing = missing
        for name, (events, size) in lost.items():
            if name in self.queues:
                self.queues[name].put_events -= events
                self.queues[name].put_bytes -= size

    def _fail(self, error: ChannelError, jobs: list[_Job]) -> None:
        self.failed = error
        try:
            while True:
                jobs.append(self._jobs.get_nowait())
        except queue.Empty:
            pass
        for job in jobs:
            self._answered(job, error)
        for wake in list(self.on_rows.values()):
            wake()

    # ---- channels that have left the configuration

    def _watch_orphans(self) -> None:
        """Look for them when those that stay have registered, which they do one by one."""
        if self._orphan_watch:
            self._orphan_watch.cancel()
        self._orphan_watch = self._loop.call_later(ORPHAN_SECONDS, self._name_orphans)

    def _name_orphans(self) -> None:
        self._orphan_watch = None
        found = self.orphans()
        self._orphans_named &= found.keys()
        for name, events in found.items():
            if name not in self._orphans_named:
                self._orphans_named.add(name)
                log.warning(
                    "channel %s is no longer configured, and the store %s keeps %d events for it: configure it to "
                    "deliver them, or give them up: headrace store forget %s %s",
                    name, self.folder, events, name, self.folder,
                )  # fmt: skip

    def orphans(self) -> dict[str, int]:
        """Channels that are not configured: the events that they have yet to deliver."""
        return {c.name: c.inside for c in list(self.db.channels.values()) if c.name not in self.queues and c.inside}

    # ---- what commands show

    async def replay(self, ids: list[int] | None) -> int:
        """Put dead letters (all for None) again, under their old identity; how many."""
        # Who asked may have gone before the answer: the rows are announced nonetheless.
        rows = await asyncio.shield(self.call(lambda db: db.replay(ids), self._announce))
        return len(rows)

    async def forget(self, name: str) -> int:
        """Give up a channel that is no longer configured; how many events it still held. ChannelError otherwise."""
        if name in self.queues:
            raise ChannelError(f"channel {name} is configured: take it out of the configuration first")
        return await self.call(lambda db: db.forget(name))

    async def inspect(self) -> dict[str, Any]:
        """Everything `headrace store` prints, as plain values."""
        seen = await self.call(describe)
        seen["held_by"] = os.getpid()
        seen["full"] = self.full
        for channel in seen["channels"]:
            mine = self.queues.get(channel["name"])
            channel["configured"] = mine is not None
            if mine is not None:
                channel["events"], channel["bytes"] = mine.depth, mine.size
        return seen


def describe(db: Database) -> dict[str, Any]:
    """What a store holds, as plain values (for commands)."""
    now, wal = clock.wall_ms(), db.path.with_name(db.path.name + "-wal")
    channels = []
    for state in db.channels.values():
        head = db.read(state.id, state.place.cursor, 1, 1)
        channels.append(
            {
                "name": state.name,
                "events": state.put_events - state.place.done_events,
                "bytes": state.put_bytes - state.place.done_bytes,
                "cursor": state.place.cursor,
                "finished": [list(r) for r in state.place.finished],
                "oldest_seconds": max(0, now - head[0].wall_ms) / 1000 if head else 0.0,
            }
        )
    return {
        "file": str(db.path),
        "format": schema.USER_VERSION,
        "file_bytes": db.path.stat().st_size,
        "wal_bytes": wal.stat().st_size if wal.exists() else 0,
        "free_bytes": db.free_pages() * db.page_size,
        "position": db.position,
        "origins": [{"origin": o.hex(), "last": end - base} for (o, base, _), end in db.spans()],
        "channels": channels,
        "streams": [
            {
                "origin": o.hex(),
                "channel": c,
                "settled": s.coverage.settled,
                "ranges": [list(r) for r in s.coverage.ranges],
            }
            for (o, c), s in db.streams.items()
        ],
        "marks": {source: sorted(marks) for source, marks in db.marks.items()},
        "letters": db.count_letters(),
        "letter_bytes": db.letter_bytes,
        "lost": [{"origin": (r[1] or b"").hex(), "first": r[2], "count": r[3], "reason": r[5]} for r in db.lost()],
        "full": "",
        "held_by": None,
    }


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ChannelError(f"can't make the folder {folder} for the store: {error.strerror}") from None
    java = next(iter(sorted(folder.glob("log-[0-9]*"))), None)
    if java is not None:
        raise ChannelError(
            f"{folder} holds a Java Flume's file channel ({java.name}): drain it first (run that Flume with its sinks "
            "until ChannelSize is 0), then move its log-* files away or name another folder"
        )


def _salvage(path: Path, reason: str, names: Mapping[int, str] | None = None) -> Report:
    from agent.store.salvage import salvage  # only when it is needed: most stores never are

    return salvage(path, reason, names)


def _resume(path: Path) -> None:
    from agent.store.salvage import resume

    resume(path)


class _Disk(NamedTuple):
    """Of a file system, in bytes; `free` for who isn't root."""

    size: int
    free: int


def _disk(folder: Path) -> _Disk:
    stat = os.statvfs(folder)
    return _Disk(stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize)


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _bytes(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 10 << 20 else f"{count >> 10} KiB"


def _nothing(db: Database) -> None:
    """A job that only brings waiting cursors to a commit."""


def _missing(db: Database) -> int:
    """Events that are certainly lost; those that may have been delivered before don't count."""
    return sum(row[3] for row in db.lost() if row[5].startswith("lost:"))


def _over_quota(folder: Path) -> bool:
    """Whether the file system gives this user no page more."""
    try:
        fd = os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    except OSError as error:
        return error.errno in NO_ROOM
    try:
        os.posix_fallocate(fd, 0, RESERVE_STEP)
    except OSError as error:
        return error.errno in NO_ROOM
    finally:
        os.close(fd)
    return False


def _size(request: Request) -> int:
    return sum(len(part.block) for part in request.parts) if isinstance(request, PutRequest) else 0


def _is(error: Exception, code: int) -> bool:
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) == code


def _no_room(folder: Path) -> str:
    return f"the disk of {folder} is full: free some of it"
