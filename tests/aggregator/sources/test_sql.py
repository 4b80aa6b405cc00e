"""sql: a table of SQLite, from its first row to its last, each once."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from agent.backoff import Backoff
from agent.config.reading import read
from agent.errors import AgentError, ConfigError, DeliveryError
from agent.event import Batch, Event
from agent.metrics import SourceCounter
from agent.source import DeadLetter, Kept, Marks
from aggregator.sources.sql import SqlConfig, SqlSource
from aggregator.sql import progress
from aggregator.sql.database import address_of
from aggregator.sql.sqlite import Sqlite
from tests.contracts.source import Door
from tests.peers.harness import wait_until

TABLE = "CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT, v REAL)"


class Stopped(AgentError):
    """Stands for a kill: nothing after it is kept."""


class Ends(Door):
    """A door that is shut for good after so many transactions."""

    def __init__(self, after: int, marks: dict[str, bytes]) -> None:
        super().__init__()
        self.left, self.marks = after, marks
        self.keys: list[str] = []
        """Of rows and of dead letters, in the order that they were kept in."""

    async def process(self, batch: Batch, marks: Marks | None = None) -> Kept:
        self._count()
        self.keys += [event.headers["key"] for event in batch.events]
        return await super().process(batch, marks)

    async def bury(self, letters: list[DeadLetter], marks: Marks | None = None) -> None:
        self._count()
        self.keys += [letter.headers["key"] for letter in letters]
        await super().bury(letters, marks)

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Stopped


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "h.db"


def fill(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def make(path: Path, door: Door, **keys: str) -> SqlSource:
    raw = {"channels": "c", "url": f"sqlite:///{path}", "table": "t"} | keys
    reading = read(SqlConfig, raw, "sql")
    assert reading.config, reading.faults
    source = SqlSource("r", reading.config)
    source.process, source.bury, source.marks = door.process, door.bury, dict(door.marks)
    source.counter, source.durable = SourceCounter("r"), True
    return source


def run(path: Path, door: Door, **keys: str) -> SqlSource:
    """Open, run to the end, close."""
    source = make(path, door, **keys)

    async def steps() -> None:
        async with asyncio.timeout(60), source:
            await source.run()

    asyncio.run(steps())
    return source


def events(path: Path, **keys: str) -> list[Event]:
    door = Door()
    run(path, door, **keys)
    return [event for batch in door.batches for event in batch.events]


def test_a_row_is_an_event(database: Path) -> None:
    """The body is a JSON object of the columns in the table's order; headers say table, key and time."""
    fill(database, TABLE, "INSERT INTO t VALUES (7, '2026-11-25 02:00:54.5', 21.5), (8, NULL, 1)")
    [first] = events(database, timeColumn="at")
    assert first.headers == {"table": "t", "key": "7", "timestamp": "1795572054500"}
    assert first.body == b'{"id":7,"at":"2026-11-25 02:00:54.5","v":21.5}'


