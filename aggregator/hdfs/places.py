"""Where the events of a batch go: Flume's hdfs.path and hdfs.filePrefix with their escapes, rounding and time zone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, tzinfo
from typing import NamedTuple
from zoneinfo import ZoneInfo

from agent import clock
from agent.escape import LATEST_MS, TAG, Escape
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
        self.folder, self.prefix = Escape(rest, zone), Escape(prefix, zone)
        self.zone, self.rounding, self.now = zone, rounding, now
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
        for index, event in enumerate(batch.events):
            headers = self._timed(event.headers)
            place = Place(self.base + safe(self.folder.expand(headers)), safe_name(self.prefix.expand(headers)))
            found.setdefault(place, []).append(index)
        for place, indexes in found.items():
            yield place, batch if len(found) == 1 else batch.pick(indexes)

    def _timed(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """With the timestamp that the escapes go by."""
        text = str(clock.wall_ms()) if self.now else headers.get("timestamp", "")
        if self.rounding and text.isascii() and text.isdigit() and len(text) < 16 and int(text) < LATEST_MS:
            text = str(round_down(int(text), *self.rounding, self.zone))
        return {**headers, "timestamp": text} if self.now or self.rounding else headers


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
