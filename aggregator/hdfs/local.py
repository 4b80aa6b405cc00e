"""A local disk (or anything mounted) as a FileSystem: `file:///folder`, no Hadoop anywhere."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.errors import DeliveryError, Rejected
from agent.output_files import make_folder, sync_folder
from aggregator.hdfs.filesystem import NameTaken

OF_THE_PATH = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)
"""Errors that a part of a path, made from an event's header, is at fault for."""
PIECE = 1 << 20


class LocalWriter:
    def __init__(self, path: str) -> None:
        self.path = path
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)

    def write(self, data: bytes) -> None:
        left = memoryview(data)
        with _translated(self.path):
            while left:
                left = left[os.write(self.file, left) :]

    def sync(self) -> None:
        with _translated(self.path):
            os.fdatasync(self.file)

    def close(self) -> None:
        if self.file >= 0:
            file, self.file = self.file, -1
            with _translated(self.path):
                try:
                    os.fdatasync(file)
                finally:
                    os.close(file)


class LocalFileSystem:
    """Folders that it makes are 0700, files as the umask says."""

    name = "file://"
    fences = False

    def create(self, path: str) -> LocalWriter:
        with _translated(path):
            folder = Path(path).parent
            make_folder(folder)
            try:
                writer = LocalWriter(path)
            except FileExistsError:
                raise NameTaken(f"{path} exists already") from None
            sync_folder(folder)
            return writer

    def rename(self, path: str, to: str) -> None:
        with _translated(path):
            if os.path.lexists(to):
                raise DeliveryError(f"{to} exists already")
            os.rename(path, to)
            sync_folder(Path(to).parent)

    def delete(self, path: str) -> None:
        with _translated(path):
            Path(path).unlink(missing_ok=True)
            if Path(path).parent.is_dir():
                sync_folder(Path(path).parent)

    def length(self, path: str) -> int | None:
        try:
            with _translated(path):
                return os.stat(path).st_size
        except DeliveryError as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                return None
            raise

    def recover(self, path: str) -> int | None:
        """A local writer that is gone holds nothing; our own was closed."""
        return self.length(path)

    def read(self, path: str, length: int) -> Iterable[bytes]:
        with _translated(path), open(path, "rb") as file:
            while length and (piece := file.read(min(PIECE, length))):
                length -= len(piece)
                yield piece

    def files(self, folder: str) -> list[tuple[str, int]]:
        with _translated(folder):
            return [(str(path), path.stat().st_size) for path in sorted(Path(folder).rglob("*")) if path.is_file()]

    def close(self) -> None:
        pass


@contextmanager
def _translated(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        text = f"{error.filename or path}: {error.strerror or error}"
        kind = Rejected if error.errno in OF_THE_PATH else DeliveryError
        raise kind(text) from error
