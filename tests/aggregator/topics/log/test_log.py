"""The log as the loop sees it: answers after the commit, long polls, cold and warm reads, times, streams."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.errors import ChannelError
from agent.store.streams import Transit
from aggregator.topics import record_batch
from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.log import compaction, reader, writer
from aggregator.topics.log.log import Append, Appended, Database, Log, Offset, Options, Work
from aggregator.topics.log.writer import WAL_LIMIT
from tests.aggregator.topics.log.parts import NOW, Held, batch


@asynccontextmanager
async def opened(folder: Path, **options: Any) -> AsyncIterator[Log]:
    log = Log(folder, Options(**options))
    await log.open()
    try:
        yield log
    finally:
        await log.close()


async def append(log: Log, *batches: bytes, index: int = 0) -> Appended:
    (answer,) = await log.append([Append("t", index, batches)])
    if isinstance(answer, TopicsError):
        raise answer
    return answer


def offsets(batches: Sequence[bytes]) -> list[int]:
    return [record_batch.header(one).base_offset for one in batches]


def test_what_was_answered_is_seen_and_read(tmp_path: Path) -> None:
    """The view has moved when the answer comes; reading gives the batches back."""

    async def main() -> None:
        async with opened(tmp_path / "a" / "b") as log:
            await log.create("t", 2, {"retention.ms": "-1"})
            assert await append(log, batch(3), batch(2), index=1) == Appended(0, -1, 0)
            partition = log.topics["t"].partitions[1]
            assert (partition.topic, partition.index) == ("t", 1)
            assert (partition.start, partition.stable, partition.end) == (0, 5, 5)
            assert partition.size == len(batch(3)) + len(batch(2))
            assert offsets(await log.read(partition, 0, 1 << 20, 1 << 40)) == [0, 3]
            assert log.settings(log.topics["t"])["retention.ms"] == "-1"
        folder = tmp_path / "a" / "b"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}

    asyncio.run(main())


@pytest.mark.parametrize("cache", [0, 1 << 20])
def test_reading_begins_with_the_batch_that_holds_the_offset(tmp_path: Path, cache: int) -> None:
    """From memory and from the file: whole batches, up to a sum of bytes but one at least, and none beyond `upto`."""

    async def main() -> None:
        async with opened(tmp_path, cache_bytes=cache) as log:
            await log.create("t", 2)
            size = len(batch(3))
            await append(log, *(batch(3) for _ in range(4)))
            await append(log, batch(3), index=1)
            partition = log.partition("t", 0)

            async def read(offset: int, most: int = 1 << 20, upto: int = 99) -> list[int]:
                return offsets(await log.read(partition, offset, most, upto))

            assert await read(0) == [0, 3, 6, 9]
            assert await read(5) == [3, 6, 9]
            assert await read(11) == [9]
            assert await read(12) == []
            assert await read(4, 1) == [3]
            assert await read(4, 2 * size - 1) == [3]
            assert await read(4, 2 * size) == [3, 6]
            assert await read(2, size) == [0]
            assert await read(2, 1) == [0]
            assert await read(0, upto=9) == [0, 3, 6]
            assert await read(0, upto=8) == [0, 3]
            assert await read(6, upto=6) == []
            for wrong in (-1, 13):
                with pytest.raises(TopicsError) as caught:
                    await read(wrong)
                assert caught.value.code is Code.OFFSET_OUT_OF_RANGE

    asyncio.run(main())


def test_old_and_new_are_read_as_one(tmp_path: Path) -> None:
    """Where a part of it is in memory only."""

    async def main() -> None:
        async with opened(tmp_path, cache_bytes=2 * len(batch())) as log:
            await log.create("t", 1)
            for _ in range(6):
                await append(log, batch())
            partition = log.partition("t", 0)
            assert partition.tail.first == 4
            for offset in range(7):
                assert offsets(await log.read(partition, offset, 1 << 20, 6)) == list(range(offset, 6))

    asyncio.run(main())


def test_a_cold_read_leaves_the_loop_alone(tmp_path: Path) -> None:
    """It is another thread that reads the file."""

    async def main() -> None:
        async with opened(tmp_path, cache_bytes=0) as log:
            await log.create("t", 1)
            await append(log, batch())
            threads: list[str] = []
            real = log._reader._read

            def read(*args: Any) -> list[bytes]:
                threads.append(threading.current_thread().name)
                return real(*args)

            log._reader._read = read  # type: ignore[method-assign]
            await log.read(log.partition("t", 0), 0, 100, 1)
            assert [name.startswith("topics reader") for name in threads] == [True]

    asyncio.run(main())


def test_a_long_poll_ends_with_the_next_append(tmp_path: Path) -> None:
    """To any of its partitions, not to another; a cancelled one leaves nothing behind."""

    async def main() -> None:
        async with opened(tmp_path) as log:
            await log.create("t", 3)
            partitions = log.topics["t"].partitions
            waiting, cancelled = log.changed(partitions[:2]), log.changed(partitions[:2])
            cancelled.cancel()
            await append(log, batch(), index=2)
            assert not waiting.done()
            await append(log, batch(), index=1)
            assert waiting.done() and not waiting.cancelled()
            await asyncio.sleep(0)
            assert all(not partition.waiting for partition in partitions)

    asyncio.run(main())


def test_a_long_poll_ends_with_a_decision_and_with_the_topic(tmp_path: Path) -> None:
    """A marker moves the stable offset; a deleted topic has no more to come."""

    async def main() -> None:
        async with opened(tmp_path) as log:
            await log.create("t", 1)
            partition = log.partition("t", 0)
            await append(log, batch(producer=(1, 0, 0), transactional=True))
            waiting = log.changed([partition])
            await log.run(lambda db, work: db.batches.marker(work, db.catalog.part("t", 0), 1, 0, False))
            assert waiting.done() and partition.stable == 2
            assert log.aborted(partition, 0, 2) == [(1, 0)]
            waiting = log.changed([partition])
            await log.delete("t")
            assert waiting.done() and partition.deleted
            with pytest.raises(TopicsError) as caught:
                await log.read(partition, 0, 100, 100)
            assert caught.value.code is Code.UNKNOWN_TOPIC_OR_PARTITION

    asyncio.run(main())


def test_what_comes_together_shares_a_commit(tmp_path: Path) -> None:
    """A hundred appends at once take a few."""

    async def main() -> None:
        async with opened(tmp_path) as log:
            await log.create("t", 1)
            commits: list[int] = []
            real = log._writer._commit
            log._writer._commit = lambda group: (commits.append(len(group)), real(group))[1]  # type: ignore[method-assign]
            held = threading.Event()
            blocking = asyncio.ensure_future(log.run(lambda db, work: held.wait(10)))
            await asyncio.sleep(0.01)
            appends = [asyncio.ensure_future(append(log, batch())) for _ in range(100)]
            await asyncio.sleep(0.01)
            held.set()
            await blocking
            answers = await asyncio.gather(*appends)
            assert [answer.base_offset for answer in answers] == list(range(100))
            assert sum(commits) == 101 and len(commits) <= 3

    asyncio.run(main())


def test_an_append_whose_asker_has_gone_is_done_nonetheless(tmp_path: Path) -> None:
    """Cancelling takes nothing back."""

    async def main() -> None:
        async with opened(tmp_path) as log:
            await log.create("t", 1)
            task = asyncio.ensure_future(append(log, batch()))
            await asyncio.sleep(0)
            task.cancel()
            assert (await append(log, batch())).base_offset == 1

    asyncio.run(main())


def test_a_call_of_ones_own_is_a_part_of_the_commit(tmp_path: Path) -> None:
    """Its result comes back; its exception takes back what it did, and the log goes on."""

    async def main() -> None:
        async with opened(tmp_path) as log:

            def call(db: Database, work: Work) -> int:
                db.catalog.create(work, "u", 1, {})
                if "t" not in db.catalog.topics:
                    raise ValueError("no t")
                return db.producer_id(work)

            with pytest.raises(ValueError, match="no t"):
                await log.run(call)
            assert not log.topics
            await log.create("t", 1)
            assert await log.run(call) == 0
            assert await log.producer_id() == 1
            assert set(log.topics) == {"t", "u"}

    asyncio.run(main())


# ---- times


@pytest.mark.parametrize("form", ["CreateTime", "LogAppendTime"])
def test_a_time_is_looked_up_to_the_record(tmp_path: Path, form: str) -> None:
    """The first record that is not before it; none if all are."""

    async def main() -> None:
        async with opened(tmp_path) as log:
            await log.create("t", 2, {"message.timestamp.type": form})
            for _ in range(3):
                await append(log, *(batch(5, time=NOW + 100 * n) for n in range(20)))
            partition = log.partition("t", 0)
            if form == "LogAppendTime":
                found = await log.at_time(partition, NOW - 10**12)
                assert found is not None and found[0] == 0 and found[1] > 1_700_000_000_000
            else:
                assert await log.at_time(partition, 0) == (0, NOW)
                assert await log.at_time(partition, NOW + 3) == (3, NOW + 3)
                assert await log.at_time(partition, NOW + 5) == (5, NOW + 100)
                assert await log.at_time(partition, NOW + 1904) == (99, NOW + 1904)
            assert await log.at_time(partition, NOW + 1905) is None
            assert await log.at_time(log.partition("t", 1), 0) is None

    asyncio.run(main())


def test_times_that_fall_hide_nothing(tmp_path: Path) -> None:
    """The first record in the order of offsets counts, and none before the start."""

    async def main() -> None:
        async with opened(tmp_path) as log:
            await log.create("t", 1, {"retention.ms": "-1"})
            await append(log, *(batch(time=NOW + ms) for ms in (50, 10, 20, 70, 30, 60)))
            partition = log.partition("t", 0)
            assert await log.at_time(partition, NOW + 20) == (0, NOW + 50)
            assert await log.at_time(partition, NOW + 60) == (3, NOW + 70)
            await log.trim(partition, 1)
            assert await log.at_time(partition, NOW + 20) == (2, NOW + 20)
            assert await log.at_time(partition, NOW + 40) == (3, NOW + 70)

    asyncio.run(main())


def test_a_time_before_the_start_is_no_answer(tmp_path: Path) -> None:
    """Also in the batch that holds the start: what it has besides may be earlier than what is asked for."""

    async def main() -> None:
        async with opened(tmp_path) as log:
            await log.create("t", 1, {"retention.ms": "-1"})
            falling = record_batch.build([(NOW + 70, b"k", b"v", ()), (NOW + 10, b"k", b"v", ())])
            await append(log, falling, batch(time=NOW + 60))
            await log.trim(log.partition("t", 0), 1)
            assert await log.at_time(log.partition("t", 0), NOW + 50) == (2, NOW + 60)
            assert await log.at_time(log.partition("t", 0), NOW + 65) is None

    asyncio.run(main())


def test_a_long_look_for_a_time_takes_many_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One record with a time to come leads it through every header: the writer needn't wait for all of them."""
    monkeypatch.setattr(reader, "SCAN_ROWS", 3)

    async def main() -> None:
        async with opened(tmp_path) as log:
            await log.create("t", 1, {"retention.ms": "-1"})
            await append(log, batch(time=NOW + 10**9), *(batch(time=NOW + n) for n in range(1, 21)))
            partition, turns = log.partition("t", 0), []
            ask = log._reader.ask
            log._reader.ask = lambda call: turns.append(call) or ask(call)  # type: ignore[method-assign]
            await log.trim(partition, 1)
            assert await log.at_time(partition, NOW + 20) == (20, NOW + 20)
            assert len(turns) == 1 + 7
            assert await log.at_time(partition, NOW + 18) == (18, NOW + 18)
            assert await log.at_time(partition, NOW + 19) == (19, NOW + 19)
            assert await log.at_time(partition, NOW + 21) is None

    asyncio.run(main())


