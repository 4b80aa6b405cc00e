"""Files that grow by whole batches and get their final name with every event in them once.

    .../_readings.1795586077123.avro.tmp    grows: each batch ends a unit that can stand alone, and is synced
    .../readings.1795586077123.avro         finished

The *receipt* names every file that may still grow or be finished, and how many bytes of each are acknowledged. It is
kept with the channel's place **before a file is made** (none can be there that no receipt knows) and **before one gets
its name** (what is finished is never sent again). A receipt found after a crash may be older than the last write: then
a file holds more than is acknowledged, and what is beyond comes again, into another file.

    made        receipt {f: 0} kept, create f                     crash: f is deleted
    batch       write, sync; receipt {f: n} with the commit       crash: finished with the n bytes that were kept
    finished    receipt {f: n} kept, close, rename                crash: renamed, once

`_settle` ends a file that may hold more (after a crash, a failed or cancelled write: a failed sync may have landed):
its lease is taken over, its good part is copied to a hidden file, then the old file goes, and the hidden one gets the
name. Every step may be repeated. A final name that is there means finished, whatever the receipt says, unless the file
is still there under another name: then it is somebody else's, and the receipt must know a new one first. A writer is
never used again after an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import time
import zlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from logging import Logger
from typing import NamedTuple, TypeVar, TypeVarTuple

from agent import clock
from agent.errors import AgentError, ConfigError, DeliveryError, Rejected
from agent.event import Batch
from aggregator.formats.format import Format
from aggregator.hdfs.filesystem import FileSystem, NameTaken, Writer
from aggregator.hdfs.places import Place
from aggregator.manifest import Added, Manifest

MOST_OPEN = 500
"""Files that grow at once, whatever maxOpenFiles says, and files that wait for their name: a receipt has room."""
RECEIPT_BYTES = 60_000
"""Of a receipt; a channel keeps 64 KiB."""
TICK = 0.5
"""Seconds between two looks for files that are old enough."""
COPY_RATE = 4 << 20
"""Bytes a second that a takeover may be as slow as."""
NAME_BYTES = 249
"""Of a name while the file grows: a file system takes 255, and `.short` may come behind it."""
LONGEST = 400
"""Characters of a path in an error's text."""
COUNTER = re.compile(r"\d{13,}(?!.*\d{13})")
"""Of a final name, without its folder."""

Answer = TypeVar("Answer")
Arguments = TypeVarTuple("Arguments")


class Rules(NamedTuple):
    """When a file is finished (0: not for that): seconds since it was made and last written, bytes of bodies, events;
    how many are open at most; seconds between tries to finish one, and how many tries (0: no end)."""

    interval: float = 30.0
    idle: float = 0.0
    size: int = 1024
    events: int = 10
    most_open: int = MOST_OPEN
    retry: float = 180.0
    tries: int = 0


class Names(NamedTuple):
    """`<in_prefix><prefix>.<counter><suffix><in_suffix>` while it grows."""

    in_prefix: str = ""
    in_suffix: str = ".tmp"
    suffix: str = ""


@dataclass(eq=False)
class File:
    """`length` bytes are acknowledged; `sure`: nothing else is in it."""

    path: str
    final: str
    format: Format | None = None
    writer: Writer | None = None
    length: int = 0
    count: int = 0
    size: int = 0
    sure: bool = True
    abandoned: bool = False
    """The thread that writes it hangs; should it wake up, it must do no more."""
    tries: int = 0
    due: float = 0.0
    failure: str = ""
    """Of what kind its last try's was."""
    since: float = field(default_factory=time.monotonic)
    used: float = field(default_factory=time.monotonic)


@dataclass(eq=False)
class Piece:
    """What one file gets of a batch."""

    file: File
    place: Place
    batch: Batch
    size: int
    data: Sequence[bytes] = ()
    end: int = 0


_last_counter = 0


def next_counter() -> int:
    """Milliseconds since the epoch, never twice in this process."""
    global _last_counter
    _last_counter = max(_last_counter + 1, clock.wall_ms())
    return _last_counter


