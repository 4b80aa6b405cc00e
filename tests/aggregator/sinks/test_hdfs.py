"""The hdfs sink on a local disk (`file://`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.metrics import SinkCounter
from aggregator.hdfs.native import HdfsFileSystem
from aggregator.sinks.hdfs import HdfsConfig, HdfsSink
from tests.contracts.channel import batch
from tests.contracts.sink import SinkContract


def make(folder: Path, **keys: object) -> HdfsSink:
    """Lines of text in one folder; nothing rolls unless asked to."""
    about: dict[str, object] = {
        "channel": "c", "path": f"file://{folder}", "fileType": "DataStream", "rollCount": 0, "rollSize": 0,
        "rollInterval": 0.0,
    }  # fmt: skip
    sink = HdfsSink("k1", HdfsConfig(**(about | keys)))  # type: ignore[arg-type]
    sink.counter = SinkCounter("k1")
    return sink


def lines(folder: Path) -> list[str]:
    """What lies in files of any name, in order of their counters."""
    files = sorted((one for one in folder.rglob("*") if one.is_file()), key=lambda one: one.name)
    return [line for one in files for line in one.read_text().splitlines()]


def final(folder: Path) -> list[str]:
    return sorted(line for one in folder.rglob("FlumeData.*") if one.suffix != ".tmp" for line in lines_of(one))


def suffixes(folder: Path) -> list[str]:
    return [one.suffix for one in folder.iterdir()]


def lines_of(file: Path) -> list[str]:
    return file.read_text().splitlines()


class Far:
    def __init__(self, folder: Path) -> None:
        self.folder, self.sink = folder / "out", make(folder / "out")

    async def arrived(self) -> list[str]:
        return lines(self.folder)

    async def go_away(self) -> None: ...
    async def come_back(self) -> None: ...


class TestHdfsSink(SinkContract):
    can_go_away = False

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    @asynccontextmanager
    async def far_side(self) -> AsyncIterator[Far]:  # type: ignore[override]
        yield Far(self.folder)


def test_a_lease_is_waited_for_within_a_call() -> None:
    """Whoever waits for it says which file it is, before the call is given up."""
    files = make(Path("/a"), path="hdfs://127.0.0.1:1/a", callTimeout=8.0)._files()
    assert isinstance(files, HdfsFileSystem) and files.patience == 4.0


def test_a_closed_sink_leaves_final_names_only(tmp_path: Path) -> None:
    """Closing gives the file its final name, without .tmp."""

    async def steps() -> None:
        sink = make(tmp_path)
        await sink.open()
        await sink.send(batch(*"abc"))
        assert suffixes(tmp_path) == [".tmp"]
        await sink.close()

    asyncio.run(steps())
    assert final(tmp_path) == ["a", "b", "c"] and len(list(tmp_path.iterdir())) == 1


def test_roll_count_opens_a_new_file(tmp_path: Path) -> None:
    """rollCount = 2 puts five events of one batch into three files."""

    async def steps() -> None:
        sink = make(tmp_path, rollCount=2)
        await sink.open()
        await sink.send(batch(*"abcde"))
        await sink.close()

    asyncio.run(steps())
    files = sorted(tmp_path.iterdir())
    assert [lines_of(one) for one in files] == [["a", "b"], ["c", "d"], ["e"]]


@pytest.mark.parametrize("kept", range(4))
def test_what_was_written_after_the_kept_receipt_is_in_no_final_file_twice(tmp_path: Path, kept: int) -> None:
    """After a kill, any receipt that was kept leads to final files with each event once."""
    receipts: list[bytes] = []

    async def killed() -> None:
        sink = make(tmp_path)
        sink.durable = True

        async def keep(receipt: bytes) -> None:
            receipts.append(receipt)

        sink.keep = keep
        await sink.open()
        for body in "abc":
            receipt = await sink.send(batch(body))
            assert receipt
            receipts.append(receipt)
        assert sink.output and sink.output.timer
        sink.output.timer.cancel()

    async def again() -> None:
        sink = make(tmp_path)
        sink.durable, sink.receipt = True, receipts[kept]
        await sink.open()
        for body in "abc"[kept:]:
            await sink.send(batch(body))
        await sink.close()

    asyncio.run(killed())
    assert len(receipts) == 4, "one before the file was made, one a batch"
    asyncio.run(again())
    assert final(tmp_path) == ["a", "b", "c"]
    assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob("_*"))