def test_nobody_waits_for_a_look_into_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be large, and are looked at outside a reader's turn and off the loop."""

    async def main() -> None:
        async with opened(tmp_path) as log:
            await log.create("t", 1)
            await append(log, batch(3))
            records, seen = record_batch.records, []

            def watched(data: bytes) -> Iterator[record_batch.Record]:
                seen.append((log._reader.turns._inside.locked(), threading.current_thread()))
                return records(data)

            monkeypatch.setattr(record_batch, "records", watched)
            assert await log.at_time(log.partition("t", 0), NOW + 2) == (2, NOW + 2)
            assert [locked for locked, _ in seen] == [False]
            assert seen[0][1] is not threading.main_thread()

    asyncio.run(main())


def test_records_that_can_not_be_read_answer_with_their_batch(tmp_path: Path) -> None:
    """Never too late, and not before the start of the log."""

    async def main() -> None:
        async with opened(tmp_path) as log:
            await log.create("t", 1, {"retention.ms": "-1"})
            broken = bytearray(batch(4))
            broken[-3] ^= 1
            await append(log, bytes(broken))
            partition = log.partition("t", 0)
            assert await log.at_time(partition, NOW + 2) == (0, NOW + 3)
            await log.trim(partition, 2)
            assert await log.at_time(partition, NOW + 1) == (2, NOW + 3)

    asyncio.run(main())


