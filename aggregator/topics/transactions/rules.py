"""What may happen to a transactional id, and how it stands afterwards: states in, states out.

Kafka's classes TransactionCoordinator and TransactionMetadata (KIP-98, KIP-360), with one difference: a transaction
ends at once (log/transactions.py), so nobody is told CONCURRENT_TRANSACTIONS and asked to try again.

    EMPTY --enlisted--> ONGOING --ended--> COMMITTED | ABORTED --enlisted--> ONGOING ...
    any --initiated--> EMPTY, with a new epoch; who has the old one is fenced
    ONGOING --expired--> ABORTED, with a new epoch
"""

from __future__ import annotations

from collections.abc import Callable, Set

from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.log.transactions import State, Transactional
from aggregator.topics.log.views import Place

MOST_TIMEOUT_MS = 900_000
"""Kafka's transaction.max.timeout.ms."""
LAST_EPOCH = (1 << 15) - 2
"""The next one is for fencing alone; then there is a new producer id."""
MOST_GROUPS = 100
"""Whose offsets one transaction commits."""

MOST_LENGTH = 1000
"""Characters of a transactional id."""

Identity = tuple[int, int]
"""Producer id and epoch."""


def initiated(
    known: Transactional | None,
    id_: str,
    timeout_ms: int,
    expected: Identity | None,
    new_id: Callable[[], int],
    now_ms: int,
) -> Transactional:
    """InitProducerId: a producer begins, or goes on after an error if it says who it has been (`expected`). What is
    open is aborted by the caller, with `fence(known)`.

    TopicsError: INVALID_TRANSACTION_TIMEOUT, INVALID_REQUEST; PRODUCER_FENCED if another one has begun since.
    """
    if not 0 < timeout_ms <= MOST_TIMEOUT_MS:
        raise TopicsError(
            Code.INVALID_TRANSACTION_TIMEOUT, f"a transaction may take 1 to {MOST_TIMEOUT_MS} ms, not {timeout_ms}"
        )
    if not 0 < len(id_) <= MOST_LENGTH:
        raise TopicsError(Code.INVALID_REQUEST, f"a transactional id has 1 to {MOST_LENGTH} characters")
    if known is None:
        return Transactional(id_, new_id(), 0, timeout_ms=timeout_ms, touched_ms=now_ms)
    current = known.producer, known.epoch
    if expected is not None and expected == known.before and not known.is_open:
        return known  # asked again: the answer was lost
    if expected is not None and expected != current:
        raise fenced(known, expected[1])
    producer, epoch = (new_id(), 0) if known.epoch >= LAST_EPOCH else (known.producer, known.epoch + 1)
    before = current if expected else (-1, -1)
    return Transactional(id_, producer, epoch, before, timeout_ms, touched_ms=now_ms)


def fence(known: Transactional) -> int:
    """The epoch with which an open transaction is aborted over its producer's head."""
    return known.epoch + 1


def current(known: Transactional | None, producer: int, epoch: int) -> Transactional:
    """The transactional id, if that is its producer. TopicsError: INVALID_PRODUCER_ID_MAPPING, PRODUCER_FENCED."""
    if known is None or known.producer != producer:
        raise TopicsError(
            Code.INVALID_PRODUCER_ID_MAPPING, f"the transactional id isn't producer {producer}'s, or is forgotten"
        )
    if known.epoch != epoch:
        raise fenced(known, epoch)
    return known


def fenced(known: Transactional, epoch: int) -> TopicsError:
    return TopicsError(
        Code.PRODUCER_FENCED, f"transactional id {known.id} has epoch {known.epoch} now, who asks has {epoch}"
    )


def enlisted(known: Transactional, partitions: Set[Place], groups: Set[str], now_ms: int) -> Transactional:
    """AddPartitionsToTxn, AddOffsetsToTxn: the open transaction, or a new one, holds these too; the same object if it
    does already. TopicsError: INVALID_REQUEST beyond a bound."""
    if known.is_open and known.partitions >= partitions and known.groups >= groups:
        return known
    if len(known.groups | groups) > MOST_GROUPS:
        raise TopicsError(Code.INVALID_REQUEST, f"a transaction commits offsets of {MOST_GROUPS} groups at most")
    return known._replace(
        state=State.ONGOING,
        started_ms=known.started_ms if known.is_open else now_ms,
        touched_ms=now_ms,
        partitions=known.partitions | partitions,
        groups=known.groups | groups,
    )


def check_pending(known: Transactional, group: str) -> None:
    """TxnOffsetCommit. TopicsError: INVALID_TXN_STATE, unless the open transaction holds the group."""
    if not known.is_open or group not in known.groups:
        raise TopicsError(Code.INVALID_TXN_STATE, f"no open transaction of {known.id} holds group {group}")


def ended(known: Transactional, commit: bool, now_ms: int) -> Transactional:
    """EndTxn: the same object if it has ended so already. TopicsError: INVALID_TXN_STATE, if it has ended otherwise or
    never begun."""
    state = State.COMMITTED if commit else State.ABORTED
    if known.state is state:
        return known
    if not known.is_open:
        raise TopicsError(Code.INVALID_TXN_STATE, f"{known.id} has no open transaction, its state is {known.state}")
    return _closed(known, state, now_ms)


def expired(known: Transactional, now_ms: int) -> Transactional:
    """Its time is over: aborted, and its producer fenced."""
    return _closed(known, State.ABORTED, now_ms)._replace(epoch=fence(known), before=(-1, -1))


def _closed(known: Transactional, state: State, now_ms: int) -> Transactional:
    return known._replace(state=state, started_ms=-1, touched_ms=now_ms, partitions=frozenset(), groups=frozenset())
