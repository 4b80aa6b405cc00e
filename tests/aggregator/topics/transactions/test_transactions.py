"""Transactions in a log: what read_committed sees, who is fenced, what time ends, what a restart keeps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from agent import clock
from aggregator.topics import record_batch
from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.log import transactions as table
from aggregator.topics.log.log import Append, Offset
from aggregator.topics.log.transactions import State, Transactional
from aggregator.topics.transactions import rules
from tests.aggregator.topics.groups.scene import Clock
from tests.aggregator.topics.transactions.scene import Scene, staged

Play = Callable[[Scene], Coroutine[Any, Any, None]]
PLACE = ("t", 0)


def play(folder: Path, *acts: Play, clock: Clock | None = None) -> None:
    """Each act on a log that is opened for it and closed behind it."""

    async def all_of_them() -> None:
        for act in acts:
            async with staged(folder, clock) as scene:
                await act(scene)

    asyncio.run(all_of_them())


async def refused(code: Code, what: Coroutine[Any, Any, Any]) -> None:
    with pytest.raises(TopicsError) as caught:
        await what
    assert caught.value.code is code


async def state(scene: Scene, id_: str = "x") -> Transactional:
    (found,) = [one for one in await scene.transactions.all() if one.id == id_]
    return found


def write(scene: Scene, one: Transactional) -> Any:
    """Put a state into the table, past every rule."""
    return scene.log.run(lambda db, work: db.transactions.keep(work, one))


# ---- what is seen


def test_a_commit_shows_all_of_it_at_once(tmp_path: Path) -> None:
    """Records of an open transaction are there for read_uncommitted alone; its commit shows them in all partitions."""

    async def act(scene: Scene) -> None:
        one = scene.producer()
        await one.init()
        await one.add(0, 1)
        await one.send(0, b"a", b"b")
        await one.send(1, b"c")
        assert (await scene.all(0), await scene.committed(0), scene.partition(0).stable) == ([b"a", b"b"], [], 0)
        await one.end(True)
        assert await scene.committed(0) == [b"a", b"b"]
        assert await scene.committed(1) == [b"c"]
        assert (scene.partition(0).stable, scene.partition(0).end) == (3, 3)

    play(tmp_path, act)


def test_an_abort_hides_all_of_it(tmp_path: Path) -> None:
    """Of an aborted transaction read_committed sees nothing, wherever it begins to read and however little at once."""

    async def act(scene: Scene) -> None:
        one, other = scene.producer("x"), scene.producer("y")
        await one.init()
        await other.init()
        await one.transaction(True, p0=b"before")
        await one.add(0)
        await other.add(0)
        await one.send(0, b"no")
        await other.send(0, b"yes")
        await one.send(0, b"nor this")
        await other.end(True)
        await one.end(False)
        await one.transaction(True, p0=b"after")
        for size in (1, 200, 1 << 20):
            assert await scene.committed(max_bytes=size) == [b"before", b"yes", b"after"]
        whole = [b"before", None, b"no", b"yes", b"nor this", None, None, b"after", None]
        for start in range(scene.partition().end):
            wanted = [value for value in whole[start:] if value in (b"before", b"yes", b"after")]
            assert await scene.committed(start=start, max_bytes=1) == wanted

    play(tmp_path, act)


def test_the_oldest_open_transaction_holds_the_stable_offset(tmp_path: Path) -> None:
    """What has been committed behind the begin of an open transaction waits for it; and is read once, in its order."""

    async def act(scene: Scene) -> None:
        one, other = scene.producer("x"), scene.producer("y")
        await one.init()
        await other.init()
        await one.add(0)
        await one.send(0, b"1")
        await other.transaction(True, p0=b"2")
        assert (await scene.committed(), scene.partition().stable, scene.partition().end) == ([], 0, 3)
        await one.end(True)
        assert await scene.committed() == [b"1", b"2"]

    play(tmp_path, act)


def test_readers_wake_when_a_transaction_ends(tmp_path: Path) -> None:
    """Who waits for records is woken by the end of a transaction, in each of its partitions."""

    async def act(scene: Scene) -> None:
        one = scene.producer()
        await one.init()
        await one.add(0, 1)
        await one.send(0, b"a")
        waiting = [scene.log.changed([scene.partition(index)]) for index in (0, 1)]
        await one.end(True)
        assert all(future.done() for future in waiting)

    play(tmp_path, act)


# ---- who may produce


def test_only_partitions_that_were_added_take_batches(tmp_path: Path) -> None:
    """A transactional batch is INVALID_TXN_STATE before its partition has been added, elsewhere, and after the end."""

    async def act(scene: Scene) -> None:
        one = scene.producer()
        await one.init()
        await refused(Code.INVALID_TXN_STATE, one.send(0, b"too early"))
        await one.add(0)
        await refused(Code.INVALID_TXN_STATE, one.send(1, b"elsewhere"))
        await one.send(0, b"a")
        await one.end(True)
        await refused(Code.INVALID_TXN_STATE, one.send(0, b"too late"))
        assert (await scene.all(0), await scene.all(1)) == ([b"a"], [])

    play(tmp_path, act)


@pytest.mark.parametrize("id_", ["other", None])
def test_a_batch_needs_its_transactional_id(tmp_path: Path, id_: str | None) -> None:
    """A transactional batch under another transactional id, or under none, is INVALID_PRODUCER_ID_MAPPING."""

    async def act(scene: Scene) -> None:
        one = scene.producer()
        await one.init()
        await one.add(0)
        batch = record_batch.build([(0, None, b"v", ())], producer=(one.producer, one.epoch, 0), transactional=True)
        (answer,) = await scene.log.append([Append("t", 0, [batch], id_)])
        assert isinstance(answer, TopicsError) and answer.code is Code.INVALID_PRODUCER_ID_MAPPING

    play(tmp_path, act)


@pytest.mark.parametrize("step", [-1, 1])
def test_a_batch_needs_the_epoch(tmp_path: Path, step: int) -> None:
    """A batch with an epoch before or after the current one is INVALID_PRODUCER_EPOCH."""

    async def act(scene: Scene) -> None:
        one = scene.producer()
        await one.init()
        await one.init()
        await one.add(0)
        one.epoch += step
        await refused(Code.INVALID_PRODUCER_EPOCH, one.send(0, b"a"))

    play(tmp_path, act)


def test_a_new_producer_fences_the_old_one(tmp_path: Path) -> None:
    """Who begins with the same id aborts what is open; the producer before can neither send, add, nor end."""

    async def act(scene: Scene) -> None:
        old, new = scene.producer(), scene.producer()
        await old.init()
        await old.add(0)
        await old.send(0, b"old")
        await new.init()
        assert (new.producer, new.epoch) == (old.producer, old.epoch + 1)
        assert (await scene.committed(), scene.partition().stable) == ([], 2)
        (marker,) = await scene.log.read(scene.partition(), 1, 1, 2)
        assert record_batch.header(marker).producer_epoch == new.epoch
        await refused(Code.INVALID_PRODUCER_EPOCH, old.send(0, b"zombie"))
        await refused(Code.PRODUCER_FENCED, old.add(1))
        await refused(Code.PRODUCER_FENCED, old.add_group("g"))
        await refused(Code.PRODUCER_FENCED, old.end(True))
        await refused(Code.PRODUCER_FENCED, old.init(goes_on=True))
        await new.transaction(True, p0=b"new")
        assert await scene.committed() == [b"new"]

    play(tmp_path, act)


def test_a_producer_goes_on_with_the_next_epoch(tmp_path: Path) -> None:
    """One that asks for the next epoch within its transaction has that aborted, and its numbers start anew."""

    async def act(scene: Scene) -> None:
        one = scene.producer()
        await one.init()
        await one.transaction(True, p0=b"a")
        await one.add(0)
        await one.send(0, b"b")
        epoch = one.epoch
        await one.init(goes_on=True)
        assert one.epoch == epoch + 1
        await one.transaction(True, p0=b"c")
        assert await scene.committed() == [b"a", b"c"]

    play(tmp_path, act)


def test_the_last_epoch_of_a_producer(tmp_path: Path) -> None:
    """At the last epoch the open transaction is aborted with one more, and the id goes on under a new producer id."""

    async def act(scene: Scene) -> None:
        one = scene.producer()
        await one.init()
        await write(scene, (await state(scene))._replace(epoch=rules.LAST_EPOCH))
        old, one.epoch = one.producer, rules.LAST_EPOCH
        await one.add(0)
        await one.send(0, b"a")
        await one.init()
        assert (one.producer > old, one.epoch) == (True, 0)
        await one.transaction(True, p0=b"b")
        assert await scene.committed() == [b"b"]

    play(tmp_path, act)


def test_an_end_asked_again(tmp_path: Path) -> None:
    """EndTxn again with the same result writes no second marker; with the other one it is INVALID_TXN_STATE."""

    async def act(scene: Scene) -> None:
        one = scene.producer()
        await one.init()
        await one.transaction(True, p0=b"a")
        end = scene.partition().end
        await one.end(True)
        assert scene.partition().end == end
        await refused(Code.INVALID_TXN_STATE, one.end(False))

    play(tmp_path, act)


def test_a_newer_epoch_outside_of_transactions_hinders_no_end(tmp_path: Path) -> None:
    """Who misuses a producer id with a high epoch keeps the transaction out of that partition, not from ending."""

    async def act(scene: Scene) -> None:
        one = scene.producer()
        await one.init()
        rogue = record_batch.build([(0, None, b"rogue", ())], producer=(one.producer, 99, 0))
        await scene.log.append([Append("t", 0, [rogue])])
        await one.add(0, 1)
        await refused(Code.INVALID_PRODUCER_EPOCH, one.send(0, b"a"))
        await one.send(1, b"b")
        await one.end(True)
        assert (await scene.committed(0), await scene.committed(1)) == ([b"rogue"], [b"b"])

    play(tmp_path, act)


def test_a_topic_may_go_while_a_transaction_is_open(tmp_path: Path) -> None:
    """A transaction with a partition of a topic that has been deleted ends in the others."""

    async def act(scene: Scene) -> None:
        await scene.log.create("u", 1)
        one = scene.producer()
        await one.init()
        await one.add(0)
        await scene.transactions.add("x", one.producer, one.epoch, partitions={("u", 0), ("u", 7)})
        await one.send(0, b"a")
        await scene.log.delete("u")
        await one.end(True)
        assert await scene.committed() == [b"a"]

    play(tmp_path, act)


# ---- offsets


async def pend(scene: Scene, one: Any, offset: int, group: str = "g") -> None:
    await scene.transactions.commit_offsets(one.id, one.producer, one.epoch, group, {PLACE: Offset(offset, 3, "m")})


def test_offsets_come_with_the_commit(tmp_path: Path) -> None:
    """A group's offsets wait for the transaction, are told as pending, and are the group's when it is committed."""

    async def act(scene: Scene) -> None:
        one = scene.producer()
        await one.init()
        await one.add_group("g")
        await pend(scene, one, 5)
        await pend(scene, one, 7)
        assert (dict(scene.log.committed("g")), set(scene.log.pending_offsets("g"))) == ({}, {PLACE})
        assert not scene.log.pending_offsets("h")
        await one.end(True)
        assert scene.log.committed("g")[PLACE][:3] == (7, 3, "m")
        assert not scene.log.pending_offsets("g")

    play(tmp_path, act)


def test_offsets_go_with_the_abort(tmp_path: Path) -> None:
    """An aborted transaction leaves the group where it was."""

    async def act(scene: Scene) -> None:
        await scene.log.commit("g", {PLACE: Offset(1)})
        one = scene.producer()
        await one.init()
        await one.add_group("g")
        await pend(scene, one, 5)
        await one.end(False)
        assert (scene.log.committed("g")[PLACE].offset, set(scene.log.pending_offsets("g"))) == (1, set())
        await one.add_group("g")
        await one.end(True)
        assert scene.log.committed("g")[PLACE].offset == 1

    play(tmp_path, act)


def test_offsets_of_two_transactions(tmp_path: Path) -> None:
    """A partition is pending until the last of the transactions that hold an offset of it has ended."""

    async def act(scene: Scene) -> None:
        for id_ in "xy":
            one = scene.producer(id_)
            await one.init()
            await one.add_group("g")
            await pend(scene, one, ord(id_))
        await scene.transactions.end("x", 0, 0, True)
        assert scene.log.committed("g")[PLACE].offset == ord("x")
        assert set(scene.log.pending_offsets("g")) == {PLACE}
        await scene.transactions.end("y", 1, 0, True)
        assert scene.log.committed("g")[PLACE].offset == ord("y")
        assert not scene.log.pending_offsets("g")

    play(tmp_path, act)


def test_offsets_need_their_group_in_the_transaction(tmp_path: Path) -> None:
    """TxnOffsetCommit without AddOffsetsToTxn is INVALID_TXN_STATE and keeps nothing."""

    async def act(scene: Scene) -> None:
        one = scene.producer()
        await one.init()
        await one.add_group("h")
        await refused(Code.INVALID_TXN_STATE, pend(scene, one, 5))
        await one.end(True)
        assert not scene.log.committed("g")

    play(tmp_path, act)


# ---- a restart


def test_an_open_transaction_goes_on_after_a_restart(tmp_path: Path) -> None:
    """Its producer sends, commits offsets and ends it as if nothing had been; a reader's stable offset is the same."""
    producers = []

    async def before(scene: Scene) -> None:
        one = scene.producer()
        producers.append(one)
        await one.init()
        await one.transaction(False, p1=b"aborted")
        await one.add(0, 1)
        await one.add_group("g")
        await one.send(0, b"a")
        await pend(scene, one, 5)

    async def after(scene: Scene) -> None:
        (one,) = producers
        one.scene = scene
        assert (scene.partition().stable, scene.partition().end, await scene.committed()) == (0, 1, [])
        assert set(scene.log.pending_offsets("g")) == {PLACE}
        await one.send(0, b"b")
        await one.send(1, b"c")
        await one.end(True)
        assert (await scene.committed(0), await scene.committed(1)) == ([b"a", b"b"], [b"c"])
        assert scene.log.committed("g")[PLACE].offset == 5

    play(tmp_path, before, after)


