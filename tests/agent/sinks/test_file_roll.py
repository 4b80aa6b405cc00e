"""file_roll: names, folders, rolling, and what a restart finds."""

from __future__ import annotations

import asyncio
import io
import logging
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import fastavro
import pytest

from agent import clock, output_files
from agent.config.reading import read
from agent.errors import DeliveryError, Rejected
from agent.event import Batch, Event
from agent.sinks.file_roll import FileRollConfig, FileRollSink, safe, split
from tests.contracts.channel import batch
from tests.contracts.sink import FarSide, SinkContract

START = 1795572267324


@pytest.fixture(autouse=True)
def _start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "wall_ms", lambda: START)


def make(directory: Path | str, durable: bool = False, **keys: str) -> FileRollSink:
    """A sink as a configuration makes it; keys without their `sink.`."""
    raw = {"channel": "c1", "sink.directory": str(directory)} | {
        f"sink.{name.replace('__', '.')}": text for name, text in keys.items()
    }
    reading = read(FileRollConfig, raw, "file_roll")
    assert reading.config, reading.faults
    sink = FileRollSink("k1", reading.config)
    sink.durable = durable
    return sink


def send(sink: FileRollSink, *batches: Batch) -> bytes | None:
    """Open, send, close; the last receipt."""

    async def steps() -> bytes | None:
        receipt = None
        async with sink:
            for one in batches:
                receipt = await sink.send(one)
        return receipt

    return asyncio.run(steps())


def files(root: Path) -> dict[str, str]:
    """Path -> content of everything that isn't hidden."""
    found = (path for path in sorted(root.rglob("*")) if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(root)): path.read_text() for path in found}


class Folder:
    """The files of a sink, and a way to take their folder away."""

    def __init__(self, root: Path, durable: bool) -> None:
        self.root = root
        self.sink = make(root, durable=durable)

    async def arrived(self) -> list[str]:
        return [line for text in files(self.root).values() for line in text.splitlines()]

    async def go_away(self) -> None:
        self.root.rename(self.root.with_name("away"))
        self.root.touch()

    async def come_back(self) -> None:
        self.root.unlink()
        self.root.with_name("away").rename(self.root)


class TestFileRollSink(SinkContract):
    """The contract of sinks, behind a memory channel."""

    durable = False

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.path = tmp_path / "out" / "put"

    @asynccontextmanager
    async def far_side(self) -> AsyncIterator[FarSide]:  # type: ignore[override]
        yield Folder(self.path, self.durable)


class TestDurableFileRollSink(TestFileRollSink):
    """The same behind a file channel."""

    durable = True


def test_names(tmp_path: Path) -> None:
    """DEFAULT: start in ms and a number; ROLLTIME: the time; prefix before, extension behind a dot."""
    send(make(tmp_path / "a"), batch("x"))
    assert list(files(tmp_path / "a")) == [f"{START}-1"]
    send(
        make(tmp_path / "b", pathManager="rolltime", pathManager__prefix="pp", pathManager__extension="txt"), batch("x")
    )
    [name] = files(tmp_path / "b")
    assert re.fullmatch(r"pp\d{14}-1\.txt", name)


def test_rolltime_counts_from_one_in_each_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Flume's RollTimePathManager does."""
    sink = make(tmp_path, pathManager="rolltime")
    times = iter(["20260101000000", "20260101000000", "20260101000001"])
    monkeypatch.setattr(time, "strftime", lambda _: next(times))
    assert [sink._name(n) for n in (1, 2, 3)] == ["20260101000000-1", "20260101000000-2", "20260101000001-1"]


def test_two_sinks_in_one_folder(tmp_path: Path) -> None:
    """A name that is taken is left alone; the next number is."""
    send(make(tmp_path), batch("x"))
    send(make(tmp_path), batch("y"))
    assert files(tmp_path) == {f"{START}-1": "x\n", f"{START}-2": "y\n"}


