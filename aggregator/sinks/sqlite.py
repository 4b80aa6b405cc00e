"""A table of events in an SQLite file, each event once.

    CREATE TABLE events (origin TEXT, number INTEGER, time TEXT, topic TEXT, headers TEXT, body BLOB,
                         PRIMARY KEY (origin, number))

The key is the event's identity (docs/delivery.md): which store kept it first, and under which number. A batch that
comes again changes nothing, so the table needs no receipts. `time` is the timestamp header (else the time of storing)
in ISO 8601, UTC, with milliseconds; `headers` is a JSON object; `body` is text where it is UTF-8, else a blob.

The table can be read while the agent runs (WAL): `sqlite-utils query events.db 'select topic, count(*) from events
group by topic'`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

import sqlite_utils

from agent import clock
from agent.config.fields import Config as AnyConfig
from agent.config.fields import key
from agent.errors import DeliveryError, translated
from agent.event import Batch, Event, stamp_in
from agent.output_files import make_folder
from agent.sink import Held, Sink, SinkConfig
from agent.store.streams import Identity

COLUMNS = {"origin": str, "number": int, "time": str, "topic": str, "headers": str, "body": bytes}
KEY = ("origin", "number")
INSERT = "INSERT OR IGNORE INTO events (origin, number, time, topic, headers, body) VALUES (?, ?, ?, ?, ?, ?)"
BUSY_MS = 5000
"""How long a commit waits for somebody else's lock."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LATEST_MS = 253_402_300_800_000
"""The year 10000, which has no such text."""
Row = tuple[str, int, str, str | None, str, str | bytes]


class SqliteConfig(SinkConfig):
    database: Path = key("database", also=("path",), doc="the SQLite file; made if it is missing")
    batchSize: int = key("batchSize", 1000, low=1, doc="most events of one transaction")


class SqliteSink(Sink):
    """A batch is one transaction, synced before it is acknowledged; a thread of its own holds the file open."""

    Config: ClassVar[type[AnyConfig]] = SqliteConfig
    config: SqliteConfig

    def __init__(self, name: str, config: AnyConfig) -> None:
        super().__init__(name, config)
        self.batch_size = self.config.batchSize
        self.path = self.config.database.expanduser()
        self.table: Table | None = None
        self.origin, self.number = os.urandom(16), 0
        """Names given to events that have no identity."""

    async def open(self) -> None:
        """DeliveryError if the file can't be opened, is no database, or has another table `events`."""
        self.pool = ThreadPoolExecutor(1, thread_name_prefix=self.name)
        if not self.durable:
            self.log.info("at least once: events that no file channel has named yet may be stored twice")
        await self._call(None)

    async def close(self) -> None:
        if hasattr(self, "pool"):
            await asyncio.get_running_loop().run_in_executor(self.pool, self._let_go)
            self.pool.shutdown(wait=False)

    async def send(self, batch: Batch) -> None:
        await self._call(batch)

    def held(self) -> Iterator[Held]:
        if not self.path.exists():
            yield Held((), str(self.path), "is not there")
            return
        with translated({sqlite3.Error: DeliveryError}, str(self.path)):
            uri = f"{self.path.resolve().as_uri()}?mode=ro"
            with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_MS / 1000)) as database:
                for origin, number in database.execute("SELECT origin, number FROM events"):
                    yield Held((Identity(bytes.fromhex(origin), number, 1),))

    async def _call(self, batch: Batch | None) -> None:
        await asyncio.get_running_loop().run_in_executor(self.pool, self._store, batch)

    def _store(self, batch: Batch | None) -> None:
        try:
            with translated({sqlite3.Error: DeliveryError, OSError: DeliveryError}, str(self.path)):
                if self.table and not self.table.is_there():
                    self.log.warning("%s was moved away or removed; making a new one", self.path)
                    self._let_go()
                if self.table is None:
                    self.table = Table(self.path)
                if batch is not None:
                    self.table.insert(rows(batch, batch.identities or self._own(len(batch))))
        except DeliveryError:
            self._let_go()
            raise

    def _own(self, count: int) -> tuple[Identity, ...]:
        """Names that are never given twice: a batch whose `send` was cancelled may have been stored."""
        first, self.number = self.number + 1, self.number + count
        return (Identity(self.origin, first, count),)

    def _let_go(self) -> None:
        if self.table:
            table, self.table = self.table, None
            table.connection.close()


class Table:
    """The open file. One thread uses it."""

    def __init__(self, path: Path) -> None:
        make_folder(path.parent)
        self.path = path
        self.connection = sqlite3.connect(path, isolation_level=None, timeout=BUSY_MS / 1000, check_same_thread=False)
        try:
            for pragma in ("journal_mode = WAL", "synchronous = FULL"):
                self.connection.execute(f"PRAGMA {pragma}")
            self._make()
        except BaseException:
            self.connection.close()
            raise
        self.file = path.stat()

    def _make(self) -> None:
        database = sqlite_utils.Database(self.connection)
        if "events" in database.view_names():
            raise DeliveryError(f"{self.path} has a view events where the table has to be: name another file")
        events = database.table("events")
        if not events.exists():
            events.create(COLUMNS, pk=KEY)
        columns = [column.name for column in events.columns]
        if not COLUMNS.keys() <= set(columns) or tuple(events.pks) != KEY:
            theirs = f"({', '.join(columns)}; key {', '.join(events.pks)})"
            ours = f"({', '.join(COLUMNS)}; key {', '.join(KEY)})"
            raise DeliveryError(f"{self.path} has another table events {theirs}, not {ours}: name another file")
        events.create_index(["time"], if_not_exists=True)
        events.create_index(["topic", "time"], if_not_exists=True)

    def is_there(self) -> bool:
        """Whether the file at the path is still the one that is open."""
        try:
            now = self.path.stat()
        except FileNotFoundError:
            return False
        return (now.st_dev, now.st_ino) == (self.file.st_dev, self.file.st_ino)

    def insert(self, values: Iterator[Row]) -> None:
        """All of them in one transaction; those that are there stay as they are."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            self.connection.executemany(INSERT, values)
            self.connection.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise


def rows(batch: Batch, identities: tuple[Identity, ...]) -> Iterator[Row]:
    """A row an event."""
    events = iter(batch.events)
    for run in identities:
        origin = run.origin.hex()
        for number in range(run.first, run.first + run.count):
            event = next(events)
            headers = json.dumps(event.headers, ensure_ascii=False)
            yield origin, number, time_of(event), event.headers.get("topic"), headers, text_or_blob(event.body)


def time_of(event: Event) -> str:
    """The timestamp header (ms since the epoch), else now, such as `2026-11-25T02:00:54.123Z`."""
    stamp = stamp_in(event.headers, LATEST_MS)
    when = EPOCH + timedelta(milliseconds=clock.wall_ms() if stamp is None else stamp)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def text_or_blob(body: bytes) -> str | bytes:
    """Text where it is UTF-8 without NUL, which many tools end a text at."""
    if b"\0" in body:
        return body
    try:
        return body.decode()
    except UnicodeDecodeError:
        return body
