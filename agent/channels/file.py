"""The file channel: events survive a power cut (agent/store/store.py; docs/storage.md).

All file channels of an agent that name no place share one store; so do those with one `path`. A batch that goes to
several of them is stored once.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from agent import clock
from agent.channel import Channel, Put, SourceMarks, Take
from agent.config.fields import Bytes, Config, Seconds, key
from agent.errors import ChannelError, ChannelFull, DeliveryError
from agent.event import Batch, Event
from agent.source import DeadLetter, Kept
from agent.store.queue import ChannelQueue, Segment
from agent.store.requests import BuryRequest, Letter, Part, PutRequest
from agent.store.requests import Kept as Stored
from agent.store.store import Store
from agent.store.writer import Options

NO_BYTES = Bytes(0)


class FileChannelConfig(Config):
    """Flume's keys, and ours: path, maxBytes, synchronous, deadLetter.maxBytes."""

    IGNORED: ClassVar[dict[str, str]] = {
        "maxFileSize": "the store is one file",
        "checkpointInterval": "there are no checkpoints to take",
        "useDualCheckpoints": "there are no checkpoints to lose",
        "backupCheckpointDir": "there are no checkpoints to lose",
        "compressBackupCheckpoint": "there are no checkpoints",
        "use-log-replay-v1": "there is no log to replay",
        "use-fast-replay": "there is no log to replay",
        "checkpointOnClose": "the store is always consistent",
        "fsyncInterval": "every commit is synced",
    }
    REFUSED: ClassVar[dict[str, str]] = {
        "encryption.activeKey": "encryption at rest is not there yet: encrypt the disk",
        "encryption.keyProvider": "encryption at rest is not there yet: encrypt the disk",
        "encryption.cipherProvider": "encryption at rest is not there yet: encrypt the disk",
    }

    path: str = key("path", "", doc="folder of the store; `~/.headrace/<agent>` if neither this nor dataDirs is given")
    checkpointDir: str = key("checkpointDir", "", doc="accepted for Flume's sake; dataDirs says where the store lies")
    dataDirs: list[str] = key("dataDirs", [], split=",", doc="the first one is the folder of the store")
    capacity: int = key("capacity", 1_000_000, low=1, doc="most events inside")
    transactionCapacity: int = key("transactionCapacity", 10_000, low=1, doc="most events of one put or take")
    keepAlive: Seconds = key("keep-alive", Seconds(3.0), unit="s", low=0, doc="how long a put waits for room")
    minimumRequiredSpace: Bytes = key(
        "minimumRequiredSpace", Bytes(-1), doc="below this much free disk puts are refused; "
        "524288000 where Flume's folders are named, else the lesser of 500 MB and 5 % of the disk",
    )  # fmt: skip
    maxBytes: Bytes = key("maxBytes", NO_BYTES, low=0, doc="most bytes of the store's file in use; 0 for no limit")
    synchronous: str = key(
        "synchronous", "FULL", choices=("FULL", "NORMAL"), doc="NORMAL may lose acknowledged events in a power cut"
    )
    letterBytes: Bytes = key(
        "deadLetter.maxBytes", Bytes(64 << 20), low=0, doc="most bytes of dead letters in the store"
    )

    def problems(self) -> list[tuple[str, str]]:
        if self.path and (self.dataDirs or self.checkpointDir):
            return [("path", "takes the place of dataDirs and checkpointDir: give one or the other")]
        if self.transactionCapacity > self.capacity:
            return [("transactionCapacity", f"is above capacity ({self.capacity})")]
        return []


