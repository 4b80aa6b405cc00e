"""When a partition is compacted, what of it, and what others see of that."""

from __future__ import annotations

import asyncio
import logging
import shutil
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent import clock
from aggregator.topics import record_batch
from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.log import cleaning, compaction
from aggregator.topics.log.cleaned import STEPS
from aggregator.topics.log.log import Append
from aggregator.topics.record_batch import Record
from tests.aggregator.topics.batches import sealed
from tests.aggregator.topics.log.compacted import EVERYTHING, Topic, folded, keyed

COMPACT = {"cleanup.policy": "compact"}
DAY = 86_400_000


@asynccontextmanager
async def opened(folder: Path, config: dict[str, str] | None = None, **options: Any) -> AsyncIterator[Topic]:
    topic = await Topic.open(folder, config, **options)
    try:
        yield topic
    finally:
        await topic.log.close()


def run(folder: Path, test: Callable[[Topic], Awaitable[None]], config: dict[str, str] | None = None,
        **options: Any) -> None:  # fmt: skip
    async def main() -> None:
        async with opened(folder, config, **options) as topic:
            await test(topic)

    asyncio.run(main())


class Time:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.ms = 1_900_000_000_000


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(clock, "wall_ms", lambda: time.ms)
    return time


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("never")


def offsets(records: list[Any]) -> list[int]:
    return [record[0] for record in records]


async def end(topic: Topic) -> None:
    """A batch that may be the newest one, which stays as it is."""
    await topic.append(keyed((b"end", b"v")))


# ---- what it comes to


def test_a_fresh_consumer_sees_the_last_of_each_key(tmp_path: Path) -> None:
    """10,000 updates of 100 keys: offsets stay, the bytes of what is old don't count any more."""

    async def test(topic: Topic) -> None:
        for n in range(0, 10_000, 10):
            await topic.append(keyed(*((b"key %d" % (m % 100), b"%d" % m) for m in range(n, n + 10))))
        before = topic.partition.size
        await topic.compact()
        partition = topic.partition
        assert (partition.start, partition.end) == (0, 10_000)
        assert partition.size < before / 50
        assert partition.size == sum(map(len, await topic.batches()))
        found = await topic.consume(0, most=1 << 20)
        assert len(found) <= 110
        assert folded(found) == {b"key %d" % (m % 100): b"%d" % m for m in range(9900, 10_000)}

    run(tmp_path, test, COMPACT)


def test_a_fetch_in_a_hole_gets_what_comes_next(tmp_path: Path) -> None:
    """From the file, and where memory had what has gone."""

    async def test(topic: Topic) -> None:
        for _ in range(8):
            await topic.append(keyed((b"a", b"v")))
        assert topic.partition.tail.first == 0
        await topic.compact()
        assert topic.partition.tail.first == 7
        for offset in range(8):
            (batch,) = await topic.log.read(topic.partition, offset, 1, 8)
            assert record_batch.header(batch).base_offset == (6 if offset < 7 else 7)

    run(tmp_path, test)


def test_other_partitions_stay_in_memory(tmp_path: Path) -> None:
    """Only what was compacted is forgotten; the bound counts what is left."""

    async def test(topic: Topic) -> None:
        await topic.log.create("other", 1)
        for _ in range(5):
            await topic.append(keyed((b"a", b"v")))
            await topic.log.append([Append("other", 0, [keyed((b"a", b"v"))])])
        await topic.compact()
        other, cache = topic.log.partition("other", 0), topic.log._views.cache
        assert (other.tail.first, topic.partition.tail.first) == (0, 4)
        assert cache.size == 6 * len(keyed((b"a", b"v"))) and len(cache._order) == 6
        for _ in range(3):
            cache.limit = 0
            await topic.append(keyed((b"a", b"v")))
            assert cache.size == 0 and not cache._order
            assert (other.tail.first, topic.partition.tail.first) == (5, topic.partition.end)

    run(tmp_path, test)


def test_the_file_gives_pages_back(tmp_path: Path) -> None:
    """Most of 20 MB, a second later."""

    async def test(topic: Topic) -> None:
        for _ in range(20):
            await topic.append(*(keyed((b"a", bytes(50_000))) for _ in range(20)))
        await topic.compact()
        file = tmp_path / "topics.db"
        await until(lambda: file.stat().st_size < 10 << 20)

    run(tmp_path, test)


