"""What goes: by trimming, by retention, with its topic; in slices, with nothing that is still wanted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import clock
from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.log import janitor, producers
from aggregator.topics.log.schema import Offset
from aggregator.topics.log.settings import DAY_MS, Options
from tests.aggregator.topics.log.parts import Held, batch

DAY = 86_400_000


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    held = Held(tmp_path / "log")
    yield held
    held.db.close()


def at(days: int) -> int:
    """The time so many days ago."""
    return clock.wall_ms() - days * DAY


def trim(held: Held, offset: int) -> int:
    return int(held.do(lambda db, work: db.trim(work, "t", 0, offset)))


def test_trimming_moves_the_start_at_once(held: Held) -> None:
    """Batches that end before it go by and by; one that holds it stays whole."""
    held.create()
    held.append(batch(3), batch(3), batch(3))
    size = held.partition().size // 3
    assert trim(held, 4) == 4
    assert (held.partition().start, held.rows()) == (4, 3)
    held.tidy()
    assert (held.partition().start, held.rows(), held.partition().size) == (4, 2, 2 * size)
    assert trim(held, 2) == 4
    assert trim(held, -1) == 9
    held.tidy()
    assert (held.rows(), held.partition().size) == (0, 0)
    again = held.killed()
    assert (again.partition().start, again.partition().end, again.append(batch()).base_offset) == (9, 9, 9)


@pytest.mark.parametrize("offset", [4, -2, 1 << 50])
def test_trimming_beyond_the_end_is_refused(held: Held, offset: int) -> None:
    """OFFSET_OUT_OF_RANGE"""
    held.create()
    held.append(batch(3))
    with pytest.raises(TopicsError) as caught:
        trim(held, offset)
    assert caught.value.code is Code.OFFSET_OUT_OF_RANGE


def test_a_trim_goes_on_after_a_kill(held: Held) -> None:
    """What lies before the start is dropped, whatever the policy."""
    held.create("t", cleanup_policy="compact")
    held.append(batch(), batch(), batch())
    trim(held, 2)
    again = held.killed()
    assert (again.partition().start, again.rows()) == (2, 3)
    again.tidy()
    assert again.rows() == 1


def test_old_batches_go(held: Held) -> None:
    """From the oldest on, as far as all are past retention.ms: a late old one waits behind a new one."""
    held.create("t", retention_ms=str(2 * DAY))
    held.append(*(batch(2, time=at(days)) for days in (9, 3, 1, 5, 0)))
    held.tidy()
    assert (held.partition().start, held.rows()) == (4, 3)


def test_a_time_to_come_keeps_nothing_for_ever(held: Held) -> None:
    """A batch whose time is still to come counts from its arrival; one without a time, too."""
    held.create("t", retention_ms=str(2 * DAY))
    held.append(batch(time=at(-900)), batch(time=-1), batch(time=at(-1)))
    assert held.tidy() == 1
    assert held.rows() == 3
    held.db.conn.execute("UPDATE batch SET kept=?", (at(3),))
    held.tidy()
    assert held.partition().start == 3


def test_a_clock_that_was_late_takes_no_record_with_a_right_time(held: Held) -> None:
    """Whatever it stamped its arrival with."""
    held.create("t", retention_ms=str(2 * DAY))
    held.append(batch(time=at(1)))
    held.db.conn.execute("UPDATE batch SET kept=?", (at(9000),))
    held.tidy()
    assert held.partition().start == 0


class Clocks:
    """Of a machine that has been up for a minute and thinks that it is 1970; milliseconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall, self.boot = 60_000, 60_000
        monkeypatch.setattr(clock, "wall_ms", lambda: self.wall)
        monkeypatch.setattr(clock, "boot_ns", lambda: self.boot * 1_000_000)

    def go_on(self, ms: int) -> None:
        self.wall += ms
        self.boot += ms