# ---- streams


def transit(*runs: tuple[int, int], after: int = 0, settled: int = 0) -> Transit:
    return Transit(bytes(16), "ch", after, runs, settled)


def test_a_stream_is_stored_once(tmp_path: Path) -> None:
    """What has been received is known after a kill as well; nothing of a repeat is stored."""

    async def main() -> None:
        async with opened(tmp_path) as log:
            await log.create("t", 1)
            sent = transit((1, 5))
            assert await log.fresh(sent) == sent.numbers
            assert await log.append([Append("t", 0, [batch(5)])], sent) == [Appended(0, -1, 0)]
            assert await log.fresh(sent) == ()
            assert await log.append([Append("t", 0, [batch(5)])], sent) == []
        async with opened(tmp_path) as log:
            assert await log.fresh(transit((1, 7))) == ((6, 2),)
            assert log.partition("t", 0).end == 5

    asyncio.run(main())


def test_of_an_overlap_the_new_numbers_are_taken(tmp_path: Path) -> None:
    """The sink builds its batches of those; if others came meanwhile it has to look again."""

    async def main() -> None:
        async with opened(tmp_path) as log:
            await log.create("t", 1)
            await log.append([Append("t", 0, [batch(5)])], transit((1, 5)))
            sent = transit((4, 5), after=3)
            cut = replace(sent, numbers=await log.fresh(sent))
            with pytest.raises(TopicsError) as caught:
                await log.append([Append("t", 0, [batch(5)])], sent)
            assert caught.value.code is Code.DUPLICATE_SEQUENCE_NUMBER
            assert log.partition("t", 0).end == 5
            assert await log.append([Append("t", 0, [batch(3)])], cut) == [Appended(5, -1, 0)]
            assert await log.fresh(transit((1, 9))) == ((9, 1),)

    asyncio.run(main())


