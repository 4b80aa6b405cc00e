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
from functools import partial
from pathlib import Path
from typing import TypeVar

from aggregator.topics import record_batch
from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.log.schema import key
from aggregator.topics.record_batch import SIZE

Answer = TypeVar("Answer")

SCAN_ROWS = 2000
"""Headers looked through in one turn, which the writer may wait for."""


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
        self._looking = asyncio.Lock()

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
        low, high = await self.ask(partial(_reached, part, start, end, ms)), key(part, end)
        while low < high:
            low, batch = await self.ask(partial(_candidate, low, high, ms))
            if batch and (found := await self._look(batch, start, ms)):
                return found
        return None

    async def _look(self, batch: bytes, start: int, ms: int) -> tuple[int, int] | None:
        """Outside a turn: it may be long. One at a time, as it may be large."""
        async with self._looking:
            return await asyncio.to_thread(_record_at, batch, start, ms)


def _reached(part: int, start: int, end: int, ms: int, conn: sqlite3.Connection) -> int:
    """The row id from which on the greatest time so far is `ms` or later; where batches have gone, that may have been
    theirs."""
    low, high = key(part, start), key(part, end)
    while low < high:  # the column `time` never falls
        middle = (low + high) // 2
        row = conn.execute(
            "SELECT id, time FROM batch WHERE id>=? AND id<? ORDER BY id LIMIT 1", (middle, high)
        ).fetchone()
        if row is None or row[1] >= ms:
            high = middle
        else:
            low = row[0] + 1
    return low


def _candidate(low: int, high: int, ms: int, conn: sqlite3.Connection) -> tuple[int, bytes | None]:
    """The first batch that has a time which is not before `ms`, if the next headers tell of one; where to go on."""
    heads = conn.execute(
        "SELECT id, head FROM batch WHERE id>=? AND id<? ORDER BY id LIMIT ?", (low, high, SCAN_ROWS)
    ).fetchall()
    for id_, raw in heads:
        if record_batch.header(raw).max_time >= ms:
            (body,) = conn.execute("SELECT body FROM batch WHERE id=?", (id_,)).fetchone()
            return id_ + 1, raw + body
    return heads[-1][0] + 1 if len(heads) == SCAN_ROWS else high, None


def _record_at(batch: bytes, start: int, ms: int) -> tuple[int, int] | None:
    """None if that time is of a record that lies before the start."""
    try:
        for record in record_batch.records(batch):
            if record.time >= ms and record.offset >= start:
                return record.offset, record.time
    except TopicsError:  # readers of it will say so; the batch's own place is never too late
        first = record_batch.header(batch)
        return max(first.base_offset, start), first.max_time
    return None
