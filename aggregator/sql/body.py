"""A row as JSON on one line: `{"id":7,"at":"2026-11-25T02:00:54.123Z","value":21.50,"note":null}`. Pure.

whole number, decimal   a JSON number with every digit that the database has
double                  a JSON number (the shortest that reads back the same); NaN, Infinity and -Infinity are texts
boolean, null           true, false, null
text, UUID, enum        text
bytes                   text, base64
date, time, datetime    text, ISO 8601; with a zone it is UTC and ends in Z, a time span is [-]HH:MM:SS[.ffffff]
JSON                    as it is
array                   array
anything else           text, as Python shows it
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from json.encoder import encode_basestring
from typing import Any


class JsonText(str):
    """A text that is JSON already."""

    __slots__ = ()


class RawText(bytes):
    """A text that is no UTF-8. In a body it is bytes; to the database it stays text, which sorts apart from bytes."""


def encoder(names: Sequence[str]) -> Callable[[Sequence[Any]], bytes]:
    """What makes a body of a row's first `len(names)` values."""
    heads = [encode_basestring(name) + ":" for name in names]

    def encode(row: Sequence[Any]) -> bytes:
        parts = [head + json_of(value) for head, value in zip(heads, row, strict=False)]
        return ("{" + ",".join(parts) + "}").encode("utf-8", "replace")

    return encode


def json_of(value: Any) -> str:
    """One value."""
    known = _BY_TYPE.get(type(value))
    return known(value) if known else encode_basestring(str(value))


def text_of(value: Any) -> str:
    """One value as plain text, for a header."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json_of(value).strip('"')


def span(value: timedelta) -> str:
    """As MySQL writes a TIME, which may have more than a day's hours."""
    sign, left = ("-", -value) if value < timedelta(0) else ("", value)
    seconds = left.days * 86400 + left.seconds
    tail = f".{left.microseconds:06}" if left.microseconds else ""
    return f"{sign}{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{tail}"


def _moment(value: datetime) -> str:
    if value.tzinfo is None:
        return value.isoformat()
    return value.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"


def _number(value: float | Decimal) -> str:
    """JSON has no number for what isn't finite."""
    finite = value.is_finite() if isinstance(value, Decimal) else math.isfinite(value)
    return str(value) if finite else '"NaN"' if value != value else '"Infinity"' if value > 0 else '"-Infinity"'


def _json(value: str) -> str:
    """Line ends of JSON stand between its parts only, and a blank does as well."""
    return str(value).replace("\r", " ").replace("\n", " ")


def _bytes(value: bytes | bytearray | memoryview) -> str:
    return f'"{b64encode(value).decode()}"'


def _array(value: Sequence[Any]) -> str:
    return "[" + ",".join(map(json_of, value)) + "]"


_BY_TYPE: dict[type, Callable[[Any], str]] = {
    type(None): lambda value: "null",
    bool: lambda value: "true" if value else "false",
    int: str,
    float: _number,
    Decimal: _number,
    str: encode_basestring,
    JsonText: _json,
    bytes: _bytes,
    RawText: _bytes,
    bytearray: _bytes,
    memoryview: _bytes,
    datetime: lambda value: f'"{_moment(value)}"',
    date: lambda value: f'"{value.isoformat()}"',
    time: lambda value: f'"{value.isoformat()}"',
    timedelta: lambda value: f'"{span(value)}"',
    list: _array,
    tuple: _array,
}
