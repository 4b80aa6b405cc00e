"""The file channel over its store: what is kept, recognised, given back and buried."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from agent.channel import Put, Take
from agent.channels.file import FileTake
from agent.config.fields import Bytes, Seconds
from agent.errors import ChannelError, ChannelFull
from agent.store import control
from agent.store.streams import Identity
from tests.agent.channels.stores import SENDER, as_killed, batch, bodies, drained, opened, run


def test_what_was_put_survives_a_kill(tmp_path: Path) -> None:
    """A put that returned is in the files, whatever happens to the process next."""

    async def test() -> None:
        async with opened(tmp_path / "a") as (channel,):
            await channel.put(batch("one", "two"))
            left = as_killed(tmp_path / "a", tmp_path / "b")
        async with opened(left) as (channel,):
            assert await drained(channel) == ["one", "two"]

    run(test)


def test_a_repeat_after_a_kill_is_recognised(tmp_path: Path) -> None:
    """A batch that was stored before the kill and comes again is acknowledged and not stored."""

    async def test() -> None:
        async with opened(tmp_path / "a") as (channel,):
            assert await channel.put(batch("one", "two", first=1)) == (2, 0)
            left = as_killed(tmp_path / "a", tmp_path / "b")
        async with opened(left) as (channel,):
            assert await channel.put(batch("one", "two", first=1)) == (0, 2)
            assert await drained(channel) == ["one", "two"]

    run(test)


def test_an_overlap_is_cut(tmp_path: Path) -> None:
    """Of a batch that was split differently the second time, only the new numbers are stored."""

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            await channel.put(batch("2", "3", first=2, after=1))
            assert await channel.put(batch("1", "2", "3", "4", first=1)) == (2, 2)
            assert await drained(channel) == ["2", "3", "1", "4"]

    run(test)


def test_out_of_order_batches_are_both_new(tmp_path: Path) -> None:
    """Two sinks drain a channel out of order: 101 before 1 is no repeat."""

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            assert (await channel.put(batch("b", first=101))).stored == 1
            assert (await channel.put(batch("a", first=1))).stored == 1

    run(test)


def test_what_is_settled_elsewhere_is_a_repeat(tmp_path: Path) -> None:
    """A number at or below the sender's `settled` is done: a late copy is not stored."""

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            await channel.put(batch("9", first=9, after=8, settled=8))
            assert await channel.put(batch("3", first=3)) == (0, 1)

    run(test)


def test_parts_of_one_received_batch_are_judged_together(tmp_path: Path) -> None:
    """A multiplexing selector cuts a received batch: the second part isn't a repeat of the first."""

    async def test() -> None:
        async with opened(tmp_path, "c1", "c2") as (one, two):
            whole = batch("1", "2", "3", first=1)
            puts = [Put(whole.pick([0, 2]), (one,)), Put(whole.pick([1]), (two,))]
            assert await one.put_all(puts) == (3, 0)
            assert await one.put_all(puts) == (0, 3)
            assert (await drained(one), await drained(two)) == (["1", "3"], ["2"])

    run(test)


def test_a_replicated_batch_is_stored_once(tmp_path: Path) -> None:
    """Two channels of a store share one row, which goes when both have passed it."""

    async def test() -> None:
        async with opened(tmp_path, "c1", "c2") as (one, two):
            await one.put_all([Put(batch("x" * 100_000), (one, two))])
            count = lambda: one.store.call(lambda db: db.conn.execute("SELECT count(*) FROM batch").fetchone()[0])  # noqa: E731
            assert await count() == 1
            await drained(one)
            await one.put(batch("flush"))
            assert await count() == 2
            await drained(two)
            await one.put(batch("flush"))
            assert await count() == 2

    run(test)


def test_a_channel_that_stands_still_keeps_only_its_own(tmp_path: Path) -> None:
    """What was never meant for a stalled channel leaves the file when its own channel has passed it."""

    async def test() -> None:
        async with opened(tmp_path, "stalled", "flows") as (stalled, flows):
            await stalled.put(batch("mine"))
            for number in range(5):
                await flows.put(batch(str(number)))
            await drained(flows)
            await flows.put(batch("last"))
            rows = await flows.store.call(lambda db: db.conn.execute("SELECT channels FROM batch").fetchall())
            assert sorted(rows) == [(1,), (2,)]

    run(test)


def test_numbers_begin_anew_with_each_opening(tmp_path: Path) -> None:
    """Each opening has an origin of its own, whose first batch names the one before and its last number."""

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            await channel.put(batch("a", "b"))
            async with await channel.take(10) as take:
                first = take.batch.transit
        assert first is not None and first.numbers == ((1, 2),) and first.chain is None
        async with opened(tmp_path) as (channel,):
            await channel.put(batch("c"))
            async with await channel.take(10) as take:
                second = take.batch.transit
        assert second is not None and second.origin != first.origin
        assert second.numbers == ((1, 1),) and second.chain == (first.origin, 2)

    run(test)


