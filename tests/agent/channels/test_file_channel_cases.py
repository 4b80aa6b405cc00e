"""The file channel where several things meet: restarts, cancellation, salvage in flight, full stores, two takers."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.channel import Put
from agent.channels.file import FileChannel, FileChannelConfig
from agent.config.fields import Bytes, Seconds
from agent.errors import ChannelError, ChannelFull
from agent.event import Batch, Event
from agent.metrics import ChannelCounter
from agent.source import DeadLetter
from agent.store import batches, control, received, schema, space
from agent.store.connection import Damaged
from agent.store.database import Database
from agent.store.lock import StoreLock
from agent.store.requests import Part, PutRequest
from agent.store.store import Store
from agent.store.streams import Transit, from_metadata, to_metadata
from tests.agent.channels.stores import SENDER, as_killed, batch, bodies, drained, opened, run

EASY = Seconds(20)
"""A keep-alive that doesn't end within a test."""


def row(name: str, size: int = batches.JOIN_BYTES) -> list[str]:
    """Bodies of a batch that isn't joined with its neighbours."""
    return [name, "x" * size]


def once(act: Callable[[Database], None]) -> Callable[[Database], None]:
    """A call for the writer that finds the file damaged the first time, after `act`."""
    seen: list[bool] = []

    def work(db: Database) -> None:
        if not seen:
            seen.append(True)
            act(db)
            raise Damaged("on purpose")

    return work


async def flushed(channel: FileChannel) -> None:
    """Cursors that moved are in the file."""
    await channel.store.call(lambda db: None)


async def letters(channel: FileChannel) -> int:
    return int((await channel.store.inspect())["letters"])


# ---- restarts


@pytest.mark.parametrize("size", [batches.JOIN_BYTES, 600_000], ids=["read", "not read yet"])
@pytest.mark.parametrize("killed", [True, False])
def test_finished_ranges_survive_a_second_restart(tmp_path: Path, killed: bool, size: int) -> None:
    """What was finished above the cursor before the store was opened is still known when the cursor moves."""

    async def test() -> None:
        async with opened(tmp_path / "a") as (channel,):
            for name in "1234":
                await channel.put(batch(*row(name, size)))
            takes = [await channel.take(2) for _ in range(4)]
            takes[2].commit()
            await flushed(channel)
            left = as_killed(tmp_path / "a", tmp_path / "b")
            for at in (0, 1, 3):
                takes[at].rollback()
        async with opened(left) as (channel,):
            async with await channel.take(2) as take:
                assert bodies(take)[0] == "1"
            await flushed(channel)
            end = as_killed(left, tmp_path / "c") if killed else left
        async with opened(end) as (channel,):
            assert (await drained(channel))[::2] == ["2", "4"]

    run(test)


def test_a_replay_without_a_holder_has_labels(tmp_path: Path) -> None:
    """Events that were replayed by command are numbered as a receiver accepts it."""

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            await channel.put(batch("bad"))
            await (await channel.take(1)).bury("no")
        await control.ask(tmp_path, "replay", ids=None)
        async with opened(tmp_path) as (channel,):
            found = (await channel.take(10)).batch
            assert found.transit
            labels = to_metadata(found.transit, found.identity)
            assert from_metadata(labels, found.count) == (found.transit, found.identity)

    run(test)


def test_a_channel_that_is_opened_again_has_its_place_and_receipt(tmp_path: Path) -> None:
    """While another channel keeps the store open, one that is closed and opened goes on where it was."""

    async def test() -> None:
        async with opened(tmp_path, "x", "y") as (x, _):
            await x.put(batch(*"abcdef"))
            first, second = await x.take(2), await x.take(2)
            second.commit(b"receipt")
            first.rollback()
            await x.close()
            await x.open()
            assert (x.receipt(), x.depth) == (b"receipt", 4)
            assert await drained(x) == list("abef")

    run(test)


def test_the_id_of_a_forgotten_channel_is_used_again(tmp_path: Path) -> None:
    """A new channel gets nothing of one that was forgotten, and takes nothing from others."""

    async def test() -> None:
        async with opened(tmp_path, "x", "y") as (x, y):
            await x.put_all([Put(batch(*row("both")), (x, y))])
            await x.put(batch("only x"))
        await control.ask(tmp_path, "forget", channel="x")
        async with opened(tmp_path, "z", "y") as (z, y):
            assert (z.queue.id, z.depth) == (0, 0)
            await z.put_all([Put(batch("new"), (z, y))])
            assert await drained(z) == ["new"]
            assert (await drained(y))[::2] == ["both", "new"]

    run(test)