def test_a_machine_that_learns_the_time_keeps_what_it_has_just_stamped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came before counts from when it came by the right clock, also if that was set in steps."""
    clocks = Clocks(monkeypatch)
    held = Held(tmp_path / "log")
    held.create("t", retention_ms=str(2 * DAY))
    starts = []
    for jump, passes in ((9000 * DAY, DAY), (9000 * DAY, DAY // 2), (0, DAY), (0, DAY // 2 + 2)):
        held.append(batch(time=clocks.wall))
        clocks.wall += jump
        held.tidy()
        starts.append(held.partition().start)
        clocks.go_on(passes)
    held.tidy()
    assert [*starts, held.partition().start] == [0, 0, 0, 1, 2]
    held.db.close()


def test_retention_is_the_logs_where_the_topic_has_none(tmp_path: Path) -> None:
    """-1 is for ever."""
    held = Held(tmp_path / "log", Options(retention_ms=3 * DAY_MS))
    held.create("short")
    held.create("long", retention_ms="-1")
    for topic in ("short", "long"):
        held.append(batch(time=at(4)), batch(time=at(2)), topic=topic)
    held.tidy()
    assert [held.partition(topic).start for topic in ("short", "long")] == [1, 0]


def test_the_oldest_go_when_there_are_too_many_bytes(held: Held) -> None:
    """But never so many that less than retention.bytes is left."""
    held.create()
    held.append(*(batch(value=bytes(1000)) for _ in range(10)))
    one = held.partition().size // 10
    held.do(lambda db, work: db.catalog.configure(work, "t", {"retention.bytes": str(4 * one - 1)}))
    held.tidy()
    assert (held.partition().start, held.partition().size) == (6, 4 * one)
    held.do(lambda db, work: db.catalog.configure(work, "t", {"retention.bytes": "0"}))
    held.tidy()
    assert (held.partition().start, held.partition().size) == (10, 0)


def test_compacted_topics_keep_their_batches(held: Held) -> None:
    """With both policies retention holds as well."""
    for policy in ("compact", "compact,delete"):
        held.create(policy.replace(",", "."), cleanup_policy=policy, retention_bytes="0", retention_ms="1")
        held.append(batch(time=1), topic=policy.replace(",", "."))
    held.tidy()
    assert [held.partition(topic).start for topic in ("compact", "compact.delete")] == [0, 1]


def test_what_is_undecided_stays(held: Held) -> None:
    """Retention ends before the first record of an open transaction."""
    held.create("t", retention_bytes="0")
    held.append(batch(2), batch(producer=(1, 0, 0), transactional=True), batch())
    held.tidy()
    assert (held.partition().start, held.partition().stable, held.rows()) == (2, 2, 2)
    held.marker(1, 0, False)
    held.tidy()
    assert (held.partition().start, held.partition().end, held.rows()) == (5, 5, 0)


def test_who_wrote_what_is_gone_is_known(held: Held) -> None:
    """Also after a kill: the snapshot is made before the last header goes."""
    held.create("t", retention_bytes="0")
    held.append(batch(2, producer=(1, 5, 0)))
    held.tidy()
    assert held.rows() == 0
    again = held.killed()
    assert again.append(batch(2, producer=(1, 5, 0))).base_offset == 0
    with pytest.raises(TopicsError) as caught:
        again.append(batch(producer=(1, 4, 0)))
    assert caught.value.code is Code.INVALID_PRODUCER_EPOCH
    assert again.append(batch(producer=(1, 5, 2))).base_offset == 2


def test_aborted_transactions_go_with_their_records(held: Held) -> None:
    """In the file and in memory."""
    held.create()
    for producer in (1, 2):
        held.append(batch(producer=(producer, 0, 0), transactional=True))
        held.marker(producer, 0, False)
    trim(held, 2)
    held.tidy()
    assert held.partition().aborted == [(3, 2, 2)]
    assert held.rows("aborted") == 1


def test_much_goes_in_slices(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them a transaction; a batch larger than a slice goes alone."""
    monkeypatch.setattr(janitor, "SLICE_BYTES", 5000)
    held.create()
    held.append(*(batch(value=bytes(1000)) for _ in range(20)), batch(value=bytes(9000)))
    trim(held, -1)
    held.do(lambda db, work: db.janitor.slice(work))
    assert held.rows() == 21 - 4
    assert held.tidy() == 4 + 1 + 1
    assert held.rows() == 0


def test_a_deleted_topic_is_gone_at_once_and_its_batches_by_and_by(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also over a kill; then its partitions' numbers are free again, and nothing of the old is in the new."""
    monkeypatch.setattr(janitor, "SLICE_ROWS", 3)
    held.create("t", 2)
    held.append(*(batch(producer=(1, 0, n)) for n in range(8)))
    held.append(batch(producer=(2, 0, 0), transactional=True))
    held.marker(2, 0, False)
    held.do(lambda db, work: db.committed.commit(work, "g", {("t", 0): Offset(3)}))
    watched = held.partition()
    held.do(lambda db, work: db.catalog.delete(work, "t"))
    assert watched.deleted and not held.views.topics and not held.views.offsets
    held.create("t", 1)
    assert held.partition().id == 3
    held.append(batch(2))
    held.do(lambda db, work: db.janitor.slice(work))
    again = held.killed()
    assert again.tidy() == 3 + 1 + 1 + 1
    assert [again.rows(table) for table in ("batch", "part", "aborted", "committed")] == [1, 1, 0, 0]
    again.create("u")
    part = again.db.catalog.part("u", 0)
    assert (part.id, part.producers, again.append(batch(), topic="u").base_offset) == (1, {}, 0)
    assert (again.partition().start, again.partition().end) == (0, 2)


def test_a_topic_that_comes_again_during_a_round_keeps_what_is_new(held: Held) -> None:
    """It has the number of the deleted one, which waits in the round with batches to drop."""
    held.create("t", retention_bytes="0")
    held.append(batch(9))
    held.do(lambda db, work: db.janitor.look(work))
    held.do(lambda db, work: db.catalog.delete(work, "t"))
    while held.db.catalog.doomed:
        held.do(lambda db, work: db.janitor.slice(work))
    held.create()
    assert held.partition().id == 1
    held.append(batch(3))
    while held.db.janitor.due:
        held.do(lambda db, work: db.janitor.slice(work))
    again = held.killed()
    assert (again.partition().start, again.partition().end, again.rows()) == (0, 3, 1)


def test_idle_producers_are_forgotten_by_the_hour(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    """After seven days without a batch."""
    held.create()
    held.append(batch(producer=(1, 0, 0)))
    held.append(batch(producer=(2, 0, 0), transactional=True))
    later = clock.wall_ms() + producers.IDLE_MS + 1000
    monkeypatch.setattr(clock, "wall_ms", lambda: later)
    held.do(lambda db, work: db.janitor.look(work))
    assert list(held.db.catalog.part("t", 0).producers) == [2]
