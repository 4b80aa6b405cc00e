"""One process a store: a lock file of its own, held by flock, with the holder's pid in it.

Not the database itself: closing any other descriptor of it would drop SQLite's own POSIX locks (SQLite, "How To
Corrupt An SQLite Database File", section 2.2).
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from agent.errors import ChannelError


class StoreLock:
    """Held from construction to `release`. ChannelError, naming the holder's pid, if somebody else has it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise ChannelError(
                f"the store {path.parent} is held by process {holder}: two agents can't share a folder; "
                f"stop that one or give this one a `path` of its own"
            ) from None
        os.truncate(self._fd, 0)
        try:
            os.pwrite(self._fd, b"%d\n" % os.getpid(), 0)
        except OSError as error:
            # The pid is a courtesy to whoever finds the store held: a full disk keeps nobody from draining.
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise

    def release(self) -> None:
        """The file stays: removing it would let two processes lock two different files of one name."""
        os.close(self._fd)
