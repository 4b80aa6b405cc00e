"""What a database says of a table, in words that are the same for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

INT, DECIMAL, DOUBLE, BOOL = "int", "decimal", "double", "bool"
TEXT, BYTES, JSON = "text", "bytes", "json"
DATE, TIME = "date", "time"
DATETIME, INSTANT = "datetime", "instant"
"""Without and with a time zone."""
UUID = "uuid"
FLOAT, ENUM = "float", "enum"
"""A float of four bytes and an enum are shown in another way than they are compared."""
ANY = "any"
"""SQLite's NUMERIC: whatever was put there."""
OTHER = "other"

ORDERED = (INT, DECIMAL, DOUBLE, TEXT, BYTES, DATE, TIME, DATETIME, INSTANT, UUID, ANY)
"""Kinds whose values, read and given back, compare as the database sorts them."""
MOMENTS = (INT, DECIMAL, DOUBLE, TEXT, DATE, DATETIME, INSTANT, ANY)
"""Kinds that a time column may have."""


class Column(NamedTuple):
    """`declared` is the type as the database spells it; `precision` and `scale` are those of a decimal."""

    name: str
    kind: str
    declared: str
    nullable: bool = True
    precision: int = 0
    scale: int = 0


class Index(NamedTuple):
    """Over all rows, by these columns in this order."""

    columns: tuple[str, ...]
    unique: bool = False
    primary: bool = False


class Table(NamedTuple):
    """`name` is quoted, as statements spell it. `hidden` columns aren't part of `select *` (SQLite's rowid).

    `estimate` is the number of rows that the database believes it has, -1 where it believes nothing.
    """

    name: str
    columns: Sequence[Column]
    indexes: Sequence[Index] = ()
    hidden: Sequence[Column] = ()
    estimate: int = -1

    def column(self, name: str) -> Column | None:
        """The column of this name, hidden or not."""
        return next((column for column in (*self.columns, *self.hidden) if column.name == name), None)

    @property
    def primary_key(self) -> tuple[str, ...]:
        """Its columns; empty if there is none."""
        return next((index.columns for index in self.indexes if index.primary), ())
