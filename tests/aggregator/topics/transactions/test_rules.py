"""What may happen to a transactional id, one rule at a time (KIP-98, KIP-360)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.log.transactions import State, Transactional
from aggregator.topics.transactions import rules
from aggregator.topics.transactions.rules import LAST_EPOCH, Identity

NEW = 77
"""The producer id that is given out next."""
IDLE = Transactional("t", 5, 3, touched_ms=100)
OPEN = rules.enlisted(IDLE, {("a", 0)}, {"g"}, 200)


def initiated(known: Transactional | None, expected: Identity | None = None, timeout_ms: int = 1000) -> Transactional:
    return rules.initiated(known, "t", timeout_ms, expected, lambda: NEW, 300)


class refused:
    """The block ends with this code."""

    def __init__(self, code: Code) -> None:
        self.code = code

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        assert isinstance(error, TopicsError) and error.code is self.code, error
        return True


# ---- InitProducerId


def test_a_new_id_gets_a_new_producer() -> None:
    """A transactional id that nobody knows begins with a new producer id and epoch 0."""
    new = initiated(None)
    assert (new.producer, new.epoch, new.state, new.timeout_ms, new.touched_ms) == (NEW, 0, State.EMPTY, 1000, 300)


def test_a_forgotten_producer_gets_a_new_one() -> None:
    """Who goes on with an id that has been forgotten gets a new producer id, whoever it says that it was."""
    assert initiated(None, (5, 3))[1:3] == (NEW, 0)


@pytest.mark.parametrize("state", [State.EMPTY, State.COMMITTED, State.ABORTED])
def test_the_next_producer_has_the_next_epoch(state: State) -> None:
    """A known id keeps its producer id and gets the next epoch, from which its last owner is fenced."""
    new = initiated(IDLE._replace(state=state))
    assert (new.producer, new.epoch, new.state, new.before) == (5, 4, State.EMPTY, (-1, -1))


def test_an_open_transaction_is_gone_with_its_producer() -> None:
    """InitProducerId leaves nothing open: no partitions, no groups, no start."""
    new = initiated(OPEN)
    assert (new.epoch, new.state, new.partitions, new.groups, new.started_ms) == (
        4, State.EMPTY, frozenset(), frozenset(), -1,
    )  # fmt: skip


def test_the_last_epoch_is_followed_by_a_new_producer_id() -> None:
    """Epochs end at 32767, which is for fencing: 32766 is followed by epoch 0 of a new producer id."""
    assert initiated(IDLE._replace(epoch=LAST_EPOCH - 1))[1:3] == (5, LAST_EPOCH)
    assert initiated(IDLE._replace(epoch=LAST_EPOCH))[1:3] == (NEW, 0)
    assert initiated(IDLE._replace(epoch=LAST_EPOCH + 1))[1:3] == (NEW, 0)
    assert rules.fence(IDLE._replace(epoch=LAST_EPOCH)) < 1 << 15


def test_who_says_its_epoch_gets_the_next_one() -> None:
    """A producer that goes on after an error says who it is, gets the next epoch, and is remembered as who it was."""
    new = initiated(IDLE, (5, 3))
    assert (new.producer, new.epoch, new.before) == (5, 4, (5, 3))


def test_a_repeated_question_has_the_same_answer() -> None:
    """Asked again with the epoch from before, because the answer was lost: no further epoch is given."""
    once = initiated(IDLE, (5, 3))
    assert initiated(once, (5, 3)) is once


def test_a_repeated_question_over_a_new_producer_id() -> None:
    """The same where the lost answer had a new producer id."""
    once = initiated(IDLE._replace(epoch=LAST_EPOCH), (5, LAST_EPOCH))
    assert once[1:3] == (NEW, 0)
    assert initiated(once, (5, LAST_EPOCH)) is once


@pytest.mark.parametrize("expected", [(5, 2), (5, 4), (6, 3)])
def test_who_is_not_the_owner_any_more_is_fenced(expected: Identity) -> None:
    """An epoch that isn't the current one, nor the one asked with last: PRODUCER_FENCED."""
    with refused(Code.PRODUCER_FENCED):
        initiated(IDLE, expected)


def test_another_producer_ends_the_repeats() -> None:
    """After a producer that came without an epoch, the one before it is fenced for ever."""
    with refused(Code.PRODUCER_FENCED):
        initiated(initiated(initiated(IDLE, (5, 3))), (5, 3))


def test_a_stray_repeat_ends_no_transaction() -> None:
    """A repeated question that comes when the next transaction is open is fenced, and the transaction goes on."""
    again = rules.enlisted(initiated(IDLE, (5, 3)), {("a", 0)}, set(), 400)
    with refused(Code.PRODUCER_FENCED):
        initiated(again, (5, 3))