@pytest.mark.parametrize("commit", [True, False])
def test_an_end_is_known_after_a_restart(tmp_path: Path, commit: bool) -> None:
    """A producer whose answer was lost asks again after the restart, and is told how its transaction ended."""

    async def before(scene: Scene) -> None:
        one = scene.producer()
        await one.init()
        await one.transaction(commit, p0=b"a")

    async def after(scene: Scene) -> None:
        await scene.transactions.end("x", 0, 0, commit)
        await refused(Code.INVALID_TXN_STATE, scene.transactions.end("x", 0, 0, not commit))
        assert await scene.committed() == ([b"a"] if commit else [])

    play(tmp_path, before, after)


# ---- time


def test_time_ends_a_transaction(tmp_path: Path) -> None:
    """A transaction that is open longer than its producer's timeout is aborted and its producer fenced."""

    async def act(scene: Scene) -> None:
        one = scene.producer(timeout_ms=5000)
        await one.init()
        await one.add(0)
        await one.send(0, b"a")
        await scene.wait(4.5)
        assert scene.partition().stable == 0
        await scene.wait(1)
        assert (scene.partition().stable, await scene.committed()) == (2, [])
        await refused(Code.INVALID_PRODUCER_EPOCH, one.send(0, b"b"))
        await refused(Code.PRODUCER_FENCED, one.end(True))
        assert (await state(scene)).state is State.ABORTED
        await one.init()
        await one.transaction(True, p0=b"c")
        assert await scene.committed() == [b"c"]

    play(tmp_path, act)