def test_rolling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file older than rollInterval is left at the next batch; 0 never leaves it; no file is made without an event."""
    now = [0.0]
    monkeypatch.setattr(output_files.time, "monotonic", lambda: now[0])

    async def steps(sink: FileRollSink) -> None:
        async with sink:
            for body, at in (("a", 0), ("b", 29), ("c", 31), ("d", 200)):
                now[0] = at
                await sink.send(batch(body))

    asyncio.run(steps(make(tmp_path / "30")))
    assert list(files(tmp_path / "30").values()) == ["a\nb\n", "c\n", "d\n"]
    asyncio.run(steps(make(tmp_path / "0", rollInterval="0")))
    assert list(files(tmp_path / "0").values()) == ["a\nb\nc\nd\n"]


def test_folders(tmp_path: Path) -> None:
    """Escapes put each event into the folder of its headers, in order, and only what is missing is made, 0700."""
    sink = make(f"{tmp_path}/out/%{{topic}}/%Y")
    stamps = [("a/b", "1700000000000"), ("c", "1700000000000"), ("a/b", "1600000000000"), ("a/b", "1700000000001")]
    events = [Event({"topic": topic, "timestamp": stamp}, b"%d" % i) for i, (topic, stamp) in enumerate(stamps)]
    send(sink, Batch(events), Batch(events[:1]))
    found = {str(Path(path).parent): text for path, text in files(tmp_path / "out").items()}
    assert found == {"a/b/2023": "0\n3\n0\n", "c/2023": "1\n", "a/b/2020": "2\n"}
    assert (tmp_path / "out" / "a").stat().st_mode & 0o777 == 0o700


def test_an_event_without_timestamp(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It goes by the time of writing, said once."""
    sink = make(f"{tmp_path}/%Y")
    with caplog.at_level(logging.WARNING):
        send(sink, batch("x"), batch("y"))
    assert list(files(tmp_path)) == [f"2026/{START}-1"]
    assert caplog.text.count("without a timestamp") == 1


@pytest.mark.parametrize(
    ("folder", "path"),
    [
        ("a/b", "a/b"),
        ("/etc/x", "etc/x"),
        ("../../etc", "_./_./etc"),
        ("a//b/./c/..", "a/b/_/c/_."),
        (".hidden/x", "_hidden/x"),
        ("a\0b", "a_b"),
        ("", ""),
    ],
)
def test_headers_can_not_leave_the_folder(folder: str, path: str, tmp_path: Path) -> None:
    """Whatever an event's headers say, its file lies below the part of the pattern that is the same for all."""
    assert safe(folder) == path
    send(make(f"{tmp_path}/in/%{{h}}"), Batch([Event({"h": folder}, b"x")]))
    assert list(files(tmp_path)) == [str(Path("in") / path / f"{START}-1")]


def test_a_folder_that_an_event_can_not_have(tmp_path: Path) -> None:
    """A name that no file system takes, or that is a file, is the event's fault; the next event is served."""
    (tmp_path / "taken").touch()

    async def steps() -> None:
        async with make(f"{tmp_path}/%{{h}}") as sink:
            for name in ("x" * 300, "taken", "taken/deeper"):
                with pytest.raises(Rejected, match="folder"):
                    await sink.send(Batch([Event({"h": name}, b"x")]))
            await sink.send(Batch([Event({"h": "fine"}, b"x")]))

    asyncio.run(steps())
    assert [path for path in files(tmp_path) if path.startswith("fine/")]


@pytest.mark.parametrize(
    ("pattern", "parts"),
    [
        ("/data/out", ("/data/out", "")),
        ("/data/%{topic}/%Y", ("/data/", "%{topic}/%Y")),
        ("data/day-%Y/x", ("data/", "day-%Y/x")),
        ("%Y", (".", "%Y")),
        ("/100%%/a", ("/100%/a", "")),
    ],
)
def test_the_part_that_is_the_same_for_all(pattern: str, parts: tuple[str, str]) -> None:
    """The folder that is opened, and what each event adds."""
    assert split(pattern) == parts


