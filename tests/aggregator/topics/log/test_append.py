"""Appends, as one transaction: offsets, repeats, fences, transactions' first offsets; and nothing half done."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aggregator.topics import record_batch
from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.log import batches
from aggregator.topics.log.batches import Append
from aggregator.topics.log.commit import Job, transact
from aggregator.topics.log.database import Database
from aggregator.topics.log.settings import Options
from aggregator.topics.log.states import PartState, Work
from aggregator.topics.log.views import Appended
from aggregator.topics.record_batch import Header
from tests.aggregator.topics.log.parts import NOW, Held, batch, copy


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    held = Held(tmp_path / "log")
    held.create()
    yield held
    held.db.close()


def code(call: Any) -> Code:
    with pytest.raises(TopicsError) as caught:
        call()
    return caught.value.code


def stored(held: Held, partition: int = 0) -> list[Header]:
    part = held.db.catalog.part("t", partition)
    rows = held.db.conn.execute("SELECT head, body FROM batch WHERE id>>44=? ORDER BY id", (part.id,))
    return [record_batch.header(head + body) for head, body in rows]


def test_offsets_follow_each_other(held: Held) -> None:
    """A batch of n records takes n offsets; the answer has the first."""
    assert [held.append(batch(3)).base_offset, held.append(batch(2), batch(4)).base_offset] == [0, 3]
    assert [(head.base_offset, head.last_offset) for head in stored(held)] == [(0, 2), (3, 4), (5, 8)]
    assert held.partition().end == 9


def test_what_is_stored_is_what_came_but_for_its_offset(held: Held) -> None:
    """Records are opaque; the CRC stays right."""
    sent = batch(2, value=b"x" * 9000)
    held.append(batch())
    held.append(sent)
    ((head, body),) = held.db.conn.execute("SELECT head, body FROM batch ORDER BY id DESC LIMIT 1")
    assert head + body == record_batch.placed(sent, 1)
    assert [record.offset for record in record_batch.records(head + body)] == [1, 2]


def test_an_append_that_is_refused_leaves_the_others(held: Held) -> None:
    """In one request, and in one commit."""
    right, wrong = Append("t", 0, [batch(2)]), Append("t", 0, [batch(producer=(1, 0, 0)), batch(producer=(1, 0, 5))])
    results = held.do(lambda db, work: db.append(work, [right, wrong, Append("t", 7, [batch()]), right]))
    assert [r.code if isinstance(r, TopicsError) else r.base_offset for r in results] == [
        0,
        Code.OUT_OF_ORDER_SEQUENCE_NUMBER,
        Code.UNKNOWN_TOPIC_OR_PARTITION,
        2,
    ]
    assert len(stored(held)) == 2
    assert held.db.catalog.part("t", 0).producers == {}


def test_the_records_get_the_time_of_the_append(tmp_path: Path) -> None:
    """With message.timestamp.type=LogAppendTime; the answer has it, and without it -1."""
    held = Held(tmp_path / "log")
    held.create("t", message_timestamp_type="LogAppendTime")
    held.create("u")
    answer = held.append(batch(2, time=5))
    ((raw, body),) = held.db.conn.execute("SELECT head, body FROM batch")
    assert answer.time_ms > 1_700_000_000_000
    assert {record.time for record in record_batch.records(raw + body)} == {answer.time_ms}
    assert held.append(batch(), topic="u").time_ms == -1


def test_a_repeated_batch_is_answered_with_its_offset(held: Held) -> None:
    """And is not stored again; neither are two of one append."""
    first, second = batch(2, producer=(1, 0, 0)), batch(3, producer=(1, 0, 2))
    assert held.append(first, second) == Appended(0, -1, 0)
    held.append(batch())
    assert held.append(first).base_offset == 0
    assert held.append(second).base_offset == 2
    assert held.append(first, second).base_offset == 0
    assert held.partition().end == 6
    assert code(lambda: held.append(second, batch(producer=(1, 0, 5)))) is Code.OUT_OF_ORDER_SEQUENCE_NUMBER


def test_a_repeat_inside_one_append_is_refused(held: Held) -> None:
    """Nothing of it is stored."""
    one = batch(producer=(1, 0, 0))
    assert code(lambda: held.append(one, one)) is Code.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert held.rows() == 0


def test_partitions_know_producers_apart(held: Held) -> None:
    """Each counts from its own 0."""
    held.do(lambda db, work: db.catalog.add_partitions(work, "t", 2))
    one = batch(producer=(1, 0, 0))
    held.append(one)
    assert held.append(one, partition=1).base_offset == 0
    assert held.partition("t", 1).end == 1


# ---- transactions


def test_an_open_transaction_holds_the_stable_offset(held: Held) -> None:
    """Until its marker; the earliest open one decides."""
    held.append(batch(2))
    held.append(batch(producer=(1, 0, 0), transactional=True))
    held.append(batch(producer=(2, 0, 0), transactional=True))
    held.append(batch(producer=(1, 0, 1), transactional=True))
    assert (held.partition().stable, held.partition().end) == (2, 5)
    assert held.marker(1, 0, True) == 5
    assert (held.partition().stable, held.partition().end) == (3, 6)
    assert held.marker(2, 0, False) == 6
    assert (held.partition().stable, held.partition().end) == (7, 7)


def test_an_aborted_transaction_is_listed_where_it_may_be_read(held: Held) -> None:
    """From its first record to its marker; a committed one is not."""
    for producer, commit in ((1, False), (2, True), (3, False)):
        held.append(batch(2, producer=(producer, 0, 0), transactional=True))
        held.marker(producer, 0, commit)
    between = held.partition().aborted_between
    assert between(0, 9) == [(1, 0), (3, 6)]
    assert between(3, 6) == between(3, 4) == []
    assert between(2, 6) == [(1, 0)]
    assert between(3, 7) == [(3, 6)]
    assert Held(held.folder).partition().aborted == held.partition().aborted


def test_a_marker_without_a_transaction_aborts_nothing(held: Held) -> None:
    """It is written, and that is all."""
    assert held.marker(1, 0, False) == 0
    assert held.partition().aborted == []
    assert [(h.is_control, h.is_transactional, h.producer_id) for h in stored(held)] == [(True, True, 1)]


def test_a_marker_of_an_old_epoch_is_refused(held: Held) -> None:
    """And one of a new epoch fences who wrote before."""
    held.append(batch(producer=(1, 3, 0), transactional=True))
    assert code(lambda: held.marker(1, 2, True)) is Code.INVALID_PRODUCER_EPOCH
    held.marker(1, 4, False)
    late = batch(producer=(1, 3, 1), transactional=True)
    assert code(lambda: held.append(late)) is Code.INVALID_PRODUCER_EPOCH
    assert held.append(batch(producer=(1, 4, 0), transactional=True)).base_offset == 2


def test_a_fence_stands_before_any_batch(held: Held) -> None:
    """Of a partition that the producer has not written to."""
    held.do(lambda db, work: db.batches.fence(work, db.catalog.part("t", 0), 1, 2))
    assert code(lambda: held.append(batch(producer=(1, 1, 0)))) is Code.INVALID_PRODUCER_EPOCH
    held.append(batch(producer=(1, 2, 0)))


def test_nothing_outside_a_transaction_comes_into_it(held: Held) -> None:
    """A producer with an open transaction writes in that alone."""
    held.append(batch(producer=(1, 0, 0), transactional=True))
    assert code(lambda: held.append(batch(producer=(1, 0, 1)))) is Code.INVALID_TXN_STATE


def test_the_guard_is_asked_about_transactional_batches(held: Held) -> None:
    """It may refuse; a repeat is answered without it."""
    asked: list[tuple[int, str | None]] = []

    def guard(work: Work, part: PartState, head: Header, transactional_id: str | None) -> None:
        asked.append((head.base_sequence, transactional_id))
        if head.base_sequence:
            raise TopicsError(Code.INVALID_TXN_STATE)

    held.db.batches.guard = guard
    one, two = (batch(producer=(1, 0, n), transactional=True) for n in (0, 1))
    append = [Append("t", 0, [one], "mine")]
    assert [r.base_offset for r in held.do(lambda db, work: db.append(work, append * 2))] == [0, 0]
    assert code(lambda: held.append(two)) is Code.INVALID_TXN_STATE
    held.append(batch(producer=(2, 0, 0)))
    assert asked == [(0, "mine"), (1, None)]


# ---- nothing half done


def everything(db: Database, work: Work) -> None:
    """A change of each kind."""
    db.catalog.create(work, "new", 2, {})
    db.catalog.configure(work, "t", {"retention.ms": "1"})
    db.catalog.add_partitions(work, "t", 3)
    transactional = [batch(producer=(5, 0, 0), transactional=True)]
    db.append(work, [Append("t", 0, [batch(producer=(1, 0, 0))]), Append("new", 1, transactional)])
    db.batches.marker(work, db.catalog.part("t", 0), 2, 0, False)
    db.batches.fence(work, db.catalog.part("t", 1), 8, 8)
    db.producer_id(work)
    db.trim(work, "t", 0, 3)
    db.batches.snapshot(work, db.catalog.part("t", 0), NOW)
    db.catalog.delete(work, "old")


@pytest.fixture
def full_of_things(held: Held) -> Held:
    held.create("old")
    held.append(batch(2, producer=(1, 0, 9)), batch(producer=(2, 0, 0), transactional=True))
    held.append(batch(), topic="old")
    held.do(lambda db, work: db.producer_id(work))
    return held


def test_a_request_with_a_bug_leaves_nothing(full_of_things: Held) -> None:
    """Whatever it had changed before; its neighbours in the transaction stay."""
    held = full_of_things

    def broken(db: Database, work: Work) -> None:
        everything(db, work)
        raise KeyError("bug")

    before, rows = copy(held.memory()), held.rows()
    results = held.all(broken)
    assert isinstance(results[0], KeyError)
    assert (held.memory(), held.rows(), held.seen()) == (before, rows, Held(held.folder).seen())
    results = held.all(
        lambda db, work: db.append(work, [Append("t", 0, [batch()])]),
        broken,
        lambda db, work: db.append(work, [Append("t", 0, [batch()])]),
        everything,
    )
    assert [r.base_offset for result in (results[0], results[2]) for r in result] == [3, 4]
    assert "new" in held.views.topics
    assert held.seen() == Held(held.folder).seen()


def test_a_bug_in_an_append_leaves_the_others(held: Held) -> None:
    """It needs no savepoint: the transaction begins again without it."""

    def broken(db: Database, work: Work) -> None:
        db.append(work, [Append("t", 0, [batch(9)])])
        raise KeyError("bug")

    good = Job(lambda db, work: db.append(work, [Append("t", 0, [batch()])]), whole=True)
    done, tells = transact(held.db, [good, Job(broken, whole=True), good])
    for tell in tells:
        tell(held.views)
    assert [type(result) for _, result in done] == [KeyError, list, list]
    assert held.partition().end == 2 == held.rows()


def test_a_commit_that_fails_leaves_nothing(full_of_things: Held) -> None:
    """Memory stays as the file is, and the next one goes on from there."""
    held = full_of_things
    before, rows = copy(held.memory()), held.rows()

    class Failing:
        """The connection; its COMMIT finds no room."""

        def __init__(self, conn: sqlite3.Connection) -> None:
            self.conn = conn

        def execute(self, sql: str, *args: Any) -> Any:
            if sql == "COMMIT":
                raise sqlite3.OperationalError("database or disk is full")
            return self.conn.execute(sql, *args)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.conn, name)

    real = held.db.conn
    held.db.conn = Failing(real)  # type: ignore[assignment]
    with pytest.raises(sqlite3.OperationalError):
        held.all(everything)
    held.db.conn = real
    assert (held.memory(), held.rows()) == (before, rows)
    assert held.append(batch(producer=(1, 0, 11))).base_offset == 3
    assert held.do(lambda db, work: db.producer_id(work)) == 1
    held.do(everything)
    assert held.seen() == Held(held.folder).seen()


def test_a_statement_that_finds_no_room_leaves_nothing(tmp_path: Path) -> None:
    """SQLite may have rolled back by itself."""
    held = Held(tmp_path / "log", Options(max_bytes=100_000))
    held.create()
    held.append(batch(producer=(1, 0, 0)))
    before = copy(held.memory())
    many = [Append("t", 0, [batch(producer=(1, 0, 1 + n), value=bytes(20_000))]) for n in range(60)]
    with pytest.raises(sqlite3.OperationalError):
        held.do(lambda db, work: db.append(work, many))
    assert held.memory() == before
    assert held.append(batch(producer=(1, 0, 1))).base_offset == 1


# ---- open


def test_producers_are_known_again_after_a_kill(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the snapshot and the headers behind it: repeats, epochs and open transactions."""
    monkeypatch.setattr(batches, "SNAPSHOT_EVERY", 4)
    for n in range(7):
        held.append(batch(2, producer=(1, 0, 2 * n)))
        held.append(batch(producer=(2, n, 0), transactional=True))
        if n < 6:
            held.marker(2, n, n % 2 == 0)
    before = copy(held.memory())
    again = held.killed()
    assert again.rows("snapshot") == 1
    timeless = [[(p.epoch, p.batches) for p in part[6].values()] for part in before["parts"].values()]
    assert [[(p.epoch, p.batches) for p in part[6].values()] for part in again.memory()["parts"].values()] == timeless
    assert again.partition().stable == held.partition().stable < again.partition().end
    assert again.append(batch(2, producer=(1, 0, 12))).base_offset == held.partition().end - 3


def test_after_a_clean_end_no_header_is_read(held: Held) -> None:
    """The snapshot holds all."""
    held.append(batch(producer=(1, 0, 0)), batch())
    before = copy(held.memory())
    again = held.reopened()
    assert again.db.catalog.part("t", 0).unsnapped == 0
    assert again.memory() == before


def test_producer_ids_are_given_out_once(held: Held) -> None:
    """Over a kill as well."""
    ids = [held.do(lambda db, work: db.producer_id(work)) for _ in range(1001)]
    again = held.killed()
    ids += [again.do(lambda db, work: db.producer_id(work)) for _ in range(3)]
    assert len(set(ids)) == len(ids)


def test_a_partition_forgets_producers_beyond_its_bound(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that came least recently; who is forgotten may go on."""
    monkeypatch.setattr("aggregator.topics.log.producers.LIMIT", 20)
    held.append(*(batch(producer=(id_, 0, 0)) for id_ in range(25)))
    assert len(held.db.catalog.part("t", 0).producers) == 23
    held.append(batch(producer=(0, 0, 1)))
