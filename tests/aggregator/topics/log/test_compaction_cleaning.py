"""What stays of a batch, and what is remembered of keys: no log, no threads."""

from __future__ import annotations

from sys import getsizeof

import pytest

from aggregator.topics import record_batch
from aggregator.topics.log import cleaning
from aggregator.topics.log.cleaning import Aborted, Change, Keys, Sweep, learn
from tests.aggregator.topics.batches import sealed
from tests.aggregator.topics.log.compacted import Pair, keyed

NOBODY = Aborted([])
UNREADABLE = sealed(keyed((b"a", b"?")), b"no gzip", 1)
LONG = b"a key that is longer than its digest"
LATE = 1 << 40


def at(offset: int, batch: bytes) -> bytes:
    return record_batch.placed(batch, offset)


def written(*pairs: Pair, offset: int = 0, producer: int = 1) -> bytes:
    """Inside a transaction."""
    return at(offset, keyed(*pairs, producer=(producer, 0, 0), transactional=True))


def marker(offset: int, commit: bool, producer: int = 1) -> bytes:
    return at(offset, record_batch.control(commit, producer, 0, 0))


def learned(*batches: bytes, aborted: Aborted = NOBODY) -> Keys:
    keys = Keys(1000)
    assert learn(keys, batches, aborted, 0) is None
    return keys


def left(*batches: bytes, ripe: int = 0, aborted: Aborted = NOBODY) -> list[tuple[int, bytes | None, bytes | None]]:
    """Offset, key and value of all that stays, when they are swept together; markers have their key."""
    sweep = Sweep(learned(*batches, aborted=aborted), aborted, ripe)
    changes = {change.head: change.new for change in sweep.over(batches)}
    stay = [changes.get(batch[: record_batch.SIZE], batch) for batch in batches]
    return [(one.offset, one.key, one.value) for batch in stay if batch for one in record_batch.records(batch)]


def test_the_newest_of_each_key_stays() -> None:
    """At its offset, whatever its length, in whatever batch."""
    first = keyed((b"a", b"1"), (b"b", b"1"), (LONG, b"1"), (b"a", b"2"))
    assert left(first, at(4, keyed((LONG, b"2"), (b"", b"1"))), at(6, keyed((b"b", b"2")))) == [
        (3, b"a", b"2"),
        (4, LONG, b"2"),
        (5, b"", b"1"),
        (6, b"b", b"2"),
    ]


def test_keys_that_begin_alike_are_told_apart() -> None:
    """By all of their bytes."""
    pairs = [(LONG + bytes([n]), b"v") for n in range(256)] + [(bytes(n), b"v") for n in range(40)]
    assert len(left(keyed(*pairs))) == 296


def test_what_stays_whole_is_no_change() -> None:
    """Its bytes aren't written again; a batch of which nothing stays goes, one of which a part stays becomes that."""
    old, half, new = keyed((b"a", b"1")), at(1, keyed((b"a", b"2"), (b"b", b"1"))), at(3, keyed((b"a", b"3")))
    whole = at(4, keyed((b"c", b"1"), packed=1))
    batches = [old, half, new, whole]
    gone, changed = Sweep(learned(*batches), NOBODY, 0).over(batches)
    assert gone == Change(old[:61], None) and gone.last == 0
    assert (changed.head, changed.last) == (half[:61], 2)
    assert changed.new is not None and record_batch.header(changed.new).last_offset == 2


def test_records_without_a_key_go() -> None:
    """They came before the topic was compacted; as in Kafka."""
    without = record_batch.build([(0, None, b"v", ()), (0, b"a", b"v", ())])
    assert left(without) == [(1, b"a", b"v")]


def test_tombstones_go_when_they_are_ripe() -> None:
    """Before, they stay as the newest of their key."""
    batches = [keyed((b"a", b"1"), (b"b", b"1")), at(2, keyed((b"a", None))), at(3, keyed((b"b", None)))]
    assert left(*batches, ripe=0) == [(2, b"a", None), (3, b"b", None)]
    assert left(*batches, ripe=3) == [(3, b"b", None)]
    assert left(*batches, ripe=4) == []


def test_what_can_not_be_read_stays_and_so_do_tombstones_behind_it() -> None:
    """It may hold what they delete. Where it is is told."""
    batches = [keyed((b"a", None)), at(1, UNREADABLE), at(2, keyed((b"a", None), (b"b", b"1")))]
    batches += [at(4, keyed((b"b", b"2")))]
    sweep = Sweep(learned(*batches), NOBODY, LATE)
    changes = {change.last: change.new for change in sweep.over(batches)}
    assert changes.keys() == {0, 3}
    kept = changes[3]
    assert kept and [(one.offset, one.value) for one in record_batch.records(kept)] == [(2, None)]
    assert sweep.unreadable[0][0] == 1 and "gzip" in sweep.unreadable[0][1]