# ---- streams


@pytest.mark.parametrize("last", [batch("12", first=12, settled=11), batch("1", first=1)])
def test_a_stream_with_many_holes_may_close_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: Batch) -> None:
    """At the limit of holes, the batch that settles or fills some is taken."""
    monkeypatch.setattr(received, "RANGE_LIMIT", 5)

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            for number in range(2, 12, 2):
                await channel.put(batch(str(number), first=number))
            with pytest.raises(ChannelFull, match="5 holes"):
                await channel.put(batch("20", first=20))
            assert (await channel.put(last)).stored == 1

    run(test)


def test_idle_streams_make_room_for_new_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit of streams, those that were idle for 90 days go, without a restart."""
    monkeypatch.setattr(received, "STREAM_LIMIT", 3)

    def one(number: int) -> Batch:
        return Batch([Event({}, b"x")], transit=Transit(bytes([number]) * 16, "out", 0, ((1, 1),), 0))

    def age(db: Database) -> None:
        for stream in db.streams.values():
            stream.touched_ms -= 91 * 86_400_000

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            for number in range(3):
                await channel.put(one(number))
            with pytest.raises(ChannelFull, match="3 streams"):
                await channel.put(one(9))
            await channel.store.call(age)
            assert (await channel.put(one(9))).stored == 1

    run(test)


# ---- cancellation


def test_a_bury_that_nobody_waits_for_any_more_leaves_one_letter(tmp_path: Path) -> None:
    """A take whose bury was cancelled doesn't go back as well."""

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            await channel.put(batch("bad"))
            take = await channel.take(1)
            bury = asyncio.ensure_future(take.bury("no"))
            await asyncio.sleep(0)
            bury.cancel()
            await asyncio.wait({bury})
            take.rollback()
            while channel.burying:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            assert (channel.depth, await letters(channel)) == (0, 1)

    run(test)


def test_close_waits_for_a_bury_that_was_cancelled(tmp_path: Path) -> None:
    """When the channel has closed, the letter is in the file and the place behind it."""

    async def test() -> None:
        async with opened(tmp_path, "c1", "other") as (channel, _):
            await channel.put(batch("bad", "good"))
            bury = asyncio.ensure_future((await channel.take(1)).bury("no"))
            await asyncio.sleep(0)
            bury.cancel()
            await asyncio.wait({bury})
            await channel.close()
            assert not channel.burying
            await channel.open()
            assert await letters(channel) == 1
            assert await drained(channel) == ["good"]

    run(test)


@pytest.mark.parametrize("kind", ["put", "bury"])
def test_marks_of_a_cancelled_hand_over_are_seen_by_who_comes_next(tmp_path: Path, kind: str) -> None:
    """A source that is cancelled while the writer has its marks and starts anew gets those marks."""

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            held = hold(channel)
            marks = ("s", {"window": b"2"})
            work = (
                channel.put(batch("b"), marks) if kind == "put" else channel.bury([DeadLetter({}, b"b", "no")], marks)
            )
            task = asyncio.ensure_future(work)
            await asyncio.sleep(0)
            task.cancel()
            held.set()
            await asyncio.wait({task})
            assert task.cancelled() and channel.marks("s") == {"window": b"2"}

    run(test)


def hold(channel: FileChannel) -> threading.Event:
    """The writer's thread stands still until the event is set."""
    event = threading.Event()
    channel.store.call(lambda db: event.wait(10))
    return event


def test_a_replay_whose_asker_has_gone_is_announced(tmp_path: Path) -> None:
    """Events that a cancelled command has put again are taken, also after others have come."""

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            await channel.put(batch("bad"))
            await (await channel.take(1)).bury("no")
            replay = asyncio.ensure_future(channel.store.replay(None))
            await asyncio.sleep(0)
            replay.cancel()
            await asyncio.wait({replay})
            await channel.put(batch("good"))
            assert await drained(channel) == ["bad", "good"]

    run(test)


# ---- two takers, two channels


