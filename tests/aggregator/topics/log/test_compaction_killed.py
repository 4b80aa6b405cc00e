"""SIGKILL in the midst of compaction: the newest of each key is there, and nothing that was aborted."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from tests.aggregator.topics.log.compacted import Topic, folded, keyed
from tests.aggregator.topics.log.compactor import TASKS

pytestmark = pytest.mark.fault
ANSWERS = 500


def killed(folder: Path, run: int) -> dict[bytes, int]:
    """Let it answer so often, and kill it: the last number that was answered of each key."""
    command = [sys.executable, "-m", "tests.aggregator.topics.log.compactor", str(folder), str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(ANSWERS + 37 * run)]
        process.kill()
        lines += process.stdout.read().splitlines()[:-1]
    assert process.returncode == -9
    return {key.encode(): int(number) for _, key, number in (line.split() for line in lines)}


async def check(folder: Path, answered: dict[bytes, int]) -> None:
    """As it lies there, and after each of three rounds."""
    topic = await Topic.open(folder)
    try:
        for index in range(2):
            topic.index = index
            for producer in await topic.log.run(lambda db, work: list(db.catalog.part("t", topic.index).open)):
                await topic.marker(producer, False)
        for _ in range(4):
            for index in range(2):
                topic.index = index
                assert topic.partition.stable == topic.partition.end
                assert topic.partition.size == sum(map(len, await topic.batches()))
                state = folded(await topic.consume(0, most=1 << 20))
                keys = [b"%d" % n for n in range(TASKS) if n % 2 == index]
                assert all(int(state[key]) >= answered[key] for key in keys)
                await topic.append(keyed((b"end", b"v")))
            await topic.compact()
        assert len(await topic.batches()) < 20
    finally:
        await topic.log.close()


def test_compaction_survives_sigkill(tmp_path: Path) -> None:
    """Three times over."""
    for run in range(3):
        answered = killed(tmp_path, run)
        assert len(answered) == TASKS
        asyncio.run(check(tmp_path, answered))
