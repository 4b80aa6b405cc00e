"""Sets of numbers, against Python's own sets."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from agent.audit import numbers
from agent.audit.numbers import Numbers, Spans, Tally, common, joined, size, without
from agent.store.streams import Identity

A, B = b"a" * 16, b"b" * 16
RANGES = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 9)).map(lambda pair: (pair[0], pair[0] + pair[1])))


def each(spans: Spans) -> list[int]:
    return [number for first, last in spans for number in range(first, last + 1)]


def as_set(spans: Spans) -> set[int]:
    """AssertionError if they overlap, touch or don't ascend."""
    listed = each(spans)
    assert listed == sorted(set(listed))
    assert all(last + 1 < first for (_, last), (first, _) in pairwise(spans))
    return set(listed)


@given(RANGES)
def test_joined(ranges: Spans) -> None:
    """Ranges in any order become spans of the same numbers, and what is in several is told apart."""
    spans, twice = joined(ranges)
    listed = each(ranges)
    assert as_set(spans) == set(listed)
    assert as_set(twice) == {number for number in listed if listed.count(number) > 1}


@given(RANGES, RANGES)
def test_without_and_common(one: Spans, other: Spans) -> None:
    """Difference and intersection are those of sets."""
    left, right = joined(one)[0], joined(other)[0]
    assert as_set(without(left, right)) == as_set(left) - as_set(right)
    assert as_set(common(left, right)) == as_set(left) & as_set(right)
    assert size(left) == len(as_set(left))


def test_origins_are_apart() -> None:
    """Numbers of two origins never meet, and an origin without numbers isn't there."""
    one = Numbers.of([Identity(A, 1, 10), Identity(B, 5, 1)])
    assert one.minus(Numbers.of([Identity(A, 1, 10)])) == {B: [(5, 5)]}
    assert one.both(Numbers.of([Identity(B, 1, 9)])) == {B: [(5, 5)]}
    assert one.plus(Numbers.of([Identity(A, 11, 1)])) == {A: [(1, 11)], B: [(5, 5)]}
    assert one.filled() == {A: [(1, 10)], B: [(1, 5)]}
    assert (one.count, one.only([A])) == (11, {A: [(1, 10)]})


def test_a_tally_is_joined_as_it_grows() -> None:
    """Rows one by one in any order take one span in the end, and a repeat is told though both came far apart."""
    tally = Tally()
    rows = [*range(1, 200_001, 2), *range(2, 200_001, 2), 7]
    tally.add(Identity(A, number, 1) for number in rows)
    assert len(tally._found[A]) <= 2 * 100_000 + numbers.COMPACT
    assert (tally.all, tally.twice, tally.count) == ({A: [(1, 200_000)]}, {A: [(7, 7)]}, 200_001)
