"""The journal of a copy: what is written is what is known afterwards."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.topics.commands.migrate.journal import MOST_RUNS, begins, copied, known
from aggregator.topics.commands.migrate.runs import Runs, runs_of

gaps = st.lists(st.integers(1, 3), min_size=1, max_size=50)


def of(steps: list[int]) -> Runs:
    """A record at each distance from the one before."""
    offsets = [sum(steps[: index + 1]) for index in range(len(steps))]
    return runs_of(offsets, [*range(len(offsets))])


@given(gaps, gaps)
def test_it_comes_back(first: list[int], second: list[int]) -> None:
    """Runs of several partitions, as they were."""
    found = known([begins("t"), *copied(("t", 0), of(first)), *copied(("t", 3), of(second))])
    assert [*found["t"][0]] == [*of(first)] and [*found["t"][3]] == [*of(second)]


def test_a_long_one_is_several_records() -> None:
    """A partition full of holes makes no record that a topic wouldn't take."""
    many = runs_of([*range(0, 4 * MOST_RUNS, 2)], [*range(2 * MOST_RUNS)])
    values = [*copied(("t", 0), many)]
    assert len(values) == 2 and max(map(len, values)) < 200_000
    assert [*known([begins("t"), *values])["t"][0]] == [*many]


def test_a_topic_that_begins_again_is_new() -> None:
    """What was known of one of the same name is forgotten; of others it isn't."""
    old = [begins("t"), begins("u"), *copied(("t", 0), of([1])), *copied(("u", 0), of([1]))]
    found = known([*old, begins("t")])
    assert len(found["t"][0]) == 0 and len(found["u"][0]) == 1


@pytest.mark.parametrize("value", [b"", b"{", b"[]", b"{}", b'{"topic": "t", "partition": 0, "runs": [[5, 0, 1]]}'])
def test_what_is_no_journal_is_refused(value: bytes) -> None:
    """Somebody wrote into the topic, or it lost its beginning."""
    with pytest.raises(ValueError):
        known([begins("u"), value])
