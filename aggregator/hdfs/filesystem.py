"""FileSystem: the few things that the output files need of a place that holds files (HDFS, a local disk).

Blocking; one thread at a time calls it. Paths are absolute texts with `/`. Whatever goes wrong on the far side is a
DeliveryError whose text says what and where; Rejected where the path itself is impossible (its parts come from events).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from agent.errors import DeliveryError


class NameTaken(DeliveryError):
    """Somebody else's file has that name: it is not ours to delete."""


class Writer(Protocol):
    """A new file that grows. After any error it is not used again: what it wrote last may have landed or not."""

    def write(self, data: bytes) -> None: ...

    def sync(self) -> None:
        """Return when everything written is on the devices and visible to readers."""

    def close(self) -> None:
        """Finish the file."""


class FileSystem(Protocol):
    """Where the files lie. `name` opens the text of errors."""

    name: str
    fences: bool
    """Whether `recover` shuts out a writer that hangs. If not, a call is waited for, however long it takes."""

    def create(self, path: str) -> Writer:
        """A new file, its folders made. NameTaken if there is one of that name."""

    def rename(self, path: str, to: str) -> None:
        """DeliveryError if `to` exists."""

    def delete(self, path: str) -> None:
        """Nothing happens if it isn't there."""

    def length(self, path: str) -> int | None:
        """Bytes of a file, of one that is being written those that are known; None if there is none."""

    def recover(self, path: str) -> int | None:
        """Take the file over from a writer that is gone, or from our own that failed; whoever still writes can't any
        more. Returns its length, which may lie above what was last synced; None if there is no such file."""

    def read(self, path: str, length: int) -> Iterable[bytes]:
        """The first bytes of a finished file, in pieces."""

    def files(self, folder: str) -> list[tuple[str, int]]:
        """Path and length of every file below a folder; none if there is no such folder."""

    def close(self) -> None:
        """Give back what it holds. Writers that are open are left as they are."""