@pytest.mark.parametrize("timeout", [0, -1, rules.MOST_TIMEOUT_MS + 1])
def test_time_of_a_transaction_has_bounds(timeout: int) -> None:
    """A transaction takes 1 ms to 15 minutes; anything else is INVALID_TRANSACTION_TIMEOUT."""
    with refused(Code.INVALID_TRANSACTION_TIMEOUT):
        initiated(None, None, timeout)


@pytest.mark.parametrize("id_", ["", "x" * 1001])
def test_an_id_has_bounds(id_: str) -> None:
    """A transactional id is neither empty nor without end: INVALID_REQUEST."""
    with refused(Code.INVALID_REQUEST):
        rules.initiated(None, id_, 1000, None, lambda: NEW, 0)


# ---- who asks


def test_the_owner_is_known_by_producer_and_epoch() -> None:
    """The current producer id and epoch are let through, a stale epoch is fenced, any other id is unknown."""
    assert rules.current(IDLE, 5, 3) is IDLE
    for epoch in (2, 4):
        with refused(Code.PRODUCER_FENCED):
            rules.current(IDLE, 5, epoch)
    for known in (IDLE, None):
        with refused(Code.INVALID_PRODUCER_ID_MAPPING):
            rules.current(known, 6, 3)


# ---- what it holds


def test_the_first_partition_begins_the_transaction() -> None:
    """With the first partition it is open since now, and later ones don't change since when."""
    first = rules.enlisted(IDLE, {("a", 0)}, set(), 200)
    assert (first.state, first.started_ms, first.partitions) == (State.ONGOING, 200, {("a", 0)})
    second = rules.enlisted(first, {("a", 1)}, {"g"}, 250)
    assert (second.started_ms, second.partitions, second.groups) == (200, {("a", 0), ("a", 1)}, {"g"})


def test_what_it_holds_already_changes_nothing() -> None:
    """A partition or group that is added again leaves the very same state, with nothing to write."""
    assert rules.enlisted(OPEN, {("a", 0)}, {"g"}, 250) is OPEN


def test_groups_have_a_bound() -> None:
    """A transaction takes the offsets of a hundred groups: INVALID_REQUEST for one more."""
    full = rules.enlisted(IDLE, set(), {f"g{i}" for i in range(rules.MOST_GROUPS)}, 200)
    with refused(Code.INVALID_REQUEST):
        rules.enlisted(full, set(), {"one more"}, 200)


def test_offsets_need_their_group() -> None:
    """Offsets are taken of a group that the open transaction holds, otherwise INVALID_TXN_STATE."""
    rules.check_pending(OPEN, "g")
    for known, group in ((OPEN, "h"), (IDLE, "g"), (rules.ended(OPEN, True, 300), "g")):
        with refused(Code.INVALID_TXN_STATE):
            rules.check_pending(known, group)


# ---- its end


@pytest.mark.parametrize("commit", [True, False])
def test_a_transaction_ends_once(commit: bool) -> None:
    """It ends as asked; asked the same again nothing changes; asked the opposite it is INVALID_TXN_STATE."""
    done = rules.ended(OPEN, commit, 300)
    assert (done.state, done.partitions, done.groups, done.started_ms) == (
        State.COMMITTED if commit else State.ABORTED, frozenset(), frozenset(), -1,
    )  # fmt: skip
    assert rules.ended(done, commit, 400) is done
    with refused(Code.INVALID_TXN_STATE):
        rules.ended(done, not commit, 400)


@pytest.mark.parametrize("commit", [True, False])
def test_what_has_not_begun_cannot_end(commit: bool) -> None:
    """EndTxn before the first partition is INVALID_TXN_STATE."""
    with refused(Code.INVALID_TXN_STATE):
        rules.ended(IDLE, commit, 300)


def test_a_transaction_out_of_time_is_aborted_and_its_producer_fenced() -> None:
    """After its time it is aborted with the next epoch, and its producer is nobody any more."""
    done = rules.expired(OPEN._replace(before=(5, 2)), 300)
    assert (done.state, done.epoch, done.before, done.partitions) == (State.ABORTED, 4, (-1, -1), frozenset())
    with refused(Code.PRODUCER_FENCED):
        initiated(done, (5, 3))


def test_the_next_transaction_begins_after_either_end() -> None:
    """After commit or abort the same producer goes on with the next transaction."""
    ends: Iterator[Transactional] = (rules.ended(OPEN, commit, 300) for commit in (True, False))
    for done in ends:
        again = rules.enlisted(done, {("b", 1)}, set(), 400)
        assert (again.is_open, again.started_ms, again.partitions, again.epoch) == (True, 400, {("b", 1)}, 3)
