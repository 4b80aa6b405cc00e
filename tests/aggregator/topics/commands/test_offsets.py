"""Which groups are set at the target, and which stay where they are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import cast

import pytest
from confluent_kafka import KafkaError, KafkaException

from agent.errors import DeliveryError
from aggregator.topics.commands.cluster import Cluster, Committed, Place
from aggregator.topics.commands.migrate.offsets import Groups
from aggregator.topics.commands.migrate.runs import Runs, runs_of

ONE, TWO = ("t", 0), ("t", 1)
RUNS = {ONE: runs_of([0, 1, 2, 5, 6], [10, 11, 12, 13, 14]), TWO: Runs()}
REACHED = {ONE: 8, TWO: 0}


class Side:
    """A cluster that knows groups, and counts what it is told."""

    def __init__(self) -> None:
        self.places: dict[str, dict[Place, Committed]] = {}
        self.commits: list[tuple[str, dict[Place, Committed]]] = []
        self.failure: Exception | None = None

    def starts(self, places: Iterable[Place]) -> dict[Place, int]:
        return dict.fromkeys(places, 0)

    def ends(self, places: Iterable[Place]) -> dict[Place, int]:
        return {place: RUNS[place].end + 5 for place in places}

    def groups(self) -> list[str]:
        return [*self.places]

    def committed(self, group: str, places: Iterable[Place]) -> dict[Place, Committed]:
        return {place: at for place, at in self.places.get(group, {}).items() if place in places}

    def commit(self, group: str, offsets: Mapping[Place, Committed]) -> None:
        if self.failure:
            raise self.failure
        self.commits.append((group, dict(offsets)))
        self.places.setdefault(group, {}).update(offsets)


def made(names: str = ".*") -> tuple[Side, Side, Groups]:
    source, target = Side(), Side()
    return source, target, Groups(cast(Cluster, source), cast(Cluster, target), re.compile(names))


def carry(groups: Groups) -> None:
    groups.carry(groups.taken([ONE, TWO]), RUNS, REACHED)


def refused(code: int) -> DeliveryError:
    """As a Cluster raises it."""
    error = DeliveryError("k:9092: group g: no")
    error.__cause__ = KafkaException(KafkaError(code))
    return error


def test_places_are_translated() -> None:
    """Of each partition, with what was written beside them."""
    source, target, groups = made()
    source.places = {"g": {ONE: Committed(3, "mine"), TWO: Committed(0)}}
    carry(groups)
    assert target.places == {"g": {ONE: Committed(13, "mine"), TWO: Committed(0)}}
    assert not groups.failed and not groups.left_alone


def test_only_groups_that_are_wanted() -> None:
    """By their whole name; and those that have a place in what is copied."""
    source, target, groups = made("a.*")
    at = {ONE: Committed(1)}
    source.places = {"a1": at, "b": at, "ba": at, "a2": {("u", 0): Committed(1)}}
    carry(groups)
    assert [*target.places] == ["a1"]


def test_it_follows_a_group_to_and_fro() -> None:
    """What it has set itself it sets again, also backwards; what hasn't changed isn't said twice."""
    source, target, groups = made()
    for offset in (2, 2, 6, 1):
        source.places = {"g": {ONE: Committed(offset)}}
        carry(groups)
    assert [offsets[ONE].offset for _, offsets in target.commits] == [12, 14, 11]


def test_a_group_that_went_on_at_the_target() -> None:
    """Stays there, in the partitions where it is further; it is said, and is no failure."""
    source, target, groups = made()
    source.places = {"g": {ONE: Committed(1), TWO: Committed(0)}}
    target.places = {"g": {ONE: Committed(14)}}
    carry(groups)
    assert target.places["g"] == {ONE: Committed(14), TWO: Committed(0)}
    assert groups.left_alone == {"g": "has gone on at the target (t-0) and stays there"} and not groups.failed


def test_a_group_that_is_there_already() -> None:
    """At the same place, it isn't touched, so its members there don't matter."""
    source, target, groups = made()
    source.places, target.places = {"g": {ONE: Committed(2)}}, {"g": {ONE: Committed(12)}}
    target.failure = refused(KafkaError.UNKNOWN_MEMBER_ID)
    carry(groups)
    assert not groups.left_alone and not groups.failed


@pytest.mark.parametrize(
    ("code", "alone"), [(KafkaError.UNKNOWN_MEMBER_ID, True), (KafkaError.GROUP_AUTHORIZATION_FAILED, False)]
)
def test_a_group_that_cannot_be_set(code: int, alone: bool) -> None:
    """One with members is left alone; any other reason is a failure. Both are over when the next pass does it."""
    source, target, groups = made()
    source.places = {"g": {ONE: Committed(2)}}
    target.failure = refused(code)
    carry(groups)
    assert (list(groups.left_alone), list(groups.failed)) == ((["g"], []) if alone else ([], ["g"]))
    target.failure = None
    carry(groups)
    assert not groups.failed and not groups.left_alone and target.places == {"g": {ONE: Committed(12)}}


def test_an_offset_behind_the_end() -> None:
    """Of a topic that was made anew: it has no place at the target, and that is said."""
    source, target, groups = made()
    source.places = {"g": {ONE: Committed(9), TWO: Committed(0)}}
    carry(groups)
    assert target.places == {"g": {TWO: Committed(0)}}
    assert groups.failed == {"g": "is behind the end of t-0 at the source"}