def test_a_full_log_is_compacted(tmp_path: Path) -> None:
    """And then it takes in again."""

    async def test(topic: Topic) -> None:
        async def full() -> bool:
            try:
                await topic.append(*(keyed((b"a", bytes(50_000))) for _ in range(5)))
            except TopicsError as error:
                assert error.code is Code.KAFKA_STORAGE_ERROR
                return True
            return False

        while not await full():
            pass
        await topic.compact()
        for _ in range(200):
            if not await full():
                return
            await asyncio.sleep(0.05)
        raise AssertionError("never")

    run(tmp_path, test, max_bytes=4 << 20)


def test_both_policies(tmp_path: Path, time: Time) -> None:
    """Retention counts what compaction has left."""

    async def test(topic: Topic) -> None:
        for _ in range(10):
            await topic.append(keyed((b"a", bytes(1000)), time=time.ms))
        await topic.append(keyed((b"b", bytes(1000)), time=time.ms))
        await topic.compact()
        assert offsets(await topic.records()) == [9, 10]
        await topic.log.configure("t", {"retention.bytes": "1000"})
        topic.log._writer._looked = -1e9
        await until(lambda: topic.partition.start == 10)
        assert topic.partition.size == sum(map(len, await topic.batches()))

    run(tmp_path, test, EVERYTHING | {"cleanup.policy": "delete,compact"}, check_seconds=1e8)


# ---- when


def test_it_waits_until_it_is_worth_it(tmp_path: Path) -> None:
    """Until more is dirty than min.cleanable.dirty.ratio of what could be clean: Kafka's half, if nothing is set."""

    async def test(topic: Topic) -> None:
        for n in range(10):
            await topic.append(keyed((b"%d" % n, b"v")))
        await topic.compact()
        for n in range(10):
            await topic.append(keyed((b"0", b"%d" % n)))
            await topic.compact()
            assert len(await topic.batches()) == (11 + n if n < 9 else 11)

    run(tmp_path, test, COMPACT)


def test_what_waits_too_long_is_compacted(tmp_path: Path, time: Time) -> None:
    """max.compaction.lag.ms after the oldest of it came, however little it is."""

    async def test(topic: Topic) -> None:
        for n in range(10):
            await topic.append(keyed((b"%d" % n, b"v")))
        await topic.compact()
        await topic.append(keyed((b"0", b"v")))
        await end(topic)
        for passed, left in ((0, 12), (1000, 12), (1, 11)):
            time.ms += passed
            await topic.compact()
            assert len(await topic.batches()) == left

    run(tmp_path, test, COMPACT | {"max.compaction.lag.ms": "1000"})


def test_what_is_young_stays(tmp_path: Path, time: Time) -> None:
    """min.compaction.lag.ms from its arrival on; neither is it news of its keys."""

    async def test(topic: Topic) -> None:
        for _ in range(6):
            await topic.append(keyed((b"a", b"v")))
            time.ms += 1000
        await topic.compact()
        assert offsets(await topic.records()) == [0, 1, 2, 3, 4, 5]
        time.ms += 2000
        await topic.compact()
        assert offsets(await topic.records()) == [1, 2, 3, 4, 5]
        time.ms += 10_000
        await topic.compact()
        assert offsets(await topic.records()) == [4, 5]

    run(tmp_path, test, EVERYTHING | {"min.compaction.lag.ms": "5001"})


