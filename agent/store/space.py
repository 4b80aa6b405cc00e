"""Room on the disk: when puts are refused, and the reserve that acknowledgements have when there is none.

The reserve is a file as large as the WAL was after any commit (a checkpoint may have to add all of that to the
database), and a part of the disk at least. When SQLite finds no room, puts are refused and the reserve is given up;
cursors go on moving. Puts are taken again when the reserve stands and as much again is free.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import time
from pathlib import Path
from typing import NamedTuple

from agent.store.connection import WAL_BYTES

log = logging.getLogger(__name__)

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
RESERVE_SHARE = 16
"""The reserve is this part of the disk at least (but no more than the WAL usually has), and as large as the WAL is."""
RESERVE_STEP = 1 << 20
SAY_SECONDS = 60.0
"""A disk that is full, has room and is full again is said so often at most."""


class Space:
    """Of one store. `lacks` is asked on the loop, the rest is the writer's."""

    def __init__(self, folder: Path, required: int | None, max_bytes: int, name: str = "headrace") -> None:
        self.folder, self.required, self.max_bytes = folder, required, max_bytes
        self.wal = folder / f"{name}.db-wal"
        self.reserve = folder / f"{name}.reserve"
        self.full = ""
        """Why puts are refused since SQLite found no room; empty while there is."""
        self.used = 0
        """Bytes of the file's pages in use; counted only where there is a maxBytes."""
        self.short = False
        """A put was refused for minimumRequiredSpace since the last rest."""
        self.reserved = 0
        """Bytes of the reserve."""
        self._checked = 0.0
        self._said = 0.0
        self._logged = False

    # ---- whether a put may come

    def lacks(self) -> str:
        """Why a put is refused; empty if it isn't."""
        return self.full or self._below_required()

    def _below_required(self) -> str:
        now = time.monotonic()
        if now - self._checked < 1.0:
            return ""
        disk = _disk(self.folder)
        required = min(500 << 20, disk.size // 20) if self.required is None else self.required
        if disk.free >= required:
            self._checked = now
            return ""
        self.short = True  # and the file gives its free pages back
        return (
            f"less than {_bytes(required)} are free on the disk of {self.folder} (minimumRequiredSpace): "
            "free some, or set that key lower"
        )

    # ---- a full disk

    @property
    def no_room(self) -> str:
        return f"the disk of {self.folder} is full: free some of it"

    def is_full(self, error: Exception) -> bool:
        """Whether SQLite found no room. A quota that is used up is an I/O error to it, without the reason."""
        return sqlite_code(error) == sqlite3.SQLITE_FULL or (
            sqlite_code(error) == sqlite3.SQLITE_IOERR and over_quota(self.folder)
        )

    def say_full(self, reason: str) -> None:
        """Refuse puts from now on."""
        now = time.monotonic()
        if not self.full and (not self._said or now - self._said > SAY_SECONDS):
            self._said, self._logged = now, True
            log.error("%s; draining and acknowledgements go on", reason)
        self.full = reason

    def end_full(self) -> None:
        """Take puts again."""
        self.full = ""
        if self._logged:
            self._logged = False
            log.info("the store %s has room again: taking in", self.folder)

    def ran_out(self, asked: int) -> None:
        """A commit with so many bytes of puts found no room: at maxBytes, or on the disk; then the reserve goes."""
        if self.max_bytes and self.used + 2 * asked > self.max_bytes:
            self.say_full(f"the store {self.folder} holds its maxBytes of {self.max_bytes}")
        else:
            self.say_full(self.no_room)
            self.give_reserve_up()

    def has_room(self) -> bool:
        """Whether the reserve could stand and as much again be free. The WAL lends its room, if that will do: until
        then it keeps what it has, for the acknowledgements."""
        room = _disk(self.folder).free + self.wal_size() + self.reserved
        return room >= 2 * self._floor() and self.used <= self.max_bytes

    # ---- the reserve

    def _floor(self) -> int:
        return min(2 * WAL_BYTES, _disk(self.folder).size // RESERVE_SHARE)

    def wal_size(self) -> int:
        try:
            return self.wal.stat().st_size
        except FileNotFoundError:
            return 0

    def make_reserve(self) -> bool:
        """Build it, or let it grow with the WAL; False, and what there is stays, if the disk has no room."""
        size = max(self._floor(), -(-self.wal_size() // RESERVE_STEP) * RESERVE_STEP)
        try:
            fd = os.open(self.reserve, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, size)
                self.reserved = os.fstat(fd).st_size
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            return False
        return True

    def keep_reserve(self) -> None:
        """As large as the WAL is; the disk counts as full if it has no room for that."""
        if self.reserved < self.wal_size() and not self.full and not self.make_reserve():
            self.say_full(self.no_room)

    def give_reserve_up(self) -> None:
        self.reserved = 0
        if self.reserve.exists():
            os.truncate(self.reserve, 0)


class _Disk(NamedTuple):
    """Of a file system, in bytes; `free` for who isn't root."""

    size: int
    free: int


def _disk(folder: Path) -> _Disk:
    stat = os.statvfs(folder)
    return _Disk(stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize)


def over_quota(folder: Path) -> bool:
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


def sqlite_code(error: Exception) -> int:
    """SQLite's primary result code; 0 if it isn't of SQLite."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _bytes(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 10 << 20 else f"{count >> 10} KiB"
