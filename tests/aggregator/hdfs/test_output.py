"""Files of the hdfs sink that grow: names, receipts, rolls, trouble; on a local disk."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import threading
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import aggregator.hdfs.output
from agent.errors import ConfigError, DeliveryError, Rejected
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


def only(folder: Path) -> Path:
    """The one file in a folder."""
    [file] = folder.iterdir()
    return file


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


class Stuck(LocalFileSystem):
    """Files in the folder `bad` get no name."""

    def rename(self, path: str, to: str) -> None:
        if "/bad/" in path:
            raise DeliveryError("no renaming here")
        super().rename(path, to)


def test_a_file_that_cant_be_finished_holds_no_other_back(tmp_path: Path) -> None:
    """closeTries = 1: the file that failed is left as it is, and those behind it get their names."""

    async def steps() -> None:
        out = output(NEVER._replace(tries=1), Stuck())
        await out.open(None)
        for name in ("bad", "x", "y"):
            await out.append([(Place(f"{tmp_path}/{name}", "x"), batch(name))])
        await out.close()
        assert not out.ending

    asyncio.run(steps())
    assert growing(tmp_path) == {"bad"} and len(names(tmp_path)) == 3


def test_failures_that_take_long_end_the_round(tmp_path: Path) -> None:
    """Batches wait meanwhile: the other files come in the next round, before the one that failed."""

    async def steps() -> None:
        out = output(NEVER, Stuck(), timeout=0.0)
        for name in ("bad", "x"):
            await out.append([(Place(f"{tmp_path}/{name}", "x"), batch(name))])
        out._end(list(out.open_files))
        await out._finish(last=True)
        assert growing(tmp_path) == {"bad", "x"}
        await out._finish(last=True)
        assert growing(tmp_path) == {"bad"}

    asyncio.run(steps())


def test_a_receipt_that_cant_be_kept_is_no_try(tmp_path: Path) -> None:
    """The file has had none: closeTries = 1 doesn't give it up, and it gets its name when receipts are kept again."""
    fail = False

    async def keep(receipt: bytes) -> None:
        if fail:
            raise DeliveryError("the disk is full")

    async def steps() -> None:
        nonlocal fail
        await out.append([(Place(str(tmp_path), "x"), batch("a"))])
        out._end(list(out.open_files))
        fail = True
        await out._finish()
        assert out.failure == "the disk is full" and names(tmp_path) == [".tmp"]
        fail = False
        await out._finish()

    out = output(NEVER._replace(tries=1), keep=keep)
    asyncio.run(steps())
    assert ".tmp" not in names(tmp_path)


def test_a_file_is_tried_for_years(tmp_path: Path) -> None:
    """The wait between two tries stays a number."""

    async def steps() -> None:
        out = output(NEVER, Stuck())
        await out.append([(Place(f"{tmp_path}/bad", "x"), batch("a"))])
        out._end(list(out.open_files))
        out.ending[0].tries = 10_000
        await out._finish()
        assert out.ending[0].tries == 10_001

    asyncio.run(steps())


@pytest.mark.parametrize("length", [234, 300])
def test_a_name_that_is_too_long_is_the_events_fault(tmp_path: Path, length: int) -> None:
    """Also where only the names of a takeover would be too long. Nothing is left of it, and other events go on."""

    async def steps() -> None:
        out = output()
        await out.open(None)
        with pytest.raises(Rejected, match="more than 249 bytes"):
            await out.append([(Place(str(tmp_path), "x" * length), batch("long"))])
        assert not out.ending
        await out.append([(Place(str(tmp_path), "x" * 200), batch("a"))])
        await out.close()

    asyncio.run(steps())
    [file] = tmp_path.iterdir()
    assert file.read_text() == "a\n"


class Impossible(LocalFileSystem):
    """A path that no file can have, which it says when the file is made, as a NameNode does."""

    def create(self, path: str) -> LocalWriter:
        raise Rejected(f"{path} can't be made")

    def delete(self, path: str) -> None:
        raise Rejected(f"{path} can't be")


def test_a_path_that_is_impossible_leaves_nothing_to_finish(tmp_path: Path) -> None:
    """Otherwise it would be in every receipt for good."""

    async def steps() -> None:
        out = output(files=Impossible())
        await out.open(None)
        with pytest.raises(Rejected, match="can't be made"):
            await out.append([(Place(str(tmp_path), "x"), batch("a"))])
        await soon(lambda: not out.ending)
        await out.close()

    asyncio.run(steps())


