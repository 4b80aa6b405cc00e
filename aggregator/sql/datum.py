"""A row as an Avro datum, and the table's schema (Avro 1.11 specification, "Binary encoding", "Logical Types"). Pure.

    int                 long
    decimal             bytes with logicalType decimal, precision and scale of the column; without a precision: string
    double, float       double
    bool                boolean
    bytes               bytes
    date                int, logicalType date
    datetime            long, logicalType local-timestamp-micros
    datetime with zone  long, logicalType timestamp-micros
    all else            string, as in a JSON body
    SQLite's NUMERIC    a union of null, long, double, string and bytes: it takes them all

Each column that may be null is a union of null and its type. A value that its column's type can't hold (SQLite keeps
text in a column of integers, MySQL the date 0000-00-00) is Unfit: the row can't be told by this schema.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from decimal import Context, Decimal
from typing import Any

from agent.avro.record import varint
from aggregator.sql import table as kinds
from aggregator.sql.body import JsonText, text_of
from aggregator.sql.table import Column

EPOCH, EPOCH_UTC, EPOCH_DAY = datetime(1970, 1, 1), datetime(1970, 1, 1, tzinfo=UTC), date(1970, 1, 1).toordinal()
Encode = Callable[[Any], bytes]


class Unfit(ValueError):
    """A value that its column's type can't hold."""


def schema(table: str, columns: Sequence[Column]) -> str:
    """The schema of a table's rows, as JSON."""
    used: set[str] = set()
    fields = [_field(column, _avro_name(column.name, used)) for column in columns]
    record = {"type": "record", "name": _avro_name(table, set()), "fields": fields}
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"))


def encoder(columns: Sequence[Column]) -> Callable[[Sequence[Any]], bytes]:
    """What makes a datum of a row's first `len(columns)` values. Unfit names the column."""
    parts = [(column, _encode(column)) for column in columns]

    def encode(row: Sequence[Any]) -> bytes:
        out = []
        for (column, code), value in zip(parts, row, strict=False):
            try:
                out.append(code(value))
            except (TypeError, ValueError, OverflowError, AttributeError, struct.error, ArithmeticError) as error:
                raise Unfit(f"column {column.name} ({column.declared}) can't hold {value!r:.80}: {error}") from None
        return b"".join(out)

    return encode


def _field(column: Column, name: str) -> dict[str, Any]:
    field: dict[str, Any] = {"name": name}
    if column.kind == kinds.ANY:
        field["type"] = ["null", "long", "double", "string", "bytes"]
    else:
        field["type"] = ["null", _type(column)] if column.nullable else _type(column)
    if column.kind == kinds.ANY or column.nullable:
        field["default"] = None
    if name != column.name:
        field["doc"] = column.name
    return field


def _type(column: Column) -> Any:
    if column.kind == kinds.DECIMAL and column.precision:
        return {"type": "bytes", "logicalType": "decimal", "precision": column.precision, "scale": column.scale}
    return _TYPES.get(column.kind, "string")


def _encode(column: Column) -> Encode:
    if column.kind == kinds.ANY:
        return _any
    code = _decimal(column.precision, column.scale) if column.kind == kinds.DECIMAL and column.precision else None
    code = code or _CODES.get(column.kind, _text)
    if not column.nullable:
        return code
    return lambda value: b"\0" if value is None else b"\2" + code(value)


def _avro_name(name: str, used: set[str]) -> str:
    """A name that Avro takes, and that no other column has."""
    plain = re.sub(r"[^A-Za-z0-9_]", "_", name.replace('"', "").replace("`", ""))
    plain = f"_{plain}" if not plain or plain[0].isdigit() else plain
    while plain in used:
        plain += "_"
    used.add(plain)
    return plain


def _long(value: Any) -> bytes:
    if not isinstance(value, int) or not -(2**63) <= value < 2**63:
        raise Unfit("it is no whole number of 64 bits")
    return varint(value)


def _double(value: Any) -> bytes:
    return struct.pack("<d", value)


def _bool(value: Any) -> bytes:
    if not isinstance(value, bool):
        raise Unfit("it is neither true nor false")
    return b"\1" if value else b"\0"


def _raw(value: Any) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise Unfit("it isn't bytes")
    raw = bytes(value)
    return varint(len(raw)) + raw


def _text(value: Any) -> bytes:
    if value is None:
        raise Unfit("it is null")
    raw = (str(value) if isinstance(value, JsonText) else text_of(value)).encode()
    return varint(len(raw)) + raw


def _strict_text(value: Any) -> bytes:
    if not isinstance(value, str):
        raise Unfit("it is no text")
    return _text(value)


def _date(value: Any) -> bytes:
    return varint(value.toordinal() - EPOCH_DAY)


def _local(value: Any) -> bytes:
    return varint(_micros(value - EPOCH))


def _instant(value: Any) -> bytes:
    """MySQL's TIMESTAMP comes without a zone and is UTC, as the session is."""
    return varint(_micros(value - (EPOCH_UTC if value.tzinfo else EPOCH)))


def _micros(since: Any) -> int:
    return int((since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds)


def _decimal(precision: int, scale: int) -> Encode:
    def code(value: Any) -> bytes:
        number = Decimal(value)
        if not number.is_finite():
            raise Unfit("it is no number")
        _, digits, exponent = number.as_tuple()
        assert isinstance(exponent, int)
        if exponent < -scale and any(digits[exponent + scale :]):
            raise Unfit(f"it has more than {scale} decimals")
        unscaled = int(number.scaleb(scale, _WIDE)) if digits else 0
        if len(str(abs(unscaled))) > precision:
            raise Unfit(f"it has more than {precision} digits")
        return _raw(unscaled.to_bytes((unscaled.bit_length() + 8) // 8, "big", signed=True))

    return code


def _any(value: Any) -> bytes:
    if value is None:
        return b"\0"
    if isinstance(value, int):
        return b"\2" + _long(value)
    if isinstance(value, float):
        return b"\4" + _double(value)
    return b"\6" + _text(value) if isinstance(value, str) else b"\10" + _raw(value)


_WIDE = Context(prec=2000)
"""More digits than any database keeps in a decimal that has a precision."""
_TYPES: dict[str, Any] = {
    kinds.INT: "long",
    kinds.DOUBLE: "double",
    kinds.FLOAT: "double",
    kinds.BOOL: "boolean",
    kinds.BYTES: "bytes",
    kinds.DATE: {"type": "int", "logicalType": "date"},
    kinds.DATETIME: {"type": "long", "logicalType": "local-timestamp-micros"},
    kinds.INSTANT: {"type": "long", "logicalType": "timestamp-micros"},
}
_CODES: dict[str, Encode] = {
    kinds.INT: _long,
    kinds.DOUBLE: _double,
    kinds.FLOAT: _double,
    kinds.BOOL: _bool,
    kinds.BYTES: _raw,
    kinds.DATE: _date,
    kinds.DATETIME: _local,
    kinds.INSTANT: _instant,
    kinds.TEXT: _strict_text,
}
