"""Rows of events: a row a batch, its block as it came.

Small puts that meet in one commit are stored as one row. A row of received events keeps their identity beside its own
numbers.
"""

from __future__ import annotations

import sqlite3

from agent import clock
from agent.store import schema
from agent.store.connection import Damaged
from agent.store.openings import Openings
from agent.store.requests import Part
from agent.store.schema import Row, row_crc
from agent.store.states import Work
from agent.store.streams import Identity

JOIN_BYTES = 32 << 10
"""Puts below this that meet in one commit are stored as one row: a commit costs the same whatever it holds, but a row
costs a page."""


class Batches:
    """The table `batch`."""

    def __init__(self, conn: sqlite3.Connection, openings: Openings) -> None:
        self.conn, self.openings = conn, openings

    def add(self, part: Part, work: Work) -> None:
        """Store a part, with those before it or by itself."""
        small = len(part.block) < JOIN_BYTES
        if work.joined and not (
            small and work.joined[0].channels == part.channels
            and sum(len(p.block) for p in work.joined) + len(part.block) <= JOIN_BYTES
        ):  # fmt: skip
            self.store_joined(work)
        work.joined.append(part)
        if not small:
            self.store_joined(work)

    def store_joined(self, work: Work) -> None:
        """One row of what waits for more to join."""
        parts, work.joined = work.joined, []
        if not parts:
            return
        count = sum(part.events for part in parts)
        block = parts[0].block if len(parts) == 1 else b"".join(part.block for part in parts)
        identity = self._identity(parts, work.position - self.openings.base + 1)
        self.store(parts[0].channels, block, count, identity, work)

    def _identity(self, parts: list[Part], number: int) -> bytes | None:
        """The identity runs of a row of these parts whose first event gets `number`; None if they are its own."""
        if all(part.identity is None and part.transit is None for part in parts):
            return None
        runs: list[Identity] = []
        for part in parts:
            if part.identity is not None:
                runs += part.identity
            elif part.transit is not None:
                runs += [Identity(part.transit.origin, *run) for run in part.transit.numbers]
            else:
                runs.append(Identity(self.openings.origin, number, part.events))
            number += part.events
        return schema.pack_identity(tuple(runs))

    def store(self, channels: int, block: bytes, count: int, identity: bytes | None, work: Work) -> None:
        """A row for the channels of a mask."""
        work.position += count
        opening = self.openings
        head = (
            work.position, count, opening.origin, work.position - opening.base, channels, clock.wall_ms(),
            clock.boot_ns(), schema.CODEC_NULL, identity,
        )  # fmt: skip
        row = Row(*head, row_crc(head, block), block)
        self.conn.execute("INSERT INTO batch VALUES(?,?,?,?,?,?,?,?,?,?,?)", row)
        work.rows.append(row)
        bit = 0
        while channels >> bit:
            if channels >> bit & 1:
                counts = work.puts.setdefault(bit, [0, 0])
                counts[0] += count
                counts[1] += len(block)
            bit += 1

    def read(self, channel: int, after: int, max_bytes: int, max_rows: int = 256) -> list[Row]:
        """Rows of a channel above a position, in order, up to a sum of bytes (one row at least). Damaged if a checksum
        does not fit."""
        rows: list[Row] = []
        cursor = self.conn.execute(
            "SELECT * FROM batch WHERE position > ? AND channels & ? ORDER BY position LIMIT ?",
            (after, 1 << channel, max_rows),
        )
        for values in cursor:
            row = Row._make(values)
            if not row.intact():
                raise Damaged(f"the checksum of the batch at position {row.position} does not fit")
            rows.append(row)
            max_bytes -= len(row.block)
            if max_bytes <= 0:
                break
        cursor.close()
        return rows