class Output:
    """`timeout` bounds each turn of the thread that writes. `keep` is the sink's; None: no receipts are kept."""

    def __init__(
        self, files: FileSystem, make: Callable[[], Format], names: Names, rules: Rules, timeout: float,
        keep: Callable[[bytes], Awaitable[None]], manifest: Manifest | None, log: Logger,
    ) -> None:  # fmt: skip
        self.fs, self.make, self.names, self.rules, self.timeout = files, make, names, rules, timeout
        self.keep, self.manifest, self.log = keep, manifest, log
        self.open_files: dict[Place, File] = {}
        self.ending: list[File] = []
        """Taken out of use, not finished yet."""
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="hdfs")
        self.lock, self.wake = asyncio.Lock(), asyncio.Event()
        self.timer: asyncio.Task[None] | None = None
        self.failure = ""

    async def open(self, receipt: bytes | None) -> bytes:
        """Finish what the last run left, what can't be now later; returns the receipt to go on from. ConfigError: it is
        on another file system."""
        place, files = known(receipt, self.log)
        if files and place not in ("", self.fs.name):
            raise ConfigError(
                f"{len(files)} unfinished files are on {place}, and this is {self.fs.name}: run once with the old "
                "place, which finishes them, or drain a channel of a new name, which leaves them as they are"
            )
        self.ending = [File(path, final, length=length) for path, final, length in files]
        await self._finish(last=True)
        self.timer = asyncio.create_task(self._watch(), name="hdfs-roll")
        return self.receipt()

    async def close(self) -> None:
        """Finish every file; what can't be finished now is finished at the next opening."""
        if self.timer:
            self.timer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.timer
            async with self.lock:
                self._end(list(self.open_files))
                await self._finish(last=True)
        self.pool.shutdown(wait=False)

    async def append(self, parts: Sequence[tuple[Place, Batch]]) -> bytes:
        """Write and sync one batch; returns its receipt. Rejected before anything is written: an event can't be, or it
        would take too many files at once (the runner brings half of it)."""
        async with self.lock:
            if len(self.ending) > 2 * MOST_OPEN:
                raise DeliveryError(f"{len(self.ending)} files wait for their names: {self.failure}")
            self._end_due()
            pieces = self._plan(parts)
            await self._run(self._encode, pieces)
            files = {piece.file: piece.place for piece in pieces}
            new = [file for file in files if file.writer is None]
            try:
                if new:
                    names = await self._run(self._names, new, files)
                    for file, (path, final) in zip(new, names, strict=True):
                        file.path, file.final = path, final
                    await self._make_room(new, files)
                    self.ending += new
                    await self.keep(self.receipt())
                for file in files:
                    file.sure = False
                await self._run(self._write, pieces, files=list(files))
            except DeliveryError as error:
                text = without_names(str(error), files)
                self._give_up(files)
                raise type(error)(text) from error
            except BaseException:
                self._give_up(files)
                raise
            self._accept(pieces, new)
            return self.receipt()

    def receipt(self, more: Iterable[File] = ()) -> bytes:
        """What is acknowledged, of every file that isn't finished, and of some that will be made."""
        files = [[file.path, file.final, file.length] for file in (*self.open_files.values(), *self.ending, *more)]
        return zlib.compress(json.dumps({"place": self.fs.name, "files": files}).encode(), 1)

    # A batch, from places to files.

    def _plan(self, parts: Sequence[tuple[Place, Batch]]) -> list[Piece]:
        """Which file gets what: as in Flume, the event that fills rollCount or rollSize is a file's last."""
        pieces: list[Piece] = []
        for place, batch in parts:
            file = self.open_files.get(place)
            for part, size, fresh in self._cuts(batch, file):
                if fresh or file is None or not fits(file, part):
                    file = File("", "", self.make())
                pieces.append(Piece(file, place, part, size))
        if len({piece.file for piece in pieces}) > MOST_OPEN:
            raise Rejected(f"a batch for more than {MOST_OPEN} files")
        return pieces

    def _cuts(self, batch: Batch, file: File | None) -> list[tuple[Batch, int, bool]]:
        """The parts of a batch, a file each, with the bytes of their bodies and whether they need a new file."""
        rules = self.rules
        sizes = [len(body) for body in batch.bodies] if rules.size else [0] * batch.count
        if not rules.size and not rules.events:
            return [(batch, 0, file is None)]
        out: list[tuple[Batch, int, bool]] = []
        count, size = (file.count, file.size) if file else (0, 0)
        start, fresh = 0, file is None
        for index, more in enumerate(sizes):
            if (rules.events and count >= rules.events) or (rules.size and size >= rules.size):
                if index > start:
                    out.append((batch.part(start, index), sum(sizes[start:index]), fresh))
                start, fresh, count, size = index, True, 0, 0
            count, size = count + 1, size + more
        return [*out, (batch.part(start, batch.count), sum(sizes[start:]), fresh)]

    def _encode(self, pieces: list[Piece]) -> None:
        begun: set[File] = {piece.file for piece in pieces if piece.file.writer}
        for piece in pieces:
            form = piece.file.format
            assert form
            head = [] if piece.file in begun else [form.header(piece.batch)]
            begun.add(piece.file)
            piece.data = [*head, *form.encode(piece.batch)]

    def _names(self, new: list[File], places: dict[File, Place]) -> list[tuple[str, str]]:
        """Names that are free, while it grows and then, one pair a file. Rejected: no file can have them."""
        suffixes = (self.names.suffix or (file.format.extension if file.format else "") for file in new)
        return [self._free(places[file], suffix) for file, suffix in zip(new, suffixes, strict=True)]

    def _free(self, place: Place, suffix: str) -> tuple[str, str]:
        while True:
            final = f"{place.prefix}.{next_counter()}{suffix}"
            name = f"{self.names.in_prefix}{final}{self.names.in_suffix}"
            path, final = os.path.join(place.folder, name), os.path.join(place.folder, final)
            if len(name.encode()) > NAME_BYTES:
                raise Rejected(f"{path[:LONGEST]}: the name has more than {NAME_BYTES} bytes")
            if self.fs.length(final) is None and self.fs.length(path) is None:
                return path, final

    async def _make_room(self, new: list[File], files: dict[File, Place]) -> None:
        """A receipt stays as small as a channel takes it: files used longest ago are finished."""
        while len(self.receipt(new)) > RECEIPT_BYTES:
            others = [place for place, file in self.open_files.items() if file not in files]
            self._end(others[: (len(others) + 1) // 2])
            await self._finish()
            if others or len(self.receipt(new)) <= RECEIPT_BYTES:
                continue
            for file in new:
                file.path = ""
            if self.ending:
                raise DeliveryError(f"{len(self.ending)} files wait for their names: {self.failure}")
            raise Rejected(f"a batch for {len(new)} files whose paths are too long")

    def _write(self, pieces: list[Piece]) -> None:
        added: list[Added] = []
        files = list(dict.fromkeys(piece.file for piece in pieces))
        for piece in pieces:
            file = piece.file
            self._check(file)
            if file.writer is None:
                file.writer = self._create(file)
            for data in piece.data:
                if data:
                    file.writer.write(data)
            piece.end = file.length + sum(map(len, piece.data))
            added.append((file.path, file.length, piece.end, piece.batch.identities))
        for file in files:
            self._check(file)
            assert file.writer
            file.writer.sync()
        if self.manifest:
            self.manifest.add(added)

    def _create(self, file: File) -> Writer:
        """Two agents may have chosen one name at the same moment; the file is whose it is."""
        try:
            return self.fs.create(file.path)
        except NameTaken:
            file.path = "" if not file.abandoned else file.path
            raise

    def _check(self, file: File) -> None:
        if file.abandoned:
            raise DeliveryError(f"{file.path} was given up")

    def _give_up(self, files: dict[File, Place]) -> None:
        """Whatever a batch that failed had begun is finished without it."""
        for file, place in files.items():
            if self.open_files.get(place) is file:
                del self.open_files[place]
            if file not in self.ending:
                self.ending.append(file)
        self.ending = [file for file in self.ending if file.path]
        self.wake.set()

    def _accept(self, pieces: list[Piece], new: list[File]) -> None:
        now = time.monotonic()
        self.ending = [file for file in self.ending if file not in new]
        for piece in pieces:
            file = piece.file
            file.length, file.sure, file.used = piece.end, True, now
            file.count, file.size = file.count + piece.batch.count, file.size + piece.size
            before = self.open_files.pop(piece.place, None)
            if before is not None and before is not file:
                self.ending.append(before)
                self.wake.set()
            self.open_files[piece.place] = file
        self._end(list(self.open_files)[: max(0, len(self.open_files) - min(self.rules.most_open, MOST_OPEN))])

    # Which files are finished when.

    def _end_due(self) -> None:
        now, rules = time.monotonic(), self.rules
        self._end(
            place
            for place, file in list(self.open_files.items())
            if (rules.interval and now - file.since >= rules.interval)
            or (rules.idle and now - file.used >= rules.idle)
            or (rules.size and file.size >= rules.size)
            or (rules.events and file.count >= rules.events)
        )

    def _end(self, places: Iterable[Place]) -> None:
        for place in list(places):
            self.ending.append(self.open_files.pop(place))
            self.wake.set()

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK):  # wait_for of Python 3.11 may swallow a cancellation
                    await self.wake.wait()
            self.wake.clear()
            async with self.lock:
                self._end_due()
                await self._finish()

    async def _finish(self, last: bool = False) -> None:
        """Give files that are out of use their names, each for itself: one that fails is tried again later. When
        failures have taken as long as a call may, the others wait for the next round, in which they come first."""
        now, count, lost = time.monotonic(), len(self.ending), 0.0
        due = sorted((file for file in self.ending if last or file.due <= now), key=lambda file: file.due)
        try:
            if due:
                await self.keep(self.receipt())
            for file in due:  # one that needs another name comes again
                begun = time.monotonic()
                try:
                    done = await self._run(self._finish_one, file, files=[file], extra=file.length / COPY_RATE)
                except DeliveryError as error:
                    self._failed(file, error)
                    lost += time.monotonic() - begun
                    if lost >= self.timeout:
                        break
                    continue
                if done:
                    self.ending.remove(file)
                else:
                    await self.keep(self.receipt())
                    due.append(file)
            if len(self.ending) < count:
                await self.keep(self.receipt())
            if not any(file.tries for file in self.ending):
                self.failure = ""
        except AgentError as error:
            before, self.failure = self.failure, str(error)
            if kind(self.failure) != kind(before):
                self.log.warning("files can't be finished and are tried again: %s", error)

    def _failed(self, file: File, error: DeliveryError) -> None:
        if isinstance(error, Rejected) and not file.length:
            self.ending.remove(file)  # no file can have that name, so none is there
            return
        self.failure, why = str(error), kind(str(error), file)
        if all(why != other.failure for other in self.ending):
            self.log.warning("a file can't be finished and is tried again: %s", error)
        file.failure = why
        file.tries += 1
        file.due = time.monotonic() + min(max(self.rules.retry, 1.0), 2.0 ** min(file.tries, 30))
        if self.rules.tries and file.tries >= self.rules.tries and file.length:
            self.log.error("%s stays as it is, with %d good bytes (closeTries)", file.path, file.length)
            self.ending.remove(file)

    def _finish_one(self, file: File) -> bool:
        """Whether it is finished, as `_settle`."""
        writer, file.writer = file.writer, None
        if writer and file.sure and file.length:
            file.sure = False
            writer.close()
            try:
                if file.path != file.final:
                    self.fs.rename(file.path, file.final)
            except DeliveryError:
                if file.abandoned:
                    raise
                return self._settle(file)
            self._note(file)
            return True
        if writer and not file.abandoned:  # one that hangs would hold this thread too
            with contextlib.suppress(AgentError):
                writer.close()
        return self._settle(file)

    def _settle(self, file: File) -> bool:
        """Finish a file that may hold more than its acknowledged bytes; may be done any number of times. False: its
        final name was another's, and it has a new one, which the receipt must know before it is given."""
        copy = os.path.join(os.path.dirname(file.path), f"_{os.path.basename(file.path)}.cut")
        if file.length:
            if not self._take_over(file, copy):
                return False
        else:
            self.fs.delete(file.path)
        self.fs.delete(copy)
        if file.length:
            self._note(file)
        elif self.manifest:
            self.manifest.drop(file.path)
        return True

    def _take_over(self, file: File, copy: str) -> bool:
        path, final, length = file.path, file.final, file.length
        there = self.fs.length(final) if path != final else None
        found = self.fs.recover(path)
        copied = found is None and self.fs.length(copy) == length
        if there is not None and (copied or found is not None):
            file.final = self._another(final)
            self.log.warning("%s is somebody else's file, %s gets the name %s", final, path, file.final)
            return False
        if there is not None:
            if there != length:
                self.log.error("%s has %d bytes, but %d were acknowledged", final, there, length)
        elif copied:
            self.fs.rename(copy, final)
        elif found is None:
            self.log.warning("%s isn't there any more; it had %d acknowledged bytes", path, length)
        elif found < length:
            aside = f"{path}.short"
            self.log.error("%s has %d bytes, but %d were acknowledged; it is %s now", path, found, length, aside)
            self.fs.rename(path, aside)
        elif found == length:
            if path != final:
                self.fs.rename(path, final)
        else:
            self._copy(path, copy, length)
            self.fs.delete(path)
            self.fs.rename(copy, final)
        return True

    def _another(self, final: str) -> str:
        """A final name like this one that is free."""
        folder, name = os.path.split(final)
        while True:
            count = str(next_counter())
            other = COUNTER.sub(count, name) if COUNTER.search(name) else f"{name}.{count}"
            if self.fs.length(found := os.path.join(folder, other)) is None:
                return found

    def _copy(self, path: str, to: str, length: int) -> None:
        self.fs.delete(to)
        writer = self.fs.create(to)
        for piece in self.fs.read(path, length):
            writer.write(piece)
        writer.sync()
        writer.close()

    def _note(self, file: File) -> None:
        if self.manifest:
            self.manifest.cut(file.path, file.length)
            self.manifest.rename(file.path, file.final)
            self.manifest.finish(file.final, file.length)

    async def _run(
        self, work: Callable[[*Arguments], Answer], *args: *Arguments, files: Sequence[File] = (), extra: float = 0.0
    ) -> Answer:
        """In the thread, after whatever was begun there. A turn that takes too long is left alone with its thread."""
        turn = asyncio.get_running_loop().run_in_executor(self.pool, work, *args)
        if not self.fs.fences:
            return await turn
        try:
            async with asyncio.timeout(self.timeout + extra):
                return await asyncio.shield(turn)
        except TimeoutError:
            for file in files:
                file.abandoned, file.sure = True, False
            turn.add_done_callback(lambda done: done.cancelled() or done.exception())
            self.pool.shutdown(wait=False, cancel_futures=True)
            self.pool = ThreadPoolExecutor(1, thread_name_prefix="hdfs")
            which = f" for {files[0].path}" if len(files) == 1 else ""
            raise DeliveryError(f"{self.fs.name} took longer than {self.timeout:g} s{which}") from None


def without_names(text: str, files: Iterable[File]) -> str:
    """An error's text with folders only: each try makes a file of another name, and is no news for that."""
    for file in files:
        if file.path:
            text = text.replace(file.path, os.path.dirname(file.path))
    return text


def kind(text: str, file: File | None = None) -> str:
    """Errors that differ only in numbers, or in the names of the file that they are about, are one."""
    for path in (file.path, file.final) if file else ():
        text = text.replace(os.path.basename(path), "").replace(os.path.dirname(path), "")
    return re.sub(r"\d+", "#", text)


def fits(file: File, batch: Batch) -> bool:
    return file.format is None or file.format.fits(batch)


def known(receipt: bytes | None, log: Logger) -> tuple[str, list[tuple[str, str, int]]]:
    """The file system of a receipt ("" if it doesn't say), and (path, final, acknowledged bytes) of each file; none if
    it isn't one of these."""
    try:
        found = json.loads(zlib.decompress(receipt)) if receipt else {"files": []}
        files = [(str(path), str(final), int(length)) for path, final, length in found["files"]]
        return str(found.get("place", "")), files
    except (zlib.error, ValueError, KeyError, TypeError):
        log.warning("the channel's receipt is not of this sink; files are left as they are")
        return "", []
