"""What each channel of a salvaged store has inside, and what is missing.

Positions run without a hole through the life of a file, and a row goes only when all of its channels have passed it.
So of the holes between the rows that were found:

    passed by every channel    delivered and deleted
    passed by none             lost for certain
    passed by some             delivered and deleted, if it was for those only (a multiplexing selector); else lost

The counters of a channel (put less done) say how many events lie above its cursor: if each channel finds as many as
that, nothing is missing, and the holes are deliveries or what an earlier salvage has counted. Otherwise the holes of
the third kind are called possibly lost; so is every hole where the row of a channel could be read in an earlier state
only, or not at all. Above the last row that was found the counters say how much there was; where channels have
different events the last numbers can only be estimated from below.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from agent.avro import record
from agent.store.coverage import Coverage, pack_ranges, unpack_ranges

LOST_LIMIT = 1000
"""Ranges of lost numbers that are kept one by one; what comes after them is counted in one note."""
UNKNOWN = bytes(16)
"""Stands for an origin that could not be read; what is numbered under it are positions."""

Columns = tuple[Any, ...]
"""A row of a small table."""
Range = tuple[bytes, int, int]
"""(origin, first number, count)."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a channel stands: `cursor`, and the closed ranges of positions above it that are finished."""

    cursor: int
    finished: tuple[tuple[int, int], ...] = ()

    @property
    def spans(self) -> list[tuple[int, int]]:
        """What it has passed, as (above, to)."""
        return [(0, self.cursor), *((first - 1, last) for first, last in self.finished)]

    def above(self, position: int, count: int) -> int:
        """How many of a row's events lie above the cursor."""
        return max(0, min(count, position - self.cursor))

    def done(self, position: int, count: int) -> list[tuple[int, int]]:
        """The closed ranges of a row's positions that are finished above the cursor."""
        first = max(position - count, self.cursor) + 1
        cut = ((max(low, first), min(high, position)) for low, high in self.finished)
        return [(low, high) for low, high in cut if low <= high]


@dataclass(slots=True)
class Inside:
    """What was found for a channel above its cursor, and the ranges of it that are finished."""

    events: int = 0
    bytes: int = 0
    done: list[tuple[int, int]] = field(default_factory=list)

    @property
    def left(self) -> int:
        """How many events it has yet to deliver."""
        return self.events - _length(self.done)


