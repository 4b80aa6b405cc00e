"""The body in one cell, and a counter (Flume's SimpleHbaseEventSerializer and its kin for hbase2 and asynchbase).

The row key is `rowPrefix` and a suffix. Flume's `uuid` is drawn at random; ours has the same shape and is a digest of
the event's identity (RFC 9562, version 8), so a repeat writes the same row. `random`, `timestamp` and `nano` are
Flume's: two events of one millisecond share a row.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import ClassVar

from agent import clock
from agent.config.fields import Config as AnyConfig
from agent.config.fields import key
from agent.event import Event
from aggregator.hbase.cells import CellSerializer, Increment, Name, Row, checked

VARIANT = {digit: "89ab"[int(digit, 16) % 4] for digit in "0123456789abcdef"}
"""The two bits that every UUID of RFC 9562 has there."""


class SimpleConfig(AnyConfig):
    rowPrefix: str = key("rowPrefix", "default", doc="text before the suffix of a row key")
    suffix: str = key(
        "suffix", "uuid", choices=("uuid", "random", "timestamp", "nano"),
        doc="what follows; all but uuid are at least once",
    )  # fmt: skip
    payloadColumn: str = key("payloadColumn", "pCol", doc="column of the body")
    countEvents: bool = key("countEvents", True, doc="whether a counter is raised by 1 an event, as Flume's always is")
    incrementColumn: str = key("incrementColumn", "iCol", doc="column of the counter")
    incrementRow: str = key("incrementRow", "incRow", doc="row of the counter")


class SimpleSerializer(CellSerializer):
    Config: ClassVar[type[AnyConfig]] = SimpleConfig
    config: SimpleConfig

    def __init__(self, config: AnyConfig, family: str) -> None:
        super().__init__(config, family)
        keys = self.config
        self.prefix, self.column = keys.rowPrefix, self.family + keys.payloadColumn.encode()
        by_chance = f"rows by suffix = {keys.suffix}" if keys.suffix != "uuid" else ""
        counter = f"the counter {keys.incrementRow}:{keys.incrementColumn}" if keys.countEvents else ""
        self.repeats = " and ".join(filter(None, (by_chance, counter)))

    def rows(self, events: Sequence[Event], names: Sequence[Name]) -> list[Row]:
        column, key_of = self.column, self._key
        return [(key_of(name), {column: event.body}) for event, name in zip(events, names, strict=True)]

    def increments(self, events: Sequence[Event]) -> list[Increment]:
        if not self.config.countEvents:
            return []
        one = Increment(self.config.incrementRow.encode(), self.family + self.config.incrementColumn.encode(), 1)
        return [one] * len(events)

    def _key(self, name: Name) -> bytes:
        match self.config.suffix:
            case "uuid":
                suffix = uuid_of(name)
            case "random":
                suffix = str(random.getrandbits(64) - (1 << 63))
            case "timestamp":
                suffix = str(clock.wall_ms())
            case _:
                suffix = str(time.monotonic_ns())
        return checked(f"{self.prefix}{suffix}".encode())


def uuid_of(name: Name) -> str:
    """The UUID of an identity; always the same."""
    digest = _begun(name[0]).copy()
    digest.update(name[1].to_bytes(8, "big"))
    text = digest.hexdigest()
    return f"{text[:8]}-{text[8:12]}-8{text[13:16]}-{VARIANT[text[16]]}{text[17:20]}-{text[20:]}"


@lru_cache(maxsize=64)
def _begun(origin: bytes) -> blake2b:
    return blake2b(origin, digest_size=16)
