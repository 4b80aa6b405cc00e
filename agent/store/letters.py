"""Dead letters: events that can never be delivered, each with its reason, until somebody replays or deletes them."""

from __future__ import annotations

import sqlite3
from typing import Any

from agent.errors import ChannelFull
from agent.store.connection import checked_rows
from agent.store.requests import BuryRequest
from agent.store.schema import value_crc
from agent.store.states import Work


class Letters:
    """The table `dead_letter`, bounded by the bytes of its blocks."""

    def __init__(self, conn: sqlite3.Connection, limit: int) -> None:
        self.conn, self.limit = conn, limit
        (self.bytes,) = conn.execute("SELECT coalesce(sum(length(block)), 0) FROM dead_letter").fetchone()

    def bury(self, request: BuryRequest, work: Work) -> None:
        """ChannelFull if they don't fit."""
        size = sum(len(letter.block) for letter in request.letters)
        if self.bytes + work.letter_bytes + size > self.limit:
            raise ChannelFull(
                f"the dead letters have reached deadLetter.maxBytes ({self.limit} bytes): "
                "look at them, replay or delete them (headrace dead-letters)"
            )
        for letter in request.letters:
            (new,) = self.conn.execute("SELECT coalesce(max(id), 0) + 1 FROM dead_letter").fetchone()
            row = (new, *letter, work.version)
            self.conn.execute("INSERT INTO dead_letter VALUES(?,?,?,?,?,?,?,?,?,?)", (*row, value_crc(*row)))
        work.letter_bytes += size

    def remove(self, letter: tuple[Any, ...], work: Work) -> None:
        """One that was replayed or given up."""
        self.conn.execute("DELETE FROM dead_letter WHERE id=?", (letter[0],))
        work.letter_bytes -= len(letter[7])

    def all(self) -> list[tuple[Any, ...]]:
        """Every one: (id, channel, source, origin, number, wall_ms, reason, block)."""
        return [row[:-2] for row in checked_rows(self.conn, "dead_letter")]

    def count(self) -> int:
        (count,) = self.conn.execute("SELECT count(*) FROM dead_letter").fetchone()
        return int(count)
