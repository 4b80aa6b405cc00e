"""Records for compacted topics need a key: they are looked at when they come, in their order."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.store.streams import Transit
from aggregator.topics import compression, record_batch
from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.log import keyed as looking
from aggregator.topics.log.log import Append, Appended, Log, Options
from tests.aggregator.topics.batches import sealed
from tests.aggregator.topics.log.compacted import keyed

PLAIN = keyed((b"a", b"v"))
KEYLESS = record_batch.build([(0, b"a", b"v", ()), (0, None, b"v", ())])
PACKED = keyed(*((b"a", b"v" * 1000) for _ in range(50)), packed=1)
LARGE = keyed((b"a", bytes(looking.AT_ONCE)))
BROKEN = sealed(PLAIN, b"\1\0\0\0\1\1\0")


def run(folder: Path, test: Callable[[Log], Awaitable[None]]) -> None:
    async def main() -> None:
        log = Log(folder, Options(synchronous="OFF"))
        await log.open()
        await log.create("compacted", 2, {"cleanup.policy": "compact"})
        await log.create("other", 1, {"cleanup.policy": "compact"})
        await log.create("plain", 1)
        try:
            await test(log)
        finally:
            await log.close()

    asyncio.run(main())


def outcome(result: Appended | TopicsError) -> int | Code:
    return result.code if isinstance(result, TopicsError) else result.base_offset


def packed(batch: bytes) -> bytes:
    """The same, compressed."""
    return sealed(batch, compression.compress(4, batch[record_batch.SIZE :]), 4)


@pytest.mark.parametrize(
    ("batches", "wanted"),
    [
        ([PLAIN], 0),
        ([PACKED], 0),
        ([LARGE], 0),
        ([KEYLESS], Code.INVALID_RECORD),
        ([PLAIN, KEYLESS], Code.INVALID_RECORD),
        ([packed(KEYLESS)], Code.INVALID_RECORD),
        ([LARGE, KEYLESS], Code.INVALID_RECORD),
        ([BROKEN], Code.CORRUPT_MESSAGE),
        ([sealed(PLAIN, b"no gzip", 1)], Code.CORRUPT_MESSAGE),
        ([packed(record_batch.build([(0, b"a", bytes(record_batch.MOST), ())]))], Code.CORRUPT_MESSAGE),
    ],
)
def test_each_append_is_judged(tmp_path: Path, batches: Sequence[bytes], wanted: int | Code) -> None:
    """Whatever it is packed in, and by itself: others of the request are kept, also keyless ones of other topics."""

    async def test(log: Log) -> None:
        appends = [Append("compacted", 0, batches), Append("plain", 0, [KEYLESS]), Append("compacted", 1, [PLAIN])]
        appends.append(Append("unknown", 0, [KEYLESS]))
        results = await log.append(appends)
        assert [outcome(one) for one in results] == [wanted, 0, 0, Code.UNKNOWN_TOPIC_OR_PARTITION]

    run(tmp_path, test)


def test_the_order_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked at for long isn't overtaken by what comes after it, and keeps no other topic waiting."""

    async def test(log: Log) -> None:
        held, began, plain = threading.Event(), threading.Event(), looking.fault

        def slow(batches: Sequence[Any]) -> TopicsError | None:
            if batches[0] is PACKED and not began.is_set():
                began.set()
                assert held.wait(20)
            return plain(batches)

        monkeypatch.setattr(looking, "fault", slow)
        both = [Append("compacted", 0, [PACKED]), Append("plain", 0, [PLAIN])]
        first = asyncio.create_task(log.append(both))
        assert await asyncio.to_thread(began.wait, 20)
        later = [asyncio.create_task(log.append([Append("compacted", 0, [one])])) for one in (PLAIN, PACKED, PLAIN)]
        others = await log.append([Append("plain", 0, [PLAIN]), Append("other", 0, [PACKED])])
        assert [outcome(one) for one in others] == [1, 0]  # the one behind that of the first request
        assert not any(task.done() for task in (first, *later))
        held.set()
        results = [await task for task in (first, *later)]
        assert [[outcome(one) for one in result] for result in results] == [[0, 0], [50], [51], [101]]

    run(tmp_path, test)


def test_who_gives_up_waiting_lets_others_through(tmp_path: Path) -> None:
    """An append that is called off while another is looked at."""

    async def test(log: Log) -> None:
        tasks = [asyncio.create_task(log.append([Append("compacted", 0, [PACKED])])) for _ in range(3)]
        await asyncio.sleep(0)
        for task in tasks[:2]:
            task.cancel()
        ((last,), *_) = await asyncio.gather(tasks[2])
        assert isinstance(last, Appended)

    run(tmp_path, test)


def test_a_sink_is_told(tmp_path: Path) -> None:
    """Nothing of what it sends is kept, nor that it was received."""

    async def test(log: Log) -> None:
        transit = Transit(bytes(16), "c", 0, ((1, 2),), 0)
        appends = [Append("plain", 0, [PLAIN]), Append("compacted", 0, [KEYLESS])]
        with pytest.raises(TopicsError) as caught:
            await log.append(appends, transit)
        assert caught.value.code is Code.INVALID_RECORD
        assert await log.fresh(transit) == transit.numbers
        assert log.partition("plain", 0).end == 0
        assert len(await log.append([appends[0], Append("compacted", 0, [PLAIN])], transit)) == 2
        assert log.partition("compacted", 0).end == 1

    run(tmp_path, test)