def test_a_batch_never_joins_two_origins(tmp_path: Path) -> None:
    """Rows of two openings are two batches, however small."""

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            await channel.put(batch("old"))
        async with opened(tmp_path) as (channel,):
            await channel.put(batch("new"))
            async with await channel.take(10) as take:
                assert bodies(take) == ["old"]
            async with await channel.take(10) as take:
                assert bodies(take) == ["new"]

    run(test)


def test_identity_travels_with_received_events(tmp_path: Path) -> None:
    """A later store numbers events for its own transport and keeps the first store's names beside them."""

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            await channel.put(batch("own"))
            await channel.put(batch("theirs", first=7))
            async with await channel.take(10) as take:
                found = take.batch
            assert found.transit is not None and found.transit.numbers == ((1, 2),)
            assert found.identities == (Identity(found.transit.origin, 1, 1), Identity(SENDER, 7, 1))

    run(test)


def test_settled_follows_the_cursor(tmp_path: Path) -> None:
    """A batch says up to which number everything before it is delivered; an open take holds that back."""

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            for body in "abc":
                await channel.put(batch(body))
            first, second = await channel.take(1), await channel.take(1)
            second.commit()
            third = await channel.take(1)
            assert third.batch.transit is not None
            assert (third.batch.transit.settled, third.batch.transit.after) == (0, 2)
            first.commit()
            third.rollback()
            async with await channel.take(1) as take:
                assert take.batch.transit is not None and take.batch.transit.settled == 2

    run(test)


def test_finished_ranges_above_the_cursor_are_kept(tmp_path: Path) -> None:
    """What was delivered out of order is not taken again after a kill."""

    async def test() -> None:
        async with opened(tmp_path / "a") as (channel,):
            await channel.put(batch(*"abcdef"))
            takes = [await channel.take(2) for _ in range(3)]
            takes[1].commit()
            await channel.put(batch("flush"))
            left = as_killed(tmp_path / "a", tmp_path / "b")
            for take in (takes[0], takes[2]):
                take.rollback()
        async with opened(left) as (channel,):
            assert channel.depth == 5
            assert await drained(channel) == ["a", "b", "e", "f", "flush"]

    run(test)


def test_marks_and_receipts_come_back(tmp_path: Path) -> None:
    """A source's marks and a sink's receipt are stored with the events and the cursor they belong to."""

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            await channel.put(batch("a"), ("source", {"offset": b"17"}))
            take = await channel.take(1)
            take.commit(b"committed length 12")
        async with opened(tmp_path) as (channel,):
            assert channel.marks("source") == {"offset": b"17"} and channel.marks("other") == {}
            assert channel.receipt() == b"committed length 12"

    run(test)


def test_a_receipt_kept_now_takes_the_cursor_along(tmp_path: Path) -> None:
    """keep_receipt returns with its receipt and every commit before it on the device."""

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            await channel.put(batch("a", "b"))
            take = await channel.take(1)
            take.commit(b"a sent")
            await channel.keep_receipt(b"about to rename")
            queue = channel.queue
            kept = await channel.store.call(lambda db: (db.receipts[queue.id], db.channels[queue.id].place.done_events))
            assert kept == (b"about to rename", 1)

    run(test)


def test_a_put_waits_for_room(tmp_path: Path) -> None:
    """Within keep-alive a put over capacity goes on as soon as the sink makes room."""

    async def test() -> None:
        async with opened(tmp_path, capacity=2, transactionCapacity=2, keepAlive=Seconds(20)) as (channel,):
            await channel.put(batch("a", "b"))
            waiting = asyncio.ensure_future(channel.put(batch("c")))
            await asyncio.sleep(0.05)
            assert not waiting.done()
            async with await channel.take(1):
                pass
            assert (await waiting).stored == 1

    run(test)


def test_puts_that_wait_for_room_keep_their_order(tmp_path: Path) -> None:
    """A later and smaller put doesn't overtake one that waits for more room than there is."""

    async def test() -> None:
        async with opened(tmp_path, capacity=3, transactionCapacity=3, keepAlive=Seconds(20)) as (channel,):
            await channel.put(batch("a", "b"))
            large = asyncio.ensure_future(channel.put(batch("c", "d", "e")))
            await asyncio.sleep(0.01)
            small = asyncio.ensure_future(channel.put(batch("f")))
            await asyncio.sleep(0.05)
            assert not large.done() and not small.done()
            found: list[str] = []
            while len(found) < 6:
                async with await channel.take(2) as take:
                    found += bodies(take)
            await asyncio.gather(large, small)
            assert found == list("abcdef")

    run(test)


