"""Where everybody stands: the cursors of channels, the receipts of their sinks, the marks of sources.

A cursor says what is finished: all up to it, and ranges above it, as takes and sinks overtake each other. A row of
events goes when every channel of its set has passed it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from agent.errors import ChannelError
from agent.store.connection import checked_rows
from agent.store.coverage import Coverage, pack_ranges, unpack_ranges
from agent.store.requests import BuryRequest
from agent.store.schema import value_crc
from agent.store.states import ChannelState, CursorState, Work

CHANNELS = 62
"""Bits of a row's set."""


class Places:
    """The tables `channel`, `receipt` and `mark`."""

    def __init__(self, conn: sqlite3.Connection, path: Path) -> None:
        self.conn, self.path = conn, path
        self.channels = {
            row[0]: ChannelState(
                row[0], row[1], CursorState(row[2], tuple(unpack_ranges(row[3])), row[6], row[7]), *row[4:6]
            )
            for row in checked_rows(conn, "channel")
        }
        self.receipts = {row[0]: bytes(row[1]) for row in checked_rows(conn, "receipt")}
        self.marks: dict[str, dict[str, bytes]] = {}
        self._mark_ids: dict[tuple[str, str], int] = {}
        for row in checked_rows(conn, "mark"):
            self.marks.setdefault(row[1], {})[row[2]] = bytes(row[3])
            self._mark_ids[row[1], row[2]] = row[0]
        self.buried: dict[int, list[tuple[int, int]]] = {}
        """Positions of dead letters above the cursors, by channel."""

    def floor(self, position: int) -> int:
        """The cursor that is furthest behind; `position` if there is no channel."""
        return min((c.place.cursor for c in self.channels.values()), default=position)

    # ---- channels

    def has(self, name: str) -> bool:
        return any(c.name == name for c in self.channels.values())

    def named(self, name: str) -> ChannelState:
        """ChannelError if there is no such channel."""
        for state in self.channels.values():
            if state.name == name:
                return state
        raise ChannelError(
            f"the store {self.path} has no channel {name!r}; it has {[c.name for c in self.channels.values()]}"
        )

    def add(self, name: str, position: int, version: int) -> None:
        """A row for a channel, if it is new: it starts at the position."""
        if self.has(name):
            return
        # A nameless one is what salvage left of a channel whose row was gone; ids follow the configuration's order.
        free = next((i for i in range(CHANNELS) if i not in self.channels or self.channels[i].name == f"?{i}"), None)
        if free is None:
            raise ChannelError(f"{self.path} has {CHANNELS} channels already: give one of them a `path` of its own")
        state = ChannelState(free, name, CursorState(position, (), 0, 0), 0, 0)
        if free in self.channels:
            state = replace(self.channels[free], name=name)
        self.channels[free] = state
        self._write_channel(state, version)

    def forget(self, state: ChannelState, position: int) -> None:
        """Delete a channel's rows, and the events that only it still had to deliver."""
        cursors = {c.id: c.place.cursor for c in self.channels.values() if c.id != state.id}
        self.conn.execute("DELETE FROM channel WHERE id=?", (state.id,))
        self.conn.execute("DELETE FROM receipt WHERE id=?", (state.id,))
        # Checksums cover the channel set, so rows keep the bit; a channel that no longer exists holds nothing.
        self._delete_passed(state.place.cursor, position, cursors)

    def step_over(self, request: BuryRequest, work: Work, places: dict[int, CursorState]) -> None:
        """Have a channel's place pass what was buried of it."""
        if request.over:
            channel, ranges = request.over
            work.buried.setdefault(channel, self.buried.get(channel, []))
            work.buried[channel] = work.buried[channel] + ranges
            places.setdefault(channel, self.channels[channel].place)

    def move(self, places: Mapping[int, CursorState], work: Work) -> dict[int, ChannelState]:
        """Write the channels that moved or were put into, and delete what all have passed; returns those channels."""
        changed: dict[int, ChannelState] = {}
        for channel in places.keys() | work.puts.keys():
            old = self.channels[channel]
            events, size = work.puts.get(channel, (0, 0))
            place = places.get(channel, old.place)
            buried = [r for r in work.buried.get(channel, self.buried.get(channel, [])) if r[1] > place.cursor]
            if channel in work.buried or channel in self.buried:
                work.buried[channel] = buried
            if buried:
                # A snapshot of the place that was made before the letter was committed doesn't know it.
                place = place._replace(
                    finished=tuple(Coverage(place.cursor, sorted({*place.finished, *buried})).ranges)
                )
            changed[channel] = new = ChannelState(
                channel, old.name, place, old.put_events + events, old.put_bytes + size
            )
            self._write_channel(new, work.version)
        cursors = {c.id: changed.get(c.id, c).place.cursor for c in self.channels.values()}
        for channel in places:
            self._delete_passed(self.channels[channel].place.cursor, cursors[channel], cursors)
        return changed

    def _delete_passed(self, low: int, high: int, cursors: Mapping[int, int]) -> None:
        """Delete rows in (low, high] that every channel of their set has passed.

        A row that only channels further on share goes at once: a channel that stands still must not keep what was
        never meant for it.
        """
        if low >= high:
            return
        bounds = sorted({low, high} | {c for c in cursors.values() if low < c < high})
        for above, to in pairwise(bounds):
            behind = sum(1 << channel for channel, cursor in cursors.items() if cursor < to)
            self.conn.execute(
                "DELETE FROM batch WHERE position > ? AND position <= ? AND channels & ? = 0", (above, to, behind)
            )

    def _write_channel(self, c: ChannelState, version: int) -> None:
        row = (c.id, c.name, c.place.cursor, pack_ranges(c.place.finished), c.put_events, c.put_bytes,
               c.place.done_events, c.place.done_bytes, version)  # fmt: skip
        self.conn.execute("INSERT OR REPLACE INTO channel VALUES(?,?,?,?,?,?,?,?,?,?)", (*row, value_crc(*row)))

    # ---- receipts and marks

    def write_receipt(self, channel: int, value: bytes, version: int) -> None:
        row = (channel, value, version)
        self.conn.execute("INSERT OR REPLACE INTO receipt VALUES(?,?,?,?)", (*row, value_crc(*row)))

    def write_marks(self, source: str, marks: Mapping[str, bytes], version: int) -> None:
        for name, value in marks.items():
            at = self._mark_ids.setdefault((source, name), len(self._mark_ids) + 1)
            row = (at, source, name, bytes(value), version)
            self.conn.execute("INSERT OR REPLACE INTO mark VALUES(?,?,?,?,?,?)", (*row, value_crc(*row)))

    # ---- after a salvage

    def resume(self, old: Places) -> None:
        """Go on after the file was replaced: what memory knows was committed, and is never older than the file."""
        self.marks, self._mark_ids = old.marks, old._mark_ids
        self.receipts, self.buried = old.receipts, old.buried
        for channel, was in old.channels.items():
            now = self.channels[channel]
            # Counted from the same start as the queues on the loop, which know `done_events` and `done_bytes` already.
            events = was.put_events - max(0, was.inside - now.inside)
            size = was.put_bytes - max(0, was.inside_bytes - now.inside_bytes)
            place = now.place._replace(done_events=events - now.inside, done_bytes=size - now.inside_bytes)
            self.channels[channel] = replace(now, place=place, put_events=events, put_bytes=size)
