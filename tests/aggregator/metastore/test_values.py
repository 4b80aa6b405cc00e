"""Partition values of events."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from agent import clock
from agent.event import Batch, Event
from aggregator.metastore.values import PartitionValues, zone_of

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def event(topic: str, time: str = "2026-11-25T10:47:59.999+01:00") -> Event:
    return Event({"topic": topic, "timestamp": str(at(time))}, topic.encode())


def test_a_batch_is_split_by_its_values() -> None:
    """In the order of the first of each, its events in order; one value alone is the batch itself."""
    batch = Batch([event("a"), event("b"), event("a")])
    parts = [(found, part.bodies) for found, part in PartitionValues(["%Y-%m-%d", "%{topic}"], BERLIN).split(batch)]
    assert parts == [(("2026-11-25", "a"), [b"a", b"a"]), (("2026-11-25", "b"), [b"b"])]
    [(values, part)] = PartitionValues(["%Y"], BERLIN).split(batch)
    assert values == ("2026",) and part is batch
    [(values, part)] = PartitionValues(["x", "y%%"], BERLIN).split(batch)
    assert values == ("x", "y%") and part is batch
    [(values, part)] = PartitionValues([], BERLIN).split(batch)
    assert values == () and part is batch


@pytest.mark.parametrize(
    ("unit", "value", "rounded"),
    [
        ("second", 1, "10:47:59"), ("second", 20, "10:47:40"), ("minute", 1, "10:47:00"), ("minute", 15, "10:45:00"),
        ("hour", 1, "10:00:00"), ("hour", 6, "06:00:00"),
    ],
)  # fmt: skip
def test_rounding(unit: str, value: int, rounded: str) -> None:
    """Down, within the next larger unit, by the clock of the zone."""
    [(values, _)] = PartitionValues(["%H%M%S"], BERLIN, (unit, value)).split(Batch([event("a")]))
    assert values == (rounded.replace(":", ""),)


def test_rounding_leaves_the_timestamp_alone() -> None:
    """As in Flume, %t and %{timestamp} are the header."""
    patterns = ["%t", "%{timestamp}", "%s"]
    [(values, _)] = PartitionValues(patterns, BERLIN, ("hour", 1)).split(Batch([Event({"timestamp": "7200123"}, b"")]))
    assert values == ("7200123", "7200123", "7200")


def test_the_time_of_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    """useLocalTimeStamp goes by the clock, whatever the header says; so does an event without one."""
    monkeypatch.setattr(clock, "wall_ms", lambda: 1700000000000)
    for now, headers in ((True, {"timestamp": "5"}), (False, {}), (False, {"timestamp": "soon"})):
        [(values, _)] = PartitionValues(["%t"], None, None, now).split(Batch([Event(headers, b"")]))
        assert values == ("1700000000000",)


def test_a_zone_that_is_none() -> None:
    """ValueError names it."""
    assert zone_of("") is None
    with pytest.raises(ValueError, match="Europe/Nowhere"):
        zone_of("Europe/Nowhere")
