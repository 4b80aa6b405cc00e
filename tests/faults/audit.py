"""Counts what the outputs really hold against what was acknowledged, by identity and by content.

A reading that its sender was told is kept must be in the table once and in the Avro files once. Identity (origin,
number) is in both, and must name the same events in both; content (topic and body) says that each reading was stored
under one identity only.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import fastavro

Reading = tuple[str, str]
"""(topic, body)."""


class Stored(NamedTuple):
    """An event of an output."""

    origin: str
    number: int
    topic: str
    body: str

    @property
    def reading(self) -> Reading:
        return self.topic, self.body


def of_table(file: Path) -> list[Stored]:
    """Every row of the table `events`; none while there is no file."""
    if not file.exists():
        return []
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=20)) as database:
        rows = database.execute("SELECT origin, number, coalesce(topic, ''), body FROM events")
        return [Stored(origin, number, topic, _text(body)) for origin, number, topic, body in rows]


def of_files(folder: Path) -> list[Stored]:
    """Every event of the Avro files below a folder."""
    files = sorted(folder.rglob("*.avro"))
    return [event for file in files for event in _of_file(file, file.stat().st_size, file.stat().st_mtime_ns)]


@cache  # most files are finished, and there are more after each start
def _of_file(file: Path, size: int, _: int) -> tuple[Stored, ...]:
    with file.open("rb") as content:
        return tuple(map(_of_event, fastavro.reader(content))) if size else ()


def _of_event(event: Any) -> Stored:
    headers = event["headers"]
    number = int(headers["headrace.number"])
    return Stored(headers["headrace.origin"], number, headers.get("topic", ""), _text(event["body"]))


def _text(body: bytes | str) -> str:
    return body if isinstance(body, str) else body.decode()


class Sent:
    """What senders were told is kept, and what they were told nothing about (it may be there, once)."""

    def __init__(self) -> None:
        self.kept: Counter[Reading] = Counter()
        self.open: Counter[Reading] = Counter()

    def __len__(self) -> int:
        return self.kept.total()


class Audit(NamedTuple):
    """The verdict on one output. `ok` when nothing is missing, twice, or of nobody."""

    output: str
    missing: Counter[Reading]
    twice: Counter[Reading]
    identities_twice: list[tuple[str, int]]

    @property
    def ok(self) -> bool:
        return not (self.missing or self.twice or self.identities_twice)

    def __str__(self) -> str:
        return (
            f"{self.output}: {self.missing.total()} missing {_some(self.missing)}, "
            f"{self.twice.total()} twice {_some(self.twice)}, "
            f"{len(self.identities_twice)} identities twice {self.identities_twice[:5]}"
        )


def audit(output: str, sent: Sent, stored: Iterable[Stored]) -> Audit:
    """What is missing of `sent.kept`, and what is there more often than it was sent."""
    stored = list(stored)
    found = Counter(event.reading for event in stored)
    names = Counter((event.origin, event.number) for event in stored)
    return Audit(
        output,
        sent.kept - found,
        found - sent.kept - sent.open,
        [identity for identity, count in names.items() if count > 1],
    )


def same_identities(table: Iterable[Stored], files: Iterable[Stored]) -> bool:
    """Whether both outputs hold the same events under the same names."""
    return sorted(table) == sorted(files)


def _some(readings: Counter[Reading]) -> str:
    return str(list(readings)[:5])
