"""The store's file and what memory holds of it: every transaction, nothing asynchronous.

**One transaction holds everything that must be true together**: new rows, the marks of the sources that sent them,
what was received of each stream, the cursors and receipts of channels, dead letters. `apply` takes whatever has come
together since the last commit and makes one commit of it; nothing in memory moves before that commit succeeded.

Each table's rows are written by who knows what they mean: Batches, Received, Places, Letters, Openings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.errors import ChannelFull
from agent.store.batches import Batches
from agent.store.connection import Connection, checked_rows
from agent.store.letters import Letters
from agent.store.openings import Openings
from agent.store.places import Places
from agent.store.received import Received
from agent.store.requests import BuryRequest, Kept, PutRequest, Request, Result
from agent.store.schema import Row
from agent.store.states import ChannelState, CursorState, StreamState, Work

VERSIONED = ("channel", "receipt", "mark", "stream", "opening", "dead_letter", "lost")


class Database(Connection):
    """An open store. Not thread-safe: one thread owns it. Raises Damaged, sqlite3.Error, ChannelError."""

    def __init__(self, path: Path, synchronous: str = "FULL", max_bytes: int = 0, letter_limit: int = 64 << 20) -> None:
        super().__init__(path, synchronous, max_bytes)
        with self._closed_on_error():
            self._load(letter_limit)

    def _load(self, letter_limit: int) -> None:
        conn, run = self.conn, self.conn.execute
        self.places = Places(conn, self.path)
        self.received = Received(conn)
        self.openings = Openings(conn)
        self.batches = Batches(conn, self.openings)
        self.letters = Letters(conn, letter_limit)
        (last,) = run("SELECT max(position) FROM batch").fetchone()
        cursors = [c.place.cursor for c in self.channels.values()]
        self.position = max([last or 0, *cursors, *(opening.base for opening in self.openings.all)])
        """Of the last event in the store's life."""
        self.version = max(run(f"SELECT max(version) FROM {table}").fetchone()[0] or 0 for table in VERSIONED)

    # ---- what it holds

    @property
    def channels(self) -> dict[int, ChannelState]:
        return self.places.channels

    @property
    def streams(self) -> dict[tuple[bytes, str], StreamState]:
        return self.received.streams

    @property
    def marks(self) -> Mapping[str, Mapping[str, bytes]]:
        return self.places.marks

    @property
    def receipts(self) -> Mapping[int, bytes]:
        return self.places.receipts

    @property
    def origin(self) -> bytes:
        """Of this opening; empty before `start`."""
        return self.openings.origin

    def read(self, channel: int, after: int, max_bytes: int, max_rows: int = 256) -> list[Row]:
        """Rows of a channel above a position, in order, up to a sum of bytes (one row at least). Damaged if a checksum
        does not fit."""
        return self.batches.read(channel, after, max_bytes, max_rows)

    def chains(self) -> dict[bytes, tuple[bytes, int]]:
        """For each origin of the store: the one before it that numbered anything, and the last number that gave."""
        return self.openings.chains(self.position)

    def lost(self) -> list[tuple[Any, ...]]:
        """Ranges that salvage could not read: (id, origin, first, count, wall_ms, reason)."""
        return [row[:-2] for row in checked_rows(self.conn, "lost")]

    # ---- opening

    def start(self, channels: Iterable[str] = ()) -> None:
        """Begin an opening: a new origin, and rows for channels that are new (they start at the end).

        Where a full disk has no room for its row (sqlite3.OperationalError), the opening has begun nonetheless: the row
        goes into the next transaction that finds room, before any event of it.
        """
        self.openings.begin(self.position)
        self.version += 1
        with self.transaction():
            self.keep_opening()
            for name in channels:
                self.places.add(name, self.position, self.version)
        self.openings.due = False

    def keep_opening(self) -> None:
        """Write the opening's row if it has yet to be; first in a transaction."""
        if self.openings.due:
            self.openings.keep(self.position, self.places.floor(self.position), self.version)
            self.received.forget_idle()

    def channel(self, name: str) -> tuple[ChannelState, int]:
        """A channel's row (a new one starts at the end) and the position of the last event in the store."""
        if not self.places.has(name):
            self.version += 1
            with self.transaction():
                self.places.add(name, self.position, self.version)
        return self.places.named(name), self.position

    def resume(self, old: Database) -> None:
        """Go on with an opening after the file was replaced under it (salvage)."""
        self.position, self.version = max(self.position, old.position), max(self.version, old.version)
        self.openings.resume(old.openings)
        self.received.resume(old.received)
        self.places.resume(old.places)

    # ---- one commit

    def apply(
        self,
        requests: Sequence[Request],
        cursors: Mapping[int, CursorState] | None = None,
        receipts: Mapping[int, bytes] | None = None,
    ) -> tuple[list[Result], list[Row]]:
        """Make one commit of all of it: a result for each request, and the rows that were stored.

        A request that is refused for a cause of its own (too many streams, dead letters full) has an exception as its
        result and changes nothing; if the commit fails, nothing has changed and the error is raised.
        """
        work = self.begin()
        with self.transaction():
            self.keep_opening()
            results = [self._one(request, work) for request in requests]
            self.batches.store_joined(work)
            places = dict(cursors or {})
            for request, result in zip(requests, results, strict=True):
                if isinstance(request, BuryRequest) and isinstance(result, Kept):
                    self.places.step_over(request, work, places)
            channels = self.places.move(places, work)
            for channel, receipt in (receipts or {}).items():
                self.places.write_receipt(channel, receipt, self.version)
            for key, stream in work.streams.items():
                self.received.write(key, stream, self.version)
        self.settle(work, channels)
        self.places.receipts.update(receipts or {})
        for request, result in zip(requests, results, strict=True):
            if request.marks and isinstance(result, Kept):
                self.places.marks.setdefault(request.source, {}).update(request.marks)
        return results, work.rows

    def begin(self) -> Work:
        """What the next transaction will change."""
        self.version += 1
        return Work(self.position, self.version)

    def settle(self, work: Work, channels: Mapping[int, ChannelState]) -> None:
        """The transaction is committed: what it changed is the truth."""
        self.openings.due = False
        self.position = work.position
        self.received.streams.update(work.streams)
        self.places.channels.update(channels)
        self.letters.bytes += work.letter_bytes
        self.places.buried.update(work.buried)

    def _one(self, request: Request, work: Work) -> Result:
        try:
            kept = self._put(request, work) if isinstance(request, PutRequest) else self._bury(request, work)
        except ChannelFull as error:
            return error
        if request.marks:
            self.places.write_marks(request.source, request.marks, self.version)
        return kept

    def _put(self, request: PutRequest, work: Work) -> Kept:
        stored = repeats = 0
        fresh = [self.received.fresh(part, work) for part in request.parts]
        self.received.cover(request.parts, work)
        for part, kept in zip(request.parts, fresh, strict=True):
            if kept is not None:
                stored += kept.events
                self.batches.add(kept, work)
            repeats += part.events - (kept.events if kept else 0)
        return Kept(stored, repeats)

    def _bury(self, request: BuryRequest, work: Work) -> Kept:
        self.letters.bury(request, work)
        return Kept(0, 0)