def test_what_was_aborted_goes() -> None:
    """It is no news of its keys, and needn't be readable."""
    aborted = Aborted([(3, 1, 1)])
    unreadable = at(2, sealed(written((b"a", b"3")), b"no gzip", 0x11))
    batches = [keyed((b"a", b"1")), written((b"a", b"2"), offset=1), unreadable, marker(3, False)]
    sweep = Sweep(learned(*batches, aborted=aborted), aborted, 0)
    assert [(change.last, change.new) for change in sweep.over(batches)] == [(1, None), (2, None)]
    assert not sweep.unreadable


@pytest.mark.parametrize(
    ("producer", "offset", "inside"),
    [(1, 0, False), (1, 1, True), (1, 2, True), (1, 4, False), (1, 5, True), (1, 9, False), (2, 2, False)],
)
def test_which_transaction_a_batch_belongs_to(producer: int, offset: int, inside: bool) -> None:
    """Its producer's, from that one's first offset to its marker; others write between."""
    aborted = Aborted([(3, 1, 1), (8, 1, 5)])
    assert (record_batch.header(written((b"a", b"1"), offset=offset, producer=producer)) in aborted) is inside
    assert record_batch.header(at(offset, keyed((b"a", b"1"), producer=(producer, 0, 0)))) not in aborted


def test_a_marker_stays_while_a_batch_of_its_transaction_does() -> None:
    """Then, when it is ripe, it goes; another producer's batches between count for theirs."""
    batches = [written((b"a", b"1")), written((b"b", b"1"), offset=1, producer=2), marker(2, True), marker(3, True, 2)]
    batches += [at(4, keyed((b"a", b"2")))]
    swept = [change.last for change in Sweep(learned(*batches), NOBODY, LATE).over(batches)]
    assert swept == [0, 2]
    assert [change.last for change in Sweep(learned(*batches), NOBODY, 2).over(batches)] == [0]


def test_the_marker_of_what_was_aborted_goes_last() -> None:
    """It is told, and stays for now; no more than a bound at once."""
    batches = [marker(n, False, producer=n) for n in range(5)]
    sweep = Sweep(Keys(1), Aborted([(n, n, n) for n in range(5)]), LATE)
    sweep_of_two = Sweep(Keys(1), sweep.aborted, LATE)
    assert sweep.over(batches) == []
    assert [marker.last for marker in sweep.ended] == [0, 1, 2, 3, 4]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cleaning, "MOST_ENDED", 2)
        assert sweep_of_two.over(batches) == []
    assert len(sweep_of_two.ended) == 2


def test_a_marker_that_ended_nothing_goes() -> None:
    """An abort without a batch in this partition."""
    assert [change.last for change in Sweep(Keys(1), NOBODY, LATE).over([marker(0, False)])] == [0]


def test_there_is_room_for_so_many_keys() -> None:
    """The first record that finds none ends it: its offset, and where its batch ends; known keys go on."""
    keys = Keys(2)
    batches = [keyed((b"a", b"1"), (b"b", b"1")), at(2, keyed((b"a", b"2"), (b"c", b"1"), (b"d", b"1")))]
    assert learn(keys, batches, NOBODY, 0) == (3, 5)
    assert [keys.last(key) for key in (b"a", b"b", b"c")] == [2, 1, -1]


def test_learning_goes_on_inside_a_batch() -> None:
    """From the record at which the last pass ended."""
    keys = Keys(2)
    assert learn(keys, [keyed((b"a", b"1"), (b"b", b"1"), (b"c", b"1"))], NOBODY, 1) is None
    assert [keys.last(key) for key in (b"a", b"b", b"c")] == [-1, 1, 2]


def test_nothing_is_learned_from_markers_and_what_can_not_be_read() -> None:
    """Nor from what was aborted, nor from records without a key."""
    keys = Keys(2)
    batches = [record_batch.build([(0, None, b"v", ())]), at(1, UNREADABLE), written((b"a", b"1"), offset=2)]
    assert learn(keys, [*batches, marker(3, False)], Aborted([(3, 1, 2)]), 0) is None
    assert (keys.put(b"x", 4), keys.put(b"y", 5), keys.put(b"z", 6)) == (True, True, False)


def test_the_keys_of_a_pass_take_64_mib() -> None:
    """However long they are."""
    keys = Keys(cleaning.MOST_KEYS)
    for n in range(cleaning.MOST_KEYS):
        assert keys.put(LONG + n.to_bytes(4, "big"), LATE + n)
    name, offset = next(iter(keys._last.items()))
    each = sum((getsizeof(one) + 15) // 16 * 16 for one in (name, offset))
    assert getsizeof(keys._last) + cleaning.MOST_KEYS * each < 64 << 20
