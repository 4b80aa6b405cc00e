"""Cold reads: a thread of its own with a connection that only reads, so that no fetch of old data holds up the loop.

It never writes or checkpoints (agent/store/connection.py says why). The WAL can start over only while nobody reads, so
the writer, when it has grown long, takes a turn without readers.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from aggregator.topics import record_batch
from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.log.schema import key
from aggregator.topics.record_batch import SIZE

Answer = TypeVar("Answer")


class Turns:
    """One reader at a time, or the writer alone: it waits for the read under way and for no later one."""

    def __init__(self) -> None:
        self._entry, self._inside = threading.Lock(), threading.Lock()

    def __enter__(self) -> None:
        with self._entry:
            self._inside.acquire()

    def __exit__(self, *_: object) -> None:
        self._inside.release()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody reads meanwhile."""
        with self._entry, self._inside:
            yield


class Reader:
    """Of one file. TopicsError KAFKA_STORAGE_ERROR if it can't be read."""

    def __init__(self, path: Path, turns: Turns) -> None:
        self.path, self.turns = path, turns
        self._pool = ThreadPoolExecutor(1, "topics reader")

    async def open(self) -> None:
        """sqlite3.Error"""
        await asyncio.get_running_loop().run_in_executor(self._pool, self._open)

    def _open(self) -> None:
        self.conn = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode=ro",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=30,
        )
        self.conn.execute("PRAGMA query_only=ON")
        self.conn.execute("PRAGMA cache_size=-500")

    async def close(self) -> None:
        """When the reads that were asked for are done."""
        await asyncio.get_running_loop().run_in_executor(self._pool, self.conn.close)
        self._pool.shutdown()

    async def ask(self, call: Callable[[sqlite3.Connection], Answer]) -> Answer:
        """Its result; the loop goes on with what asked in the order in which they asked. It should be short."""

        def turn() -> Answer:
            with self.turns:
                self.conn.execute("BEGIN")  # all of it from one state of the file
                try:
                    return call(self.conn)
                finally:
                    self.conn.execute("COMMIT")

        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, turn)
        except sqlite3.Error as error:
            raise TopicsError(Code.KAFKA_STORAGE_ERROR, f"can't read {self.path}: {error}") from error

    async def read(self, part: int, offset: int, max_bytes: int, upto: int) -> list[bytes]:
        """Whole batches from the one that holds `offset` on, which end before `upto`; the first whatever its size."""
        return await self.ask(lambda _: self._read(part, offset, max_bytes, upto))

    def _read(self, part: int, offset: int, max_bytes: int, upto: int) -> list[bytes]:
        low, high = key(part, offset), key(part, upto - 1)
        last = -1
        # Lengths first: a body that isn't sent isn't read.
        for id_, length in self.conn.execute(
            "SELECT id, length(body) FROM batch WHERE id BETWEEN ? AND ? ORDER BY id", (low, high)
        ):
            max_bytes -= SIZE + length
            if max_bytes < 0 <= last:
                break
            last = id_
        rows = self.conn.execute("SELECT head, body FROM batch WHERE id BETWEEN ? AND ? ORDER BY id", (low, last))
        return [head + body for head, body in rows]

    async def at_time(self, part: int, start: int, end: int, ms: int) -> tuple[int, int] | None:
        """Offset and time of the first record that is not before `ms`; None if all are."""
        return await self.ask(lambda _: self._at_time(part, start, end, ms))

    def _at_time(self, part: int, start: int, end: int, ms: int) -> tuple[int, int] | None:
        low, high = key(part, start), key(part, end)
        while low < high:  # the column `time` never falls
            middle = (low + high) // 2
            row = self.conn.execute(
                "SELECT id, time FROM batch WHERE id>=? AND id<? ORDER BY id LIMIT 1", (middle, high)
            ).fetchone()
            if row is None or row[1] >= ms:
                high = middle
            else:
                low = row[0] + 1
        # Here the greatest time reached `ms`; where batches before it are gone, that may have been theirs.
        rows = self.conn.execute("SELECT id, head FROM batch WHERE id>=? AND id<? ORDER BY id", (low, key(part, end)))
        for id_, raw in rows:
            head = record_batch.header(raw)
            if head.max_time >= ms:
                rows.close()
                return self._record_at(id_, start, ms)
        return None

    def _record_at(self, id_: int, start: int, ms: int) -> tuple[int, int]:
        head, body = self.conn.execute("SELECT head, body FROM batch WHERE id=?", (id_,)).fetchone()
        first = record_batch.header(head)
        try:
            for record in record_batch.records(head + body):
                if record.time >= ms and record.offset >= start:
                    return record.offset, record.time
        except TopicsError:
            pass  # readers of it will say so; the batch's own place is never too late
        return max(first.base_offset, start), first.max_time