def test_each_transaction_has_its_own_time(tmp_path: Path) -> None:
    """The time of a transaction that has ended doesn't end the next one."""

    async def act(scene: Scene) -> None:
        one = scene.producer(timeout_ms=5000)
        await one.init()
        for value in (b"a", b"b", b"c"):
            await one.add(0)
            await scene.wait(3)
            await one.send(0, value)
            await one.end(True)
        assert await scene.committed() == [b"a", b"b", b"c"]
        assert [alarm for alarm in scene.clock.running if alarm.due < scene.clock.now + 60] == []

    play(tmp_path, act)


def test_what_the_asker_does_not_live_to_hear_has_its_time(tmp_path: Path) -> None:
    """A transaction whose producer's connection is lost before the answer is aborted at its time."""

    async def act(scene: Scene) -> None:
        one = scene.producer(timeout_ms=5000)
        await one.init()
        asked = asyncio.ensure_future(one.add(0))
        await asyncio.sleep(0)
        asked.cancel()
        assert (await state(scene)).is_open
        await scene.wait(6)
        assert (await state(scene)).state is State.ABORTED

    play(tmp_path, act)


@pytest.mark.parametrize("fenced", [False, True])
def test_a_late_alarm_ends_no_other_transaction(tmp_path: Path, fenced: bool) -> None:
    """A time-out that finds its transaction ended leaves alone what has begun since, be it in the same millisecond."""

    async def act(scene: Scene) -> None:
        one = scene.producer(timeout_ms=5000)
        await one.init()
        await one.add(0)
        (alarm,) = [alarm for alarm in scene.clock.running if alarm.due == 5]
        if fenced:
            await one.init()
        else:
            await one.end(True)
            time.return_value += 1
        await one.add(0)
        alarm.function(*alarm.arguments)
        await scene.wait(0)
        assert (await state(scene)).is_open

    with mock.patch.object(clock, "wall_ms", return_value=clock.wall_ms()) as time:
        play(tmp_path, act)


