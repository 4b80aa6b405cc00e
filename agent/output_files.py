"""Files that grow by whole batches and can be cut back to what was acknowledged: exactly once in plain files.

A batch is appended, synced, and only then acknowledged by a *receipt*, which the channel keeps in the transaction that
moves its cursor. After a crash the channel repeats what came after its last receipt, so that must go from the files
first. Three rules make sure that it is found, and that nothing else is ever cut:

* A receipt says `{"series": S, "made": n, "files": {path: length}}`: the files that may still grow, how long they were
  then, and how many files this opening had made.
* The *journal* `.<sink>.journal` names each file before it is made: its first line says the series (a random id drawn
  at each open), each further line is a path, synced before the file exists. So a file with a place of n or above in the
  journal came after the receipt, and is removed; a file in `files` is cut to its length; any other was finished.
* Both are believed only if they speak of one series. The series is changed after cutting back, and the runner keeps
  the new receipt before anything is written. A store restored from a backup, or a lost one, speaks of another series:
  then nothing is cut, and what the channel repeats is in the files twice.

A file is never continued after a restart. Within one opening the same cut undoes an append that failed half-way or
whose batch was put back. Nothing here knows of asyncio: one thread calls it.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from logging import Logger
from pathlib import Path
from typing import NamedTuple

CURRENT_FILES = 4096
"""Folders with a file that may still grow."""
RECEIPT_BYTES = 60_000
"""A channel keeps 64 KiB; the files that were used longest ago are finished so that the others fit."""
JOURNAL_NAMES = 131_072
"""The journal forgets its older half here. An acknowledgement is kept within a second; so many files take minutes."""


@dataclass(slots=True)
class File:
    """One that may still grow: its path below the folder, its acknowledged length, and when it was made."""

    path: str
    length: int
    since: float


class Part(NamedTuple):
    """What a batch adds in one folder: `data` can stand alone; `header` opens a new file."""

    folder: str
    header: bytes
    data: bytes


class Journal:
    """The list of the files made since the last open; each name is on the device before its file."""

    def __init__(self, path: Path) -> None:
        self.path, self.series = path, ""
        self.names: list[str] = []
        self.first = 0
        """The place of names[0]; those before are forgotten."""

    @property
    def made(self) -> int:
        return self.first + len(self.names)

    def read(self) -> None:
        """What the last opening left; nothing if there is none. A line that isn't whole names no file that exists."""
        try:
            head, *names, _ = self.path.read_bytes().split(b"\n")
            about = json.loads(head)
            self.series, self.first = str(about["series"]), int(about["first"])
            self.names = [str(json.loads(name)) for name in names]
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError):
            self.series, self.names = "", []

    def restart(self, series: str) -> None:
        """An empty journal of a new series, in place of the old one in one step."""
        self.series, self.first, self.names = series, 0, []
        self._write()

    def add(self, names: Sequence[str]) -> None:
        """Sync these names; the files may be made afterwards."""
        if len(self.names) > JOURNAL_NAMES:
            self.first += len(self.names) - JOURNAL_NAMES // 2
            self.names = self.names[-JOURNAL_NAMES // 2 :]
            self._write()
        end = self.path.stat().st_size
        try:
            write(self.path, end, b"".join(json.dumps(name).encode() + b"\n" for name in names))
        except OSError:
            os.truncate(self.path, end)
            raise
        self.names += names

    def _write(self) -> None:
        lines = [{"series": self.series, "first": self.first}, *self.names]
        new = self.path.with_name(self.path.name + ".new")
        new.unlink(missing_ok=True)
        os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        write(new, 0, b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        new.replace(self.path)
        sync_folder(self.path.parent)


class OutputFiles:
    """The files below `root`; `name(n)` names the nth. `journal` is None where no receipts are kept."""

    def __init__(
        self, root: Path, name: Callable[[int], str], journal: str | None, interval: float, sync: bool, log: Logger
    ) -> None:
        self.root, self.name, self.interval, self.sync, self.log = root, name, interval, sync, log
        self.journal = Journal(root / journal) if journal else None
        self.current: dict[str, File] = {}
        """Folder -> the file that grows there, the one used last at the end."""
        self.count = 0
        self._pending: list[tuple[File, int]] = []
        """What the last append touched, and the lengths that `confirm` makes true."""

    def open(self, receipt: bytes | None) -> bytes | None:
        """Cut back to a receipt; returns the first receipt of this opening, to be kept before the first append."""
        make_folder(self.root)
        if self.journal is None:
            return None
        self.journal.read()
        if receipt is not None:
            self._cut_back(receipt, self.journal)
        self.journal.restart(os.urandom(16).hex())
        return self._receipt()

    def append(self, parts: Sequence[Part]) -> bytes | None:
        """Write and sync a batch, one part a folder; returns its receipt. Nothing counts before `confirm`."""
        self.settle()
        now = time.monotonic()
        if self.interval:
            self.current = {k: f for k, f in self.current.items() if now - f.since < self.interval}
        new: list[File] = []
        writes: list[tuple[File, bytes]] = []
        for folder, header, data in parts:
            file = self.current.pop(folder, None)
            if file is None or not self._is_whole(file):
                file = File(self._free_path(folder), 0, now)
                new.append(file)
            self.current[folder] = file
            writes.append((file, data if file.length else header + data))
        self._pending = [(file, file.length + len(data)) for file, data in writes]
        if new:
            self._make(new)
        for file, data in writes:
            write(self.root / file.path, file.length, data, self.sync)
        return self._receipt()

    def confirm(self) -> None:
        """The batch of the last append was accepted."""
        for file, length in self._pending:
            file.length = length
        self._pending = []

    def settle(self) -> None:
        """Cut what was appended and never confirmed."""
        for file, _ in self._pending:
            if file.length:
                self._cut(file.path, file.length)
            else:
                remove(self.root / file.path)
        gone = [file for file, _ in self._pending if not file.length]
        self.current = {folder: file for folder, file in self.current.items() if file not in gone}
        self._pending = []

    def _is_whole(self, file: File) -> bool:
        """Whether it is still there and as long as it was; somebody may have moved or emptied it."""
        try:
            if (self.root / file.path).stat().st_size >= file.length:
                return True
            self.log.error("%s is shorter than the %d bytes that were acknowledged", file.path, file.length)
        except FileNotFoundError:
            self.log.warning("%s was moved away; going on in a new file", file.path)
        return False

    def _free_path(self, folder: str) -> str:
        while True:
            self.count += 1
            path = os.path.join(folder, self.name(self.count))
            if not os.path.lexists(self.root / path):
                return path

    def _make(self, files: Sequence[File]) -> None:
        folders = {(self.root / file.path).parent for file in files}
        for folder in folders:
            make_folder(folder)
        if self.journal:
            self.journal.add([file.path for file in files])
        for file in files:
            os.close(os.open(self.root / file.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        for folder in folders if self.sync else ():
            sync_folder(folder)

    def _receipt(self) -> bytes | None:
        """What is true once the last append is confirmed; leaves out, and so finishes, the files used longest ago."""
        while len(self.current) > CURRENT_FILES:
            del self.current[next(iter(self.current))]
        if self.journal is None:
            return None
        lengths = {file.path: length for file, length in self._pending}
        while True:
            files = {file.path: lengths.get(file.path, file.length) for file in self.current.values()}
            text = json.dumps({"series": self.journal.series, "made": self.journal.made, "files": files}).encode()
            if len(text) <= RECEIPT_BYTES:
                return text
            self.current = dict(list(self.current.items())[len(self.current) // 8 + 1 :])

    def _cut_back(self, receipt: bytes, journal: Journal) -> None:
        try:
            about = json.loads(receipt)
            series, made, files = str(about["series"]), int(about["made"]), dict(about["files"])
        except (ValueError, KeyError, TypeError):
            self.log.warning("the channel's receipt is not of this sink; files are left as they are")
            return
        if series != journal.series:
            self.log.warning("%s: files and channel are not of one run; what it repeats is there twice", self.root)
            return
        if made < journal.first:
            self.log.error(
                "%s has forgotten %d files; some may hold repeated events", journal.path, journal.first - made
            )
        for path in journal.names[max(0, made - journal.first) :]:
            remove(self.root / path)
            if (self.root / path).parent.is_dir():
                sync_folder((self.root / path).parent)
        for path, length in files.items():
            self._cut(path, length)

    def _cut(self, path: str, length: int) -> None:
        try:
            size = (self.root / path).stat().st_size
        except FileNotFoundError:
            self.log.warning("%s was moved away; what came after %d bytes there is repeated", path, length)
            return
        if size < length:
            self.log.error("%s has %d bytes, but %d were acknowledged", path, size, length)
        elif size > length:
            write(self.root / path, length, b"")


def write(path: Path, at: int, data: bytes, sync: bool = True) -> None:
    """Make a file hold `data` from `at` to its end."""
    file = os.open(path, os.O_WRONLY)
    try:
        if os.fstat(file).st_size > at:
            os.ftruncate(file, at)
        left = memoryview(data)
        while left:
            done = os.pwrite(file, left, at)
            at, left = at + done, left[done:]
        if sync:
            os.fdatasync(file)
    finally:
        os.close(file)


def remove(path: Path) -> None:
    """Remove a file that may never have been made, for want of a folder or because its name is impossible."""
    try:
        path.unlink()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            raise


def make_folder(folder: Path) -> None:
    """The folder and those above it, 0700, synced."""
    missing = [one for one in (folder, *folder.parents) if not one.is_dir()]
    for one in reversed(missing):
        one.mkdir(mode=0o700, exist_ok=True)
        sync_folder(one.parent)


def sync_folder(folder: Path) -> None:
    """A file that was made or removed there stays so after a power cut."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