def test_a_cursor_that_moves_beside_a_bury_steps_over_the_letter(tmp_path: Path) -> None:
    """A place that was noted before the loop heard of the letter doesn't bring the event back after a kill."""

    async def test() -> None:
        async with opened(tmp_path / "a") as (channel,):
            await channel.put(batch("bad", "good", "next"))
            first, second = await channel.take(1), await channel.take(1)
            bury = asyncio.ensure_future(first.bury("no"))
            await asyncio.sleep(0)  # the task
            await asyncio.sleep(0)  # its job
            while not channel.store.db.letters.bytes:
                time.sleep(0.001)  # noqa: ASYNC251 - the loop must not hear of it
            before = channel.store.db.channels[0]
            second.commit()
            flush = channel.store.call(lambda db: None)
            while channel.store.db.channels[0] is before:
                time.sleep(0.001)  # noqa: ASYNC251 - nor of this
            left = as_killed(tmp_path / "a", tmp_path / "b")
            await asyncio.gather(bury, flush)
        async with opened(left) as (channel,):
            assert (await letters(channel), await drained(channel)) == (1, ["next"])

    run(test)


def test_no_row_is_committed_unseen_while_a_channel_registers(tmp_path: Path) -> None:
    """A row that is committed right after the channel's own row was read is announced to it."""

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            store = channel.store
            await store.call(lambda db: db.channel("c2"))
            waiting = asyncio.ensure_future(store.queue("c2"))
            await asyncio.sleep(0)
            put = store.put(PutRequest([Part(2, batch("x").block, 1, None, None)]))
            while not store.db.position:
                time.sleep(0.001)  # noqa: ASYNC251 - the loop must hear of both at once
            found = await waiting
            await put
            assert found.depth == 1

    run(test)


def test_an_open_take_costs_no_memory_for_what_is_finished_behind_it(tmp_path: Path) -> None:
    """Segments that finish behind an open take are joined into one range."""

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            for number in range(300):
                await channel.put(batch(str(number)))
            await channel.take(1)
            for _ in range(299):
                async with await channel.take(1):
                    pass
            assert len(channel.queue.out) < 100
            assert channel.queue.snapshot().finished == ((2, 300),)

    run(test)


# ---- salvage in flight


def test_marks_after_a_salvage_in_flight(tmp_path: Path) -> None:
    """A source is given the marks that were committed after the file was replaced."""

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            await channel.put(batch("a"), ("s", {"at": b"1"}))
            await channel.store.call(once(lambda db: None))
            await channel.put(batch("b"), ("s", {"at": b"2"}))
            assert channel.marks("s") == {"at": b"2"}

    run(test)


def test_what_memory_knows_of_a_stream_outlives_an_older_row(tmp_path: Path) -> None:
    """A salvage that finds an earlier state of a stream's row doesn't forget what was committed since."""

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            await channel.put(batch("1", first=1))
            old = await channel.store.call(lambda db: db.conn.execute("SELECT * FROM stream").fetchone())
            await channel.put(batch("2", first=2, after=1))

            def back(db: Database) -> None:
                db.conn.execute("INSERT OR REPLACE INTO stream VALUES(?,?,?,?,?,?,?,?)", old)
                db.checkpoint("TRUNCATE")

            await channel.store.call(once(back))
            assert await channel.put(batch("2", first=2, after=1)) == (0, 1)

    run(test)


def test_counters_after_rows_were_lost_in_flight(tmp_path: Path) -> None:
    """What a salvage could not read leaves the channel's depth and bytes, now and after a restart."""
    path = tmp_path / "headrace.db"

    def spoil(db: Database) -> None:
        db.checkpoint("TRUNCATE")
        data = path.read_bytes()
        path.write_bytes(data.replace(b"20" * 50, b"2x" * 50))

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            for name in ("10", "20", "30"):
                await channel.put(batch(*row(name * 50)))
            await channel.store.call(once(spoil))
            assert channel.depth == 4
            async with await channel.take(1):
                pass
        async with opened(tmp_path) as (channel,):
            assert len(await drained(channel)) == 3
            assert (channel.depth, channel.queue.size) == (0, 0)

    run(test)


def test_only_certain_losses_are_missing(tmp_path: Path) -> None:
    """Numbers that may have been delivered before the damage don't count as missing."""

    def add(db: Database) -> None:
        for at, reason in ((1, "lost: x"), (2, "possibly lost: x")):
            values = (at, SENDER, 1, 5 * at, 0, reason, 1)
            db.conn.execute("INSERT INTO lost VALUES(?,?,?,?,?,?,?,?)", (*values, schema.value_crc(*values)))

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            await channel.store.call(add)
        async with opened(tmp_path) as (channel,):
            assert channel.counter.value("salvage_missing") == 5

    run(test)


