"""Openings: each time the store is opened a new origin is drawn, and numbers begin at 1 again.

So a number is never given twice for two events, whatever happens to the file. `base` is the position before the first
event of an opening; the number of an event is its position less that. An opening's row is kept while it has events
inside, and that of the last one that numbered any, so that an audit can follow the chain from origin to origin.
"""

from __future__ import annotations

import os
import sqlite3
from typing import NamedTuple

from agent import clock
from agent.store.connection import checked_rows
from agent.store.schema import value_crc


class Opening(NamedTuple):
    origin: bytes
    base: int
    id: int


class Openings:
    """The table `opening`, and the opening that is under way."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self.conn = conn
        self.all = [Opening(bytes(row[1]), row[2], row[0]) for row in checked_rows(conn, "opening")]
        self.origin, self.base = b"", 0
        self.due = False
        """The row of this opening has found no room yet."""

    def begin(self, position: int) -> None:
        """A new origin, for what comes above a position. Its row has yet to be kept."""
        self.origin, self.base = os.urandom(16), position
        self.all.append(Opening(self.origin, position, self.all[-1].id + 1 if self.all else 1))
        self.due = True

    def keep(self, position: int, floor: int, version: int) -> None:
        """Write its row; forget those whose events have all left, up to the position `floor`."""
        self._prune(position, floor)
        row = (self.all[-1].id, self.origin, self.base, clock.boot_id(), clock.wall_ms(), version)
        self.conn.execute("INSERT INTO opening VALUES(?,?,?,?,?,?,?)", (*row, value_crc(*row)))

    def _prune(self, position: int, floor: int) -> None:
        used = self._last_used(position)
        kept = []
        for opening, end in self.spans(position):
            mine = opening.origin == self.origin
            if mine or (end > floor and end > opening.base) or opening == used:
                kept.append(opening)
            else:
                self.conn.execute("DELETE FROM opening WHERE id=?", (opening.id,))
        self.all = kept

    def resume(self, old: Openings) -> None:
        """Go on after the file was replaced."""
        self.all, self.origin, self.base, self.due = old.all, old.origin, old.base, old.due

    def spans(self, position: int) -> list[tuple[Opening, int]]:
        """Each opening with the last position of its events; `position` is the store's last one."""
        ends = [opening.base for opening in self.all[1:]] + [position]
        return list(zip(self.all, ends, strict=False))

    def _last_used(self, position: int) -> Opening | None:
        """The newest that numbered anything."""
        return next((opening for opening, end in reversed(self.spans(position)) if end > opening.base), None)

    def chains(self, position: int) -> dict[bytes, tuple[bytes, int]]:
        """For each origin of the store: the one before it that numbered anything, and the last number that gave."""
        out: dict[bytes, tuple[bytes, int]] = {}
        before: tuple[bytes, int] | None = None
        for (origin, base, _), end in self.spans(position):
            if before:
                out[origin] = before
            if end > base:
                before = origin, end - base
        return out
