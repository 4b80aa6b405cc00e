"""PostgreSQL, by psycopg 3. Rows come by a cursor of the server; the session speaks UTC.

What Python has no value for (infinity, a date before year 1, an interval of months) stays the text that the server
writes.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.types.string import TextLoader

from agent.errors import ConfigError, DeliveryError
from aggregator.sql import table as kinds
from aggregator.sql.body import JsonText
from aggregator.sql.database import FETCH, Access, Database, names_of
from aggregator.sql.table import Column, Index, Table

KINDS = {
    "int2": kinds.INT, "int4": kinds.INT, "int8": kinds.INT, "oid": kinds.INT, "numeric": kinds.DECIMAL,
    "float8": kinds.DOUBLE, "float4": kinds.FLOAT, "bool": kinds.BOOL, "text": kinds.TEXT, "varchar": kinds.TEXT,
    "bpchar": kinds.TEXT, "name": kinds.TEXT, "bytea": kinds.BYTES, "date": kinds.DATE, "time": kinds.TIME,
    "timestamp": kinds.DATETIME, "timestamptz": kinds.INSTANT, "uuid": kinds.UUID, "json": kinds.JSON,
    "jsonb": kinds.JSON,
}  # fmt: skip
COLUMNS = """
SELECT a.attname, t.typname, format_type(a.atttypid, a.atttypmod), NOT a.attnotnull, t.typtype, a.atttypmod
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
INDEXES = """
SELECT i.indexrelid::int8, i.indisunique, i.indisprimary, a.attname
FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(number, place)
LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
WHERE i.indrelid = %s AND i.indisvalid AND i.indpred IS NULL AND k.place <= i.indnkeyatts
ORDER BY i.indexrelid, k.place
"""
ESTIMATE = """
SELECT CASE WHEN reltuples >= 0 THEN reltuples::int8 ELSE pg_relation_size(oid) / 100 END
FROM pg_class WHERE oid = %s AND relkind IN ('r', 'm')
"""
"""A table that was never analyzed is taken for rows of 100 bytes."""
CONVERTED = ("date", "timestamp", "timestamptz", "time")


class Postgresql(Database):
    def __init__(self, access: Access) -> None:
        self.access, self.where = access, str(access.address)
        self.connection: psycopg.Connection[Any] | None = None
        self.handle: socket.socket | None = None
        """A second name of the connection: to break it from another thread."""

    def open(self) -> None:
        at, own = self.access.address, self.access.tls
        tls: dict[str, Any] = (
            {"sslmode": "verify-full", "sslrootcert": own.truststore or "system"} if own else {"sslmode": "disable"}
        )
        if own and own.keystore:
            tls |= {"sslcert": own.keystore, "sslkey": own.keystore, "sslpassword": own.key_password}
        with self._ours():
            self.connection = psycopg.connect(
                host=at.host, port=at.port, user=at.user or None, password=self.access.password or None,
                dbname=at.database, connect_timeout=max(2, round(self.access.connect_timeout)), autocommit=True,
                client_encoding="UTF8", application_name="headrace",
                options="-c TimeZone=UTC -c DateStyle=ISO -c extra_float_digits=1", **tls,
            )  # fmt: skip
        self.handle = socket.socket(fileno=os.dup(self.connection.fileno()))
        adapters = self.connection.adapters
        for name in CONVERTED:
            adapters.register_loader(name, _lenient(name))
        adapters.register_loader("interval", TextLoader)
        for name in ("json", "jsonb"):
            adapters.register_loader(name, _JsonLoader)

    def table(self, name: str) -> Table:
        schema, name = names_of(name)
        quoted = (self.quote(schema) + "." if schema else "") + self.quote(name)
        found = self.one("SELECT to_regclass(%s::text)::oid::int8", (quoted.replace("%%", "%"),))
        if not found or found[0] is None:
            raise ConfigError(f"table: {self.where} has no table {name} in {schema or 'the search path'}")
        columns = [column_of(*row) for row in self.rows(COLUMNS, (found[0],))]
        parts: dict[int, tuple[list[str], bool, bool]] = {}
        for index, unique, primary, column in self.rows(INDEXES, (found[0],)):
            parts.setdefault(index, ([], unique, primary))[0].append(column)
        indexes = [Index(tuple(names), *how) for names, *how in parts.values() if None not in names]
        estimate = self.one(ESTIMATE, (found[0],))
        return Table(quoted, columns, indexes, estimate=int(estimate[0]) if estimate else -1)

    def rows(self, statement: str, values: Sequence[Any]) -> Iterator[Sequence[Any]]:
        assert self.connection is not None
        with self._ours(), self.connection.transaction(), self.connection.cursor("page") as cursor:
            cursor.execute(statement.encode(), tuple(values))
            size = largest = 1  # the first row shows how large they are
            while rows := cursor.fetchmany(size):
                largest = max(largest, *map(_bytes_of, rows))
                yield from rows
                if len(rows) < size:
                    break
                size = max(1, min(FETCH, self.access.fetch_bytes // largest))

    def abort(self) -> None:
        if self.handle:
            with suppress(OSError):
                self.handle.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        if self.connection:
            with suppress(psycopg.Error):
                self.connection.close()
        if self.handle:
            self.handle.close()

    @contextmanager
    def _ours(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            text = " ".join(str(error).split()) or type(error).__name__
            raise DeliveryError(f"{self.where}: {text}") from error


def _bytes_of(values: Sequence[Any]) -> int:
    """About what a row takes; only texts, bytes and lists can be large."""
    return sum(
        len(value) if isinstance(value, str | bytes) else _bytes_of(value) if isinstance(value, list) else 16
        for value in values
    )


class _JsonLoader(Loader):
    def load(self, data: Buffer) -> JsonText:
        return JsonText(bytes(data).decode())


def _lenient(name: str) -> type[Loader]:
    """psycopg's own loader of a type, and the text where that has no value."""
    info = psycopg.adapters.types[name]
    found = psycopg.adapters.get_loader(info.oid, psycopg.pq.Format.TEXT)
    if found is None:
        raise LookupError(name)
    usual = found

    class Lenient(Loader):
        def __init__(self, oid: int, context: Any = None) -> None:
            super().__init__(oid, context)
            self.usual = usual(oid, context)

        def load(self, data: Buffer) -> Any:
            try:
                return self.usual.load(data)
            except (psycopg.DataError, ValueError):
                return bytes(data).decode()

    return Lenient


def column_of(name: str, kind: str, declared: str, nullable: bool, category: str, modifier: int) -> Column:
    """A row of COLUMNS. The modifier of a numeric is precision << 16 | scale, plus 4 (numeric.c)."""
    found = kinds.ENUM if category == "e" else KINDS.get(kind, kinds.OTHER)
    precision, scale = ((modifier - 4) >> 16 & 0xFFFF, (modifier - 4) & 0x7FF) if modifier >= 4 else (0, 0)
    numeric = found == kinds.DECIMAL
    return Column(name, found, declared, nullable, precision if numeric else 0, scale if numeric else 0)
