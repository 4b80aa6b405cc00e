"""Coverage against what it stands for: a plain set of numbers."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent.store.coverage import Coverage, pack_ranges, unpack_ranges
from agent.store.streams import Runs, numbers_of, runs_of

NUMBERS = st.integers(1, 60)
RUNS = st.sets(NUMBERS, min_size=1).map(lambda numbers: runs_of(sorted(numbers)))
RANGES = st.tuples(NUMBERS, st.integers(0, 12)).map(lambda pair: (pair[0], pair[0] + pair[1]))


class CoverageIsASet(RuleBasedStateMachine):
    """Whatever is covered and settled in whatever order, coverage knows the same numbers as a set."""

    def __init__(self) -> None:
        super().__init__()
        self.coverage, self.seen, self.settled = Coverage(), set[int](), 0

    def known(self, number: int) -> bool:
        return number <= self.settled or number in self.seen

    @rule(covered=RANGES)
    def cover(self, covered: tuple[int, int]) -> None:
        self.coverage.cover(*covered)
        self.seen |= set(range(covered[0], covered[1] + 1))

    @rule(number=st.integers(0, 70))
    def settle(self, number: int) -> None:
        self.coverage.settle(number)
        self.settled = max(self.settled, number)

    @rule(runs=RUNS, settled=st.integers(0, 70))
    def fresh(self, runs: Runs, settled: int) -> None:
        """Fresh is exactly what is not known and above what the batch itself settles; asking changes nothing."""
        new = self.coverage.fresh(runs, settled)
        assert list(numbers_of(new)) == [n for n in numbers_of(runs) if n > settled and not self.known(n)]
        assert all(count > 0 for _, count in new)

    @rule()
    def stored(self) -> None:
        """As the store keeps it, it is the same."""
        text = pack_ranges(self.coverage.ranges)
        self.coverage = Coverage(self.coverage.settled, unpack_ranges(text))

    @rule(covered=RANGES)
    def copied(self, covered: tuple[int, int]) -> None:
        """A copy goes its own way."""
        before = self.coverage.ranges[:]
        other = self.coverage.copy()
        other.cover(*covered)
        other.settle(70)
        assert self.coverage.ranges == before

    @invariant()
    def the_same_numbers(self) -> None:
        ranges = self.coverage.ranges
        assert self.coverage.settled == self.settled
        assert {n for low, high in ranges for n in range(low, high + 1)} == {n for n in self.seen if n > self.settled}

    @invariant()
    def ranges_are_few(self) -> None:
        """Disjoint, ascending, never adjacent, above what is settled."""
        ranges = self.coverage.ranges
        assert all(low <= high for low, high in ranges)
        assert all(a[1] + 1 < b[0] for a, b in pairwise(ranges))
        assert not ranges or ranges[0][0] > self.coverage.settled


TestCoverageIsASet = CoverageIsASet.TestCase


@given(st.lists(RANGES), st.permutations(range(5)))
def test_order_does_not_matter(ranges: list[tuple[int, int]], order: list[int]) -> None:
    """Batches that arrive in another order leave the same coverage."""
    chosen = (ranges * 5)[:5]
    if len(chosen) < 5:
        return
    one, two = Coverage(), Coverage()
    for low, high in chosen:
        one.cover(low, high)
    for at in order:
        two.cover(*chosen[at])
    assert one.ranges == two.ranges


@given(st.lists(st.tuples(st.integers(0, 1 << 62), st.integers(0, 1 << 62))))
def test_ranges_as_text(ranges: list[tuple[int, int]]) -> None:
    """Packed ranges come back as they were."""
    assert unpack_ranges(pack_ranges(ranges)) == ranges


@given(st.binary(max_size=40))
def test_malformed_ranges(text: bytes) -> None:
    """Any other bytes are refused with ValueError, or are ranges."""
    try:
        ranges = unpack_ranges(text)
    except ValueError:
        return
    assert all(isinstance(n, int) for pair in ranges for n in pair)
