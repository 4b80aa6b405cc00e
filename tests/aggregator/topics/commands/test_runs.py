"""The map of a copy, compared with one that keeps every record."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.topics.commands.migrate.runs import Run, Runs, runs_of, translated

Steps = list[tuple[int, int]]
steps = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), max_size=40)
"""How far the next record is from the last one, at either side; 1: right behind it."""


def pairs(given: Steps) -> dict[int, int]:
    """Source offset -> target offset."""
    source = target = 0
    found = {}
    for left, right in given:
        source, target = source + left, target + right
        found[source] = target
    return found


def mapped(given: Steps) -> tuple[Runs, dict[int, int]]:
    found = pairs(given)
    return runs_of([*found], [*found.values()]), found


@given(steps)
def test_each_record_is_found_at_both_sides(given: Steps) -> None:
    """And where there was no record, none is."""
    runs, known = mapped(given)
    back = {target: source for source, target in known.items()}
    assert [runs.copy_of(offset) for offset in range(200)] == [known.get(offset) for offset in range(200)]
    assert [runs.original_of(offset) for offset in range(200)] == [back.get(offset) for offset in range(200)]


@given(steps)
def test_a_group_reads_on_with_the_first_record_that_it_has_not_read(given: Steps) -> None:
    """Whatever offset it committed: in a hole, before all records, behind them."""
    runs, known = mapped(given)
    for offset in range(200):
        wanted = [target for source, target in known.items() if source >= offset]
        assert runs.at(offset) == min(wanted, default=None)


@given(steps, st.integers(0, 3))
def test_a_group_reads_exactly_the_rest(given: Steps, marks: int) -> None:
    """From the translated offset on lie the copies of just those records from the committed offset on."""
    runs, known = mapped(given)
    for offset in range(200):
        place = translated(runs, offset, 0, runs.end + marks)
        left = {source for source, target in known.items() if target >= place}
        assert left == {source for source in known if source >= offset}


def test_a_group_that_has_read_all_has_nothing_left() -> None:
    """The end of the transaction that copied the last record is not shown as one more record to read, but what somebody
    else wrote behind it is to be read."""
    runs = runs_of([0, 1, 2], [0, 1, 2])
    assert translated(runs, 3, 0, 4) == 4
    assert translated(runs, 3, 0, 5) == 3
    assert translated(runs, 3, 0, 3) == 3


def test_a_group_starts_where_the_target_does() -> None:
    """What retention has removed there can't be read."""
    assert translated(runs_of([5, 6, 7], [0, 1, 2]), 5, 2, 4) == 2


def test_a_group_of_an_empty_partition_starts_at_its_end() -> None:
    """Offset 0; or behind the end of a transaction that was undone, if that is all there is."""
    assert translated(Runs(), 0, 0, 0) == 0
    assert translated(Runs(), 17, 0, 1) == 1


def test_runs_join() -> None:
    """A record right behind the last one at both sides makes that run longer."""
    assert [*runs_of([0, 1, 2, 5, 6], [10, 11, 13, 14, 15])] == [Run(0, 10, 2), Run(2, 13, 1), Run(5, 14, 2)]


@pytest.mark.parametrize("run", [(1, 5, 1), (2, 1, 1), (2, 5, 0)])
def test_what_does_not_follow_is_no_run(run: tuple[int, int, int]) -> None:
    """Offsets that go back at one side, and runs of nothing, are an error."""
    runs = runs_of([0, 1], [0, 1])
    with pytest.raises(ValueError, match="doesn't follow"):
        runs.add(*run)
