"""Which record of a partition became which: runs of offsets at both sides (no I/O here).

A run (source, target, count) says that the records at source, source + 1 ... are those at target, target + 1 ...
Runs ascend at both sides. A run takes 24 bytes here; a partition without holes has one for each transaction of the
copy, one that is compacted to half of its records may have one for every two records.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Run(NamedTuple):
    source: int
    target: int
    length: int


class Runs:
    """Of one partition."""

    def __init__(self) -> None:
        self._source, self._target, self._count = array("q"), array("q"), array("q")

    def __iter__(self) -> Iterator[Run]:
        return map(Run, self._source, self._target, self._count)

    def __len__(self) -> int:
        return len(self._source)

    @property
    def reached(self) -> int:
        """The source offset behind the last copied record; 0 if there is none."""
        return self._source[-1] + self._count[-1] if self._source else 0

    @property
    def end(self) -> int:
        """The target offset behind the last copied record; 0 if there is none."""
        return self._target[-1] + self._count[-1] if self._target else 0

    def add(self, source: int, target: int, count: int = 1) -> None:
        """Behind all that is there. ValueError if it isn't."""
        if source < self.reached or target < self.end or count < 1:
            raise ValueError(f"run {source}, {target}, {count} doesn't follow {self.reached}, {self.end}")
        if self._source and (source, target) == (self.reached, self.end):
            self._count[-1] += count
        else:
            self._source.append(source)
            self._target.append(target)
            self._count.append(count)

    def at(self, source: int) -> int | None:
        """Where the first copied record is that is not before this offset; None: behind all that was copied."""
        index = bisect_right(self._source, source) - 1
        if index >= 0 and source < self._source[index] + self._count[index]:
            return self._target[index] + source - self._source[index]
        return self._target[index + 1] if index + 1 < len(self) else None

    def copy_of(self, source: int) -> int | None:
        """Where the record of this offset is; None: it wasn't copied."""
        return _moved(self._source, self._target, self._count, source)

    def original_of(self, target: int) -> int | None:
        """The other direction."""
        return _moved(self._target, self._source, self._count, target)


def _moved(froms: array[int], tos: array[int], counts: array[int], offset: int) -> int | None:
    index = bisect_right(froms, offset) - 1
    inside = index >= 0 and offset < froms[index] + counts[index]
    return tos[index] + offset - froms[index] if inside else None


def runs_of(sources: Sequence[int], targets: Sequence[int]) -> Runs:
    """Of records one by one, in order."""
    found = Runs()
    for source, target in zip(sources, targets, strict=True):
        found.add(source, target)
    return found


def translated(runs: Runs, offset: int, start: int, end: int) -> int:
    """Where a group goes on at the target that was to read `offset` of the source next, so that it reads exactly the
    records that it hasn't read: the first copied one not before it, or what comes behind all of them.

    `start` and `end` are those of the target's partition: what retention has removed there can't be read, and if
    nothing but the end of our transaction follows the last copied record, the group has nothing left to read.
    """
    found = runs.at(offset)
    if found is None:
        found = end if end == runs.end + 1 else runs.end
    return max(found, start)
