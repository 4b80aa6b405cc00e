"""The order that a table is read in, and a place in it that survives a restart. Pure.

**Keyset pagination.** Rows are read by ascending (time, key ...), a page at a time, each page from behind the last row
of the one before:

    SELECT ... WHERE t >= :t AND (t > :t OR k > :k) ORDER BY t, k LIMIT :n

The columns together are unique, so rows with equal times neither get lost nor come twice at the edge of a page, and no
page counts from the start of the table, as OFFSET would. The first comparison says nothing new: it is the form in which
MySQL, PostgreSQL and SQLite all use an index. Rows without a value in one of these columns are in no order; they are
left out, and counted at the start.

A *place* is the last row's values of these columns. In a mark it is JSON, each value beside its type, so that what
comes back is what the database gave.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from aggregator.sql.body import RawText
from aggregator.sql.database import Database
from aggregator.sql.table import Column

Values = tuple[Any, ...]
Statement = tuple[str, Values]


class Place(NamedTuple):
    """Behind which row of the order, and how many rows were read up to there. `last` is empty at the start."""

    last: Values = ()
    rows: int = 0


class Order(NamedTuple):
    """How a table is read: `columns` are what a row's body has, `by` what it is sorted by (unique together)."""

    table: str
    columns: Sequence[str]
    by: Sequence[Column]
    where: str = ""

    def page(self, database: Database, place: Place, size: int) -> Statement:
        """The next `size` rows: the columns, then the place of each."""
        named = ", ".join(database.quote(name) for name in [*self.columns, *(column.name for column in self.by)])
        by = ", ".join(database.quote(column.name) for column in self.by)
        condition, values = self._behind(database, place.last)
        text = f"SELECT {named} FROM {self.table}{condition} ORDER BY {by} LIMIT {database.mark}"
        return text, (*values, size)

    def left(self, database: Database, place: Place) -> Statement:
        """How many rows are behind a place."""
        condition, values = self._behind(database, place.last)
        return f"SELECT COUNT(*) FROM {self.table}{condition}", values

    def unplaced(self, database: Database) -> Statement | None:
        """How many rows are in no order; None where there can't be any."""
        null = [f"{database.quote(column.name)} IS NULL" for column in self.by if column.nullable]
        if not null:
            return None
        return f"SELECT COUNT(*) FROM {self.table}{_all([*self._wanted(database), ' OR '.join(null)])}", ()

    def repeated(self, database: Database) -> Statement:
        """One place that several rows have."""
        by = ", ".join(database.quote(column.name) for column in self.by)
        condition, _ = self._behind(database, ())
        return f"SELECT {by} FROM {self.table}{condition} GROUP BY {by} HAVING COUNT(*) > 1 LIMIT 1", ()

    def _behind(self, database: Database, last: Values) -> tuple[str, Values]:
        conditions = self._wanted(database)
        conditions += [f"{database.quote(column.name)} IS NOT NULL" for column in self.by if column.nullable]
        values: Values = ()
        if last:
            marks = [database.place(value) for value in last]
            text, values = _above([database.quote(column.name) for column in self.by], last, marks)
            conditions.append(text)
        return _all(conditions), values

    def _wanted(self, database: Database) -> list[str]:
        """The operator's own condition; the line end closes a comment in it."""
        return [f"{database.literal(self.where)}\n"] if self.where else []


def _all(conditions: Sequence[str]) -> str:
    return " WHERE " + " AND ".join(f"({one})" for one in conditions) if conditions else ""


def _above(names: Sequence[str], last: Values, marks: Sequence[str]) -> tuple[str, Values]:
    """`(names) > (last)`, written out. With `name >= value`, what isn't above the value equals it."""
    name, value, mark = names[0], last[0], marks[0]
    if len(names) == 1:
        return f"{name} > {mark}", (value,)
    rest, values = _above(names[1:], last[1:], marks[1:])
    return f"{name} >= {mark} AND ({name} > {mark} OR ({rest}))", (value, value, *values)


def write(place: Place, table: str, by: Sequence[str]) -> bytes:
    """A place as a mark."""
    last = [_said(value) for value in place.last]
    return json.dumps({"table": table, "by": list(by), "last": last, "rows": place.rows}).encode()


def read(mark: bytes) -> tuple[Place, str, list[str]]:
    """(place, table, columns it was sorted by). ValueError if it is no such mark."""
    try:
        said = json.loads(mark)
        last = tuple(_READ[kind](text) for kind, text in said["last"])
        return Place(last, int(said["rows"])), str(said["table"]), [str(name) for name in said["by"]]
    except (KeyError, TypeError, ArithmeticError) as error:
        raise ValueError(f"no place in a table: {mark[:200]!r}") from error


def _said(value: Any) -> tuple[str, str]:
    for kind, say in _SAY.items():
        if type(value) is kind:
            return kind.__name__, say(value)
    return "str", str(value)


_SAY: dict[type, Callable[[Any], str]] = {
    int: str,
    float: repr,
    Decimal: str,
    bytes: lambda value: b64encode(value).decode(),
    RawText: lambda value: b64encode(value).decode(),
    datetime: datetime.isoformat,
    date: date.isoformat,
    time: time.isoformat,
    timedelta: lambda value: str(value // timedelta(microseconds=1)),
    UUID: str,
}
_READ: dict[str, Callable[[str], Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "Decimal": Decimal,
    "bytes": b64decode,
    "RawText": lambda text: RawText(b64decode(text)),
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "timedelta": lambda text: timedelta(microseconds=int(text)),
    "UUID": UUID,
}