async def killed(tmp_path: Path, torn: str = "") -> bytes:
    """What a SIGKILL leaves of a batch `a`: a file that grows, perhaps with more in it, and its receipt."""
    out = output()
    receipt = await out.append([(Place(str(tmp_path), "x"), batch("a"))])
    with only(tmp_path).open("a") as more:
        more.write(torn)
    return receipt


def test_what_cant_be_finished_at_the_opening_is_finished_later(tmp_path: Path) -> None:
    """The sink opens and goes on, and every receipt has the file until it has its name."""

    async def steps() -> None:
        files = Refusing()
        out = output(files=files)
        receipt = await out.open(await killed(tmp_path))
        assert len(json.loads(zlib.decompress(receipt))["files"]) == 1
        await out.append([(Place(f"{tmp_path}/y", "x"), batch("b"))])
        assert names(tmp_path) == [".tmp"] * 2
        files.refuse = False
        await out.close()

    asyncio.run(steps())
    assert ".tmp" not in names(tmp_path) and len(names(tmp_path)) == 2


@pytest.mark.parametrize("torn", ["", "more\n", "m"], ids=["whole", "longer", "half"])
@pytest.mark.parametrize("taken", ["a\n", "of another\n"], ids=["alike", "other"])
def test_a_final_name_that_somebody_else_has_taken(tmp_path: Path, torn: str, taken: str) -> None:
    """Both files stay whole, whatever the other's holds; a receipt has the new name before the file has it."""
    kept: list[bytes] = []

    async def keep(receipt: bytes) -> None:
        kept.append(receipt)

    async def steps() -> None:
        receipt = await killed(tmp_path, torn)
        file = only(tmp_path)
        file.with_suffix("").write_text(taken)
        out = output(keep=keep)
        await out.open(receipt)
        assert not out.ending
        await out.close()

    asyncio.run(steps())
    assert sorted(one.read_text() for one in tmp_path.iterdir()) == sorted([taken, "a\n"])
    finals = [json.loads(zlib.decompress(receipt))["files"] for receipt in kept]
    assert any(Path(final).exists() and Path(final).read_text() == "a\n" for [(_, final, _)] in filter(None, finals))


def test_a_name_that_is_taken_while_the_file_grows(tmp_path: Path) -> None:
    """The file gets another one when it is finished, at once."""

    async def steps() -> None:
        out = output()
        await out.open(None)
        await out.append([(Place(str(tmp_path), "x"), batch("a"))])
        file = only(tmp_path)
        file.with_suffix("").write_text("of another\n")
        await out.close()

    asyncio.run(steps())
    assert ".tmp" not in names(tmp_path)
    assert sorted(one.read_text() for one in tmp_path.iterdir()) == ["a\n", "of another\n"]


class Elsewhere(LocalFileSystem):
    name = "hdfs://elsewhere:8020"


def test_unfinished_files_of_another_file_system(tmp_path: Path) -> None:
    """The sink doesn't open, and says where they are and how to go on. A receipt of a version that didn't say it
    opens, and so does one without files."""

    async def steps() -> None:
        receipt = await killed(tmp_path)
        with pytest.raises(ConfigError, match=r"1 unfinished files are on file://, .* hdfs://elsewhere:8020: run once"):
            await output(files=Elsewhere()).open(receipt)
        assert names(tmp_path) == [".tmp"]
        found = json.loads(zlib.decompress(receipt))
        del found["place"]
        out = output(files=Elsewhere())
        await out.open(zlib.compress(json.dumps(found).encode()))
        await out.close()
        assert ".tmp" not in names(tmp_path)
        out = output()
        await out.open(Output.receipt(output(files=Elsewhere())))
        await out.close()

    asyncio.run(steps())


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
    """The batch waits no longer than callTimeout, says where, and goes into another file; what the first had begun is
    deleted, the writer is not touched, and nothing is there twice when the thread wakes up."""
    place = Place(str(tmp_path), "x")

    async def steps() -> None:
        out = output(files=Hanging(), timeout=0.5)
        await out.open(None)
        with pytest.raises(DeliveryError, match=rf"file:// took longer than 0\.5 s for {tmp_path}$"):
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
