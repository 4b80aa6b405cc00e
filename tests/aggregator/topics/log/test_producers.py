"""Kafka's rules of a producer's sequence numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.topics import record_batch
from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.log import producers
from aggregator.topics.log.states import Producer
from aggregator.topics.record_batch import Header
from tests.aggregator.topics.log.parts import batch

MAX = (1 << 31) - 1


def head(sequence: int, count: int = 1, epoch: int = 0) -> Header:
    return record_batch.header(batch(count, producer=(9, epoch, sequence)))


def after(*heads: Header) -> Producer:
    known, offset = None, 0
    for one in heads:
        known = producers.after(known, one, offset, 1)
        offset += one.count
    assert known is not None
    return known


def refusal(known: Producer | None, one: Header) -> Code | None:
    try:
        producers.check(known, one)
    except TopicsError as error:
        return error.code
    return None


def test_the_next_number_follows_the_last_record() -> None:
    """After records 0 to 4 comes 5, and no other."""
    known = after(head(0, 5))
    assert refusal(known, head(5)) is None
    assert {refusal(known, head(n)) for n in (0, 4, 6)} == {Code.OUT_OF_ORDER_SEQUENCE_NUMBER}


def test_numbers_begin_again_after_the_greatest() -> None:
    """The sequence goes on with 0 after 2**31 - 1, also inside a batch."""
    assert refusal(after(head(MAX)), head(0)) is None
    assert refusal(after(head(MAX - 1, 3)), head(1)) is None
    assert refusal(after(head(MAX - 1, 3)), head(0)) is Code.OUT_OF_ORDER_SEQUENCE_NUMBER


def test_a_repeat_among_the_last_five_is_known_by_its_numbers() -> None:
    """It has the offset that it got; an older one is a gap in the sequence."""
    heads = [head(3 * n, 3) for n in range(7)]
    known = after(*heads)
    assert [producers.repeated(known, one) for one in heads] == [None, None, 6, 9, 12, 15, 18]
    assert refusal(known, heads[1]) is Code.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert producers.repeated(known, head(18, 2)) is None


def test_nobody_knows_a_producer_who_is_new() -> None:
    """It may begin with any number: its state may have expired."""
    assert refusal(None, head(77)) is None
    assert producers.repeated(None, head(77)) is None


def test_an_older_epoch_is_fenced() -> None:
    """INVALID_PRODUCER_EPOCH, whatever its number."""
    assert refusal(after(head(0, epoch=2)), head(1, epoch=1)) is Code.INVALID_PRODUCER_EPOCH


def test_a_new_epoch_begins_with_0() -> None:
    """Its batches are no repeats of those of the epoch before."""
    known = after(head(0), head(1))
    assert refusal(known, head(2, epoch=1)) is Code.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert refusal(known, head(0, epoch=1)) is None
    assert producers.repeated(known, head(0, epoch=1)) is None
    assert after(head(0), head(0, epoch=1)).batches == ((0, 0, 1),)


def test_a_marker_leaves_the_sequence_as_it_is() -> None:
    """One of a new epoch begins that."""
    known = after(head(0, 5))
    same = record_batch.header(record_batch.control(True, 9, 0, 5))
    assert producers.after(known, same, 5, 8) == known._replace(time_ms=8)
    newer = record_batch.header(record_batch.control(False, 9, 1, 5))
    assert producers.after(known, newer, 5, 8) == Producer(1, (), 8)


def test_idle_producers_go_unless_a_transaction_is_open() -> None:
    """After seven days; beyond the bound those that came least recently."""
    week = producers.IDLE_MS
    some = {1: Producer(0, (), 0), 2: Producer(0, (), 0), 3: Producer(0, (), 5)}
    assert producers.idle(some, {2: 0}, week + 1) == [1]
    many = {id_: Producer(0, (), id_) for id_ in range(producers.LIMIT + 1)}
    assert producers.idle(many, {0: 0}, 10) == list(range(1, 1 + producers.LIMIT // 10))


numbers = st.integers(0, MAX)
states = st.builds(
    Producer,
    st.integers(0, (1 << 15) - 1),
    st.lists(st.tuples(numbers, numbers, st.integers(0, 1 << 44)), max_size=5).map(tuple),
    st.integers(0, 1 << 50),
)


@given(st.dictionaries(st.integers(0, 1 << 62), states, max_size=5), st.data())
def test_states_survive_the_table(known: dict[int, Producer], data: st.DataObject) -> None:
    """`unpack` gives back what `pack` took."""
    some = data.draw(st.sets(st.sampled_from(sorted(known)))) if known else set()
    open_ = {id_: data.draw(st.integers(0, 1 << 44)) for id_ in some}
    assert producers.unpack(producers.pack(known, open_)) == (known, open_)


@pytest.mark.parametrize("cut", range(1, 31))
def test_a_cut_table_row_is_no_state(cut: int) -> None:
    """It raises; half of a producer is none."""
    data = producers.pack({1: Producer(0, ((0, 4, 7),), 3)}, {})
    with pytest.raises(Exception, match="unpack"):
        producers.unpack(data[:-cut])
