"""Database: what an import asks of a server or a file. One thread calls it; `abort` alone may come from another.

The driver is imported when a url names its database: mysql:// (MySQL, MariaDB) PyMySQL, postgresql:// psycopg,
sqlite:// nothing but Python. All of them are told to speak UTC, so that the hour that comes twice in autumn doesn't.
"""

from __future__ import annotations

import importlib
import re
import ssl
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from agent.errors import ConfigError
from aggregator.sql.table import Table

PORTS = {"mysql": 3306, "postgresql": 5432, "sqlite": 0}
ALSO = {"mariadb": "mysql", "postgres": "postgresql"}
TAKES = (
    "is not of the form mysql://[user@]host[:3306]/database, postgresql://[user@]host[:5432]/database or sqlite:///path"
)
FETCH = 100
"""Rows that a cursor of the server hands over at once, at most."""


@dataclass(frozen=True)
class Address:
    """Where a database is: `database` is a name, or the path of an SQLite file."""

    kind: str
    database: str
    host: str = ""
    port: int = 0
    user: str = ""

    def __str__(self) -> str:
        return f"{self.kind}://{self.host}:{self.port}/{self.database}" if self.host else f"sqlite:///{self.database}"


@dataclass(frozen=True)
class Access:
    """How to get in. The password is never printed."""

    address: Address
    password: str = ""
    tls: Tls | None = None
    connect_timeout: float = 10.0
    query_timeout: float = 300.0
    fetch_bytes: int = 4 << 20
    """Of rows that a cursor of the server hands over at once, about."""

    def __repr__(self) -> str:
        return f"Access({self.address})"


@dataclass(frozen=True)
class Tls:
    """A context for drivers that take one, and the files that it was made of for libpq, which wants those."""

    context: ssl.SSLContext
    truststore: str = ""
    keystore: str = ""
    key_password: str = ""

    def __repr__(self) -> str:
        return "Tls()"


class Database(ABC):
    """A connection. Every method but `quote` raises DeliveryError for what the server or file is to blame for."""

    mark = "%s"
    """The place of a value in a statement."""
    quotes = '"'

    def quote(self, name: str) -> str:
        """A name as a statement spells it, whatever it holds."""
        return self.literal(self.quotes + name.replace(self.quotes, self.quotes * 2) + self.quotes)

    def place(self, value: Any) -> str:
        """The mark of a value that is compared with a column."""
        return self.mark

    def literal(self, text: str) -> str:
        """A text that is part of a statement with marks."""
        return text.replace("%", "%%") if self.mark == "%s" else text

    @abstractmethod
    def open(self) -> None:
        """Connect and log in."""

    @abstractmethod
    def table(self, name: str) -> Table:
        """What `[schema.]name` is like; ConfigError if there is no such table or view."""

    @abstractmethod
    def rows(self, statement: str, values: Sequence[Any]) -> Iterator[Sequence[Any]]:
        """What a query gives; in memory are FETCH rows and about `fetch_bytes` at most, or one row."""

    def one(self, statement: str, values: Sequence[Any] = ()) -> Sequence[Any] | None:
        """The only row of a query, or none."""
        found = list(self.rows(statement, values))
        return found[0] if found else None

    @abstractmethod
    def abort(self) -> None:
        """Make what another thread waits for fail at once."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it; never raises."""


def address_of(url: str) -> Address:
    """Read a url; ConfigError says what it takes. Never repeats a password that it holds."""
    shown = _without_secrets(url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigError(f"{shown!r} {TAKES}") from None
    kind = ALSO.get(parts.scheme, parts.scheme)
    if parts.password is not None:
        raise ConfigError("the password goes to the key password, not into the url")
    path = unquote(parts.path[1:])
    if kind not in PORTS or not path or parts.query or parts.fragment:
        raise ConfigError(f"{shown!r} {TAKES}")
    if kind == "sqlite":
        if parts.netloc:
            raise ConfigError(f"{shown!r} {TAKES}; an absolute path begins after a third slash: sqlite:////var/x.db")
        return Address(kind, path)
    if not parts.hostname or "/" in path:
        raise ConfigError(f"{shown!r} {TAKES}")
    return Address(kind, path, parts.hostname, port or PORTS[kind], unquote(parts.username or ""))


def _without_secrets(url: str) -> str:
    """A url to be shown. Who writes it as for JDBC or libpq has the password behind `?` or `;`, or in any place."""
    if not re.match(r"[\w+.:-]+://", url):
        scheme = re.match(r"[\w+.-]+:", url)
        return f"{scheme[0]}***" if scheme else "***"
    return re.sub(r"[?;#].*", lambda rest: rest[0][0] + "***", re.sub(r"//.*@", "//***@", url, flags=re.S), flags=re.S)


def make(access: Access) -> Database:
    """A connection that isn't open yet. ConfigError if the driver is missing."""
    kind = access.address.kind
    try:
        module = importlib.import_module(f"aggregator.sql.{kind}")
    except ModuleNotFoundError as error:
        raise ConfigError(f"url {kind}:// needs the package {error.name}: pip install 'headrace[sql]'") from None
    made: Database = getattr(module, kind.capitalize())(access)
    return made


def names_of(table: str) -> tuple[str, str]:
    """(schema, name) of `[schema.]name`."""
    schema, _, name = table.rpartition(".")
    return schema, name
