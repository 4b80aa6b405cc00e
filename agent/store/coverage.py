"""What a receiver has seen of one stream: everything up to `settled`, and closed ranges of numbers above it.

A batch covers `after + 1` to its last number, so the holes of a multiplexed stream don't grow the set. A number that
is covered, or not above `settled`, is a repeat. A plain high-water mark would lose data: two sinks drain one channel
out of order, and a sink group sends 1-100 to one receiver before the unanswered 101-200 of another come
(docs/delivery.md, "Repeats").
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from agent.store.streams import Runs


class Coverage:
    """`ranges` are disjoint, ascending, never adjacent, all above `settled`."""

    __slots__ = ("ranges", "settled")

    def __init__(self, settled: int = 0, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self.settled = settled
        self.ranges: list[tuple[int, int]] = []
        for first, last in ranges:
            self.cover(first, last)

    def copy(self) -> Coverage:
        """An independent one with the same content."""
        new = Coverage(self.settled)
        new.ranges = self.ranges[:]
        return new

    def fresh(self, runs: Runs, settled: int = 0) -> Runs:
        """The numbers that are new, as runs; `settled` is what the sender's batch says with them."""
        floor = max(self.settled, settled)
        if not self.ranges or runs[0][0] > self.ranges[-1][1]:
            return runs if runs[0][0] > floor else _above(runs, floor)
        out: list[tuple[int, int]] = []
        for first, count in _above(runs, floor):
            low, high = first, first + count - 1
            at = bisect_left(self.ranges, (low, 0))
            if at and self.ranges[at - 1][1] >= low:
                low = self.ranges[at - 1][1] + 1
            while low <= high and at < len(self.ranges) and self.ranges[at][0] <= high:
                if self.ranges[at][0] > low:
                    out.append((low, self.ranges[at][0] - low))
                low = self.ranges[at][1] + 1
                at += 1
            if low <= high:
                out.append((low, high - low + 1))
        return tuple(out)

    def cover(self, first: int, last: int) -> None:
        """Add the numbers first ... last; joins what touches."""
        first = max(first, self.settled + 1)
        if first > last:
            return
        ranges = self.ranges
        if ranges and ranges[-1][0] <= first <= ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], max(last, ranges[-1][1]))
            return
        low = bisect_left(ranges, (first, 0))
        if low and ranges[low - 1][1] >= first - 1:
            low -= 1
            first = ranges[low][0]
        high = low
        while high < len(ranges) and ranges[high][0] <= last + 1:
            last = max(last, ranges[high][1])
            high += 1
        ranges[low:high] = [(first, last)]

    def settle(self, number: int) -> None:
        """The stream is done up to `number` on the sender's side."""
        if number <= self.settled:
            return
        self.settled = number
        while self.ranges and self.ranges[0][1] <= number:
            del self.ranges[0]
        if self.ranges and self.ranges[0][0] <= number:
            self.ranges[0] = (number + 1, self.ranges[0][1])


def _above(runs: Runs, floor: int) -> Runs:
    if runs[0][0] > floor:
        return runs
    out = []
    for first, count in runs:
        skip = max(0, floor - first + 1)
        if skip < count:
            out.append((first + skip, count - skip))
    return tuple(out)


def pack_ranges(ranges: Iterable[tuple[int, int]]) -> bytes:
    """Closed ranges as text: `first-last,first-last`."""
    return ",".join(f"{first}-{last}" for first, last in ranges).encode()


def unpack_ranges(text: bytes) -> list[tuple[int, int]]:
    """`pack_ranges` back; ValueError if it is malformed."""
    if not text:
        return []
    pairs = [part.split("-") for part in text.decode("ascii").split(",")]
    return [(int(first), int(last)) for first, last in pairs]