def test_tombstones_stay_for_a_time(tmp_path: Path, time: Time) -> None:
    """delete.retention.ms from when they were compacted first, and at most a part of that longer."""

    async def test(topic: Topic) -> None:
        await topic.append(keyed((b"a", b"v"), (b"b", b"v")))
        await topic.append(keyed((b"a", None)))
        await end(topic)
        time.ms += 10 * DAY
        await topic.compact()
        for passed, stays in ((0, True), (DAY - 1, True), (1 + DAY // STEPS, False)):
            time.ms += passed
            await end(topic)
            await end(topic)
            await topic.compact()
            assert (2 in offsets(await topic.records())) is stays
        assert folded(await topic.consume(0)).keys() == {b"b", b"end"}

    run(tmp_path, test, EVERYTHING | {"delete.retention.ms": str(DAY)})


def test_little_is_kept_of_when_it_was_compacted(tmp_path: Path, time: Time) -> None:
    """However often that was."""

    async def test(topic: Topic) -> None:
        def kept() -> int:
            return int(topic.log._writer.db.conn.execute("SELECT count(*) FROM cleaned").fetchone()[0])

        for _ in range(400):
            time.ms += DAY // 200
            await topic.append(keyed((b"a", b"v")), keyed((b"a", b"v")))
            await topic.compact()
        assert STEPS <= await asyncio.to_thread(kept) <= STEPS + 3

    run(tmp_path, test, EVERYTHING | {"delete.retention.ms": str(DAY)})


def test_nobody_has_to_ask(tmp_path: Path) -> None:
    """It is looked at by itself."""

    async def test(topic: Topic) -> None:
        for _ in range(10):
            await topic.append(keyed((b"a", bytes(1000))))
        await until(lambda: topic.partition.size < 3000)

    run(tmp_path, test, check_seconds=0.02)


def test_only_what_is_to_be_compacted_is(tmp_path: Path) -> None:
    """The policy is the topic's, or the log's default."""

    async def test(topic: Topic) -> None:
        await topic.append(*[keyed((b"a", b"v"))] * 5)
        await topic.compact()
        assert len(await topic.batches()) == 5
        await topic.log.configure("t", EVERYTHING)
        await topic.compact()
        assert len(await topic.batches()) == 2

    run(tmp_path, test, {"cleanup.policy": "delete"})


def test_the_dirtiest_is_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all partitions of the log."""

    async def test(topic: Topic) -> None:
        order: list[str] = []

        async def compacted(self: Any, partition: Any, dirt: Any) -> None:
            order.append(partition.topic)

        for name, clean in (("few", 30), ("many", 5)):
            await topic.log.create(name, 1, EVERYTHING)
            for n in range(clean):
                await topic.log.append([Append(name, 0, [keyed((b"%d" % n, b"v"))])])
        await topic.compact()
        for name in ("few", "many"):
            await topic.log.append([Append(name, 0, [keyed((b"0", b"v"))] * 3)])
        monkeypatch.setattr(compaction.Compaction, "_compact", compacted)
        await topic.compact()
        assert order == ["many", "few"]

    run(tmp_path, test)


# ---- transactions


async def transaction(topic: Topic, commit: bool, *pairs: Any, producer: int = 1, first: int = 0) -> int:
    """The offset of its marker."""
    await topic.append(keyed(*pairs, producer=(producer, 0, first), transactional=True))
    return await topic.marker(producer, commit)


def test_what_is_undecided_stays(tmp_path: Path) -> None:
    """And all behind it; once it is decided, it counts or goes."""

    async def test(topic: Topic) -> None:
        await topic.append(keyed((b"a", b"1")))
        await topic.append(keyed((b"a", b"2")))
        await topic.append(keyed((b"b", b"1"), producer=(1, 0, 0), transactional=True))
        await topic.append(keyed((b"a", b"3")))
        await topic.append(keyed((b"b", b"2")))
        await topic.compact()
        assert offsets(await topic.records()) == [0, 1, 2, 3, 4]
        await topic.marker(1, False)
        await end(topic)
        await topic.compact()
        assert offsets(await topic.records()) == [3, 4, 6]

    run(tmp_path, test)


def test_there_is_a_batch_where_committed_records_end(tmp_path: Path) -> None:
    """So that a consumer which reads to the end gets there, although all before it was aborted."""

    async def test(topic: Topic) -> None:
        for n in range(3):
            await transaction(topic, False, (b"a", b"1"), first=n)
        await topic.append(keyed((b"a", b"2"), producer=(2, 0, 0), transactional=True))
        for _ in range(3):
            await topic.compact()
        assert topic.partition.stable == 6
        assert await topic.consume(0) == []

    run(tmp_path, test)


def test_a_later_transaction_isnt_taken_for_the_aborted_one(tmp_path: Path) -> None:
    """Where the marker has gone, nobody is told of an abort that it would have ended."""

    async def test(topic: Topic) -> None:
        await transaction(topic, False, (b"a", b"1"))
        await transaction(topic, True, (b"a", b"2"), first=1)
        for _ in range(3):
            await end(topic)
            await topic.compact()
        heads = [record_batch.header(batch) for batch in await topic.batches()]
        assert [head.base_offset for head in heads if head.is_control] == [3]
        assert topic.partition.aborted == []
        first, *_ = await topic.consume(0, most=1 << 20)
        assert first.value == b"2"

    run(tmp_path, test)


def test_a_read_under_way_is_told_of_what_was_aborted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the batches from before the round; the log forgets the abort when it has been answered."""

    async def test(topic: Topic) -> None:
        await transaction(topic, False, (b"a", b"1"))
        for _ in range(3):
            await end(topic)
        monkeypatch.setattr(topic.log._views.cache, "limit", 0)
        await end(topic)
        reader, change = topic.log._reader, topic.log.compaction._change
        held, read = threading.Event(), threading.Event()
        plain, reads = reader._read, list[asyncio.Task[list[Record]]]()

        def slow(*asked: Any) -> list[bytes]:
            found = plain(*asked)
            read.set()
            assert held.wait(20)
            return found

        async def changed(*asked: Any) -> None:
            """Somebody reads all, before the first batch goes and until all of this round have."""
            if not reads:
                monkeypatch.setattr(reader, "_read", slow)
                reads.append(asyncio.create_task(topic.consume(0, most=1 << 20)))
                await asyncio.to_thread(read.wait, 20)
                monkeypatch.setattr(reader, "_read", plain)
                asyncio.get_running_loop().call_later(0.1, held.set)
            await change(*asked)

        monkeypatch.setattr(
            cleaning.Sweep, "ripe", property(lambda self: 1 << 40, lambda self, ripe: None), raising=False
        )
        monkeypatch.setattr(topic.log.compaction, "_change", changed)
        await topic.compact()
        assert topic.partition.aborted == []
        assert [record.key for record in await reads[0]] == [b"end"] * 4

    run(tmp_path, test)


def test_producers_are_known_although_their_batches_have_gone(tmp_path: Path) -> None:
    """After a kill: the next number is taken, the last batch is a repeat, and its transaction is over."""

    async def test(topic: Topic) -> None:
        sent = keyed((b"a", b"1"), producer=(7, 3, 0))
        await topic.append(sent)
        await topic.append(keyed((b"a", b"1"), producer=(8, 0, 0), transactional=True))
        await topic.marker(8, True)
        for _ in range(3):
            await topic.append(keyed((b"a", b"2")))
            await topic.compact()
        assert len(await topic.batches()) == 2
        shutil.copytree(tmp_path / "log", tmp_path / "killed")
        async with opened(tmp_path / "killed") as again:
            assert again.partition.stable == again.partition.end == 6
            assert await again.append(sent) == 0
            assert await again.append(keyed((b"a", b"1"), producer=(7, 3, 1))) == 6
            with pytest.raises(TopicsError) as caught:
                await again.append(keyed((b"a", b"1"), producer=(7, 3, 9)))
            assert caught.value.code is Code.OUT_OF_ORDER_SEQUENCE_NUMBER

    run(tmp_path / "log", test)


# ---- what comes in between


@pytest.mark.parametrize("how", ["deleted", "made again", "policy"])
def test_a_topic_that_changes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Nothing more of it is changed, nor of another that has its place."""
    monkeypatch.setattr(compaction, "SLICE_ROWS", 1)

    async def test(topic: Topic) -> None:
        log, write = topic.log, topic.log.run
        batches = [keyed((b"a", b"v"))] * 5
        await topic.append(*batches)
        calls = 0

        async def counted(*asked: Any, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 2:
                monkeypatch.setattr(log, "run", write)
                if how == "policy":
                    await log.configure("t", {"cleanup.policy": "delete"})
                else:
                    await log.delete("t")
                if how == "made again":
                    await until(lambda: not log._writer.db.catalog.doomed)
                    await log.create("t", 1, EVERYTHING)
                    await topic.append(*batches)
            return await write(*asked, **more)

        monkeypatch.setattr(log, "run", counted)
        await topic.compact()
        if how != "deleted":
            assert len(await topic.batches()) == {"policy": 4, "made again": 5}[how]
            assert topic.log._writer.db.conn.execute("SELECT count(*) FROM cleaned").fetchone() == (0,)

    run(tmp_path, test)


def test_what_goes_meanwhile_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that retention took between reading and changing counts once."""

    async def test(topic: Topic) -> None:
        for _ in range(6):
            await topic.append(keyed((b"a", b"v")))
        change = topic.log.compaction._change

        async def trimmed(*asked: Any) -> None:
            await topic.trim(3)
            await change(*asked)

        monkeypatch.setattr(topic.log.compaction, "_change", trimmed)
        await topic.compact()
        assert offsets(await topic.records()) == [4, 5]
        assert topic.partition.size == sum(map(len, await topic.batches()))

    run(tmp_path, test)


def test_a_deleted_topic_leaves_nothing(tmp_path: Path) -> None:
    """Not even how far it was compacted."""

    async def test(topic: Topic) -> None:
        await topic.append(*[keyed((b"a", b"v"))] * 5)
        await topic.compact()
        await topic.log.delete("t")
        await until(lambda: not topic.log._writer.db.janitor.due)
        await topic.log.create("t", 1, EVERYTHING)
        await topic.append(*[keyed((b"a", b"v"))] * 5)
        await topic.compact()
        assert len(await topic.batches()) == 2

    run(tmp_path, test)


def test_what_can_not_be_read_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It came before the topic was compacted, and stays."""

    async def test(topic: Topic) -> None:
        bad = sealed(keyed((b"a", b"?")), b"no gzip", 1)
        await topic.append(keyed((b"a", b"1")), bad, keyed((b"a", b"2")), keyed((b"a", b"3")))
        await topic.log.configure("t", EVERYTHING)
        with caplog.at_level(logging.INFO):
            for _ in range(3):
                await end(topic)
                await topic.compact()
        (said,) = caplog.records
        assert "the batch at 1 stays as it is" in said.getMessage()
        assert [record_batch.header(batch).base_offset for batch in await topic.batches()] == [1, 3, 5, 6]

    run(tmp_path, test, {})


def test_a_bug_in_one_partition_is_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is left alone from then on."""

    async def test(topic: Topic) -> None:
        await topic.log.create("good", 1, EVERYTHING)
        plain = compaction.learn

        def broken(keys: Any, batches: list[bytes], *more: Any) -> Any:
            if b"bad" in batches[0]:
                raise RuntimeError("not this one")
            return plain(keys, batches, *more)

        monkeypatch.setattr(compaction, "learn", broken)
        await topic.append(*[keyed((b"bad", b"v"))] * 5)
        for _ in range(2):
            await topic.log.append([Append("good", 0, [keyed((b"a", b"v"))] * 5)])
            await topic.compact()
        assert len(await topic.batches()) == 5
        assert topic.log.topics["good"].partitions[0].size == 2 * len(keyed((b"a", b"v")))
        assert len(caplog.records) == 1

    run(tmp_path, test)


def test_closing_ends_it(tmp_path: Path) -> None:
    """In the midst of a round, and what it has done so far is right."""

    async def main() -> None:
        topic = await Topic.open(tmp_path, check_seconds=0.001)
        for n in range(0, 3000, 10):
            await topic.append(*(keyed((b"%d" % (n % 7), b"%d" % n)) for _ in range(10)))
        await topic.log.close()
        async with opened(tmp_path) as again:
            found = await again.consume(0, most=1 << 20)
            assert {record.key: record.value for record in found} == {
                b"%d" % (n % 7): b"%d" % n for n in range(0, 3000, 10)
            }
            assert again.partition.size == sum(map(len, await again.batches()))

    asyncio.run(main())


def test_many_keys_take_several_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each as far as its keys go, the last of them inside a batch."""
    monkeypatch.setattr(compaction, "MOST_KEYS", 7)
    noted: list[int] = []
    plain = compaction._note
    monkeypatch.setattr(
        compaction, "_note", lambda place, upto, *rest: noted.append(upto) or plain(place, upto, *rest)
    )  # fmt: skip

    async def test(topic: Topic) -> None:
        pairs = [(b"%d" % (n % 20), b"%d" % n) for n in range(60)]
        for at in range(0, 60, 12):
            await topic.append(keyed(*pairs[at : at + 12]))
        await end(topic)
        await topic.compact()
        assert noted[:3] == [7, 14, 21] and noted[-1] == 60
        assert offsets(await topic.records()) == [*range(40, 60), 60]

    run(tmp_path, test)