def test_the_newest_version_is_looked_for_in_every_table(tmp_path: Path) -> None:
    """A receipt that was written last isn't older than the next row."""

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            for number in range(5):
                await channel.keep_receipt(b"%d" % number)
            before = channel.store.db.version
        db = Database(tmp_path / "headrace.db")
        assert db.version == before
        db.close()

    run(test)


# ---- a store that has failed, or isn't there


def test_reading_ahead_ends_with_a_store_that_has_failed(tmp_path: Path) -> None:
    """Who asks for rows of a store that can't go on is told so."""

    def bug(db: Database) -> None:
        raise RuntimeError("bug")

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            with pytest.raises(ChannelError, match="bug"):
                await channel.store.call(bug)
            with pytest.raises(ChannelError, match="can't go on"):
                await channel.store.load(channel.queue)

    run(test)


def test_what_was_decided_is_decided_once(tmp_path: Path) -> None:
    """A store that fails in the turn of a put which it kept gives the put's room back one time."""

    def bug(db: Database) -> None:
        raise RuntimeError("bug")

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            held = hold(channel)
            put = asyncio.ensure_future(channel.put(batch("a", "b")))
            await asyncio.sleep(0)
            failing = channel.store.call(bug)
            held.set()
            assert (await put).stored == 2
            with pytest.raises(ChannelError):
                await failing
            assert channel._reserved == 0

    run(test)


def test_a_channel_that_cannot_be_opened_lets_the_store_go(tmp_path: Path) -> None:
    """The 63rd channel of a store says why, and the store closes with the others."""

    async def test() -> None:
        async with opened(tmp_path, *[f"c{number}" for number in range(62)]):
            more = FileChannel("more", FileChannelConfig(path=str(tmp_path)))
            more.counter = ChannelCounter("more")
            with pytest.raises(ChannelError, match="62 channels"):
                await more.open()
            await more.close()
        assert tmp_path not in Store._open

    run(test)


def test_a_store_without_a_socket_takes_no_commands(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where the socket can't be made the store opens nonetheless, and says so."""
    (tmp_path / control.SOCKET / "in the way").mkdir(parents=True)

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            await channel.put(batch("a"))
        StoreLock(tmp_path / "headrace.lock").release()

    run(test)
    assert "takes no commands" in caplog.text


# ---- commands


@pytest.mark.parametrize("line", [b'{"command": "letters", "ids": 5}\n', b"[]\n", b"{}\n", b"5\n"])
def test_a_command_that_makes_no_sense_is_answered(tmp_path: Path, line: bytes) -> None:
    """Nonsense on the socket gets an error, and the store goes on."""

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            await channel.bury([DeadLetter({}, b"b", "no")])
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / control.SOCKET))
            writer.write(line)
            assert b"error" in await reader.readline()
            writer.close()
            await channel.put(batch("a"))

    run(test)


def test_a_command_ends_a_salvage_that_was_interrupted(tmp_path: Path) -> None:
    """Without a holder the command finds the salvaged file, not an empty folder."""

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            await channel.put(batch("a"))
        (tmp_path / "headrace.db").rename(tmp_path / "headrace.db.salvaged-1")
        (channel_seen,) = (await control.ask(tmp_path, "inspect"))["channels"]
        assert channel_seen["events"] == 1

    run(test)


def test_an_error_of_the_file_is_one_of_the_command(tmp_path: Path) -> None:
    """What SQLite says without being damaged is a ChannelError."""

    async def test() -> None:
        async with opened(tmp_path):
            pass
        conn = sqlite3.connect(tmp_path / "headrace.db")
        conn.execute("DROP TABLE stream")
        conn.close()
        with pytest.raises(ChannelError, match="no such table"):
            await control.ask(tmp_path, "inspect")

    run(test)


# ---- order and room


