"""Files of the hdfs sink that grow: names, receipts, rolls, trouble; on a local disk."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import aggregator.hdfs.output
from agent.errors import DeliveryError
from aggregator.formats.format import make_format
from aggregator.hdfs.filesystem import FileSystem
from aggregator.hdfs.local import LocalFileSystem, LocalWriter
from aggregator.hdfs.output import Names, Output, Rules
from aggregator.hdfs.places import Place
from tests.contracts.channel import batch

NEVER = Rules(interval=0.0, size=0, events=0)
LIMIT = 65_536
"""Bytes of a receipt that a channel takes."""
LOG = logging.getLogger(__name__)


async def no_keep(receipt: bytes) -> None: ...


def output(
    rules: Rules = NEVER, files: FileSystem | None = None, keep: Callable[[bytes], Awaitable[None]] = no_keep,
    timeout: float = 10.0,
) -> Output:  # fmt: skip
    return Output(files or LocalFileSystem(), make_format("DataStream"), Names(), rules, timeout, keep, None, LOG)


async def soon(true: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while True:
            if true():
                return
            await asyncio.sleep(0.01)


def names(folder: Path) -> list[str]:
    return sorted(one.suffix for one in folder.rglob("*") if one.is_file())


def growing(folder: Path) -> set[str]:
    """Folders of files that grow."""
    return {one.parent.name for one in folder.rglob("*.tmp")}


def test_a_receipt_of_many_long_names_is_as_small_as_a_channel_takes_it(tmp_path: Path) -> None:
    """A thousand folders whose names can't be compressed: files used longest ago are finished before their time."""
    dice, receipts = random.Random(1), []

    async def keep(receipt: bytes) -> None:
        receipts.append(receipt)

    async def steps() -> None:
        out = output(keep=keep)
        await out.open(None)
        for number in range(20):
            places = [Place(f"{tmp_path}/{dice.randbytes(110).hex()}", "x") for _ in range(50)]
            receipts.append(await out.append([(place, batch(number)) for place in places]))
        assert len(out.open_files) >= 50
        await out.close()

    asyncio.run(steps())
    assert LIMIT / 2 < max(map(len, receipts)) < LIMIT
    assert (
        names(tmp_path) == sorted(f".{one.suffix[1:]}" for one in tmp_path.rglob("x.*"))
        and len(names(tmp_path)) == 1000
    )
    assert not list(tmp_path.rglob("*.tmp"))


class Blind(LocalFileSystem):
    """Two agents look for a free name at the same moment: neither sees the other's."""

    def length(self, path: str) -> int | None:
        return None if path.endswith(".tmp") else super().length(path)


def test_a_file_that_another_agent_made_a_moment_before_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is taken: the batch waits, the other's file stays as it is, and the next try takes another name."""
    (tmp_path / "x.1.tmp").write_text("another's\n")
    numbers = iter((1, 2))
    monkeypatch.setattr(aggregator.hdfs.output, "next_counter", lambda: next(numbers))

    async def steps() -> None:
        out = output(files=Blind())
        await out.open(None)
        with pytest.raises(DeliveryError, match="exists already"):
            await out.append([(Place(str(tmp_path), "x"), batch("a"))])
        await out.append([(Place(str(tmp_path), "x"), batch("a"))])
        await out.close()

    asyncio.run(steps())
    assert (tmp_path / "x.1.tmp").read_text() == "another's\n"
    assert (tmp_path / "x.2").read_text() == "a\n"


@pytest.mark.parametrize("rules", [NEVER._replace(interval=0.1), NEVER._replace(idle=0.1)], ids=["interval", "idle"])
def test_a_file_is_finished_without_new_events(tmp_path: Path, rules: Rules) -> None:
    """rollInterval and idleTimeout need no event to pass by."""

    async def steps() -> None:
        out = output(rules)
        await out.open(None)
        await out.append([(Place(str(tmp_path), "x"), batch("a"))])
        assert names(tmp_path) == [".tmp"]
        await soon(lambda: names(tmp_path) != [".tmp"] and not out.open_files and not out.ending)
        await out.close()

    asyncio.run(steps())


