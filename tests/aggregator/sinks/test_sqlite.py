"""sqlite: a table of events, each once."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from agent import clock
from agent.errors import DeliveryError
from agent.event import Batch, Event
from agent.sink import Sink
from agent.store.streams import Identity, Transit
from aggregator.sinks import sqlite
from aggregator.sinks.sqlite import SqliteConfig, SqliteSink
from tests.contracts.sink import FarSide, SinkContract

ORIGIN = bytes(range(16))


def make(path: Path) -> SqliteSink:
    return SqliteSink("k1", SqliteConfig(channel="c1", database=path))


def rows(path: Path, what: str = "*") -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"SELECT {what} FROM events ORDER BY rowid").fetchall()


def send(path: Path, *batches: Batch) -> None:
    async def steps() -> None:
        async with make(path) as sink:
            for batch in batches:
                await sink.send(batch)

    asyncio.run(steps())


def named(*events: Event, first: int = 1) -> Batch:
    return Batch(list(events), identity=(Identity(ORIGIN, first, len(events)),))


class Table:
    """The file, and a way to take it from the sink."""

    def __init__(self, path: Path) -> None:
        self.path, self.sink = path, make(path)

    async def arrived(self) -> list[str]:
        return [body for (body,) in rows(self.path, "body")]

    async def go_away(self) -> None:
        self.lock = sqlite3.connect(self.path)
        self.lock.execute("BEGIN IMMEDIATE")

    async def come_back(self) -> None:
        self.lock.close()


class TestSqliteSink(SinkContract):
    """The contract of sinks; the far side that goes away is a lock that somebody holds."""

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = tmp_path / "new" / "events.db"
        monkeypatch.setattr(sqlite, "BUSY_MS", 20)

    @asynccontextmanager
    async def far_side(self) -> AsyncIterator[FarSide]:  # type: ignore[override]
        yield Table(self.path)


def test_a_row(tmp_path: Path) -> None:
    """Identity, time in UTC, topic, headers as JSON, and the body as text where it is UTF-8, else as a blob."""
    headers = {"timestamp": "1700000000123", "topic": "a/b", "unit": "°C"}
    batch = named(Event(headers, "21,5 °C".encode()), Event(headers, b"\xff\x00"), Event(headers, b"a\0b"), first=7)
    send(tmp_path / "events.db", batch)
    [first, second, third] = rows(tmp_path / "events.db", "origin, number, time, topic, headers, body")
    assert first[:4] == (ORIGIN.hex(), 7, "2023-11-14T22:13:20.123Z", "a/b")
    assert json.loads(first[4]) == headers
    assert (first[5], second[5], third[5]) == ("21,5 °C", b"\xff\x00", b"a\0b")


@pytest.mark.parametrize("stamp", ["", "soon", "-5", "9" * 30, "253402300800000"])
def test_without_a_usable_timestamp(stamp: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of storing; no topic is NULL."""
    monkeypatch.setattr(clock, "wall_ms", lambda: 1700000000000)
    send(tmp_path / "events.db", named(Event({"timestamp": stamp}, b"")))
    assert rows(tmp_path / "events.db", "time, topic") == [("2023-11-14T22:13:20.000Z", None)]


def test_a_repeat_changes_nothing(tmp_path: Path) -> None:
    """The same identity again, whole or in part, in this run or the next: each event is there once."""
    path = tmp_path / "events.db"
    one, two, three = (Event({}, body) for body in (b"1", b"2", b"3"))
    send(path, named(one, two), named(one, two))
    send(path, named(Event({}, b"other"), three, first=2))
    assert rows(path, "number, body") == [(1, "1"), (2, "2"), (3, "3")]


def test_transport_numbers_are_the_identity_of_the_first_store(tmp_path: Path) -> None:
    """A batch straight from the store that kept it first has its transport numbers as key."""
    batch = Batch([Event({}, b"x"), Event({}, b"y")], transit=Transit(ORIGIN, "c", 3, ((4, 1), (9, 1)), 3))
    send(tmp_path / "events.db", batch, batch)
    assert rows(tmp_path / "events.db", "number, body") == [(4, "x"), (9, "y")]


