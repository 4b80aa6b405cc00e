"""What is imported, in which order: the configuration's names against what the database says of its table.

Each ConfigError opens with the key to change and says what it takes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from agent.errors import ConfigError
from aggregator.sql import table as kinds
from aggregator.sql.order import Order
from aggregator.sql.table import Column, Table

WORDS = "whole numbers, decimals, doubles, text, bytes, UUIDs, dates or times"


def order_of(table: Table, columns: Sequence[str], key: Sequence[str], time: str, where: str) -> Order:
    """The order that a table is read in. ConfigError if a column is missing or can't be sorted by."""
    named = [_column(table, "columns", name) for name in columns] or list(table.columns)
    keys = list(key or table.primary_key)
    if not keys:
        raise ConfigError(f"keyColumn: {table.name} has no primary key: name a column that is unique{_rowid(table)}")
    by = [_sortable("keyColumn", _column(table, "keyColumn", name), kinds.ORDERED, WORDS) for name in keys]
    if time:
        moment = _column(table, "timeColumn", time)
        _sortable("timeColumn", moment, kinds.MOMENTS, "dates, times, numbers or text")
        by = [moment, *(column for column in by if column.name != time)]
    return Order(table.name, [column.name for column in named], by, where)


def is_unique(table: Table, order: Order) -> bool:
    """Whether the database itself sees to it that no two rows have one place."""
    by = {column.name for column in order.by}
    return any(index.unique and set(index.columns) <= by for index in table.indexes)


def warnings(table: Table, order: Order) -> Iterator[str]:
    """What makes an import slow."""
    first = order.by[0].name
    if not any(index.columns[:1] == (first,) for index in table.indexes):
        names = ", ".join(column.name for column in order.by)
        yield f"no index of {table.name} begins with {first}: each batch sorts all that is left; make one on ({names})"


def _column(table: Table, key: str, name: str) -> Column:
    found = table.column(name)
    if found:
        return found
    names = [column.name for column in table.columns]
    close = difflib.get_close_matches(name.lower(), [one.lower() for one in names], n=1)
    nearest = next((one for one in names if close and one.lower() == close[0]), "")
    hint = f"the nearest is {nearest}" if nearest else f"it has {', '.join(names[:30])}"
    raise ConfigError(f"{key} = {name}: {table.name} has no such column; {hint}")


def _sortable(key: str, column: Column, allowed: Sequence[str], takes: str) -> Column:
    if column.kind not in allowed:
        raise ConfigError(
            f"{key} = {column.name}: a column of type {column.declared} isn't compared as it is shown; it takes {takes}"
        )
    return column


def _rowid(table: Table) -> str:
    return f", or {table.hidden[0].name}" if table.hidden else ""