class Accounts:
    """`tables` are the small tables' rows by key, as salvage found them; `conn` is the new file, which has the batches.

    `stale` are channels whose row was found in an earlier state only: their counters prove nothing.
    """

    def __init__(
        self, conn: sqlite3.Connection, tables: Mapping[str, dict[tuple[Any, ...], Columns]], stale: set[int]
    ) -> None:
        self.conn, self.tables, self.stale = conn, tables, stale
        self.lost: list[Range] = []
        self.possibly_lost: list[Range] = []
        self.notes: list[str] = []
        # Of two ids with one name (forgotten, added again) the later one counts.
        found = sorted(tables["channel"].values(), key=lambda row: row[-2])
        named = {row[1]: row[0] for row in found}
        self.gone = {row[0] for row in found} - set(named.values())
        for channel in self.gone:
            del tables["channel"][channel,]
        self.places = {row[0]: Place(row[2], tuple(ranges_of(row[3]))) for row in tables["channel"].values()}

    def passed(self, position: int, channels: int) -> bool:
        """Whether every channel's cursor has passed a row."""
        for channel in _bits(channels):
            if channel not in self.gone and (channel not in self.places or self.places[channel].cursor < position):
                return False
        return True

    def close(self, names: Mapping[int, str], version: int) -> None:
        """All batches are in: name channels whose row is gone, set the counters, find what is missing."""
        self._add_channels(names)
        inside = self._inside()
        if self._short(inside) or self.stale or self._behind():
            self._judge(self._gaps())
        for key, row in self.tables["channel"].items():
            found = inside[row[0]]
            puts, put_bytes = max(row[4], found.events), max(row[5], found.bytes)
            # As the store counts: put less done is what lies above the cursor, finished or not, and no range is
            # finished that has no row.
            counters = (puts, put_bytes, puts - found.events, put_bytes - found.bytes)
            self.tables["channel"][key] = (*row[:3], pack_ranges(found.done), *counters, version, 0)

    def _rows(self) -> Iterator[tuple[int, int, int, int]]:
        """(position, count, channels, bytes) of every batch, in order."""
        return self.conn.execute("SELECT position, count, channels, length(block) FROM batch ORDER BY position")

    def _add_channels(self, names: Mapping[int, str]) -> None:
        """A row for each channel that only batches (it starts before the first of them) or the caller speak of."""
        starts: dict[int, int] = {}
        last = max((_end(row) for row in self.tables["channel"].values()), default=0)
        for position, count, channels, _ in self._rows():
            last = max(last, position)
            for channel in _bits(channels):
                if channel not in self.places and channel not in self.gone:
                    starts.setdefault(channel, position - count)
        for channel in sorted(starts.keys() | (names.keys() - self.places.keys())):
            name, start = names.get(channel, f"?{channel}"), starts.get(channel, last)
            self.stale.add(channel)
            self.places[channel] = Place(start)
            self.tables["channel"][channel,] = (channel, name, start, b"", 0, 0, 0, 0, 0, 0)
            self.notes.append(
                f"the place of channel {name} could not be read: it sends all that is there again, from position "
                f"{start}, and its receivers recognise repeats by their numbers"
            )

    def _inside(self) -> dict[int, Inside]:
        inside = {channel: Inside() for channel in self.places}
        for position, count, channels, size in self._rows():
            for channel, sums in inside.items():
                above = self.places[channel].above(position, count)
                if channels >> channel & 1 and above:
                    sums.events += above
                    sums.bytes += size if above == count else self._tail(position, count, above)
                    sums.done += self.places[channel].done(position, count)
        return inside

    def _tail(self, position: int, count: int, last: int) -> int:
        """Bytes of the last events of a row that a cursor stands in."""
        (block,) = self.conn.execute("SELECT block FROM batch WHERE position=?", (position,)).fetchone()
        return len(block) - record.offsets(block, count)[count - last - 1]

    def _short(self, inside: Mapping[int, Inside]) -> bool:
        """Whether a channel finds less than its counters say."""
        short = False
        for row in self.tables["channel"].values():
            count = row[4] - row[6] - _length(self.places[row[0]].finished) - inside[row[0]].left
            if count > 0 and row[0] not in self.stale:
                short = True
                self.notes.append(f"{count} events that channel {row[1]} had yet to deliver could not be read")
        return short

    def _gaps(self) -> Iterator[tuple[int, int]]:
        """The positions (above, to] that no row holds, from the first cursor on."""
        at = min((place.cursor for place in self.places.values()), default=-1)
        for position, count, _, _ in self._rows():
            if 0 <= at < position - count:
                yield at, position - count
            at = max(at, position)
        end = max((_end(row) for row in self.tables["channel"].values()), default=0)
        end = max([end, *(row[2] for row in self.tables["opening"].values())])
        if at < end:
            yield at, end

    def _behind(self) -> bool:
        """Whether something was committed after all channels' rows: every put writes those."""
        others = (row[-2] for table in ("mark", "stream", "receipt") for row in self.tables[table].values())
        return max(others, default=0) > max((row[-2] for row in self.tables["channel"].values()), default=0)

    def _judge(self, gaps: Iterator[tuple[int, int]]) -> None:
        skipped = [0, 0]
        openings, known = self._openings(), self._known()
        for low, high in gaps:
            for above, to, certain in self._certainty(low, high):
                ranges = self.lost if certain else self.possibly_lost
                for origin, first, count in _numbers(openings, above, to):
                    for run in known.get(origin, Coverage()).fresh(((first, count),)):
                        if len(ranges) < LOST_LIMIT:
                            ranges.append((origin, *run))
                        else:
                            skipped[certain] += run[1]
        for count, what in zip(skipped, ("possibly lost", "lost"), strict=True):
            if count:
                self.notes.append(f"{count} events more are {what}, in ranges beyond the first {LOST_LIMIT}")

    def _certainty(self, low: int, high: int) -> Iterator[tuple[int, int, bool]]:
        """Cut the positions (low, high] where channels differ: (above, to, whether no channel can have passed it);
        without what all have passed."""
        spans = [place.spans for place in self.places.values()]
        edges = {edge for done in spans for span in done for edge in span if low < edge < high}
        for above, to in pairwise(sorted({low, high} | edges)):
            passed = sum(any(a <= above and to <= b for a, b in done) for done in spans)
            if passed < len(spans):
                yield above, to, passed == 0 and not self.stale

    def _openings(self) -> list[tuple[int, bytes]]:
        """(base, origin) ascending: from the openings' own rows, and from batches where those are gone. Of openings
        with one base all but the last have numbered nothing."""
        opened = sorted(self.tables["opening"].values(), key=lambda row: row[-2])
        bases: dict[int, bytes] = {0: UNKNOWN, **{row[2]: row[1] for row in opened}}
        bases.update(self.conn.execute("SELECT DISTINCT position - number, origin FROM batch").fetchall())
        return sorted(bases.items())

    def _known(self) -> dict[bytes, Coverage]:
        """What an earlier salvage has counted already."""
        known: dict[bytes, Coverage] = {}
        for _, origin, first, count, *_ in self.tables["lost"].values():
            known.setdefault(origin, Coverage()).cover(first, first + count - 1)
        return known


def ranges_of(packed: bytes) -> list[tuple[int, int]]:
    """Ranges as a row holds them; none if they are malformed."""
    try:
        return unpack_ranges(packed)
    except ValueError:
        return []


def _length(ranges: Iterable[tuple[int, int]]) -> int:
    return sum(last - first + 1 for first, last in ranges)


def _end(row: Columns) -> int:
    """The least that a store's last position can be: what a channel counts as inside lies above its cursor."""
    return int(row[2] + max(0, row[4] - row[6]))


def _numbers(openings: list[tuple[int, bytes]], low: int, high: int) -> Iterator[Range]:
    """The positions (low, high] as numbers of the openings that gave them."""
    for (base, origin), (end, _) in pairwise([*openings, (1 << 62, b"")]):
        first, last = max(low, base), min(high, end)
        if first < last:
            yield origin, first - base + 1, last - first


def _bits(channels: int) -> Iterator[int]:
    """The channels of a mask."""
    while channels:
        lowest = channels & -channels
        yield lowest.bit_length() - 1
        channels ^= lowest
