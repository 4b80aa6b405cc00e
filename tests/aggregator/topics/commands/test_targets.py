"""Which topics a copy refuses to write to, each by name."""

from __future__ import annotations

from collections import defaultdict

import pytest

from agent.errors import DeliveryError
from aggregator.topics.commands.migrate.runs import Runs, runs_of
from aggregator.topics.commands.migrate.targets import check_contents, check_partitions, runs_by_place


def known(topic: str = "t", sources: list[int] | None = None) -> dict[str, defaultdict[int, Runs]]:
    """A topic of which these source offsets are copied, to 0, 1, 2 ... in partition 0."""
    offsets = sources or []
    found = defaultdict(Runs)
    found[0] = runs_of(offsets, [*range(len(offsets))])
    return {topic: found}


def test_other_partitions_are_refused_by_name() -> None:
    """All of them at once, with both numbers; topics that the target lacks are no trouble."""
    with pytest.raises(DeliveryError) as caught:
        check_partitions({"a": 1, "b": 2, "c": 3, "d": 4}, {"a": 1, "b": 3, "c": 2})
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "topic b has 3 partitions at the target and 2 at the source",
        "topic c has 2 partitions at the target and 3 at the source",
    ]
    check_partitions({"a": 1, "d": 4}, {"a": 1})


def test_an_empty_topic_begins_anew() -> None:
    """Whatever was copied to one of that name before."""
    ends = {("t", 0): 0, ("t", 1): 0}
    assert check_contents({}, ends, ends) == {"t"}
    assert check_contents(known(sources=[0, 1]), ends, {("t", 0): 5, ("t", 1): 0}) == {"t"}


def test_what_the_copy_left_goes_on() -> None:
    """Also one that was killed before its first commit: the topic isn't empty, and nothing is copied."""
    assert check_contents(known(sources=[0, 1]), {("t", 0): 3}, {("t", 0): 2}) == set()
    assert check_contents(known(), {("t", 0): 3}, {("t", 0): 2}) == set()


@pytest.mark.parametrize(
    ("sources", "end", "source_end", "words"),
    [
        (None, 3, 9, "has records at the target that are not from here"),
        ([0, 1, 2, 3], 3, 9, "has lost records at the target"),
        ([0, 1, 5], 4, 5, "is another one than the one that was copied"),
    ],
    ids=["foreign", "cut", "made anew"],
)
def test_what_is_not_as_it_was_left_is_refused(
    sources: list[int] | None, end: int, source_end: int, words: str
) -> None:
    """Records of others; fewer than were copied; a source that ends before the copy did."""
    about = known(sources=sources) if sources else {}
    with pytest.raises(DeliveryError, match=f"^topic t .*{words}"):
        check_contents(about, {("t", 0): end}, {("t", 0): source_end})


def test_a_topic_that_is_not_known_has_no_runs() -> None:
    """Every partition of every topic has its own."""
    found = runs_by_place(known(sources=[4]), {"t": 2, "u": 1})
    assert {place: runs.reached for place, runs in found.items()} == {("t", 0): 5, ("t", 1): 0, ("u", 0): 0}
