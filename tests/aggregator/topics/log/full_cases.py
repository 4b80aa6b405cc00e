"""What test_full.py runs in a small disk's namespace: python -m tests.aggregator.topics.log.full_cases CASE FOLDER"""

from __future__ import annotations

import asyncio
import errno
import sys
from pathlib import Path

from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.log.log import Append, Log, Offset
from tests.aggregator.topics.log.parts import batch

VALUE = bytes(100_000)


async def answer(log: Log) -> int | Code:
    """The offset, or why there is none."""
    (result,) = await log.append([Append("t", 0, [batch(value=VALUE)])])
    return result.code if isinstance(result, TopicsError) else result.base_offset


async def until_refused(log: Log) -> int:
    """How many were taken. A group's offset that shares the commit is kept, also that of the first refusal."""
    for taken in range(2000):
        result, _ = await asyncio.gather(answer(log), log.commit("mine", {("t", 0): Offset(taken)}))
        assert log.committed("mine")["t", 0].offset == taken
        if result is Code.KAFKA_STORAGE_ERROR:
            return taken
    raise AssertionError("never refused")


async def until_taken(log: Log) -> int:
    """The offset of the first that is taken again."""
    while True:
        result = await answer(log)
        if result is not Code.KAFKA_STORAGE_ERROR:
            return result
        await asyncio.sleep(0.2)


async def goes_on(log: Log, taken: int) -> None:
    """Reading, groups' offsets, looking up."""
    partition = log.partition("t", 0)
    assert (partition.start, partition.end) == (0, taken)
    for offset in (0, taken - 1):
        assert len(await log.read(partition, offset, 1, taken)) == 1
    for n in range(50):
        await log.commit(f"group{n}", {("t", 0): Offset(n)})
    assert log.committed("group49")["t", 0].offset == 49
    assert await log.at_time(partition, 0) is not None


def fill(folder: Path) -> None:
    """Another file takes every free byte, also those that become free while it grows."""
    with (folder / "other").open("ab", buffering=0) as other:
        while True:
            try:
                other.write(bytes(4096))
            except OSError as error:
                assert error.errno == errno.ENOSPC
                return


async def opened(folder: Path) -> Log:
    log = Log(folder / "log")
    await log.open()
    if "t" not in log.topics:
        await log.create("t", 1)
    return log


async def others(folder: Path) -> None:
    log = await opened(folder)
    for _ in range(20):
        await answer(log)
    fill(folder)
    taken = 20 + await until_refused(log)
    await goes_on(log, taken)
    (folder / "other").unlink()
    assert await until_taken(log) == taken
    await log.close()


async def opening(folder: Path) -> None:
    log = await opened(folder)
    for _ in range(5):
        await answer(log)
    await log.close()
    fill(folder)
    log = await opened(folder)
    taken = 5 + await until_refused(log)
    await goes_on(log, taken)
    await log.close()
    (folder / "other").unlink()
    log = await opened(folder)
    assert await until_taken(log) == taken
    await log.close()


async def trimming(folder: Path) -> None:
    log = await opened(folder)
    taken = await until_refused(log)
    assert await log.trim(log.partition("t", 0), taken - 10) == taken - 10
    assert await until_taken(log) == taken
    await log.close()


if __name__ == "__main__":
    asyncio.run({"others": others, "opening": opening, "trimming": trimming}[sys.argv[1]](Path(sys.argv[2])))