@pytest.mark.parametrize(("passed", "left"), [(2, 3.0), (9, 0.0), (-100, 5.0)])
def test_time_goes_on_over_a_restart(tmp_path: Path, passed: int, left: float) -> None:
    """After a restart a transaction has the rest of its time: none when that is over, never more than all of it."""
    now = clock.wall_ms()

    async def before(scene: Scene) -> None:
        one = scene.producer(timeout_ms=5000)
        await one.init()
        await one.add(0)
        await one.send(0, b"a")

    async def after(scene: Scene) -> None:
        (alarm,) = [alarm for alarm in scene.clock.running if alarm.due < 3600]
        assert alarm.due == left
        await scene.wait(left)
        assert (scene.partition().stable, await scene.committed()) == (2, [])

    with mock.patch.object(clock, "wall_ms", return_value=now):
        play(tmp_path, before)
    with mock.patch.object(clock, "wall_ms", return_value=now + 1000 * passed):
        play(tmp_path, after)


def test_what_cannot_be_aborted_in_time_is_tried_again(tmp_path: Path) -> None:
    """Where the disk has no room for the abort it is tried again, until it is done."""

    async def act(scene: Scene) -> None:
        one = scene.producer(timeout_ms=5000)
        await one.init()
        await one.add(0)
        with mock.patch.object(scene.log, "run", side_effect=TopicsError(Code.KAFKA_STORAGE_ERROR)):
            for alarm in scene.clock.due(5):
                alarm.function(*alarm.arguments)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert (await state(scene)).is_open
        await scene.wait(10)
        assert (await state(scene)).state is State.ABORTED

    play(tmp_path, act)