def test_a_refused_part_leaves_the_stream_as_it_was(tmp_path: Path) -> None:
    """All of a received batch or nothing."""

    async def main() -> None:
        async with opened(tmp_path) as log:
            await log.create("t", 1)
            sent = transit((1, 2))
            with pytest.raises(TopicsError) as caught:
                await log.append([Append("t", 0, [batch()]), Append("u", 0, [batch()])], sent)
            assert caught.value.code is Code.UNKNOWN_TOPIC_OR_PARTITION
            assert (log.partition("t", 0).end, await log.fresh(sent)) == (0, sent.numbers)

    asyncio.run(main())


# ---- life


def test_one_process_has_the_folder(tmp_path: Path) -> None:
    """A second log of it is refused, with the holder's pid."""

    async def main() -> None:
        async with opened(tmp_path):
            with pytest.raises(ChannelError, match=f"held by process {os.getpid()}"):
                await Log(tmp_path).open()
        async with opened(tmp_path) as log:
            assert not log.topics

    asyncio.run(main())


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + bytes(5000)])
def test_a_file_that_is_no_log_is_left_alone(tmp_path: Path, content: bytes) -> None:
    """ChannelError that names it; the folder is free again."""

    async def main() -> None:
        (tmp_path / "topics.db").write_bytes(content)
        for _ in range(2):
            with pytest.raises(ChannelError, match=r"topics\.db"):
                await Log(tmp_path).open()
        assert (tmp_path / "topics.db").read_bytes() == content

    asyncio.run(main())


def test_a_log_that_can_not_go_on_says_so(tmp_path: Path) -> None:
    """To who waits, to who asks later, and to long polls."""

    async def main() -> None:
        log = Log(tmp_path)
        await log.open()
        await log.create("t", 1)
        partition = log.partition("t", 0)
        waiting = log.changed([partition])

        def broken(db: Database, work: Work) -> None:
            raise MemoryError

        log._writer.db.catalog.create = broken  # type: ignore[assignment, method-assign]
        log._writer.space.keep_reserve = lambda: 1 / 0  # type: ignore[assignment, method-assign]
        with pytest.raises(ChannelError, match="can't go on"):  # the writer may be at what follows its last commit
            for offset in range(2):
                await asyncio.wait_for(log.commit("g", {("t", 0): Offset(offset)}), 10)
        assert waiting.done()
        with pytest.raises(ChannelError):
            await append(log, batch())
        with pytest.raises(ChannelError):
            await log.read(partition, 0, 1, 1)
        await log.close()

    asyncio.run(main())


