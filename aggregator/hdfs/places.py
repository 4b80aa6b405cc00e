"""Where the events of a batch go: Flume's hdfs.path and hdfs.filePrefix with their escapes, rounding and time zone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, tzinfo
from typing import NamedTuple
from zoneinfo import ZoneInfo

from agent import clock
from agent.escape import TAG, Escape
from agent.event import Batch

LOWER: dict[str, dict[str, int]] = {"hour": {"minute": 0, "second": 0}, "minute": {"second": 0}, "second": {}}
"""What is 0 of a time that was rounded down to a unit."""


class Place(NamedTuple):
    """A folder and the beginning of a file's name in it."""

    folder: str
    prefix: str


class Places:
    """`path` without scheme. `rounding` is (unit, value) or None; `now`: the time of writing counts instead of the
    header `timestamp`. ValueError: a pattern is none."""

    def __init__(
        self, path: str, prefix: str, zone: tzinfo | None, rounding: tuple[str, int] | None = None, now: bool = False
    ) -> None:
        self.base, rest = split(path)
        self.folder, self.prefix = (Escape(pattern, zone, rounder(rounding, zone)) for pattern in (rest, prefix))
        self.now = now
        folder, first = self.folder.fixed, self.prefix.fixed
        self.fixed = None if folder is None or first is None else Place(f"{self.base}{folder}".rstrip("/"), first)

    @property
    def missed(self) -> int:
        """Events so far that had no usable timestamp though a pattern asks for it."""
        return self.folder.missed + self.prefix.missed

    def split(self, batch: Batch) -> Iterator[tuple[Place, Batch]]:
        """The batch's events by their places, in the order in which these are met."""
        if self.fixed is not None:
            yield self.fixed, batch
            return
        found: dict[Place, list[int]] = {}
        now = clock.wall_ms() if self.now else None
        for index, event in enumerate(batch.events):
            headers = event.headers
            folder, prefix = self.folder.expand(headers, now), self.prefix.expand(headers, now)
            place = Place(self.base + safe(folder), safe_name(prefix))
            found.setdefault(place, []).append(index)
        for place, indexes in found.items():
            yield place, batch if len(found) == 1 else batch.pick(indexes)


def rounder(rounding: tuple[str, int] | None, zone: tzinfo | None) -> Callable[[int], int] | None:
    """`round_down` by (unit, value); None for none."""
    return (lambda ms: round_down(ms, *rounding, zone)) if rounding else None


def round_down(ms: int, unit: str, value: int, zone: tzinfo | None) -> int:
    """A time in ms since the epoch, down to a multiple of `value` units within the next larger one, in the zone."""
    when = datetime.fromtimestamp(ms // 1000, zone).astimezone(zone)
    field: int = getattr(when, unit)
    return int(when.replace(**{unit: field - field % value, **LOWER[unit]}).timestamp()) * 1000  # type: ignore[arg-type]


def zone_of(name: str) -> tzinfo | None:
    """A time zone by its name, the machine's own for none. ValueError if there is none of that name."""
    try:
        return ZoneInfo(name) if name else None
    except (KeyError, ValueError, OSError):
        raise ValueError(f"there is no time zone {name!r}; write one such as Europe/Berlin") from None


def split(path: str) -> tuple[str, str]:
    """The part of a pattern that is the same for all events, up to a slash, and the rest."""
    whole = Escape(path).fixed
    if whole is not None:
        return whole, ""
    tag = next(match for match in TAG.finditer(path))
    slash = path.rfind("/", 0, tag.start()) + 1
    return path[:slash] or "/", path[slash:]


def safe(folder: str) -> str:
    """A path that stays below its root, whatever an event's headers say: no empty, hidden or upward part."""
    parts = (part.replace("\0", "_").replace(":", "_") for part in folder.split("/") if part)
    return "/".join("_" + part[1:] if part.startswith(".") else part for part in parts)


def safe_name(prefix: str) -> str:
    """The same for the beginning of a name."""
    return prefix.replace("/", "_").replace("\0", "_").replace(":", "_")
