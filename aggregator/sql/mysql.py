"""MySQL and MariaDB, by PyMySQL. Rows are streamed (SSCursor); the session speaks UTC and utf8mb4."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any

import pymysql
from pymysql.constants import FIELD_TYPE
from pymysql.converters import conversions
from pymysql.cursors import SSCursor

from agent.errors import ConfigError, DeliveryError
from aggregator.sql import table as kinds
from aggregator.sql.body import JsonText
from aggregator.sql.database import Access, Database, names_of
from aggregator.sql.table import Column, Index, Table

KINDS = {
    "tinyint": kinds.INT, "smallint": kinds.INT, "mediumint": kinds.INT, "int": kinds.INT, "bigint": kinds.INT,
    "year": kinds.INT, "bit": kinds.INT, "decimal": kinds.DECIMAL, "double": kinds.DOUBLE, "float": kinds.FLOAT,
    "char": kinds.TEXT, "varchar": kinds.TEXT, "tinytext": kinds.TEXT, "text": kinds.TEXT, "mediumtext": kinds.TEXT,
    "longtext": kinds.TEXT, "inet4": kinds.OTHER, "inet6": kinds.OTHER, "uuid": kinds.UUID, "json": kinds.JSON,
    "binary": kinds.BYTES, "varbinary": kinds.BYTES, "tinyblob": kinds.BYTES, "blob": kinds.BYTES,
    "mediumblob": kinds.BYTES, "longblob": kinds.BYTES, "date": kinds.DATE, "time": kinds.TIME,
    "datetime": kinds.DATETIME, "timestamp": kinds.INSTANT, "enum": kinds.ENUM, "set": kinds.ENUM,
}  # fmt: skip
CONVERSIONS = {
    **conversions,
    FIELD_TYPE.BIT: lambda raw: int.from_bytes(raw, "big"),
    FIELD_TYPE.JSON: JsonText,
}
LAST_PACKET = 1 << 30
"""The largest row that a server can send (max_allowed_packet); each is bounded by what the columns hold."""
COLUMNS = (
    "SELECT column_name, data_type, column_type, is_nullable, numeric_precision, numeric_scale"
    " FROM information_schema.columns WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position"
)
INDEXES = (
    "SELECT index_name, non_unique, column_name FROM information_schema.statistics"
    " WHERE table_schema = %s AND table_name = %s ORDER BY index_name, seq_in_index"
)
TABLE = "SELECT table_rows FROM information_schema.tables WHERE table_schema = %s AND table_name = %s"


class Mysql(Database):
    quotes = "`"

    def __init__(self, access: Access) -> None:
        self.access, at = access, access.address
        self.where, self.database = str(at), at.database
        self.handle: socket.socket | None = None
        """A second name of the connection, which TLS doesn't take over: to break it from another thread."""
        self.connection = pymysql.Connection(
            host=at.host, port=at.port, user=at.user or None, password=access.password, database=at.database,
            charset="utf8mb4", init_command="SET time_zone = '+00:00'", autocommit=True, conv=CONVERSIONS,
            cursorclass=SSCursor, ssl=access.tls and access.tls.context, read_timeout=access.query_timeout,
            write_timeout=access.query_timeout, max_allowed_packet=LAST_PACKET, binary_prefix=True, defer_connect=True,
        )  # fmt: skip

    def open(self) -> None:
        at = self.access.address
        with self._ours():
            sock = socket.create_connection((at.host, at.port), self.access.connect_timeout)
            self.handle = socket.socket(fileno=os.dup(sock.fileno()))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self.connection.connect(sock)

    def table(self, name: str) -> Table:
        schema, name = names_of(name)
        at = (schema or self.database, name)
        columns = [column_of(*row) for row in self.rows(COLUMNS, at)]
        if not columns:
            raise ConfigError(f"table: {self.where} has no table {'.'.join(at)} that {self._user()} may see")
        parts: dict[str, tuple[list[str], bool]] = {}
        for index, non_unique, column in self.rows(INDEXES, at):
            parts.setdefault(index, ([], not int(non_unique)))[0].append(column)
        indexes = [Index(tuple(names), unique, name == "PRIMARY") for name, (names, unique) in parts.items()]
        found = self.one(TABLE, at)
        estimate = -1 if not found or found[0] is None else int(found[0])
        return Table(f"{self.quote(at[0])}.{self.quote(name)}", columns, indexes, estimate=estimate)

    def rows(self, statement: str, values: Sequence[Any]) -> Iterator[Sequence[Any]]:
        with self._ours(), closing(self.connection.cursor()) as cursor:
            cursor.execute(statement, tuple(values))
            yield from cursor.fetchall_unbuffered()

    def abort(self) -> None:
        if self.handle:
            with suppress(OSError):
                self.handle.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with suppress(pymysql.Error, OSError):
            self.connection.close()
        if self.handle:
            self.handle.close()

    def _user(self) -> str:
        found = self.one("SELECT CURRENT_USER()")
        return str(found[0]) if found else "we"

    @contextmanager
    def _ours(self) -> Iterator[None]:
        """PyMySQL's own errors, those of the socket, and RuntimeError for a login method whose package is missing."""
        try:
            yield
        except (pymysql.Error, OSError, RuntimeError) as error:
            text = f"{error.args[1]} ({error.args[0]})" if len(error.args) > 1 else str(error) or type(error).__name__
            raise DeliveryError(f"{self.where}: {text}") from error


def column_of(name: str, kind: str, declared: str, nullable: str, precision: int | None, scale: int | None) -> Column:
    """A row of information_schema.columns."""
    found = KINDS.get(kind.lower(), kinds.OTHER)
    return Column(name, found, declared, nullable == "YES", int(precision or 0), int(scale or 0))
