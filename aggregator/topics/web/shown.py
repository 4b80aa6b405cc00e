"""A record as JSON, on one line, such that nothing is lost and nothing is ambiguous:

    {"partition": 0, "offset": 17, "time": "2026-11-27T12:00:00.250Z", "ms": 1795780800250, "key": "s1",
     "headers": {"topic": "plant/line1/temp"}, "body": {"celsius": 21.50}}

- A body that is JSON stands as it was written, number by number. Any other text is a string, and so is a body that is
  itself a JSON string, or `null`, which here means no body at all. Other bytes are base64, as `encoding` says.
- A key or a header that is no UTF-8 is {"base64": "..."}; a header that comes several times is a list.
- A record above 1 MiB has no key, headers and body here, and `bytes` says how large it is.

Bodies come from anyone: what a terminal would take for a command is escaped as JSON can.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from aggregator.topics.following import Broken
from aggregator.topics.record import Record

MOST_BYTES = 1 << 20
"""Of one record."""
OPENED_BYTES = 4 << 20
"""Of a compressed batch: beyond, it is shown as one that can't be read."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UNSAFE = re.compile("[\t\r\n\x7f-\x9f\u2028\u2029]")
"""Between a body's tokens, or raw in its strings: what ends a line or begins a command of a terminal."""

Members = Mapping[str, str]
"""Names, and their values as JSON text."""


def members(partition: int, record: Record) -> Members:
    """What is shown of a record."""
    shown = {
        "partition": str(partition),
        "offset": str(record.offset),
        "time": json.dumps(iso(record.time)),
        "ms": str(record.time),
    }
    size = _size(record)
    if size > MOST_BYTES:
        return shown | {"bytes": str(size), "left_out": '"it has more than 1 MiB"'}
    shown |= {"key": _text(record.key), "headers": _headers(record)}
    if record.value is None:
        return shown | {"body": "null"}
    try:
        return shown | {"body": _body(record.value.decode())}
    except UnicodeDecodeError:
        return shown | {"body": _base64(record.value), "encoding": '"base64"'}


def broken(partition: int, error: Broken) -> Members:
    """In the place of records that can't be read."""
    place = {"partition": str(partition), "offset": str(error.offset), "next": str(error.after)}
    return place | {"error": json.dumps(str(error))}


def line(shown: Members) -> str:
    """As one JSON object without a line end."""
    return "{" + ", ".join(f'"{name}": {UNSAFE.sub(_escape, value)}' for name, value in shown.items()) + "}"


def iso(ms: int) -> str | None:
    """UTC; None where it has no time, or one that no calendar has."""
    try:
        time = EPOCH + timedelta(milliseconds=ms)
    except OverflowError:
        return None
    return None if ms == -1 else time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _size(record: Record) -> int:
    headers = sum(len(name) + len(value or b"") for name, value in record.headers)
    return len(record.key or b"") + len(record.value or b"") + headers


def _body(body: str) -> str:
    """As it is if it is JSON; else as a string."""
    try:
        found = json.loads(body, parse_constant=_no_constant, parse_int=len, parse_float=len)
    except (ValueError, RecursionError):
        found = None
    return json.dumps(body, ensure_ascii=False) if found is None or isinstance(found, str) else body.strip()


def _no_constant(name: str) -> None:
    raise ValueError(f"JSON has no {name}")


def _text(value: bytes | None) -> str:
    if value is None:
        return "null"
    try:
        return json.dumps(value.decode(), ensure_ascii=False)
    except UnicodeDecodeError:
        return f'{{"base64": {_base64(value)}}}'


def _base64(value: bytes) -> str:
    return f'"{base64.b64encode(value).decode()}"'


def _headers(record: Record) -> str:
    found: dict[str, list[str]] = {}
    for name, value in record.headers:
        found.setdefault(name, []).append(_text(value))
    shown = (
        f"{json.dumps(name, ensure_ascii=False)}: {values[0] if len(values) == 1 else '[' + ', '.join(values) + ']'}"
        for name, values in found.items()
    )
    return "{" + ", ".join(shown) + "}"


def _escape(match: re.Match[str]) -> str:
    return " " if match[0] in "\t\r\n" else f"\\u{ord(match[0]):04x}"
