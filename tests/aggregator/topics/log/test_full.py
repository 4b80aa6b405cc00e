"""A full disk and a full file: appends are refused, everything else goes on, and room that comes back is noticed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aggregator.topics.log.log import Append, Log, Options
from tests.aggregator.topics.log.full_cases import goes_on, until_refused, until_taken
from tests.aggregator.topics.log.parts import batch
from tests.faults.test_disk_full import MIB, SmallDisk
from tests.needs import need

pytestmark = pytest.mark.fault


def on_small_disk(folder: Path, case: str) -> None:
    need("unshare", "nsenter")
    with SmallDisk(folder / "disk", 48 * MIB) as disk:
        command = [sys.executable, "-m", "tests.aggregator.topics.log.full_cases", case, str(disk.folder)]
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])}
        subprocess.run([*disk.enter, *command], check=True, env=env, timeout=60)


def test_a_full_disk_refuses_appends_alone(tmp_path: Path) -> None:
    """Also of another program's making; when that has gone they are taken again, and no offset is left out."""
    on_small_disk(tmp_path, "others")


def test_a_log_opens_on_a_full_disk(tmp_path: Path) -> None:
    """It has nothing but its reserve for the memory that readers share; reading goes on."""
    on_small_disk(tmp_path, "opening")


def test_dropped_batches_make_room(tmp_path: Path) -> None:
    """Trimming works on a full disk, and ends it."""
    on_small_disk(tmp_path, "trimming")


def test_a_file_keeps_to_its_size(tmp_path: Path) -> None:
    """max_bytes: refused beyond it, taken again when retention has made room."""

    async def main() -> None:
        log = Log(tmp_path, Options(max_bytes=8 * MIB, check_seconds=0))
        await log.open()
        await log.create("t", 1)
        taken = await until_refused(log)
        assert 60 < taken < 90
        await goes_on(log, taken)
        await log.configure("t", {"retention.bytes": str(MIB)})
        assert await until_taken(log) == taken
        assert log.partition("t", 0).size < 2 * MIB
        assert (tmp_path / "topics.db").stat().st_size < 8.6 * MIB
        await log.close()

    asyncio.run(main())


def test_a_large_trim_gives_the_disk_its_room_back(tmp_path: Path) -> None:
    """The file shrinks while there is nothing else to do."""

    async def main() -> None:
        log = Log(tmp_path)
        await log.open()
        await log.create("t", 1)
        for _ in range(4):
            await log.append([Append("t", 0, [batch(value=bytes(MIB))] * 4)])
        path = tmp_path / "topics.db"
        await log.trim(log.partition("t", 0), -1)
        while path.stat().st_size > MIB:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        await log.close()

    asyncio.run(main())
