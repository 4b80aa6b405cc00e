"""Rows to events. Pure.

Headers: `table`; `key`, the values of the key columns, with a comma between; `timestamp`, milliseconds since the epoch,
where a time column is given and the row's value says a moment: a date or time without a zone counts as UTC, a number as
seconds, milliseconds, microseconds or nanoseconds by its size (10^11 seconds is the year 5138), a text as ISO 8601. An
Avro body has the table's schema in `flume.avro.schema.literal`, which Flume's AvroEventSerializer looks for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

from agent.event import Event
from aggregator.sql import body, datum
from aggregator.sql.order import Order
from aggregator.sql.table import Column, Table

SCHEMA = "flume.avro.schema.literal"
Row = Sequence[Any]
UNITS = ((10**11, 1000), (10**14, 1), (10**17, 1e-3), (float("inf"), 1e-6))
"""(values below this, milliseconds of one)."""


def maker(order: Order, table: Table, name: str, has_time: bool, avro: bool) -> Callable[[Row], Event]:
    """What makes an event of a row, which has the order's columns and then its place. datum.Unfit if it can't."""
    columns: list[Column] = [column for name in order.columns if (column := table.column(name))]
    encode = datum.encoder(columns) if avro else body.encoder(order.columns)
    common = {"table": name} | ({SCHEMA: datum.schema(name.rpartition(".")[2], columns)} if avro else {})
    width = len(columns)
    keys = width + (has_time and len(order.by) > 1)

    def make(row: Row) -> Event:
        headers = {"table": name, "key": ",".join(map(body.text_of, row[keys:]))}
        if has_time:
            moment = millis(row[width])
            if moment is not None:
                headers["timestamp"] = str(moment)
        return Event(headers | common, encode(row))

    return make


def millis(value: Any) -> int | None:
    """A value of a time column in milliseconds since the epoch; None if it says no moment."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            return None
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        return round(aware.timestamp() * 1000)
    if isinstance(value, date):
        return round(datetime.combine(value, time(), UTC).timestamp() * 1000)
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool) and value == value:
        number = float(value)
        factor = next(factor for below, factor in UNITS if abs(number) <= below)
        return round(number * factor) if abs(number) < 1e19 else None
    return None
