"""HDFS as a FileSystem, through hdfs-native (no JVM): `hdfs://host:port`, or a name service of a Hadoop configuration.

Three traps of the library, each met once: with its own retries a NameNode that is down blocks a call for three minutes,
so they are bounded here; a panic inside it is a BaseException; and a writer that is garbage closes its file once more,
for seconds, in whatever thread lets go of it, which an error's traceback leaves to the event loop. All but three kinds
of its errors are RuntimeErrors whose text holds the Java class, which is what `WORDS` looks for.
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import hdfs_native

from agent.errors import DeliveryError, Rejected
from aggregator.hdfs.filesystem import NameTaken

RETRIES = {
    "dfs.client.failover.max.attempts": "3",
    "dfs.client.failover.sleep.base.millis": "200",
    "dfs.client.failover.sleep.max.millis": "1000",
}
POLL = 0.2
"""Seconds between two looks whether a lease is recovered."""
WORDS = {
    "AccessControlException": "permission denied",
    "SafeModeException": "the NameNode is in safe mode",
    "QuotaExceededException": "a quota is exceeded",
    "StandbyException": "the NameNode is a standby",
    "RecoveryInProgressException": "the file is being recovered",
    "LeaseExpiredException": "somebody else took the file over",
    "AlreadyBeingCreatedException": "somebody else is writing the file",
    "ParentNotDirectoryException": "a file lies where a folder should be",
}
JAVA = re.compile(r'RPCError\("[\w.$]+", "')
STACK = re.compile(r"(?:\\[nt]|\s)+at (?:org|java|com|sun)\.")
OF_THE_PATH = (
    "PathComponentTooLongException",
    "Pathname too long",
    "InvalidPathException",
    "Invalid path name",
    "Invalid file name",
)
OUR_OWN = "because current leaseholder is trying to recreate file"
"""What the NameNode says if this client made the file: its first answer was lost."""
LONGEST = 400
"""Characters of an error's text; Java adds its stack."""


class HdfsWriter:
    def __init__(self, writer: hdfs_native.FileWriter, path: str) -> None:
        self.writer, self.path = writer, path
        io.RawIOBase.close(writer)  # for its destructor, which then leaves the file alone; the writer doesn't look

    def write(self, data: bytes) -> None:
        with translated_of(self.path):
            self.writer.write(data)

    def sync(self) -> None:
        with translated_of(self.path):
            self.writer.hsync()

    def close(self) -> None:
        with translated_of(self.path):
            self.writer.close()


class HdfsFileSystem:
    """`url` as in `hdfs.path`; empty: fs.defaultFS of the configuration. `patience`: seconds for a lease. The
    constructor never connects."""

    fences = True

    def __init__(
        self, url: str, config_dir: str = "", principal: str = "", keytab: str = "", patience: float = 30.0
    ) -> None:
        self.name, self.patience = url or "HDFS", patience
        with translated_of(self.name):
            self.client = hdfs_native.Client(
                url or None,
                dict(RETRIES),
                config_dir or None,
                kerberos_principal=principal or None,
                kerberos_keytab=keytab or None,
            )

    def create(self, path: str) -> HdfsWriter:
        with translated_of(path):
            options = hdfs_native.WriteOptions(overwrite=False, create_parent=True)
            try:
                return HdfsWriter(self.client.create(path, options), path)
            except FileExistsError as error:
                if OUR_OWN in str(error):
                    raise
                raise NameTaken(f"{path} exists already") from error

    def rename(self, path: str, to: str) -> None:
        with translated_of(to):
            self.client.rename(path, to)

    def delete(self, path: str) -> None:
        with translated_of(path):
            try:
                self.client.delete(path)
            except FileNotFoundError:
                pass

    def length(self, path: str) -> int | None:
        with translated_of(path):
            try:
                return int(self.client.get_file_info(path).length)
            except FileNotFoundError:
                return None

    def recover(self, path: str) -> int | None:
        """The NameNode needs a heartbeat of the DataNodes for it: one to three seconds."""
        end = time.monotonic() + self.patience
        with translated_of(path):
            try:
                while not self.client.recover_lease(path):
                    if time.monotonic() > end:
                        raise DeliveryError(f"{path} is still being recovered after {self.patience:g} s")
                    time.sleep(POLL)
            except FileNotFoundError:
                return None
        return self.length(path)

    def read(self, path: str, length: int) -> Iterable[bytes]:
        with translated_of(path):
            if length:
                yield from self.client.read(path).read_range_stream(0, length)

    def files(self, folder: str) -> list[tuple[str, int]]:
        with translated_of(folder):
            try:
                found = list(self.client.list_status(folder, recursive=True))
            except FileNotFoundError:
                return []
            return [(status.path, int(status.length)) for status in found if not status.isdir]

    def close(self) -> None:
        pass


@contextmanager
def translated_of(path: str) -> Iterator[None]:
    """The library's errors as ours. FileNotFoundError where it is an answer is caught inside."""
    try:
        yield
    except (DeliveryError, GeneratorExit, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        text, detail = str(error), told(error)
        if any(word in text for word in OF_THE_PATH):
            raise Rejected(f"{path[:LONGEST]} can't be made: {detail}") from error
        said = next((words for java, words in WORDS.items() if java in text), "")
        raise DeliveryError(f"{path[:LONGEST]}: {said}: {detail}" if said else f"{path[:LONGEST]}: {detail}") from error


def told(error: BaseException) -> str:
    """What Java or the library said, without the class and the stack."""
    text = STACK.split(JAVA.sub("", str(error), count=1), maxsplit=1)[0]
    return text.replace("\\n", " ").replace('\\"', '"').strip()[:LONGEST] or type(error).__name__
