"""A store that was damaged, or never finished, while the program was down: it starts, and says what is missing."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from agent.channels.file import FileChannel, FileChannelConfig
from agent.event import Batch, Event
from agent.metrics import ChannelCounter
from agent.store.creation import create
from tests.faults.test_delivery_cases import RECEIVER
from tests.peers.harness import ROOT, Program, free_port, http_get, wait_until

pytestmark = pytest.mark.fault

COLLECTOR = """\
c.sources = lines
c.channels = ch
c.sinks = out
c.sources.lines.type = netcat
c.sources.lines.bind = 127.0.0.1
c.sources.lines.port = {lines}
c.sources.lines.max-line-length = 4000
c.sources.lines.channels = ch
c.channels.ch.type = file
c.channels.ch.path = {store}
c.sinks.out.type = avro
c.sinks.out.hostname = 127.0.0.1
c.sinks.out.port = {avro}
c.sinks.out.channel = ch
c.sinks.out.backoff = 50ms
c.sinks.out.maxBackoff = 200ms
"""
COUNT = 120
PAGE = 1024


def fill(port: int) -> None:
    """COUNT events whose body begins with their number; each is answered before the next, so each is a row."""
    with socket.create_connection(("127.0.0.1", port), 10) as sock, sock.makefile("rb") as back:
        for number in range(1, COUNT + 1):
            sock.sendall(f"{number} ".ljust(3000, "x").encode() + b"\n")
            assert back.readline() == b"OK\n"


def flip(data: bytearray) -> None:
    """One bit in the middle of two blocks; one of a page's header."""
    for body in (b"%d " % 30, b"%d " % 90):
        at = data.index(body + b"xxxx")
        data[at + 4] ^= 4
    data[200 * PAGE] ^= 0x10


