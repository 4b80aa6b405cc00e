"""The store under the file channels of an agent: one folder, one writer thread, group commit.

**An acknowledgement means that the transaction is on the device.** A put is handed to the writer thread and answered
when its commit has returned. What arrives while a commit is under way joins the next one, so the price of a commit
(one flush, about 8 kB) is shared by whoever waits. Cursors that moved are merged into the next commit of a put, or
written after a second: a repeat after a kill is recognised by its number at the receiver.

This is the event loop's side; the thread is in agent/store/writer.py. Files of the folder: headrace.db (and -wal),
headrace.lock, headrace.reserve (agent/store/space.py), headrace.sock (commands; agent/store/control.py).
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from agent.errors import ChannelError, ChannelFull
from agent.store import commands, control
from agent.store.creation import make_folder
from agent.store.database import Database
from agent.store.lock import StoreLock
from agent.store.orphans import Orphans
from agent.store.queue import ChannelQueue, Segment
from agent.store.recovery import missing
from agent.store.requests import BuryRequest, Kept, PutRequest, Request
from agent.store.schema import Row
from agent.store.states import ChannelState
from agent.store.writer import Job, Options, Writer

log = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0
"""A cursor that moved waits at most this long for a commit to travel with."""

Answer = TypeVar("Answer")


class Store:
    """Shared by the channels of one folder (`acquire`, `release`). Raises ChannelError when it can't go on."""

    _open: ClassVar[dict[Path, Store]] = {}

    def __init__(self, folder: Path, options: Options) -> None:
        self.folder, self.options = folder, options
        self.queues: dict[str, ChannelQueue] = {}
        self.on_rows: dict[str, Callable[[], None]] = {}
        """Called on the loop when a channel has new rows, or the store has failed."""
        self.on_room: dict[str, Callable[[], None]] = {}
        """Called on the loop when fewer bytes are in use than before, where there is a maxBytes."""
        self.failed: ChannelError | None = None
        self.missing = 0
        """Events that salvage could not read, since the file was created."""
        self.users = 0
        self._flush: asyncio.TimerHandle | None = None
        self._chains: dict[bytes, tuple[bytes, int]] = {}
        self._server: asyncio.Server | None = None
        self._watch = Orphans(folder, self.orphans)

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
            self._watch.watch()

    async def _start(self) -> None:
        self._loop = asyncio.get_running_loop()
        make_folder(self.folder)
        self.lock = StoreLock(self.folder / "headrace.lock")
        self.writer = Writer(self.folder / "headrace.db", self.options, self, self._loop)
        try:
            await asyncio.to_thread(self.writer.open)
            self.missing = missing(self.db)
        except BaseException:
            self.lock.release()
            raise
        self._chains = self.db.chains()
        self.writer.start()
        try:
            self._server = await control.serve(self)
        except OSError as error:
            log.warning("the store %s takes no commands while it is open: no socket there: %s", self.folder, error)
        except BaseException:
            await self._stop()
            raise
        self._watch.watch()

    async def _stop(self) -> None:
        if self._server:
            self._server.close()
            (self.folder / control.SOCKET).unlink(missing_ok=True)
        if self._flush:
            self._flush.cancel()
        self._watch.cancel()
        await asyncio.to_thread(self.writer.join)
        self.lock.release()

    # ---- what it holds

    @property
    def db(self) -> Database:
        """Of the writer's thread: look, and touch only in a `call`."""
        return self.writer.db

    @property
    def full(self) -> str:
        """Why puts are refused since SQLite found no room; empty while there is."""
        return self.writer.space.full

    @property
    def used(self) -> int:
        """Bytes of the file's pages in use; counted only where there is a maxBytes."""
        return self.writer.space.used

    @property
    def stalled_seconds(self) -> float:
        """How long the commit under way has taken; 0 while there is none."""
        return self.writer.stalled_seconds

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

    def receipt(self, channel: ChannelQueue) -> bytes | None:
        """The receipt kept with a channel's cursor."""
        return channel.receipt

    def chain(self, segments: list[Segment]) -> tuple[bytes, int] | None:
        """For an audit: the origin before that of these events, and its last number."""
        return self._chains.get(segments[0].row.origin) if segments[0].after == 0 else None

    def orphans(self) -> dict[str, int]:
        """Channels that are not configured: the events that they have yet to deliver."""
        return {c.name: c.inside for c in list(self.db.channels.values()) if c.name not in self.queues and c.inside}

    # ---- what channels ask for

    def put(self, request: PutRequest, decided: Callable[[], None] | None = None) -> asyncio.Future[Kept]:
        """Hand a put to the writer; the future is set once its commit is on the device.

        Cancelling the future calls nothing off; `decided` is called when the put is kept or has failed.
        """
        if self.failed:
            raise self.failed
        reason = self.writer.space.lacks()
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
        self.writer.jobs.put(Job(work, future, then, decided))
        return future

    def moved(self, channel: ChannelQueue, receipt: bytes | None = None) -> None:
        """A channel's place changed: keep it with the next commit, or within a second."""
        if receipt is not None:
            channel.receipt = receipt
        self.writer.moved(channel.id, channel.snapshot(), receipt)
        if self._flush is None and not self.failed:
            self._flush = self._loop.call_later(FLUSH_SECONDS, self._flush_now)

    def _flush_now(self) -> None:
        self._flush = None
        self.writer.jobs.put(Job(_nothing))

    async def flush(self, channel: ChannelQueue) -> bool:
        """Bring what has moved to a commit now; whether the channel's receipt is on the device then."""
        return await self.call(lambda db: channel.id not in self.writer.waiting_receipts)

    async def load(self, channel: ChannelQueue) -> None:
        """Read ahead from the file for a channel that is behind; one call at a time for a channel."""
        after = channel.read_to
        # Rows enter the queue in the writer's order, between the commits before and after.
        await self.call(lambda db: db.read(channel.id, after, 1 << 20), channel.loaded)

    # ---- what the writer tells

    def committed(self, outcome: list[tuple[Job, Any]], rows: list[Row]) -> None:
        self._announce(rows)
        for job, result in outcome:
            self.answered(job, result)

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

    def answered(self, job: Job, answer: Any) -> None:
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

    def salvaged(self, lost: Mapping[str, tuple[int, int]], missing: int) -> None:
        self.missing = missing
        for name, (events, size) in lost.items():
            if name in self.queues:
                self.queues[name].put_events -= events
                self.queues[name].put_bytes -= size

    def freed(self) -> None:
        for wake in list(self.on_room.values()):
            wake()

    def fail(self, error: ChannelError, jobs: list[Job]) -> None:
        self.failed = error
        try:
            while True:
                jobs.append(self.writer.jobs.get_nowait())
        except queue.Empty:
            pass
        for job in jobs:
            self.answered(job, error)
        for wake in list(self.on_rows.values()):
            wake()

    # ---- commands

    async def replay(self, ids: list[int] | None) -> int:
        """Put dead letters (all for None) again, under their old identity; how many."""
        # Who asked may have gone before the answer: the rows are announced nonetheless.
        rows = await asyncio.shield(self.call(lambda db: commands.replay(db, ids), self._announce))
        return len(rows)

    async def forget(self, name: str) -> int:
        """Give up a channel that is no longer configured; how many events it still held. ChannelError otherwise."""
        if name in self.queues:
            raise ChannelError(f"channel {name} is configured: take it out of the configuration first")
        return await self.call(lambda db: commands.forget(db, name))

    async def inspect(self) -> dict[str, Any]:
        """Everything `headrace store` prints, as plain values."""
        seen = await self.call(commands.describe)
        seen["held_by"] = os.getpid()
        seen["full"] = self.full
        for channel in seen["channels"]:
            mine = self.queues.get(channel["name"])
            channel["configured"] = mine is not None
            if mine is not None:
                channel["events"], channel["bytes"] = mine.depth, mine.size
        return seen


def _nothing(db: Database) -> None:
    """A job that only brings waiting cursors to a commit."""
