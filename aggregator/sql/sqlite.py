"""SQLite, by Python's own module; the file is opened to read."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from agent.errors import ConfigError, DeliveryError, translated
from aggregator.sql import table as kinds
from aggregator.sql.body import RawText
from aggregator.sql.database import Access, Database, names_of
from aggregator.sql.table import Column, Index, Table

AFFINITIES = (
    ("INT", kinds.INT), ("CHAR", kinds.TEXT), ("CLOB", kinds.TEXT), ("TEXT", kinds.TEXT), ("BLOB", kinds.BYTES),
    ("REAL", kinds.DOUBLE), ("FLOA", kinds.DOUBLE), ("DOUB", kinds.DOUBLE),
)  # fmt: skip
"""sqlite.org/datatype3.html, "Determination Of Column Affinity": the first that a declared type holds."""

COLUMNS = 'SELECT name, type, "notnull", pk FROM pragma_table_xinfo(?, ?) WHERE hidden <> 1'
INDEXES = 'SELECT name, "unique" FROM pragma_index_list(?, ?) WHERE NOT partial'
VIEW = "SELECT 1 FROM sqlite_master WHERE name = ? AND type = 'view'"
TABLES = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY name LIMIT 30"


class Sqlite(Database):
    mark = "?"

    def __init__(self, access: Access) -> None:
        self.path, self.timeout = Path(access.address.database).expanduser(), access.connect_timeout
        self.connection: sqlite3.Connection | None = None

    def open(self) -> None:
        uri = f"file:{quote(str(self.path))}?mode=ro"
        with self._ours():
            self.connection = sqlite3.connect(
                uri, self.timeout, uri=True, isolation_level=None, check_same_thread=False
            )
            self.connection.text_factory = text_or_bytes
            self.one("SELECT 1 FROM sqlite_master LIMIT 1")

    def table(self, name: str) -> Table:
        schema, name = names_of(name)
        at = (name, schema or "main")
        found = list(self.rows(COLUMNS, at))
        if not found:
            there = ", ".join(row[0] for row in self.rows(TABLES, ()))
            raise ConfigError(f"table: {self.path} has no table {name}; there are {there or 'none'}")
        columns = [Column(row[0], kind_of(row[1]), row[1] or "no type", not row[2]) for row in found]
        primary = tuple(row[0] for row in sorted((row for row in found if row[3]), key=lambda row: row[3]))
        quoted = (self.quote(schema) + "." if schema else "") + self.quote(name)
        estimate = self._estimate(quoted, name)
        indexes = [*([Index(primary, True, True)] if primary else []), *self._indexes(at)]
        hidden = []
        if estimate >= 0 and not any(column.name.lower() == "rowid" for column in columns):
            hidden = [Column("rowid", kinds.INT, "rowid", False)]
            indexes.append(Index(("rowid",), True))
        return Table(quoted, columns, indexes, hidden, estimate)

    def _indexes(self, at: tuple[str, str]) -> Iterator[Index]:
        """Without those of a part of the rows, and of expressions, which have no name."""
        for index, unique in list(self.rows(INDEXES, at)):
            names = tuple(name for (name,) in self.rows("SELECT name FROM pragma_index_info(?, ?)", (index, at[1])))
            if None not in names:
                yield Index(names, bool(unique))

    def rows(self, statement: str, values: Sequence[Any]) -> Iterator[Sequence[Any]]:
        assert self.connection is not None
        with self._ours():
            yield from self.connection.execute(statement, tuple(values))

    def place(self, value: Any) -> str:
        """Bytes would come behind every text. (What SQLite gives out of a file in UTF-16 is always UTF-8.)"""
        return f"CAST({self.mark} AS TEXT)" if isinstance(value, RawText) else self.mark

    def abort(self) -> None:
        if self.connection:
            self.connection.interrupt()

    def close(self) -> None:
        if self.connection:
            self.connection.close()

    def _estimate(self, quoted: str, name: str) -> int:
        """The largest rowid, which is nearly the number of rows where none was removed; -1 where there are no rowids
        (a view, a table WITHOUT ROWID).
        """
        if self.one(VIEW, (name,)):
            return -1
        try:
            found = self.one(f"SELECT max(rowid) FROM {quoted}")
        except DeliveryError:
            return -1
        return int(found[0] or 0) if found else 0

    @contextmanager
    def _ours(self) -> Iterator[None]:
        with translated({sqlite3.Error: DeliveryError}, str(self.path)):
            yield


def kind_of(declared: str) -> str:
    """The kind of a declared type."""
    if not declared:
        return kinds.ANY
    return next((kind for part, kind in AFFINITIES if part in declared.upper()), kinds.ANY)


def text_or_bytes(raw: bytes) -> str | RawText:
    """A text that is no UTF-8 stays what it is."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return RawText(raw)