def test_ids_are_forgotten_after_seven_days(tmp_path: Path) -> None:
    """An id without a transaction is forgotten after seven days, also while nothing restarts; one with an open
    transaction isn't."""
    now = clock.wall_ms()

    async def act(scene: Scene) -> None:
        idle, busy, fresh = (scene.producer(id_, 900_000) for id_ in ("idle", "busy", "fresh"))
        await idle.init()
        await busy.init()
        await busy.add(0)
        time.return_value = now + table.IDLE_MS
        await fresh.init()
        await scene.wait(0.5)
        assert {one.id for one in await scene.transactions.all()} == {"idle", "busy", "fresh"}
        time.return_value += 1
        (alarm,) = [alarm for alarm in scene.clock.running if alarm.due == 3600]
        alarm.function(*alarm.arguments)
        await scene.wait(0)
        assert {one.id for one in await scene.transactions.all()} == {"busy", "fresh"}
        await refused(Code.INVALID_PRODUCER_ID_MAPPING, idle.add(0))

    async def after(scene: Scene) -> None:
        assert {one.id for one in await scene.transactions.all()} == {"busy", "fresh"}

    with mock.patch.object(clock, "wall_ms", return_value=now) as time:
        play(tmp_path, act, after)


def test_ids_have_a_bound(tmp_path: Path) -> None:
    """Beyond the bound those that were idle longest are forgotten; where all are busy there is no new one."""

    async def act(scene: Scene) -> None:
        for i in range(20):
            await scene.producer(f"p{i}").init()
        await scene.producer("one more").init()
        assert {f"p{i}" for i in range(20)} - {one.id for one in await scene.transactions.all()} == {"p0", "p1"}
        for one in await scene.transactions.all():
            await scene.transactions.add(one.id, one.producer, one.epoch, partitions={PLACE})
        await scene.producer("the last").init()
        last = await state(scene, "the last")
        await scene.transactions.add(last.id, last.producer, last.epoch, partitions={PLACE})
        await refused(Code.COORDINATOR_NOT_AVAILABLE, scene.producer("too many").init())

    ticks = iter(range(1000, 10_000))
    with mock.patch.object(clock, "wall_ms", side_effect=lambda: next(ticks)), mock.patch.object(table, "LIMIT", 20):
        play(tmp_path, act)
