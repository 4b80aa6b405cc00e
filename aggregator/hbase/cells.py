"""Cells: what a serializer makes of events. Pure.

**A repeat writes the same cells.** A batch may be sent twice, and of a batch that failed some rows may be there. So a
row's key and its cells follow from the event and its identity (origin, number) alone: no clock, no dice. Where a
configuration asks for something else (rows by time or at random, counters), the serializer says so in `repeats`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, NamedTuple, TypeVar

from agent.config.fields import Config as AnyConfig
from agent.errors import Rejected
from agent.event import Event
from agent.store.streams import Identity

MAX_ROW = 32_767
"""Bytes of a row key (HConstants.MAX_ROW_LENGTH)."""

Item = TypeVar("Item")
Name = tuple[bytes, int]
"""An event's identity: (origin, number)."""
Row = tuple[bytes, dict[bytes, bytes]]
"""Key, and column (`family:qualifier`) -> value."""


class Increment(NamedTuple):
    """A counter cell, and what is added to it."""

    row: bytes
    column: bytes
    amount: int


class CellSerializer:
    """`rows` and `increments` of a batch; `family` is the column family of all cells."""

    Config: ClassVar[type[AnyConfig]] = AnyConfig
    repeats = ""
    """What is at least once with these keys, in a few words; empty if nothing is."""

    def __init__(self, config: AnyConfig, family: str) -> None:
        self.config, self.family = config, family.encode() + b":"

    def rows(self, events: Sequence[Event], names: Sequence[Name]) -> list[Row]:
        """A row an event. Rejected if an event can have none."""
        raise NotImplementedError

    def increments(self, events: Sequence[Event]) -> list[Increment]:
        """Counters that the events raise; none by default."""
        return []


def names_of(runs: Sequence[Identity]) -> list[Name]:
    """Each identity of the runs, in order."""
    return [(run.origin, number) for run in runs for number in range(run.first, run.first + run.count)]


def coalesced(increments: Sequence[Increment]) -> list[Increment]:
    """Those of one cell as one."""
    sums: dict[tuple[bytes, bytes], int] = {}
    for row, column, amount in increments:
        sums[row, column] = sums.get((row, column), 0) + amount
    return [Increment(row, column, amount) for (row, column), amount in sums.items()]


def checked(row: bytes) -> bytes:
    """The key, if HBase takes such a one; else Rejected."""
    if not row:
        raise Rejected("an event's row key is empty")
    if len(row) > MAX_ROW:
        raise Rejected(f"an event's row key has {len(row)} bytes; HBase takes up to {MAX_ROW}")
    return row


def time_ms(event: Event, header: str = "timestamp") -> int:
    """The time that a header says (ms since the epoch), 0 if there is none: the clock would say another at a repeat."""
    text = event.headers.get(header, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0


def parts(items: Sequence[Item], size_of: Callable[[Item], int], most: int) -> Iterator[Sequence[Item]]:
    """The items in parts of at most `most` bytes, each at least one item."""
    begin = size = 0
    for at, item in enumerate(items):
        more = size_of(item)
        if size and size + more > most:
            yield items[begin:at]
            begin, size = at, 0
        size += more
    if begin < len(items):
        yield items if begin == 0 else items[begin:]