def test_a_newcomer_waits_behind_those_in_line(tmp_path: Path) -> None:
    """A put that comes when room was made, before who waits for it has had his turn, doesn't overtake."""

    async def test() -> None:
        async with opened(tmp_path, capacity=10, transactionCapacity=10, keepAlive=EASY) as (channel,):
            await channel.put(batch(*"abcdefghij"))
            puts = [asyncio.ensure_future(channel.put(batch(name))) for name in "12"]
            await asyncio.sleep(0.01)
            async with await channel.take(10):
                pass
            for name in "345678":
                puts.append(asyncio.ensure_future(channel.put(batch(name))))
                await asyncio.sleep(0)
            await asyncio.gather(*puts)
            assert await drained(channel) == list("12345678")

    run(test)


def full_once(db: Database) -> None:
    """The next commit of a put finds no room."""
    real, seen = db.apply, []

    def apply(requests: Any, *rest: Any) -> Any:
        if requests and not seen:
            seen.append(True)
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return real(requests, *rest)

    db.apply = apply  # type: ignore[method-assign]


def test_what_was_put_before_a_refusal_is_known_is_refused(tmp_path: Path) -> None:
    """A full disk that has room again lets nothing in that would overtake what it refused."""

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            writer, ended = channel.store.writer, threading.Event()
            rest = writer._rest

            def rested() -> None:
                full = writer.space.full
                rest()
                if full:
                    ended.set()
                else:
                    writer._rested = 0.0

            writer._rest, writer._rested = rested, 0.0  # type: ignore[method-assign]
            full_once(writer.db)
            first = asyncio.ensure_future(channel.put(batch("1")))
            await asyncio.sleep(0)
            ended.wait(10)  # while the loop hears nothing of the refusal
            second = asyncio.ensure_future(channel.put(batch("2")))
            for put in (first, second):
                with pytest.raises(ChannelFull):
                    await put
            while channel.store.full:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await channel.put(batch("3"))
            assert await drained(channel) == ["3"]

    run(test)


def test_a_quota_that_is_used_up_is_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite calls it an I/O error; puts are refused and the store goes on."""
    monkeypatch.setattr(space, "over_quota", lambda folder: True)

    def apply(*rest: Any) -> Any:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
        raise error

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            real, channel.store.db.apply = channel.store.db.apply, apply  # type: ignore[method-assign]
            with pytest.raises(ChannelFull, match="is full"):
                await channel.put(batch("1"))
            channel.store.db.apply = real  # type: ignore[method-assign]
            assert channel.store.failed is None

    run(test)


def test_a_put_that_waits_for_bytes_goes_on_when_pages_are_free(tmp_path: Path) -> None:
    """Under maxBytes it is the commit of the cursor that makes room, and who waits is woken then."""

    async def test() -> None:
        async with opened(tmp_path, maxBytes=Bytes(300_000), keepAlive=EASY) as (channel,):
            await channel.put(batch("a" * 200_000))
            put = asyncio.ensure_future(channel.put(batch("b" * 200_000)))
            await asyncio.sleep(0.01)
            assert not put.done()
            async with await channel.take(1):
                pass
            assert (await put).stored == 1

    run(test)


# ---- channels that have left the configuration


def test_a_channel_that_left_with_events_inside_is_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log says how many events it keeps and how to give them up; the metrics count them at one channel."""

    async def test() -> None:
        async with opened(tmp_path, "c1", "gone", "c2") as (one, gone, _):
            await one.put_all([Put(batch("x", "y"), (one, gone))])
        caplog.clear()
        async with opened(tmp_path, "c1", "c2", "more") as (one, two, more):
            await more.close()
            assert one.store._watch.timer
            for _ in range(2):  # what that timer does, and the one of the next close
                one.store._watch.name()
            assert [c.counter.value("orphan_events") for c in (one, two)] == [2, 0]

    with caplog.at_level(logging.WARNING):
        run(test)
    (said,) = [record.getMessage() for record in caplog.records if "no longer configured" in record.getMessage()]
    assert "keeps 2 events" in said and f"headrace store forget gone {tmp_path}" in said


def test_a_store_in_a_deep_folder_takes_commands(tmp_path: Path) -> None:
    """The name of a Unix socket has 108 bytes; a folder's may have more, and costs no descriptor for good."""
    folder = tmp_path / ("deep" * 20) / ("down" * 20)

    async def test() -> None:
        async with opened(folder) as (channel,):
            await channel.put(batch("a"))
            (seen,) = (await control.ask(folder, "inspect"))["channels"]
            assert seen["events"] == 1
            held = [os.path.realpath(fd) for fd in Path("/proc/self/fd").iterdir()]  # noqa: ASYNC240
            assert str(folder) not in held

    run(test)