def test_no_more_files_are_open_than_allowed(tmp_path: Path) -> None:
    """maxOpenFiles = 2: of four folders the files written last are open."""

    async def steps() -> None:
        out = output(NEVER._replace(most_open=2))
        await out.open(None)
        for name in "abacd":
            await out.append([(Place(f"{tmp_path}/{name}", "x"), batch(name))])
        assert [Path(place.folder).name for place in out.open_files] == ["c", "d"]
        await soon(lambda: len(list(tmp_path.rglob("*.tmp"))) == 2)
        assert growing(tmp_path) == {"c", "d"}
        await out.close()

    asyncio.run(steps())


class Refusing(LocalFileSystem):
    refuse = True

    def rename(self, path: str, to: str) -> None:
        if self.refuse:
            raise DeliveryError("no renaming now")
        super().rename(path, to)


def test_a_file_that_cant_be_finished_is_tried_again(tmp_path: Path) -> None:
    """A rename that fails keeps nothing back: other files go on, and the name is given later, by the first to close."""

    async def steps() -> None:
        files = Refusing()
        out = output(NEVER._replace(events=1), files)
        await out.open(None)
        for body in "abc":
            await out.append([(Place(str(tmp_path), "x"), batch(body))])
        await soon(lambda: out.failure)
        assert names(tmp_path) == [".tmp"] * 3
        files.refuse = False
        await out.close()
        assert ".tmp" not in names(tmp_path) and len(names(tmp_path)) == 3

    asyncio.run(steps())


class Full(LocalFileSystem):
    def create(self, path: str) -> LocalWriter:
        raise DeliveryError(f"{path}: no room")


def test_tries_that_fail_for_one_reason_say_the_same(tmp_path: Path) -> None:
    """The runner logs a line when the reason is new: it names the folder, not the file of this one try."""

    async def steps() -> None:
        out = output(files=Full())
        await out.open(None)
        for _ in range(2):
            with pytest.raises(DeliveryError) as found:
                await out.append([(Place(str(tmp_path), "x"), batch("a"))])
            assert str(found.value) == f"{tmp_path}: no room"
        await out.close()

    asyncio.run(steps())


class HangingWriter(LocalWriter):
    release = threading.Event()
    closed_while_hanging = False
    hangs = False

    def sync(self) -> None:
        if not self.release.is_set():
            HangingWriter.hangs = True
            self.release.wait(30)
            HangingWriter.hangs = False
        super().sync()

    def close(self) -> None:
        HangingWriter.closed_while_hanging |= self.hangs
        super().close()


class Hanging(LocalFileSystem):
    """Its first writer hangs in sync, as a client library does whose server stands still."""

    fences, writers = True, 0

    def create(self, path: str) -> LocalWriter:
        self.writers += 1
        return HangingWriter(path) if self.writers == 1 else super().create(path)


def test_a_writer_that_hangs_is_left_alone_with_its_thread(tmp_path: Path) -> None:
    """The batch waits no longer than callTimeout and goes into another file; what the first had begun is deleted,
    the writer is not touched, and nothing is there twice when the thread wakes up."""
    place = Place(str(tmp_path), "x")

    async def steps() -> None:
        out = output(files=Hanging(), timeout=0.5)
        await out.open(None)
        with pytest.raises(DeliveryError, match="took longer than"):
            await out.append([(place, batch("a"))])
        await out.append([(place, batch("a"))])
        await soon(lambda: not out.ending)
        HangingWriter.release.set()
        await soon(lambda: not HangingWriter.hangs)
        await out.close()

    asyncio.run(steps())
    assert not HangingWriter.closed_while_hanging
    [file] = tmp_path.iterdir()
    assert file.suffix != ".tmp" and file.read_text() == "a\n"


def test_a_receipt_of_something_else_is_passed_over(tmp_path: Path) -> None:
    """The channel served another kind of sink before."""

    async def steps() -> None:
        out = output()
        await out.open(b"of another sink")
        await out.append([(Place(str(tmp_path), "x"), batch("a"))])
        await out.close()

    asyncio.run(steps())
    assert len(names(tmp_path)) == 1