def test_closing_does_what_was_asked_for(tmp_path: Path) -> None:
    """Then it takes nothing more."""

    async def main() -> None:
        log = Log(tmp_path)
        await log.open()
        await log.create("t", 1)
        appends = [asyncio.ensure_future(append(log, batch())) for _ in range(20)]
        await asyncio.sleep(0)
        await log.close()
        assert [answer.base_offset for answer in await asyncio.gather(*appends)] == list(range(20))
        with pytest.raises(ChannelError, match="closed"):
            await append(log, batch())

    asyncio.run(main())


def test_readers_of_old_data_let_the_wal_start_over(tmp_path: Path) -> None:
    """However many read without a pause: the writer waits for the one under way once the WAL is long."""

    async def main() -> None:
        async with opened(tmp_path, cache_bytes=0, synchronous="NORMAL") as log:
            await log.create("t", 1)
            await append(log, *(batch(value=bytes(60_000)) for _ in range(100)))
            partition = log.partition("t", 0)

            async def read() -> None:
                while True:
                    await log.read(partition, 0, 6_000_000, 100)

            readers = [asyncio.ensure_future(read()) for _ in range(3)]
            longest = 0
            for _ in range(35):
                await append(log, batch(value=bytes(1 << 20)))
                longest = max(longest, (tmp_path / "topics.db-wal").stat().st_size)
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
            assert longest < WAL_LIMIT + (4 << 20)

    asyncio.run(main())


def test_a_checkpoint_that_finds_no_room_fills_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Appends are refused as on any full disk, the rest goes on; it isn't tried again at every commit."""
    monkeypatch.setattr(writer, "WAL_LIMIT", 64 << 10)

    async def main() -> None:
        async with opened(tmp_path) as log:
            await log.create("t", 1)
            tried, truncate = [], log._writer.db.restart_wal
            log._writer.space.has_room = lambda: False  # type: ignore[method-assign]

            def no_room() -> None:
                tried.append(1)
                error = sqlite3.OperationalError("database or disk is full")
                error.sqlite_errorcode = sqlite3.SQLITE_FULL
                raise error

            log._writer.db.restart_wal = no_room  # type: ignore[method-assign]
            await append(log, batch(value=bytes(100_000)))
            with pytest.raises(TopicsError) as caught:
                await append(log, batch())
            assert caught.value.code is Code.KAFKA_STORAGE_ERROR
            assert log._writer.space.reserved == 0
            for offset in range(3):
                await log.commit("g", {("t", 0): Offset(offset)})
            assert (len(tried), log.committed("g")["t", 0].offset) == (1, 2)
            log._writer.db.restart_wal = truncate  # type: ignore[method-assign]
            del log._writer.space.has_room
            while log._writer.space.full:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            assert (await append(log, batch())).base_offset == 1

    asyncio.run(main())


def test_nobody_outside_holds_the_writer_up(tmp_path: Path) -> None:
    """While another process reads, what can't be copied now is left, however long the connection waits otherwise."""
    held = Held(tmp_path / "log")
    held.create()
    outside = sqlite3.connect(held.folder / "topics.db", check_same_thread=False)
    outside.execute("BEGIN")
    outside.execute("SELECT count(*) FROM batch").fetchone()
    held.append(batch())
    held.db.conn.execute("PRAGMA busy_timeout=600000")
    thread = threading.Thread(target=held.db.restart_wal)
    thread.start()
    thread.join(30)
    waited = thread.is_alive()
    outside.close()
    thread.join()
    assert not waited
    assert held.db.conn.execute("PRAGMA busy_timeout").fetchone() == (600000,)
    held.db.restart_wal()
    assert (held.folder / "topics.db-wal").stat().st_size == 0
    held.db.close()


def test_a_bug_in_a_partition_is_not_its_successors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compaction leaves the one alone, and not the one that gets its number when the topic is made again."""

    def bug(*_: object) -> None:
        raise RuntimeError("no compaction here")

    async def main() -> None:
        async with opened(tmp_path) as log:
            for learn in (bug, compaction.learn):
                monkeypatch.setattr(compaction, "learn", learn)
                await log.create("t", 1, {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0"})
                await append(log, *[batch()] * 3)
                size = log.partition("t", 0).size
                await log.compaction.round()
                monkeypatch.undo()
                assert log.partition("t", 0).id == 1
                assert (log.partition("t", 0).size < size) == (learn is not bug)
                await log.delete("t")
                while log._writer.db.catalog.doomed:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

    asyncio.run(main())
