"""SIGKILL in the middle of a stream of appends: what was answered is there, whole and in order."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from aggregator.topics import record_batch
from aggregator.topics.log.log import Append, Appended, Log
from tests.aggregator.topics.log.parts import batch

pytestmark = pytest.mark.fault
ANSWERS = 400


def killed(folder: Path, run: int) -> list[tuple[int, int, int, int]]:
    """Let it append until it has answered so often, and kill it; all that it answered."""
    command = [sys.executable, "-m", "tests.aggregator.topics.log.appender", str(folder), str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(ANSWERS)]
        process.kill()
        lines += process.stdout.read().splitlines()
    assert process.returncode == -9
    whole = [tuple(map(int, line.split())) for line in lines if len(line.split()) == 4]
    return whole[:-1]  # type: ignore[return-value]  # of the last one a part may be missing


async def content(folder: Path) -> dict[tuple[int, int], bytes]:
    """Partition and offset -> value, of every record; offsets without a gap."""
    log = Log(folder)
    await log.open()
    found: dict[tuple[int, int], bytes] = {}
    for partition in log.topics["t"].partitions:
        at = 0
        while at < partition.end:
            for one in await log.read(partition, at, 1 << 16, partition.end):
                for record in record_batch.records(one):
                    assert record.offset == at
                    found[partition.index, at] = record.value or b""
                    at += 1
    await log.close()
    return found


async def again(folder: Path, answers: list[tuple[int, int, int, int]]) -> None:
    """What groups committed is there; the last batch of each producer is known when it comes again."""
    log = Log(folder)
    await log.open()
    for index, producer, _, offset in answers:
        assert log.committed(f"g{producer}")["t", index].offset >= offset
    for index, producer, sequence, offset in {one[1]: one for one in answers}.values():
        sent = batch(3, producer=(producer, 0, sequence), value=b"%d/%d" % (producer, sequence))
        (answer,) = await log.append([Append("t", index, [sent])])
        assert isinstance(answer, Appended) and answer.base_offset == offset
    await log.close()


def test_what_was_answered_survives_sigkill(tmp_path: Path) -> None:
    """Three times over: no answered batch is missing, torn or twice, and none is taken twice afterwards."""
    answers: list[tuple[int, int, int, int]] = []
    for run in range(3):
        new = killed(tmp_path, run)
        assert len(new) >= ANSWERS - 1
        answers += new
        found = asyncio.run(content(tmp_path))
        for index, producer, sequence, offset in answers:
            wanted = b"%d/%d" % (producer, sequence)
            assert [found[index, offset + n] for n in range(3)] == [wanted] * 3
        values = list(found.values())
        assert len(values) == 3 * len(set(values))
        asyncio.run(again(tmp_path, new))