@pytest.mark.parametrize(
    ("keys", "size", "says"),
    [
        ({"capacity": 2, "transactionCapacity": 2}, 1, "its capacity of 2 events"),
        ({"transactionCapacity": 2}, 3, "raise that key or send smaller batches"),
        ({"maxBytes": Bytes(100)}, 50, "holds its maxBytes of 100"),
    ],
)
def test_a_put_beyond_a_limit_is_refused_by_name(tmp_path: Path, keys: dict[str, object], size: int, says: str) -> None:
    """ChannelFull names the key, and nothing of the batch is kept."""

    async def test() -> None:
        async with opened(tmp_path, keepAlive=Seconds(0), **keys) as (channel,):
            await channel.put(batch("a", "b"))
            with pytest.raises(ChannelFull, match=says):
                await channel.put(batch(*["x"] * size))
            assert await drained(channel) == ["a", "b"]

    run(test)


def test_too_little_free_disk_refuses_puts(tmp_path: Path) -> None:
    """Below minimumRequiredSpace a put is refused with the key's name; draining goes on."""

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            await channel.put(batch("a"))
        async with opened(tmp_path, minimumRequiredSpace=Bytes(1 << 60)) as (channel,):
            with pytest.raises(ChannelFull, match="minimumRequiredSpace"):
                await channel.put(batch("b"))
            assert await drained(channel) == ["a"]

    run(test)


def test_one_process_a_store(tmp_path: Path) -> None:
    """A second process is refused with the pid of the first."""

    async def test() -> None:
        async with opened(tmp_path):
            lock = str(tmp_path / "headrace.lock")
            code = f"from pathlib import Path; from agent.store.lock import StoreLock; StoreLock(Path({lock!r}))"
            found = await asyncio.to_thread(
                subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, check=False
            )
            assert f"held by process {os.getpid()}" in found.stderr

    run(test)


def test_a_folder_of_java_flume_is_refused(tmp_path: Path) -> None:
    """Where a Java file channel lies, the error says how to drain it first."""
    (tmp_path / "log-3").touch()

    async def test() -> None:
        with pytest.raises(ChannelError, match="drain it first"):
            async with opened(tmp_path):
                pass

    run(test)


def test_a_newer_format_is_refused_by_name(tmp_path: Path) -> None:
    """A store of a higher major version is left alone."""

    async def test() -> None:
        async with opened(tmp_path):
            pass
        with sqlite3.connect(tmp_path / "headrace.db") as conn:
            conn.execute("PRAGMA user_version=2000")
        conn.close()
        with pytest.raises(ChannelError, match="newer Headrace"):
            async with opened(tmp_path):
                pass

    run(test)


def test_a_dead_letter_is_stepped_over_and_replayed_under_its_old_identity(tmp_path: Path) -> None:
    """Burying moves the cursor in one transaction; a replay brings the event back with its first name."""

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            await channel.put(batch("bad", "good"))
            take = await channel.take(1)
            name = take.batch.identities
            await take.bury("too large")
            assert await drained(channel) == ["good"]
        letters = (await control.ask(tmp_path, "letters"))["letters"]
        assert [(one["reason"], bytes.fromhex(one["body"])) for one in letters] == [("too large", b"bad")]
        async with opened(tmp_path) as (channel,):
            assert await control.ask(tmp_path, "replay", ids=None) == {"count": 1}
            async with await channel.take(10) as take:
                assert bodies(take) == ["bad"] and take.batch.identities == name
            assert (await control.ask(tmp_path, "letters"))["letters"] == []

    run(test)


def test_a_replay_without_an_agent_numbers_under_an_origin_of_its_own(tmp_path: Path) -> None:
    """Stores that are replayed by command must not share a stream at their receiver."""

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            await channel.put(batch("bad"))
            await (await channel.take(1)).bury("too large")
        assert await control.ask(tmp_path, "replay", ids=None) == {"count": 1}
        async with opened(tmp_path) as (channel,), await channel.take(10) as take:
            assert bodies(take) == ["bad"]
            assert take.batch.transit and len(take.batch.transit.origin) == 16
            assert take.batch.transit.numbers == ((1, 1),)

    run(test)


def test_full_dead_letters_hold_the_channel(tmp_path: Path) -> None:
    """Above deadLetter.maxBytes an event is not buried but stays at the head."""

    async def test() -> None:
        async with opened(tmp_path, letterBytes=Bytes(4)) as (channel,):
            await channel.put(batch("far too long"))
            take = await channel.take(1)
            with pytest.raises(ChannelFull, match=r"deadLetter\.maxBytes"):
                await take.bury("reason")
            take.rollback()
            assert await drained(channel) == ["far too long"]

    run(test)


