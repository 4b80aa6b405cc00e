"""Position: which numbers are in Kafka already."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.store.streams import Transit, numbers_of, runs_of
from aggregator.kafka.position import MOST, Position

A, B = b"a" * 16, b"b" * 16


def transit(origin: bytes, after: int, *numbers: int, channel: str = "c1") -> Transit:
    return Transit(origin, channel, after, runs_of(numbers), 0)


def test_a_repeat_is_cut_however_it_is_split() -> None:
    """1-10 are there; a batch of 8-12 lacks 11 and 12."""
    position = Position().with_batch(transit(A, 0, *range(1, 6))).with_batch(transit(A, 5, *range(6, 11)))
    assert len(position.intervals) == 1
    assert position.missing(transit(A, 7, *range(8, 13))) == [3, 4]
    assert position.missing(transit(A, 0, 1, 2)) == []
    assert position.missing(transit(B, 0, 1, 2)) == [0, 1]


def test_a_held_event_stays_missing() -> None:
    """Event 5 was rejected and waits; 6-9 went through: after a kill 5 comes again and isn't taken for a repeat."""
    position = Position().with_batch(transit(A, 0, 1, 2, 3, 4)).with_batch(transit(A, 5, 6, 7, 8, 9))
    assert position.missing(transit(A, 0, *range(1, 12))) == [4, 9, 10]


def test_numbers_of_other_channels_leave_no_gap() -> None:
    """A selector sent 3 and 4 elsewhere: `after` says so, and the interval grows over them."""
    position = Position().with_batch(transit(A, 0, 1, 2)).with_batch(transit(A, 2, 5, 6))
    assert [one[1:] for one in position.intervals] == [(1, 6)]


def test_numbers_of_another_channel_are_not_covered() -> None:
    """A sink that is given another channel of the same store: what c1 gave says nothing of what a selector put into
    c2, though the numbers are of one origin and the interval reaches over them."""
    position = Position().with_batch(transit(A, 0, 1, 2, 5, 6))
    assert position.missing(transit(A, 0, 3, 4, channel="c2")) == [0, 1]
    both = position.with_batch(transit(A, 0, 3, 4, channel="c2"))
    assert both.missing(transit(A, 0, 2, 3, 7)) == [2]
    assert Position(str(both)).missing(transit(A, 0, 4, 7, channel="c2")) == [1]


def test_version_1_covers_nothing() -> None:
    """It doesn't say of which channel it is: better twice than never."""
    old = Position(f"1;{A.hex()}:1-6")
    assert old.outdated and old.missing(transit(A, 0, 1, 2)) == [0, 1]
    assert not Position(str(old.with_batch(transit(A, 0, 1)))).outdated


def test_it_fits_into_what_a_broker_keeps() -> None:
    """offset.metadata.max.bytes is 4,096 unless somebody changed it."""
    position = Position()
    while not position.crowded:
        number = 10**15 + 2 * len(position.intervals)
        position = position.with_batch(transit(bytes([len(position.intervals)]) * 16, number - 1, number))
    assert len(position.intervals) == MOST and len(str(position)) < 4000


@pytest.mark.parametrize("text", ["3", "2;zz:1-2", "2;00:5-4", "nonsense", "2;00:1"])
def test_text_of_somebody_else_is_refused(text: str) -> None:
    """ValueError: a group's offset that isn't ours must not be taken for ours."""
    with pytest.raises(ValueError):
        Position(text)


@given(st.lists(st.tuples(st.sampled_from([A, B]), st.sampled_from(["c1", "c2"]), st.integers(1, 30),
                          st.integers(1, 10)), max_size=12))  # fmt: skip
def test_against_a_set(batches: list[tuple[bytes, str, int, int]]) -> None:
    """Whatever was sent is covered, nothing else is, and the text says the same."""
    position, sent = Position(), set[tuple[bytes, str, int]]()
    for origin, channel, first, count in batches:
        batch = transit(origin, first - 1, *range(first, first + count), channel=channel)
        missing = position.missing(batch)
        numbers = list(numbers_of(batch.numbers))
        assert [numbers[i] for i in missing] == [n for n in numbers if (origin, channel, n) not in sent]
        sent |= {(origin, channel, n) for n in numbers}
        position = Position(str(position.with_batch(batch)))
