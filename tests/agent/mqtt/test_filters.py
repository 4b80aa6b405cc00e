"""Topic filters."""

from __future__ import annotations

import pytest

from agent.mqtt.filters import fault, overlap, overlapping


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a/#", "a/b"),
        ("#", "a"),
        ("a/+", "a/b"),
        ("a/#", "a"),
        ("+/b", "a/+"),
        ("a/+/c", "a/b/#"),
        ("$share/g/a/#", "a/b"),
        ("+/+/#", "a/b"),
        ("a", "a"),
    ],
)
def test_filters_that_overlap(one: str, other: str) -> None:
    """A topic that both match exists."""
    assert overlap(one, other) and overlap(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a/b", "a/c"),
        ("a/+", "a/b/c"),
        ("a", "a/b"),
        ("#", "$SYS/x"),
        ("+/x", "$SYS/x"),
        ("a/+/c", "a/b/d"),
        ("a/#", "b/#"),
    ],
)
def test_filters_that_do_not(one: str, other: str) -> None:
    """No topic matches both."""
    assert not overlap(one, other) and not overlap(other, one)


def test_overlapping_names_the_pairs() -> None:
    """Each pair is named once."""
    assert overlapping(["a/#", "b", "a/b"]) == [("a/#", "a/b")]


@pytest.mark.parametrize("topic", ["", "a/#/b", "a+/b", "a/b#", "$share/g/"])
def test_faulty_filters(topic: str) -> None:
    """A filter that a broker would refuse is told before."""
    assert fault(topic)


@pytest.mark.parametrize("topic", ["#", "a/+/b", "+/#", "$share/g/a/#", "/"])
def test_good_filters(topic: str) -> None:
    """Nothing is wrong with these."""
    assert not fault(topic)
