"""Both sides of a copy, compared: what is a difference and what is not."""

from __future__ import annotations

from collections.abc import Iterable

from aggregator.topics.commands.migrate.check import Compared, Seen, compare
from aggregator.topics.commands.migrate.runs import Runs, runs_of

RUNS = runs_of([0, 1, 3, 4], [0, 1, 2, 4])
"""Offset 2 of the source and 3 of the target hold no record."""


def record(offset: int, content: int, key: bytes = b"k", tombstone: bool = False) -> Seen:
    return Seen(offset, content, key, tombstone)


SOURCE = [record(0, 10), record(1, 11), record(3, 13), record(4, 14)]
TARGET = [record(0, 10), record(1, 11), record(2, 13), record(4, 14)]


def compared(
    source: Iterable[Seen] = SOURCE, target: Iterable[Seen] = TARGET, runs: Runs = RUNS, start: int = 0,
    compacted: bool = False,
) -> Compared:  # fmt: skip
    return compare(source, target, runs, start, compacted)


def without(records: list[Seen], *offsets: int) -> list[Seen]:
    return [one for one in records if one.offset not in offsets]


def test_the_same() -> None:
    """Equal records in equal order: counts and checksums are equal."""
    found = compared()
    assert found.same and found.source == found.target and found.source.records == 4
    assert found.source.checksum == 48


def test_another_content() -> None:
    """One record that isn't its copy is a difference."""
    found = compared(target=[*TARGET[:1], record(1, 99), *TARGET[2:]])
    assert (found.same, found.differing) == (False, 1)


def test_two_that_changed_places() -> None:
    """The sums are equal, the order is not."""
    found = compared(target=[record(0, 11), record(1, 10), *TARGET[2:]])
    assert found.source == found.target and not found.same


def test_one_that_is_missing() -> None:
    """At the target, in the middle and at the end."""
    assert compared(target=without(TARGET, 1)).missing == 1
    assert compared(target=without(TARGET, 4)).missing == 1


def test_one_that_was_never_copied() -> None:
    """The map doesn't know of it."""
    found = compared(source=[*SOURCE[:2], record(2, 12), *SOURCE[2:]])
    assert (found.same, found.missing, found.source.records) == (False, 1, 5)


def test_one_that_is_there_twice() -> None:
    """Among the copies lies a record that the map doesn't know of."""
    found = compared(target=[*TARGET[:3], record(3, 13), *TARGET[3:]])
    assert (found.same, found.foreign) == (False, 1)


def test_others_behind_the_copies_are_no_difference() -> None:
    """Producers that have moved already."""
    assert compared(target=[*TARGET, record(5, 99)]).same


def test_what_the_source_has_dropped() -> None:
    """By retention or by compaction: it is counted apart, and the rest is compared."""
    found = compared(source=without(SOURCE, 0, 3))
    assert (found.same, found.gone, found.source.records, found.target.records) == (True, 2, 2, 2)


def test_what_retention_dropped_at_the_target() -> None:
    """Before its first offset nothing is missing."""
    found = compared(target=without(TARGET, 0, 1), start=2)
    assert (found.same, found.gone, found.target.records) == (True, 2, 2)


def test_what_the_target_has_compacted() -> None:
    """A record may go if a later one has its key."""
    found = compared(target=without(TARGET, 0, 1), compacted=True)
    assert (found.same, found.gone) == (True, 2)
    assert not compared(target=without(TARGET, 0, 1)).same


def test_compaction_never_takes_the_last_of_a_key() -> None:
    """Whose later record isn't there is missing."""
    source = [*SOURCE[:3], record(4, 14, b"other")]
    found = compared(source, without(TARGET, 4), compacted=True)
    assert (found.same, found.missing) == (False, 1)


def test_tombstones_go_at_last() -> None:
    """A key that was deleted is gone altogether."""
    source = [*SOURCE[:2], record(3, 13, b"other"), record(4, 14, b"other", tombstone=True)]
    found = compared(source, without(TARGET, 2, 4), compacted=True)
    assert (found.same, found.gone) == (True, 2)
    assert not compared(source, without(TARGET, 1, 2, 4), compacted=True).same