def test_it_ends_and_says_so(database: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`run` returns behind the last row; the counters and one line say how many there were."""
    fill(database, TABLE, "INSERT INTO t(id) VALUES (1), (2), (3)")
    with caplog.at_level(logging.INFO):
        source = run(database, Door(), batchSize="2")
    assert source.counter.EventReceivedCount == source.counter.EventAcceptedCount == 3
    assert "importing t by id, 3 rows" in caplog.text and "t: import finished, 3 rows, 3 of them" in caplog.text


@pytest.mark.parametrize("seed", range(8))
def test_an_import_that_is_stopped_again_and_again_has_each_row_once(database: Path, seed: int) -> None:
    """In the order of (time, key), whatever times are equal and wherever it stops: also at a dead letter."""
    pick = random.Random(seed)
    fill(database, "CREATE TABLE t (k TEXT, n INTEGER, at INTEGER, body TEXT, PRIMARY KEY (k, n))")
    rows = [(pick.choice("aBc'%"), n, pick.choice([None, 1, 2, 3]), "x" * pick.choice([1, 500])) for n in range(60)]
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.executemany("INSERT INTO t VALUES (?, ?, ?, ?)", rows)
    size = str(pick.randint(1, 9))
    found: list[str] = []
    marks: dict[str, bytes] = {}
    for _ in range(200):
        door = Ends(pick.randint(0, 3), marks)
        try:
            run(database, door, timeColumn="at", batchSize=size, batchBytes="1024", maxEventBytes="400")
            stopped = False
        except Stopped:
            stopped = True
        marks = door.marks
        found += door.keys
        assert all(len(letter.body) > 400 for letter in door.letters)
        if not stopped:
            break
    assert found == [f"{k},{n}" for at, k, n in sorted((at, k, n) for k, n, at, _ in rows if at)]


def test_what_is_added_later_is_read_by_the_next_run(database: Path) -> None:
    """The place is kept at the end too."""
    door = Door()
    fill(database, TABLE, "INSERT INTO t(id) VALUES (1), (2)")
    run(database, door)
    fill(database, "INSERT INTO t(id) VALUES (3)")
    run(database, door)
    assert [json.loads(body)["id"] for body in door.bodies] == [1, 2, 3]


def test_rows_that_are_added_are_followed(database: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With `follow` it goes on, and says once that the import is done."""
    fill(database, TABLE, "INSERT INTO t(id) VALUES (1)")
    door = Door()
    source = make(database, door, follow="true", pollInterval="10ms")

    async def steps() -> None:
        async with asyncio.timeout(60), source:
            running = asyncio.create_task(source.run())
            for count in (1, 2, 3):
                await asyncio.to_thread(wait_until, lambda count=count: len(door.bodies) >= count)  # type: ignore[misc]
                await asyncio.to_thread(fill, database, f"INSERT INTO t(id) VALUES ({count + 1})")
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    with caplog.at_level(logging.INFO):
        asyncio.run(steps())
    assert [json.loads(body)["id"] for body in door.bodies][:3] == [1, 2, 3]
    assert caplog.text.count("import finished") == 1


def test_a_full_channel_gets_the_same_rows_again(database: Path) -> None:
    """What found no room is tried again, nothing is left out."""
    fill(database, TABLE, "INSERT INTO t(id) VALUES (1), (2)")
    door = Door()
    door.full = True
    source = make(database, door, batchSize="1")

    async def steps() -> None:
        async with asyncio.timeout(60), source:
            running = asyncio.create_task(source.run())
            await door.knocked.wait()
            await asyncio.sleep(0.02)
            assert not door.bodies
            door.full = False
            await running

    asyncio.run(steps())
    assert [json.loads(body)["id"] for body in door.bodies] == [1, 2]


def test_a_batch_is_bounded_in_bytes(database: Path) -> None:
    """No batch has more than batchBytes of bodies, unless it is one row."""
    fill(database, TABLE.replace("v REAL", "v TEXT"))
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.executemany("INSERT INTO t(id, v) VALUES (?, ?)", [(n, "x" * 300) for n in range(10)])
        connection.execute("INSERT INTO t(id, v) VALUES (10, ?)", ("x" * 3000,))
    door = Door()
    run(database, door, batchBytes="1024")
    assert [batch.count for batch in door.batches] == [3, 3, 3, 1, 1]


def test_a_value_that_its_column_can_not_hold_is_a_dead_letter(database: Path) -> None:
    """SQLite keeps text in a column of integers: as Avro that row is buried with the reason, the others arrive."""
    fill(database, "CREATE TABLE t (id INTEGER PRIMARY KEY, n INT)", "INSERT INTO t VALUES (1, 1), (2, 'x'), (3, 3)")
    door = Door()
    source = run(database, door, format="avro")
    assert sum(batch.count for batch in door.batches) == 2
    [letter] = door.letters
    assert letter.reason == "column n (INT) can't hold 'x': it is no whole number of 64 bits"
    assert (letter.headers["key"], letter.body) == ("2", b'{"id":2,"n":"x"}')
    assert source.counter.EventReadFail == 1 and source.counter.EventReceivedCount == 3


def test_a_text_that_is_no_utf8_is_base64(database: Path) -> None:
    """It isn't changed."""
    fill(database, TABLE, "INSERT INTO t VALUES (1, CAST(x'ff' AS TEXT), 0)")
    [event] = events(database)
    assert json.loads(event.body)["at"] == "/w=="


@pytest.mark.parametrize("time", ["", "k", "n"])
def test_rows_behind_a_key_that_is_no_utf8(database: Path, time: str) -> None:
    """Such a text sorts among the other texts, also for a source that is made anew behind it."""
    keys = [b"a", b"b\xff", b"b\xff\xfe", b"c", "ä".encode()]
    fill(database, "CREATE TABLE t (k TEXT PRIMARY KEY, n INTEGER)")
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.executemany("INSERT INTO t VALUES (CAST(? AS TEXT), 1)", [(key,) for key in keys])
    found: list[str] = []
    marks: dict[str, bytes] = {}
    for _ in keys:
        door = Ends(1, marks)
        with suppress(Stopped):
            run(database, door, batchSize="1", timeColumn=time, keyColumn="k")
        found, marks = found + door.keys, door.marks
    assert [key.rpartition(",")[2] for key in found] == ["a", "Yv8=", "Yv/+", "c", "ä"]


def test_rows_without_a_key_are_counted(database: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They are left out, with one line."""
    fill(database, "CREATE TABLE t (k TEXT UNIQUE)", "INSERT INTO t VALUES ('a'), (NULL), (NULL)")
    assert len(events(database, keyColumn="k")) == 1
    assert "2 rows are left out: they have no k, and so no place in the order" in caplog.text


def test_a_table_without_a_key_by_its_rowid(database: Path) -> None:
    """keyColumn = rowid reads a table of SQLite that has no key of its own, without showing it in the body."""
    fill(database, "CREATE TABLE t (v)", "INSERT INTO t VALUES ('a'), ('a')")
    found = events(database, keyColumn="rowid", batchSize="1")
    assert [(event.headers["key"], event.body) for event in found] == [("1", b'{"v":"a"}'), ("2", b'{"v":"a"}')]


@pytest.mark.parametrize(
    ("table", "keys", "text"),
    [
        (TABLE.replace("TABLE t", "TABLE u"), {}, "table: .*h.db has no table t; there are u"),
        ("CREATE TABLE t (a)", {}, 'keyColumn: "t" has no primary key: name a column that is unique, or rowid'),
        (TABLE, {"keyColumn": "ID"}, 'keyColumn = ID: "t" has no such column; the nearest is id'),
        (TABLE, {"timeColumn": "zzz"}, 'timeColumn = zzz: "t" has no such column; it has id, at, v'),
        (TABLE, {"columns": "id vv"}, 'columns = vv: "t" has no such column; the nearest is v'),
        (TABLE, {"keyColumn": "v"}, r"keyColumn: several rows have \(v\) = \(1.5\): name a key that is unique"),
    ],
)
def test_what_the_table_has_not_got(table: str, keys: dict[str, str], text: str, database: Path) -> None:
    """ConfigError with the key to change, and what there is."""
    fill(database, table)
    if "at TEXT" in table and "TABLE t" in table:
        fill(database, "INSERT INTO t VALUES (1, '', 1.5), (2, '', 1.5)")
    with pytest.raises(ConfigError, match=text):
        run(database, Door(), **keys)


def test_a_key_that_nothing_keeps_unique(database: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is taken if no two rows are equal, with a warning, and another that no index helps."""
    fill(database, TABLE, "INSERT INTO t VALUES (1, 'b', 0), (2, 'a', 0)")
    assert [json.loads(event.body)["id"] for event in events(database, keyColumn="at")] == [2, 1]
    assert "nothing in the database keeps (at) unique" in caplog.text
    assert 'no index of "t" begins with at: each batch sorts all that is left; make one on (at)' in caplog.text


@pytest.mark.parametrize("keys", [{"table": "u"}, {"timeColumn": "at"}])
def test_a_place_of_something_else(keys: dict[str, str], database: Path) -> None:
    """A mark of another table or order is refused, with the way out: nothing is read twice by mistake."""
    fill(database, TABLE, TABLE.replace("TABLE t", "TABLE u"), "INSERT INTO t(id) VALUES (1)")
    door = Door()
    run(database, door)
    with pytest.raises(ConfigError, match=r"the place that was kept is of .* give the source r another name"):
        run(database, door, **keys)


@pytest.mark.parametrize(("content", "text"), [(None, "unable to open"), (b"x" * 5000, "not a database")])
def test_a_file_that_is_no_database(content: bytes | None, text: str, database: Path) -> None:
    """DeliveryError with the path: it is waited for."""
    if content:
        database.write_bytes(content)
    with pytest.raises(DeliveryError, match=f"h.db: .*{text}"):
        run(database, Door())


class Lost(Door):
    """A door of channels that keep no place; the database is away for a while after the second row."""

    def __init__(self, database: Path) -> None:
        super().__init__()
        self.database = database

    async def process(self, batch: Batch, marks: Marks | None = None) -> Kept:
        kept = await super().process(batch, None)
        if len(self.bodies) == 2:
            self.database.rename(self.database.with_suffix(".away"))
        return kept


def test_a_hiccup_behind_a_memory_channel(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the channels keep no place the source does: it waits for the database and goes on behind the last row."""
    fill(database, TABLE, *(f"INSERT INTO t(id) VALUES ({n})" for n in range(1, 7)))
    door = Lost(database)
    monkeypatch.setattr(Backoff, "next", lambda self: 0.01)
    source = make(database, door, batchSize="1")
    source.durable = False

    async def steps() -> None:
        async with asyncio.timeout(60), source:
            running = asyncio.create_task(source.run())
            await asyncio.to_thread(wait_until, lambda: source.counter.state.startswith("waiting"))
            assert not source.ready
            database.with_suffix(".away").rename(database)
            await running

    monkeypatch.setattr(Sqlite, "rows", no_longer(Sqlite.rows))
    asyncio.run(steps())
    assert [json.loads(body)["id"] for body in door.bodies] == [1, 2, 3, 4, 5, 6]


def test_it_is_stopped_while_it_waits(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind channels that keep no place too, a source that waits for its database can be closed."""
    fill(database, TABLE, "INSERT INTO t(id) VALUES (1), (2), (3)")
    source = make(database, Lost(database), batchSize="1")
    source.durable = False

    async def steps() -> None:
        async with asyncio.timeout(60), source:
            running = asyncio.create_task(source.run())
            await asyncio.to_thread(wait_until, lambda: source.counter.state.startswith("waiting"))
            await asyncio.sleep(0.1)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    monkeypatch.setattr(Sqlite, "rows", no_longer(Sqlite.rows))
    asyncio.run(steps())


def no_longer(rows: Any) -> Any:
    """SQLite reads a file that has gone: as a server's tables, this one's can't be read then."""

    def read(self: Sqlite, statement: str, values: Sequence[Any]) -> Iterator[Sequence[Any]]:
        if not self.path.exists():
            raise DeliveryError(f"{self.path}: gone")
        return rows(self, statement, values)

    return read


def test_a_condition_that_is_wrong_is_said(database: Path) -> None:
    """With SQLite's own words."""
    fill(database, TABLE)
    with pytest.raises(DeliveryError, match="no such column: nope"):
        run(database, Door(), where="nope = 1")


def test_a_view_is_read_too(database: Path) -> None:
    """By a key that is named."""
    fill(database, TABLE, "INSERT INTO t(id) VALUES (2), (1)", "CREATE VIEW w AS SELECT id, id * 2 AS d FROM t")
    assert [event.body for event in events(database, table="w", keyColumn="d", batchSize="1")] == [
        b'{"id":1,"d":2}', b'{"id":2,"d":4}',
    ]  # fmt: skip


def test_it_says_how_far_it_is(
    database: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line every few seconds, with the rows that were done before a restart."""
    fill(database, TABLE, "INSERT INTO t(id) VALUES (1), (2), (3), (4)")
    door = Ends(1, {})
    with pytest.raises(Stopped):
        run(database, door, batchSize="1")
    monkeypatch.setattr(progress, "EVERY", 0.0)
    with caplog.at_level(logging.INFO):
        run(database, Ends(9, door.marks), batchSize="1")
    assert "going on with t by id, 4 rows, 1 are done" in caplog.text
    assert "t: 2 of 4 rows" in caplog.text and "left" in caplog.text


def test_a_query_that_takes_too_long_is_broken(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """queryTimeout ends it with a DeliveryError, and the thread with it."""
    fill(database, TABLE, "INSERT INTO t(id) VALUES (1)")
    slow = "(WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT max(n) FROM c) > 0"
    with pytest.raises(DeliveryError, match=r"no answer within 0\.2 s \(queryTimeout\)"):
        run(database, Door(), where=slow, queryTimeout="200ms")


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"url": "mysql://me:hunter2@db/h"}, "password goes to the key password"),
        ({"url": "oracle://db/h"}, "is not of the form mysql://"),
        ({"url": "sqlite://var/h.db"}, "an absolute path begins after a third slash"),
        ({"url": "mysql://db"}, "is not of the form"),
        ({"url": "mysql://me@db/h", "username": "you"}, "is in the url already"),
        ({"url": "sqlite:///h.db", "password": "x"}, "takes no username, password or ssl"),
        ({"url": "mysql://db/h", "ssl.truststore": "ca.pem"}, "need ssl = true"),
        ({"keyColumn": "a a"}, "names a column twice"),
    ],
)
def test_keys_that_do_not_fit(keys: dict[str, str], text: str) -> None:
    """Each is said before anything opens, and never with a password."""
    reading = read(SqlConfig, {"channels": "c", "url": "sqlite:///h.db", "table": "t"} | keys, "sql")
    assert reading.config is None
    said = " ".join(fault.text for fault in reading.faults)
    assert text in said and "hunter2" not in said


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("jdbc:mysql://db/h?user=me&password=hunter2", "jdbc:mysql://db/h?***"),
        ("jdbc:sqlserver://db;databaseName=h;password=hunter2", "jdbc:sqlserver://db;***"),
        ("jdbc:oracle:thin:me/hunter2@db:1521/h", "jdbc:***"),
        ("postgresql://db/h?password=hunter2", "postgresql://db/h?***"),
        ("postgresql://me:hunter/2@db/h#hunter2", "postgresql://***@db/h#***"),
        ("mysql://me:hunter2@db:x/h", "mysql://***@db:x/h"),
        ("host=db dbname=h user=me password=hunter2", "***"),
        ("password=hunter2 host=mysql://db", "***"),
    ],
)
def test_a_url_of_another_kind(url: str, shown: str) -> None:
    """What is wrong with it is said without the password, wherever its kind of url has it."""
    with pytest.raises(ConfigError) as caught:
        address_of(url)
    assert str(caught.value).startswith(f"{shown!r} is not of the form mysql://")


def test_a_driver_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, database: Path) -> None:
    """With the extra to install."""
    monkeypatch.setitem(sys.modules, "pymysql", None)
    monkeypatch.delitem(sys.modules, "aggregator.sql.mysql", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'headrace\[sql\]'"):
        run(database, Door(), url="mysql://db/h")


def test_close_while_a_query_runs(database: Path) -> None:
    """A source that is cancelled in the middle of a query ends at once."""
    fill(database, TABLE, "INSERT INTO t(id) VALUES (1)")
    slow = "(WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT max(n) FROM c) > 0"
    source = make(database, Door(), where=slow)

    async def steps() -> None:
        async with source:
            running = asyncio.create_task(source.run())
            await asyncio.sleep(0.1)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        for thread in source.pool._threads:
            await asyncio.to_thread(thread.join, 20)
            assert not thread.is_alive()

    asyncio.run(steps())