def test_serializers(tmp_path: Path) -> None:
    """Flume's names in any case, its class names, and keys below sink.serializer."""
    headers = Batch([Event({"k": "v"}, b"x")])
    send(make(tmp_path / "1", serializer="HEADER_AND_TEXT", serializer__appendNewline="false"), headers)
    java = "org.apache.flume.serialization.HeaderAndBodyTextEventSerializer$Builder"
    send(make(tmp_path / "2", serializer=java), headers)
    assert list(files(tmp_path / "1").values()) + list(files(tmp_path / "2").values()) == ["{k=v} x", "{k=v} x\n"]
    send(make(tmp_path / "3", serializer="avro_event"), headers, headers)
    [path] = (tmp_path / "3").iterdir()
    assert [one["body"] for one in fastavro.reader(io.BytesIO(path.read_bytes()))] == [b"x", b"x"]  # type: ignore[index, call-overload]


@pytest.mark.parametrize(
    ("keys", "key", "text"),
    [
        ({"sink.serializer": "nope"}, "sink.serializer", "no serializer of type 'nope'"),
        ({"sink.serializer.appendNewLine": "true"}, "sink.serializer.appendNewLine", "appendNewline"),
        ({"sink.serializer.appendNewline": "7"}, "sink.serializer.appendNewline", "true or false"),
        ({"sink.directory": "%[moon]"}, "sink.directory", "%[moon]"),
        ({"sink.pathManager.prefix": "a/b"}, "sink.pathManager", "/"),
    ],
)
def test_faults(keys: dict[str, str], key: str, text: str) -> None:
    """What is wrong with the serializer, its keys or the pattern is said before anything opens."""
    [fault] = read(FileRollConfig, {"channel": "c1", "sink.directory": "d", **keys}, "file_roll").faults
    assert fault.key == key and text in fault.text


def test_a_killed_sink_holds_each_batch_once(tmp_path: Path) -> None:
    """What was written and not acknowledged is cut at the next open; what was acknowledged stays."""

    async def steps() -> bytes | None:
        sink = make(f"{tmp_path}/%{{h}}", durable=True)
        await sink.open()
        first = sink.receipt
        assert first is not None
        receipt = await sink.send(Batch([Event({"h": "a"}, b"1")]))
        await sink.send(Batch([Event({"h": "a"}, b"2"), Event({"h": "b"}, b"2")]))
        sink.pool.shutdown()  # no close: it was killed
        return receipt

    receipt = asyncio.run(steps())
    again = make(f"{tmp_path}/%{{h}}", durable=True)
    again.receipt = receipt
    send(again, Batch([Event({"h": "a"}, b"2"), Event({"h": "b"}, b"2")]))
    found = sorted((Path(path).parts[0], text) for path, text in files(tmp_path).items())
    assert found == [("a", "1\n"), ("a", "2\n"), ("b", "2\n")]


def test_a_cancelled_send_leaves_nothing(tmp_path: Path) -> None:
    """A batch that was put back while the thread wrote it is there once when it comes again."""

    async def steps() -> None:
        async with make(tmp_path) as sink:
            for turns in range(4):
                task = asyncio.create_task(sink.send(batch("x")))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await sink.send(batch("x"))

    asyncio.run(steps())
    assert "".join(files(tmp_path).values()) == "x\n"


def test_a_full_disk_leaves_whole_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails half-way is a DeliveryError with the path, and is undone when the batch comes again."""
    real, room = output_files.os.pwrite, [3]

    def pwrite(file: int, data: Any, at: int) -> int:
        if room[0] <= 0:
            raise OSError(28, "No space left on device")
        done = real(file, bytes(data)[: room[0]], at)
        room[0] -= done
        return done

    async def steps() -> None:
        async with make(tmp_path) as sink:
            monkeypatch.setattr(output_files.os, "pwrite", pwrite)
            with pytest.raises(DeliveryError, match="No space left"):
                await sink.send(batch("abcdef"))
            monkeypatch.setattr(output_files.os, "pwrite", real)
            await sink.send(batch("abcdef"))

    asyncio.run(steps())
    assert "".join(files(tmp_path).values()) == "abcdef\n"