def test_a_flipped_byte_is_salvaged_around(tmp_path: Path) -> None:
    """A damaged row is counted and named; the agent goes on with the others and keeps the damaged file."""

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            for number in range(3):
                await channel.put(batch(str(number) * 50_000))
        path = tmp_path / "headrace.db"
        data = bytearray(path.read_bytes())
        data[data.index(b"1" * 1000) + 500] ^= 1
        path.write_bytes(data)
        async with opened(tmp_path) as (channel,):
            assert [text[0] for text in await drained(channel)] == ["0", "2"]
            assert channel.counter.value("salvage_missing") == 1
            await channel.put(batch("on it goes"))
            assert await drained(channel) == ["on it goes"]

    run(test)
    assert list(tmp_path.glob("headrace.db.damaged-*"))


def test_a_file_of_nonsense_starts_a_new_store(tmp_path: Path) -> None:
    """Where nothing can be read the agent starts all the same, and keeps what it found."""
    (tmp_path / "headrace.db").write_bytes(os.urandom(50_000))

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            await channel.put(batch("a"))
            assert await drained(channel) == ["a"]

    run(test)
    (kept,) = tmp_path.glob("headrace.db.damaged-*")
    assert kept.stat().st_size == 50_000


def test_the_file_shrinks_after_an_outage(tmp_path: Path) -> None:
    """When a backlog has been drained, its space goes back to the file system."""

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            for _ in range(40):
                await channel.put(batch("x" * 500_000))
            path = tmp_path / "headrace.db"
            await channel.store.call(lambda db: db.checkpoint())
            full = path.stat().st_size
            await drained(channel)
            for _ in range(100):
                await asyncio.sleep(0.1)
                if path.stat().st_size < full / 2:
                    return
            raise AssertionError(f"the file still has {path.stat().st_size} bytes of {full}")

    run(test)


def test_a_channel_that_left_the_configuration_is_forgotten_by_command(tmp_path: Path) -> None:
    """Its events are kept until somebody says so; a configured channel can't be forgotten."""

    async def test() -> None:
        async with opened(tmp_path, "c1", "gone") as (one, gone):
            await one.put_all([Put(batch("x"), (one, gone))])
        async with opened(tmp_path, "c1") as (one,):
            seen = await control.ask(tmp_path, "inspect")
            assert [(c["name"], c["configured"], c["events"]) for c in seen["channels"]] == [
                ("c1", True, 1),
                ("gone", False, 1),
            ]
            with pytest.raises(ChannelError, match="is configured"):
                await control.ask(tmp_path, "forget", channel="c1")
            assert await control.ask(tmp_path, "forget", channel="gone") == {"count": 1}
            assert await drained(one) == ["x"]

    run(test)


def test_a_cancelled_put_is_all_or_nothing(tmp_path: Path) -> None:
    """A put that was handed to the writer is kept though nobody waits any more, and its room is given back."""

    async def test() -> None:
        async with opened(tmp_path, capacity=10, transactionCapacity=5) as (channel,):
            put = asyncio.ensure_future(channel.put(batch("a", "b")))
            await asyncio.sleep(0)
            put.cancel()
            await asyncio.gather(put, return_exceptions=True)
            await channel.put(batch("c"))
            assert await drained(channel) in (["a", "b", "c"], ["c"])
            assert channel._reserved == 0

    run(test)


def test_many_small_puts_share_rows(tmp_path: Path) -> None:
    """Puts that meet in one commit are joined; each is answered, and order is kept."""

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            await asyncio.gather(*[channel.put(batch(f"{number:03}")) for number in range(200)])
            rows = await channel.store.call(lambda db: db.conn.execute("SELECT count(*) FROM batch").fetchone()[0])
            assert rows < 100
            assert await drained(channel) == [f"{number:03}" for number in range(200)]

    run(test)


def test_a_taker_between_the_end_of_a_load_and_its_callback_loads_anew(tmp_path: Path) -> None:
    """A load has ended, another taker has what it brought, and its callback has yet to run: the loop still turns."""

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            for number in range(12):
                await channel.put(batch(f"{number} ".ljust(500_000, "x")))
            takes: list[Take] = []

            async def nothing() -> None: ...

            while channel.queue.ready_bytes:  # by hand, without reading ahead
                takes.append(FileTake(channel, channel.queue.gather(1, 1 << 20)))
            assert channel.queue.behind
            channel._loading = ended = asyncio.ensure_future(nothing())
            ended.add_done_callback(channel._loaded)
            await asyncio.sleep(0)
            assert ended.done() and channel._loading is ended
            takes.append(await channel.take(1))
            assert [bodies(take)[0].split()[0] for take in takes] == [str(n) for n in range(len(takes))]

    run(test)
