"""What is printed, a record or a row a line (no I/O here).

Bytes are shown as they are where that is safe on a terminal: printable text, and JSON with its line breaks. Everything
else is base64 behind `base64:`. What is absent is NULL.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BREAKS = str.maketrans("", "", "\t\n\r")
NULL = "NULL"


def shown(data: bytes | None) -> str:
    """A key or a value."""
    if data is None:
        return NULL
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "\0"
    return text if text.isprintable() or _is_json(text) else f"base64:{base64.b64encode(data).decode()}"


def _is_json(text: str) -> bool:
    if not text.translate(BREAKS).isprintable():
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def time_of(ms: int) -> str:
    """Milliseconds since the epoch as ISO 8601, UTC; -1, which is no time, as `-`."""
    if ms == -1:
        return "-"
    try:
        return (EPOCH + timedelta(milliseconds=ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except OverflowError:  # beyond the year 9999
        return f"{ms} ms"


def ms_of(text: str) -> int:
    """The other direction; a time that names no zone is UTC. ValueError."""
    time = datetime.fromisoformat(text)
    return ((time if time.tzinfo else time.replace(tzinfo=UTC)) - EPOCH) // timedelta(milliseconds=1)


def table(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> Iterator[str]:
    """Lines with columns as wide as need be; those with an index in `right` are figures."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:>{width}}" if index in right else f"{cell:{width}}"
                 for index, (cell, width) in enumerate(zip(row, widths, strict=True)))  # fmt: skip
        yield "  ".join(cells).rstrip()