class FileTake(Take):
    """Segments of a channel's queue, as one batch."""

    def __init__(self, channel: FileChannel, segments: list[Segment]) -> None:
        self.channel, self.segments = channel, segments
        self.batch = channel.batch(segments)
        self._open = True

    def commit(self, receipt: bytes | None = None) -> None:
        if self._open:
            self._open = False
            self.channel.finished(self.segments, receipt)

    def rollback(self) -> None:
        if self._open:
            self._open = False
            self.channel.returned(self.segments)

    async def bury(self, reason: str) -> None:
        # Not cancelled with who waits for it: what was handed to the writer is kept, and must not go back as well.
        self._open = False
        task = asyncio.ensure_future(self._bury(reason))
        self.channel.burying.add(task)
        task.add_done_callback(self.channel.burying.discard)
        await asyncio.shield(task)

    async def _bury(self, reason: str) -> None:
        try:
            await self.channel.bury_taken(self.segments, self.batch, reason)
        except BaseException:
            self.channel.returned(self.segments)
            raise


class FileChannel(Channel):
    """put returns after the commit is on the device; the cursor moves when the far side has accepted."""

    Config = FileChannelConfig
    durable: ClassVar[bool] = True
    config: FileChannelConfig
    _loading: asyncio.Task[None] | None = None
    _waiting = 0
    agent: str = "agent"
    """The agent's name, for the default folder."""

    async def open(self) -> None:
        config = self.config
        space = None if config.minimumRequiredSpace < 0 else int(config.minimumRequiredSpace)
        if space is None and (config.dataDirs or config.checkpointDir):
            space = 524_288_000
        options = Options(config.synchronous, config.maxBytes, space, config.letterBytes)
        if config.synchronous == "NORMAL":
            self.log.warning("synchronous = NORMAL: a power cut may lose events that were acknowledged")
        self.store = await Store.acquire(self.folder, options)
        self.queue: ChannelQueue = await self.store.queue(self.name)
        self._reserved = 0
        self.burying: set[asyncio.Task[None]] = set()
        """Takes that become dead letters, whoever waits for that or not."""
        self._data: set[asyncio.Future[None]] = set()
        self._room: set[asyncio.Future[None]] = set()
        self._line = asyncio.Lock()
        self.store.on_rows[self.name] = self._wake
        self.store.on_room[self.name] = lambda: _set_all(self._room)
        self._gauges()

    @property
    def folder(self) -> Path:
        """Where the store lies."""
        config = self.config
        place = config.path or (config.dataDirs and config.dataDirs[0]) or config.checkpointDir
        return Path(os.path.abspath(os.path.expanduser(place or f"~/.headrace/{self.agent}")))

    @property
    def home(self) -> object:
        return self.store

    def _gauges(self) -> None:
        capacity = self.config.capacity
        self.counter.gauges.update(
            ChannelSize=lambda: self.queue.depth,
            ChannelCapacity=lambda: capacity,
            ChannelFillPercentage=lambda: 100.0 * self.queue.depth / capacity,
            bytes=lambda: self.queue.size,
            oldest_seconds=self._oldest,
            salvage_missing=lambda: self.store.missing,
            orphan_events=self._orphans,
            stalled_seconds=lambda: self.store.stalled_seconds,
        )

    def _orphans(self) -> int:
        """Of the whole store, at its first channel."""
        return sum(self.store.orphans().values()) if next(iter(self.store.queues), "") == self.name else 0

    def _oldest(self) -> float:
        row = self.queue.oldest()
        if row is None:
            return 0.0
        # Boot time doesn't jump; it means something only within this opening.
        if row.origin == self.store.db.origin:
            return (clock.boot_ns() - row.boot_ns) / 1e9
        return max(0.0, (clock.wall_ms() - row.wall_ms) / 1000)

    async def close(self) -> None:
        if not hasattr(self, "store"):
            return
        if self._loading:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        if hasattr(self, "burying"):
            await asyncio.gather(*self.burying, return_exceptions=True)
        self.store.on_rows.pop(self.name, None)
        self.store.on_room.pop(self.name, None)
        self.store.queues.pop(self.name, None)
        await self.store.release()
        del self.store

    # ---- putting

    async def put_all(self, puts: Sequence[Put], marks: SourceMarks | None = None) -> Kept:
        parts: list[Part] = []
        reserved: list[tuple[FileChannel, int]] = []
        deadline = asyncio.get_running_loop().time() + self.config.keepAlive
        try:
            for put in puts:
                channels = [c for c in put.channels if isinstance(c, FileChannel)]
                for channel in channels:
                    await channel._reserve(put.batch, deadline)
                    reserved.append((channel, put.batch.count))
                for extra in put.optional:
                    if isinstance(extra, FileChannel) and extra._reserve_optional(put.batch):
                        reserved.append((extra, put.batch.count))
                        channels.append(extra)
                if channels:
                    mask = sum({1 << channel.queue.id for channel in channels})
                    parts.append(Part(mask, put.batch.block, put.batch.count, put.batch.transit, put.batch.identity))
            source, values = marks if marks else ("", None)
            # Once the writer has it, whoever waits may go: the room is given back when it is decided.
            future = self.store.put(PutRequest(parts, source, values), lambda: _release(reserved))
        except BaseException:
            _release(reserved)
            raise
        stored, repeats = await self._decided(future)
        for channel, count in reserved:
            channel.counter.EventPutSuccessCount += count
        return Kept(stored, repeats)

    async def _decided(self, future: asyncio.Future[Stored]) -> Stored:
        """Who is cancelled waits until it is decided nonetheless: a source that starts anew asks for its marks."""
        try:
            return await future
        except asyncio.CancelledError:
            if not self.store.failed:
                await self.store.call(lambda db: None)
            raise

    async def _reserve(self, batch: Batch, deadline: float) -> None:
        count = batch.count
        self.counter.EventPutAttemptCount += count
        if count > self.config.transactionCapacity:
            raise ChannelFull(
                f"a batch of {count} events is above transactionCapacity ({self.config.transactionCapacity}) "
                f"of channel {self.name}: raise that key or send smaller batches"
            )
        if self._waiting or self._lacks(batch):
            self._waiting += 1
            try:
                await self._await_room(batch, deadline)
            finally:
                self._waiting -= 1
        self._reserved += count

    async def _await_room(self, batch: Batch, deadline: float) -> None:
        """Puts that wait stand in line: a smaller or later one must not overtake."""
        try:
            async with asyncio.timeout_at(deadline), self._line:
                while self._lacks(batch):
                    await self._wait(self._room)
        except TimeoutError:
            why = self._lacks(batch) or f"puts before this one wait for room in channel {self.name}"
            raise ChannelFull(why) from None

    def _reserve_optional(self, batch: Batch) -> bool:
        self.counter.EventPutAttemptCount += batch.count
        if batch.count > self.config.transactionCapacity or self._lacks(batch):
            self.counter.dropped += batch.count
            return False
        self._reserved += batch.count
        return True

    def _lacks(self, batch: Batch) -> str:
        """Why there is no room for it now; empty if there is."""
        config = self.config
        if self.queue.depth + self._reserved + batch.count > config.capacity:
            return f"channel {self.name} holds its capacity of {config.capacity} events"
        if config.maxBytes:
            # Pages, not only events: small rows leave much of a page empty.
            inside = max(self.store.used, *(q.size for q in self.store.queues.values()))
            if inside + batch.size > config.maxBytes:
                return f"the store {self.store.folder} holds its maxBytes of {config.maxBytes}"
        return ""

    # ---- taking

    async def take(self, limit: int, max_bytes: int = 1 << 20) -> Take:
        limit = min(limit, self.config.transactionCapacity)
        while True:
            if self.store.failed:
                raise ChannelError(str(self.store.failed))
            segments = self.queue.gather(limit, max_bytes)
            if segments:
                self._read_ahead()
                self.counter.EventTakeAttemptCount += sum(segment.events for segment in segments)
                return FileTake(self, segments)
            self.counter.EventTakeAttemptCount += 1
            if self.queue.behind:
                await self._load()
            else:
                await self._wait(self._data)

    def _read_ahead(self) -> None:
        """Have the next rows ready before they are asked for."""
        if self.queue.behind and self.queue.ready_bytes < 1 << 20 and self._loading is None:
            self._start_loading()

    def _start_loading(self) -> asyncio.Task[None]:
        self._loading = asyncio.ensure_future(self.store.load(self.queue))
        self._loading.add_done_callback(self._loaded)
        return self._loading

    async def _load(self) -> None:
        # A task that is done, but whose callback has yet to run, has nothing to wait for: the loop would never turn.
        loading = self._loading
        await asyncio.shield(self._start_loading() if loading is None or loading.done() else loading)

    def _loaded(self, task: asyncio.Task[None]) -> None:
        if self._loading is task:
            self._loading = None
        if not task.cancelled() and task.exception():
            self.log.error("can't read the store: %s", task.exception())
        self._wake()

    def batch(self, segments: list[Segment]) -> Batch:
        """The batch of these segments, with its labels."""
        block = segments[0].block if len(segments) == 1 else b"".join(segment.block for segment in segments)
        identity = None
        if any(segment.row.identity is not None for segment in segments):
            identity = tuple(run for segment in segments for run in segment.identities())
        transit = self.queue.transit(segments, self.store.chain(segments))
        return Batch(None, block, transit.count, transit, identity)

    def finished(self, segments: list[Segment], receipt: bytes | None) -> None:
        """The far side has these."""
        self.counter.EventTakeSuccessCount += sum(segment.events for segment in segments)
        self.queue.finish(segments)
        self.store.moved(self.queue, receipt)
        _set_all(self._room)

    def returned(self, segments: list[Segment]) -> None:
        """These go back."""
        self.counter.rolled_back += sum(segment.events for segment in segments)
        self.queue.give_back(segments)
        self._wake()

    # ---- dead letters, marks, receipts

    async def bury_taken(self, segments: list[Segment], batch: Batch, reason: str) -> None:
        """Into the dead letters and step over, in one transaction."""
        now, letters = clock.wall_ms(), []
        ids = [
            (run.origin, run.first + i)
            for segment in segments
            for run in segment.identities()
            for i in range(run.count)
        ]
        for index, (origin, number) in enumerate(ids):
            block = batch.part(index, index + 1).block
            letters.append(Letter(self.name, "", origin, number, now, reason[:1000], block))
        over = self.queue.id, [(segment.first, segment.last) for segment in segments]
        await asyncio.shield(self.store.bury(BuryRequest(letters, over=over)))
        self.counter.dead_letters += len(letters)
        self.queue.finish(segments)
        self.store.moved(self.queue)

    async def bury(self, letters: list[DeadLetter], marks: SourceMarks | None = None) -> None:
        source, values = marks if marks else ("", None)
        now = clock.wall_ms()
        rows = [
            Letter(
                self.name, source, None, 0, now, letter.reason[:1000], Batch([Event(letter.headers, letter.body)]).block
            )
            for letter in letters
        ]
        await self._decided(self.store.bury(BuryRequest(rows, source, values)))
        self.counter.dead_letters += len(rows)

    def marks(self, source: str) -> Mapping[str, bytes]:
        return dict(self.store.marks.get(source, {}))

    def receipt(self) -> bytes | None:
        return self.store.receipt(self.queue)

    async def keep_receipt(self, receipt: bytes) -> None:
        self.store.moved(self.queue, receipt)
        if not await self.store.flush(self.queue):
            raise DeliveryError(f"the store {self.store.folder} has no room: {self.store.full}")

    @property
    def depth(self) -> int:
        return self.queue.depth

    # ---- waiting

    async def _wait(self, waiters: set[asyncio.Future[None]]) -> None:
        future = asyncio.get_running_loop().create_future()
        waiters.add(future)
        try:
            await future
        finally:
            waiters.discard(future)

    def _wake(self) -> None:
        _set_all(self._data)


def _set_all(waiters: set[asyncio.Future[None]]) -> None:
    for future in waiters:
        if not future.done():
            future.set_result(None)


def _release(reserved: list[tuple[FileChannel, int]]) -> None:
    for channel, count in reserved:
        channel._reserved -= count
        _set_all(channel._room)
