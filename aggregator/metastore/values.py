"""The values of an event's partition: escapes of its headers and of its time (agent/escape.py), after Flume's keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import tzinfo
from zoneinfo import ZoneInfo

from agent import clock
from agent.escape import Escape
from agent.event import Batch
from aggregator.hdfs.places import rounder


class PartitionValues:
    """`patterns`, one a partition column. `rounding` is (unit, value) or None; `now`: the time of writing counts
    instead of the header `timestamp`. ValueError: a pattern is none."""

    def __init__(
        self, patterns: Sequence[str], zone: tzinfo | None, rounding: tuple[str, int] | None = None, now: bool = False
    ) -> None:
        self.escapes = [Escape(pattern, zone, rounder(rounding, zone)) for pattern in patterns]
        self.now = now
        self.fixed = all(escape.fixed is not None for escape in self.escapes)

    def split(self, batch: Batch) -> Iterator[tuple[tuple[str, ...], Batch]]:
        """The batch's events by their values, in the order in which these are met; the batch itself if it is one."""
        if self.fixed:
            yield tuple(escape.fixed or "" for escape in self.escapes), batch
            return
        found: dict[tuple[str, ...], list[int]] = {}
        now = clock.wall_ms() if self.now else None
        for index, event in enumerate(batch.events):
            found.setdefault(tuple(escape.expand(event.headers, now) for escape in self.escapes), []).append(index)
        for values, indexes in found.items():
            yield values, batch if len(found) == 1 else batch.pick(indexes)


def zone_of(name: str) -> tzinfo | None:
    """A time zone by its name, the machine's own for none. ValueError if there is none of that name."""
    try:
        return ZoneInfo(name) if name else None
    except (KeyError, ValueError, OSError):
        raise ValueError(f"there is no time zone {name!r}; write one such as Europe/Berlin") from None