def test_events_without_identity(tmp_path: Path) -> None:
    """They are stored at least once: none is taken for another, in this run or the next."""
    path = tmp_path / "events.db"
    for _ in range(2):
        send(path, Batch([Event({}, b"x")]), Batch([Event({}, b"x")]))
    assert len(rows(path)) == 4


def test_it_is_read_while_the_sink_is_open(tmp_path: Path) -> None:
    """sqlite-utils query, as the documentation prints it, answers while the sink holds the file."""
    path = tmp_path / "events.db"

    async def steps() -> bytes:
        async with make(path) as sink:
            await sink.send(named(Event({"topic": "t"}, b"x")))
            query = "select topic, count(*) as n from events group by topic"
            command = [sys.executable, "-m", "sqlite_utils", "query", str(path), query]
            return await asyncio.to_thread(subprocess.check_output, command)

    assert json.loads(asyncio.run(steps())) == [{"topic": "t", "n": 1}]


def test_the_file_is_synced_at_each_commit(tmp_path: Path) -> None:
    """WAL and synchronous = FULL, and an index on time and on topic."""

    async def steps() -> None:
        async with make(tmp_path / "events.db") as sink:
            assert sink.table
            ask = sink.table.connection.execute
            assert ask("PRAGMA journal_mode").fetchone() == ("wal",)
            assert ask("PRAGMA synchronous").fetchone() == (2,)
            indexed = [name for (name,) in ask("SELECT name FROM sqlite_master WHERE type='index' AND sql IS NOT NULL")]
            assert sorted(indexed) == ["idx_events_time", "idx_events_topic_time"]

    asyncio.run(steps())


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("CREATE TABLE events(a, b)", r"another table events \(a, b; key rowid\)"),
        ("CREATE TABLE events(origin, number, time, topic, headers, body)", "another table events .*; key rowid"),
        ("CREATE VIEW events AS SELECT 1", "has a view events"),
    ],
)
def test_a_table_of_somebody_else(statement: str, text: str, tmp_path: Path) -> None:
    """It is named, with the way out, and not touched."""
    path = tmp_path / "events.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
    with pytest.raises(DeliveryError, match=f"events.db .*{text}.*name another file"):
        send(path)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    """DeliveryError with the path."""
    path = tmp_path / "events.db"
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(DeliveryError, match=r"events\.db: file is not a database"):
        send(path)


def test_a_folder_that_can_not_be_made(tmp_path: Path) -> None:
    """DeliveryError with the path."""
    (tmp_path / "file").touch()
    with pytest.raises(DeliveryError, match=r"events\.db: .*File exists"):
        send(tmp_path / "file" / "events.db")


def test_a_file_that_was_moved_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What comes later goes into a new file at the path, not into the one that was moved."""
    path = tmp_path / "events.db"

    async def steps() -> None:
        async with make(path) as sink:
            await sink.send(named(Event({}, b"1")))
            for name in ("events.db", "events.db-wal", "events.db-shm"):
                (tmp_path / name).rename(tmp_path / f"old-{name}")
            await sink.send(named(Event({}, b"2"), first=2))

    with caplog.at_level(logging.WARNING):
        asyncio.run(steps())
    assert "moved away" in caplog.text
    assert rows(path, "body") == [("2",)]
    assert rows(tmp_path / "old-events.db", "body") == [("1",)]


def test_a_failed_batch_leaves_nothing(tmp_path: Path) -> None:
    """A batch is one transaction: when the file has no room for all of it, none of it is there."""
    path = tmp_path / "events.db"

    async def steps() -> None:
        async with make(path) as sink:
            assert sink.table
            sink.table.connection.execute("PRAGMA max_page_count = 10")
            with pytest.raises(DeliveryError, match=r"events\.db: .*full"):
                await sink.send(named(Event({}, b"x" * 100_000), Event({}, b"y")))
            await sink.send(named(Event({}, b"z")))

    asyncio.run(steps())
    assert rows(path, "body") == [("z",)]


def test_it_is_a_sink() -> None:
    """batchSize is what the runner takes."""
    sink: Sink = make(Path("events.db"))
    assert sink.batch_size == 1000
