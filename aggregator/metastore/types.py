"""Hive's types and what stands for them in an Avro file, as Hive's own AvroSerDe has it.

| Hive | Avro | a field that fits |
|---|---|---|
| string, varchar(n), char(n) | string | text; JSON of any other kind is written as its JSON |
| tinyint, smallint, int | int | a whole number in its range |
| bigint | long | a whole number in its range |
| float, double | float, double | a number |
| boolean | boolean | true, false |
| decimal(p,s) | bytes, decimal | a number of at most p digits, s of them behind the point |
| date | int, date | `2026-11-25` |
| timestamp | long, timestamp-millis | ms since 1970, or `2026-11-25 02:00:54.123`, of UTC or with `+01:00` |
| binary | bytes | text, as UTF-8 |

Each is a union with null. A value comes as JSON has it, or as text (delimited input), where numbers are read from it.
Sources: org.apache.hadoop.hive.serde2.avro.TypeInfoToSchema, AvroDeserializer; Avro 1.11 "Logical Types".
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Context, Decimal, DecimalException, Inexact, InvalidOperation
from typing import Any, NamedTuple

from agent.avro.record import varint

INTEGERS = {"tinyint": 8, "smallint": 16, "int": 32, "bigint": 64}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TYPE = re.compile(r"([a-z]+)(?:\((\d+)(?:,(\d+))?\))?\Z")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?\Z", re.ASCII)
MOST_DIGITS = 38
DAY_DIGITS = 8
"""Of a day as `20261125`; a text of more digits is a time in milliseconds."""

Encode = Callable[[Any], bytes]
"""A field's value to its Avro bytes. ValueError, TypeError or OverflowError: it doesn't fit."""


class Column(NamedTuple):
    """A column of a table; names of Hive are in lower case."""

    name: str
    type: str


class AvroType(NamedTuple):
    """The schema without the union with null, and what writes a value of it."""

    schema: Any
    encode: Encode


class Exact(float):
    """A number of JSON that knows how it was written: a decimal is read from that."""

    text: str

    def __new__(cls, text: str) -> Exact:
        number = super().__new__(cls, text)
        number.text = text
        return number


def columns_of(text: str) -> list[Column]:
    """`id bigint, value decimal(10,2), note`: a column without a type is a string. ValueError: what is wrong."""
    columns = []
    for part in re.split(r",(?![^(]*\))", text):
        name, _, kind = part.strip().partition(" ")
        kind = re.sub(r"\s", "", kind).lower() or "string"
        if not re.fullmatch(r"\w+", name):
            raise ValueError(f"{part.strip()!r} is no column; write name type, name type ...")
        avro_type(kind)
        columns.append(Column(name.lower(), kind))
    if len({column.name for column in columns}) < len(columns):
        raise ValueError("a column is named twice")
    return columns


def avro_type(kind: str) -> AvroType:
    """What stands for a Hive type. ValueError if nothing here does."""
    match = TYPE.match(kind)
    name, precision, scale = match.groups() if match else ("", None, None)
    if name in ("string", "varchar", "char"):
        return AvroType("string", _text(int(precision) if precision else None))
    if name in INTEGERS:
        return AvroType("long" if name == "bigint" else "int", _integer(INTEGERS[name]))
    if name == "decimal":
        return _decimal(int(precision or 10), int(scale or 0))
    if name in SIMPLE:
        return SIMPLE[name]
    raise ValueError(f"the type {kind} can't be written; there are string, varchar(n), char(n), {', '.join(OTHERS)}")


def record_schema(name: str, columns: list[Column]) -> dict[str, Any]:
    """The Avro schema of a table's rows, without its partition columns."""
    fields = [{"name": c.name, "type": ["null", avro_type(c.type).schema], "default": None} for c in columns]
    return {"type": "record", "name": name, "namespace": "headrace.hive", "fields": fields}


# Encoders. A bool is no number, although Python says so.


def _text(most: int | None) -> Encode:
    def encode(value: Any) -> bytes:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        if most is not None and len(text) > most:
            raise ValueError
        return _bytes(text.encode())

    return encode


def _bytes(raw: bytes) -> bytes:
    return varint(len(raw)) + raw


def _number(value: Any) -> int | float:
    if isinstance(value, str):
        if not NUMBER.match(value):
            raise ValueError
        value = float(value) if "." in value or "e" in value.lower() else int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError
    return value


def _integer(bits: int) -> Encode:
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1

    def encode(value: Any) -> bytes:
        number = value if type(value) is int else _number(value)
        whole = int(number)
        if whole != number or not low <= whole <= high:
            raise ValueError
        return varint(whole)

    return encode


def _float(value: Any) -> bytes:
    return struct.pack("<f", _number(value))


def _double(value: Any) -> bytes:
    return struct.pack("<d", _number(value))


def _boolean(value: Any) -> bytes:
    if isinstance(value, str):
        value = {"true": True, "false": False}[value.lower()]
    if not isinstance(value, bool):
        raise TypeError
    return b"\1" if value else b"\0"


def _decimal(precision: int, scale: int) -> AvroType:
    if not 0 <= scale <= precision <= MOST_DIGITS or not precision:
        raise ValueError(f"decimal({precision},{scale}) is no type: at most {MOST_DIGITS} digits")
    exact = Context(prec=2 * MOST_DIGITS, traps=[InvalidOperation, Inexact])

    def encode(value: Any) -> bytes:
        text = value.text if isinstance(value, Exact) else str(value)
        number = Decimal(_checked(text) if isinstance(value, str) else text)
        if isinstance(value, bool) or not number.is_finite() or number.adjusted() >= MOST_DIGITS:
            raise ValueError
        whole = number.scaleb(scale, exact)
        unscaled = int(whole)
        if unscaled != whole or abs(unscaled) >= 10**precision:
            raise ValueError
        return _bytes(unscaled.to_bytes(unscaled.bit_length() // 8 + 1, "big", signed=True))

    return AvroType({"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale}, encode)


def _checked(text: str) -> str:
    if not NUMBER.match(text):
        raise ValueError
    return text


def _date(value: Any) -> bytes:
    if not isinstance(value, str):
        raise TypeError
    return varint((date.fromisoformat(value) - EPOCH.date()).days)


def _timestamp(value: Any) -> bytes:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) > DAY_DIGITS:
        value = int(value)
    if isinstance(value, str):
        when = datetime.fromisoformat(value)
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        return varint((when - EPOCH) // timedelta(milliseconds=1))
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError
    EPOCH + timedelta(milliseconds=value)  # OverflowError beyond the years 1 to 9999
    return varint(value)


def _binary(value: Any) -> bytes:
    if not isinstance(value, str):
        raise TypeError
    return _bytes(value.encode())


SIMPLE = {
    "float": AvroType("float", _float),
    "double": AvroType("double", _double),
    "boolean": AvroType("boolean", _boolean),
    "date": AvroType({"type": "int", "logicalType": "date"}, _date),
    "timestamp": AvroType({"type": "long", "logicalType": "timestamp-millis"}, _timestamp),
    "binary": AvroType("bytes", _binary),
}
OTHERS = (*INTEGERS, *SIMPLE, "decimal(p,s)")
DOES_NOT_FIT = (ValueError, TypeError, OverflowError, KeyError, DecimalException, struct.error)
"""What an `Encode` raises."""
