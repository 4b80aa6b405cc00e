"""Sets of identities: for each origin, ascending closed ranges of numbers that never touch. Pure.

What a destination holds may come row by row in any order, a million of them; `Tally` joins them as they come, and keeps
apart what came more than once.
"""

from __future__ import annotations

from collections.abc import Iterable

from agent.store.streams import Identity

Spans = list[tuple[int, int]]
"""Closed ranges, ascending, disjoint."""
COMPACT = 65_536
"""Runs of one origin that are gathered before they are joined."""


def joined(ranges: Iterable[tuple[int, int]]) -> tuple[Spans, Spans]:
    """Ranges in any order as spans, and the spans of what more than one of them has."""
    out: Spans = []
    twice: Spans = []
    for first, last in sorted(ranges):
        if out and first <= out[-1][1]:
            twice.append((first, min(last, out[-1][1])))
        if out and first <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(last, out[-1][1]))
        else:
            out.append((first, last))
    return out, joined(twice)[0] if twice else []


def without(spans: Spans, others: Spans) -> Spans:
    """What of the spans isn't in the others."""
    out: Spans = []
    rest = iter(others)
    other = next(rest, None)
    for first, last in spans:
        while other and other[1] < first:
            other = next(rest, None)
        while other and other[0] <= last:
            if other[0] > first:
                out.append((first, other[0] - 1))
            first = other[1] + 1
            if first > last:
                break
            other = next(rest, None)
        if first <= last:
            out.append((first, last))
    return out


def common(spans: Spans, others: Spans) -> Spans:
    """What is in both."""
    return without(spans, without(spans, others))


def size(spans: Iterable[tuple[int, int]]) -> int:
    """How many numbers."""
    return sum(last - first + 1 for first, last in spans)


class Numbers(dict[bytes, Spans]):
    """Origin -> its numbers. Empty origins are left out."""

    @classmethod
    def of(cls, runs: Iterable[Identity]) -> Numbers:
        tally = Tally()
        tally.add(runs)
        return tally.all

    def minus(self, other: Numbers) -> Numbers:
        return _filled((origin, without(spans, other.get(origin, []))) for origin, spans in self.items())

    def both(self, other: Numbers) -> Numbers:
        return _filled((o, common(spans, other[o])) for o, spans in self.items() if o in other)

    def plus(self, *others: Numbers) -> Numbers:
        out: dict[bytes, Spans] = {}
        for one in (self, *others):
            for origin, spans in one.items():
                out.setdefault(origin, []).extend(spans)
        return _filled((origin, joined(spans)[0]) for origin, spans in out.items())

    def only(self, origins: Iterable[bytes]) -> Numbers:
        return Numbers({origin: self[origin] for origin in origins if origin in self})

    def filled(self) -> Numbers:
        """From 1 to the last number of each origin."""
        return Numbers({origin: [(1, spans[-1][1])] for origin, spans in self.items()})

    @property
    def count(self) -> int:
        return sum(size(spans) for spans in self.values())


def _filled(pairs: Iterable[tuple[bytes, Spans]]) -> Numbers:
    return Numbers({origin: spans for origin, spans in pairs if spans})


class Tally:
    """Takes runs as they are found."""

    def __init__(self) -> None:
        self._found: dict[bytes, list[tuple[int, int]]] = {}
        self._twice: dict[bytes, list[tuple[int, int]]] = {}
        self._due: dict[bytes, int] = {}
        self.count = 0
        """Events so far, repeats included."""

    def add(self, runs: Iterable[Identity]) -> None:
        for run in runs:
            found = self._found.setdefault(run.origin, [])
            found.append((run.first, run.first + run.count - 1))
            self.count += run.count
            if len(found) > self._due.get(run.origin, COMPACT):
                self._join(run.origin)

    def _join(self, origin: bytes) -> None:
        self._found[origin], twice = joined(self._found[origin])
        self._due[origin] = 2 * len(self._found[origin]) + COMPACT
        if twice:
            self._twice.setdefault(origin, []).extend(twice)

    @property
    def all(self) -> Numbers:
        """What was found."""
        for origin in self._found:
            self._join(origin)
        return Numbers(self._found)

    @property
    def twice(self) -> Numbers:
        """What was found more than once."""
        for origin in self._found:
            self._join(origin)
        return _filled((origin, joined(spans)[0]) for origin, spans in self._twice.items())
