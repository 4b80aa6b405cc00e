"""The files of a table: each grows under a hidden name, and gets its own when it is finished, with every row once.

    .../day=2026-11-25/_1795586077123-9f3a-1.avro.tmp   grows: a block a batch, synced before the batch is acknowledged
    .../day=2026-11-25/1795586077123-9f3a-1.avro        finished

The receipt says which files grow and how many bytes of each are acknowledged. It is kept with the channel's place
**before a file is made** (so that none can be there that no receipt knows) and **before one gets its name** (so that
what is finished is never sent again). After a crash, or a write that failed, a file may hold more than was
acknowledged: its good part is finished, under its own name, and the rest is left behind.

    made        receipt {f: 0}, create f                          crash: f is deleted
    batch       write, sync, receipt {f: n} with the commit       crash: what is beyond the last kept n is sent again
    finished    receipt {f: n} kept, close, rename, receipt {}    crash: renamed, once

A file whose final name is there is finished, whatever the receipt says: only the last step makes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from logging import Logger
from typing import NamedTuple, TypeVar, TypeVarTuple
from urllib.parse import urlsplit

from agent import clock
from agent.errors import AgentError, DeliveryError, Rejected
from agent.event import Batch
from aggregator.hdfs.filesystem import FileSystem, Writer
from aggregator.hdfs.local import LocalFileSystem
from aggregator.hdfs.native import HdfsFileSystem
from aggregator.manifest import Manifest
from aggregator.metastore.rows import Rows

MOST_OPEN = 100
"""Files that grow at once; the one unused for longest is finished. A receipt has room for them."""
TICK = 0.5
"""Seconds between two looks for files that are old enough."""

Answer = TypeVar("Answer")
Arguments = TypeVarTuple("Arguments")


class Rules(NamedTuple):
    """When a file is finished; 0: not for that. Ages in seconds, `size` in bytes."""

    interval: float
    idle: float
    size: int
    rows: int


@dataclass
class File:
    """`length` bytes are acknowledged; `sure`: nothing else is in it."""

    path: str
    rows: Rows
    writer: Writer | None = None
    length: int = 0
    count: int = 0
    sure: bool = True
    since: float = field(default_factory=time.monotonic)
    used: float = field(default_factory=time.monotonic)


class TableFiles:
    """Below the folder `root`; `timeout` bounds each turn of the thread that writes. `keep` is the sink's."""

    def __init__(
        self, files: FileSystem, root: str, make: Callable[[], Rows], rules: Rules, timeout: float,
        keep: Callable[[bytes], Awaitable[None]], manifest: Manifest | None, log: Logger,
    ) -> None:  # fmt: skip
        self.fs, self.root, self.make, self.rules, self.timeout = files, root, make, rules, timeout
        self.keep, self.manifest, self.log = keep, manifest, log
        self.open_files: dict[str, File] = {}
        """Folder -> the file that grows there."""
        self.ending: list[File] = []
        """Taken out of use, not finished yet."""
        self.series, self.made = f"{clock.wall_ms()}-{os.urandom(4).hex()}", 0
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="table-files")
        self.lock = asyncio.Lock()
        self.timer: asyncio.Task[None] | None = None
        self.failure = ""

    async def open(self, receipt: bytes | None) -> bytes:
        """Finish what the last run left; returns the receipt to go on from."""
        for path, length in self._known(receipt).items():
            await self._run(self._settle, path, length)
        self.timer = asyncio.create_task(self._watch(), name="table-files")
        return self._receipt()

    async def close(self) -> None:
        """Finish every file; what can't be finished now is finished at the next opening."""
        if self.timer:
            self.timer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.timer
        async with self.lock:
            try:
                self._end(list(self.open_files))
                await self._finish()
            except AgentError as error:
                self.log.warning("a file is finished at the next start: %s", error)
        self.pool.shutdown(wait=False)

    async def append(self, parts: Sequence[tuple[str, Batch]]) -> bytes:
        """Write and sync one batch, a part a folder; returns its receipt. Rejected before anything was written: a row
        can't be, or there are more folders than files may be open (so the runner brings half of it)."""
        if len(parts) > MOST_OPEN:
            raise Rejected(f"a batch of more than {MOST_OPEN} partitions")
        async with self.lock:
            self._end_due(len(parts))
            await self._finish()
            found = {folder: self.open_files.get(folder) or self._new(folder) for folder, _ in parts}
            blocks = await self._run(lambda: [b"".join(found[folder].rows.encode(part)) for folder, part in parts])
            if any(file.writer is None for file in found.values()):
                self.open_files |= found
                await self.keep(self._receipt())
            work = [(found[folder], part, block) for (folder, part), block in zip(parts, blocks, strict=True)]
            for file in found.values():
                file.sure = False
            lengths = await self._run(self._write, work)
            for (file, part, _), length in zip(work, lengths, strict=True):
                file.length, file.count, file.used, file.sure = length, file.count + part.count, time.monotonic(), True
            return self._receipt()

    # Which files are finished when.

    def _end_due(self, room: int) -> None:
        """Take out of use what is old, large or unused enough, or may hold what it should not."""
        now, rules = time.monotonic(), self.rules
        self._end(
            folder
            for folder, file in self.open_files.items()
            if not file.sure
            or (rules.interval and now - file.since >= rules.interval)
            or (rules.idle and now - file.used >= rules.idle)
            or (rules.size and file.length >= rules.size)
            or (rules.rows and file.count >= rules.rows)
        )
        by_use = sorted(self.open_files, key=lambda folder: self.open_files[folder].used)
        self._end(by_use[: max(0, len(by_use) + room - MOST_OPEN)])

    def _end(self, folders: Iterable[str]) -> None:
        self.ending += [self.open_files.pop(folder) for folder in list(folders)]

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            async with self.lock:
                self._end_due(0)
                try:
                    await self._finish()
                    self.failure = ""
                except AgentError as error:
                    if str(error) != self.failure:
                        self.failure = str(error)
                        self.log.warning("a file can't be finished and is tried again: %s", error)

    async def _finish(self) -> None:
        """Give every file that is out of use its name. DeliveryError: it stays to be tried again."""
        if not self.ending:
            return
        await self.keep(self._receipt())
        while self.ending:
            await self._run(self._finish_one, self.ending[0])
            self.ending.pop(0)

    # In the thread.

    async def _run(self, work: Callable[[*Arguments], Answer], *args: *Arguments) -> Answer:
        """Whatever was begun in the thread ends first; a turn that takes too long is left alone with its thread."""
        turn = asyncio.get_running_loop().run_in_executor(self.pool, work, *args)
        if not self.fs.fences:
            return await turn  # whoever hangs could write into a file after it was finished
        try:
            return await asyncio.wait_for(asyncio.shield(turn), self.timeout)
        except TimeoutError:
            turn.add_done_callback(lambda done: done.cancelled() or done.exception())
            self.pool.shutdown(wait=False, cancel_futures=True)
            self.pool = ThreadPoolExecutor(1, thread_name_prefix="table-files")
            raise DeliveryError(f"{self.fs.name} took longer than {self.timeout:g} s") from None

    def _write(self, work: Sequence[tuple[File, Batch, bytes]]) -> list[int]:
        """Each file's length with its block."""
        lengths, added = [], []
        for file, part, block in work:
            if file.writer is None:
                file.writer = self.fs.create(file.path)
            data = block if file.length else file.rows.header() + block
            file.writer.write(data)
            lengths.append(file.length + len(data))
            added.append((file.path, file.length, lengths[-1], part.identities))
        for file, _, _ in work:
            assert file.writer
            file.writer.sync()
        if self.manifest:
            self.manifest.add(added)
        return lengths

    def _finish_one(self, file: File) -> None:
        writer, file.writer = file.writer, None
        if writer and file.sure and file.length:
            file.sure = False
            writer.close()
            self.fs.rename(file.path, final_of(file.path))
            self._note(file.path, file.length)
            return
        if writer:
            with contextlib.suppress(AgentError):
                writer.close()
        self._settle(file.path, file.length)

    def _settle(self, path: str, length: int) -> None:
        """Finish a file that may hold more than its acknowledged bytes; may be done any number of times."""
        final, copy = final_of(path), f"{path}.cut"
        if self.fs.length(final) is None and length:
            found = self.fs.recover(path)
            if found is None or found < length:
                self.log.error("%s has %s bytes, but %d were acknowledged", path, found or "no", length)
                return
            if found == length:
                self.fs.rename(path, final)
            else:
                self._copy(path, copy, length)
                self.fs.rename(copy, final)
        elif not length:
            self.fs.recover(path)
        self.fs.delete(path)
        self.fs.delete(copy)
        if length:
            self._note(path, length)
        elif self.manifest:
            self.manifest.drop(path)

    def _copy(self, path: str, to: str, length: int) -> None:
        self.fs.delete(to)
        writer = self.fs.create(to)
        for piece in self.fs.read(path, length):
            writer.write(piece)
        writer.sync()
        writer.close()

    def _note(self, path: str, length: int) -> None:
        if self.manifest:
            self.manifest.cut(path, length)
            self.manifest.rename(path, final_of(path))
            self.manifest.finish(final_of(path), length)

    # Names.

    def _new(self, folder: str) -> File:
        self.made += 1
        return File(os.path.join(self.root, folder, f"_{self.series}-{self.made}.avro.tmp"), self.make())

    def _receipt(self) -> bytes:
        lengths = {file.path: file.length for file in (*self.open_files.values(), *self.ending)}
        return json.dumps({"files": lengths}, ensure_ascii=False).encode()

    def _known(self, receipt: bytes | None) -> dict[str, int]:
        try:
            return {str(path): int(length) for path, length in json.loads(receipt)["files"].items()} if receipt else {}
        except (ValueError, KeyError, TypeError, AttributeError):
            self.log.warning("the channel's receipt is not of this sink; files are left as they are")
            return {}


def final_of(path: str) -> str:
    """The name that a growing file gets."""
    folder, name = os.path.split(path)
    return os.path.join(folder, name.removeprefix("_").removesuffix(".tmp"))


def file_system(location: str) -> tuple[FileSystem, str]:
    """Where a table's files lie, and the folder there: `file:/a`, `file:///a` or `hdfs://host:port/a`. DeliveryError if
    it is another kind of place."""
    scheme, _, rest = location.partition(":")
    if scheme == "file":
        return LocalFileSystem(), "/" + rest.lstrip("/")
    parts = urlsplit(location)
    if scheme == "hdfs" and parts.netloc:
        return HdfsFileSystem(f"hdfs://{parts.netloc}"), location.split(parts.netloc, 1)[1]
    raise DeliveryError(f"the table lies in {location}; there are hdfs:// and file://")