def cut(data: bytearray) -> None:
    """The last third of the file is missing."""
    del data[len(data) * 2 // 3 :]


def blank(data: bytearray) -> None:
    """Zeros over twenty pages in the middle, as a card with lost blocks reads."""
    middle = len(data) // 2 // PAGE * PAGE
    data[middle : middle + 20 * PAGE] = bytes(20 * PAGE)


def head(data: bytearray) -> None:
    """The first page is gone: no header, no schema."""
    data[:PAGE] = os.urandom(PAGE)


def shift(data: bytearray) -> None:
    """Five bytes fewer from the middle on: nothing behind them lies on a page any more."""
    del data[len(data) // 2 : len(data) // 2 + 5]


def lost_numbers(folder: Path) -> set[int]:
    """What `headrace store` names as lost."""
    shown = subprocess.run(
        [sys.executable, "-m", "agent.tool", "store", str(folder)],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=30,
    ).stdout  # fmt: skip
    found: set[int] = set()
    for first, last in re.findall(r"^LOST \w{32}  ([\d,]+) to ([\d,]+): lost", shown, re.MULTILINE):
        found.update(range(int(first.replace(",", "")), int(last.replace(",", "")) + 1))
    return found


def missing(collector: Program) -> int:
    """What the metrics say."""
    text = http_get(collector.monitoring, "/metrics/prometheus")[1].decode()
    (number,) = re.findall(r"^headrace_channel_salvage_missing_total\{[^}]*\} (\d+)", text, re.MULTILINE)
    return int(number)


def arrived(database: Path) -> list[int]:
    """The numbers in the aggregator's table, as they came."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        return [int(body.split()[0]) for (body,) in db.execute("select body from events order by rowid")]


@pytest.mark.parametrize("killed", [False, True], ids=["after a stop", "after a kill"])
@pytest.mark.parametrize("damage", [flip, cut, blank, head, shift], ids=lambda damage: damage.__name__)
def test_every_event_arrives_or_is_named(
    tmp_path: Path, program: Callable[..., Program], damage: Callable[[bytearray], None], killed: bool
) -> None:
    """It starts, delivers what is readable once, counts and names the rest, and keeps the damaged file."""
    lines, avro, store = free_port(), free_port(), tmp_path / "store"
    collector = program("edge", COLLECTOR.format(lines=lines, avro=avro, store=store))
    fill(lines)
    collector.kill9() if killed else collector.stop()
    path = store / "headrace.db-wal" if killed else store / "headrace.db"
    data = bytearray(path.read_bytes())
    damage(data)
    path.write_bytes(data)

    collector.start()
    aggregator = program("aggregator", RECEIVER.format(port=avro, folder=tmp_path / "aggregator"))
    wait_until(lambda: collector.count("CHANNEL.ch", "ChannelSize") == 0, 30, "an empty channel")
    lost = lost_numbers(store)
    found = arrived(tmp_path / "aggregator" / "events.db")
    assert len(found) == len(set(found))
    if killed and damage in (cut, shift):
        # Nothing in a WAL says where it should end: this is what a power cut leaves of what was never acknowledged.
        assert found == list(range(1, len(found) + 1)) and not lost
    else:
        assert sorted(found + list(lost)) == list(range(1, COUNT + 1))
        assert missing(collector) == len(lost)
        (kept,) = [one for one in store.glob("headrace.db.damaged-*") if not one.name.endswith("-wal")]
        evidence = kept.with_name(kept.name + "-wal") if killed else kept
        # The first pages hold the small tables, which were written to until the damage was met.
        assert evidence.read_bytes()[60 * PAGE :] == data[60 * PAGE :]
        assert f"{len(lost)} numbers missing; the damaged one is kept: {kept}" in collector.log
    fill(lines)
    wait_until(lambda: collector.count("CHANNEL.ch", "ChannelSize") == 0, 30, "an empty channel")
    wait_until(lambda: len(arrived(tmp_path / "aggregator" / "events.db")) == len(found) + COUNT, 30, "new events")
    assert collector.running and aggregator.running and "Traceback" not in collector.log


# ---- a store that a kill left unfinished


def nothing(folder: Path) -> None:
    """The folder alone."""


def half_written(folder: Path) -> None:
    """The file under its first name, cut, with its journal."""
    create(folder / "other")
    data = (folder / "other").read_bytes()
    (folder / "other").unlink()
    (folder / "headrace.db.new").write_bytes(data[: len(data) // 2])
    (folder / "headrace.db.new-journal").write_bytes(os.urandom(700))


def only_named(folder: Path) -> None:
    """Nothing but the first name."""
    (folder / "headrace.db.new").touch()


def finished(folder: Path) -> None:
    """Renamed; not opened yet, so it isn't in WAL mode."""
    create(folder / "headrace.db")


def not_renamed(folder: Path) -> None:
    """Whole, but under its first name: the folder wasn't synced."""
    create(folder / "other")
    (folder / "other").rename(folder / "headrace.db.new")


def zero_length(folder: Path) -> None:
    """A name without content, which a file system may leave after a power cut; with an empty WAL."""
    (folder / "headrace.db").touch()
    (folder / "headrace.db-wal").touch()


def lock_left(folder: Path) -> None:
    """The lock file of a process that is gone."""
    (folder / "headrace.lock").write_text("4194303\n")


def socket_left(folder: Path) -> None:
    """A socket nobody listens on."""
    create(folder / "headrace.db")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(folder / "headrace.sock"))


def reserve_half_made(folder: Path) -> None:
    """A reserve that is shorter than it should be."""
    create(folder / "headrace.db")
    (folder / "headrace.reserve").write_bytes(bytes(5000))


def wal_begun(folder: Path) -> None:
    """Opened for the first time: an empty WAL and half a frame of the first transaction."""
    create(folder / "headrace.db")
    with closing(sqlite3.connect(folder / "headrace.db", isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("INSERT INTO mark VALUES(1, 's', 'm', x'00', 1, 0)")
        wal = (folder / "headrace.db-wal").read_bytes()
    with closing(sqlite3.connect(folder / "headrace.db", isolation_level=None)) as db:
        db.execute("DELETE FROM mark")
    (folder / "headrace.db-wal").write_bytes(wal[:600])


STEPS = [nothing, half_written, only_named, finished, not_renamed, zero_length, lock_left, socket_left,
         reserve_half_made, wal_begun]  # fmt: skip


@pytest.mark.parametrize("left", STEPS, ids=lambda left: left.__name__)
def test_unfinished_store_starts_clean(
    tmp_path: Path, left: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a kill during its creation leaves: the store opens without a complaint, keeps and delivers."""
    left(tmp_path)

    async def test() -> None:
        for turn in ("first", "second"):
            channel = FileChannel("ch", FileChannelConfig(path=str(tmp_path)))  # type: ignore[call-arg]
            channel.counter = ChannelCounter("ch")
            await channel.open()
            try:
                await channel.put(Batch([Event({}, turn.encode())]))
                async with await channel.take(10) as take:
                    assert [event.body for event in take.batch.events] == [turn.encode()]
            finally:
                await channel.close()

    asyncio.run(asyncio.wait_for(test(), 30))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["headrace.db", "headrace.lock", "headrace.reserve"]
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
