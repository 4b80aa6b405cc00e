"""A partition read in order: what one call gives and what is kept between two, however much a batch holds."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from aggregator.topics import compression, following, record_batch
from aggregator.topics.following import Broken, Following
from aggregator.topics.log.log import Append, Log, Options
from tests.aggregator.topics.batches import ZSTD, sealed
from tests.aggregator.topics.talking import batch

VALUE = bytes(200_000)


def squeezed(*values: bytes) -> bytes:
    """A batch of a few kB, of values that are zeros."""
    plain = batch(*values)
    return sealed(plain, compression.compress(ZSTD, plain[61:]), ZSTD)


def run(folder: Path, steps: Callable[[Log], Awaitable[None]], *batches: bytes) -> None:
    """With a topic that holds these."""

    async def all_of_it() -> None:
        log = Log(folder, Options(synchronous="OFF"))
        await log.open()
        try:
            await log.create("t", 1)
            for one in batches:
                await log.append([Append("t", 0, [one])])
            await steps(log)
        finally:
            await log.close()

    asyncio.run(all_of_it())


def test_one_call_gives_a_bounded_number_of_bytes(tmp_path: Path) -> None:
    """Although more records are asked for; the next calls go on inside the batch, and nothing is lost or repeated."""

    async def steps(log: Log) -> None:
        followed = Following(log, log.partition("t", 0), 0)
        offsets = list[int]()
        while records := await followed.take(1000):
            assert len(records) <= following.READ_BYTES // len(VALUE) + 1
            offsets += [record.offset for record in records]
        assert offsets == list(range(60))

    run(tmp_path, steps, squeezed(*[VALUE] * 40), *[squeezed(*[VALUE] * 4)] * 5)


def test_a_record_comes_whatever_its_size(tmp_path: Path) -> None:
    """One above the bound is given, alone."""

    async def steps(log: Log) -> None:
        followed = Following(log, log.partition("t", 0), 0)
        assert [len(one.value or b"") for one in await followed.take(10)] == [3_000_000]
        assert [one.value for one in await followed.take(10)] == [b"x"]

    run(tmp_path, steps, squeezed(bytes(3_000_000), b"x"))


@pytest.mark.parametrize(("count", "kept"), [(40, False), (4, True)])
def test_a_large_batch_is_not_kept_open(tmp_path: Path, count: int, kept: bool) -> None:
    """Between two calls, so that many slow readers hold little; a small one is, which saves the second opening."""

    async def steps(log: Log) -> None:
        followed = Following(log, log.partition("t", 0), 0)
        assert await followed.take(1)
        assert (followed._payload is not None) is kept
        assert [record.offset for record in await followed.take(2)] == [1, 2]

    run(tmp_path, steps, squeezed(*[VALUE] * count))


def test_the_loop_does_not_decompress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread does, while the loop serves others."""
    threads = list[threading.Thread]()
    opened = record_batch.opened

    def watched(data: bytes, most: int) -> object:
        threads.append(threading.current_thread())
        return opened(data, most)

    async def steps(log: Log) -> None:
        monkeypatch.setattr(record_batch, "opened", watched)
        assert await Following(log, log.partition("t", 0), 0).take(1)

    run(tmp_path, steps, squeezed(VALUE))
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


def test_a_reader_may_open_less(tmp_path: Path) -> None:
    """A batch that takes more is broken for it, and what is behind that comes; one that isn't compressed takes nothing
    more than it is."""

    async def steps(log: Log) -> None:
        followed = Following(log, log.partition("t", 0), 0, most=500_000)
        with pytest.raises(Broken) as caught:
            await followed.take(10)
        assert (caught.value.offset, caught.value.after) == (0, 3)
        assert [record.offset for record in await followed.take(10)] == [3]
        assert [record.offset for record in await followed.take(10)] == [4]

    run(tmp_path, steps, squeezed(*[VALUE] * 3), batch(bytes(900_000)), batch(bytes(900_000)))


def test_what_is_before_damage_comes_first(tmp_path: Path) -> None:
    """The batch's whole records, then that it is broken, then the next batch."""
    plain = batch(b"a", b"b", b"c")
    payload = bytearray(plain[61:])
    payload[-1] = 7  # the last record claims a header that isn't there

    async def steps(log: Log) -> None:
        followed = Following(log, log.partition("t", 0), 0)
        assert [record.value for record in await followed.take(10)] == [b"a", b"b"]
        with pytest.raises(Broken):
            await followed.take(10)
        assert [record.value for record in await followed.take(10)] == [b"d"]

    run(tmp_path, steps, sealed(plain, bytes(payload)), batch(b"d"))
