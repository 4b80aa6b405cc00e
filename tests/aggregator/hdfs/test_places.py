"""Folders and names of the hdfs sink, from events."""

from __future__ import annotations

import pytest

from agent import clock
from agent.event import Batch, Event
from aggregator.hdfs.places import Place, Places, zone_of

EVENT = Event({"timestamp": "1700000000123"}, b"")


def test_rounding_leaves_the_timestamp_alone() -> None:
    """As in Flume, %t and %{timestamp} are the header; %s and the calendar are rounded down."""
    places = Places("/a/%t/%{timestamp}", "%s-%M", zone_of("UTC"), ("minute", 10))
    [(place, _)] = places.split(Batch([EVENT]))
    assert place == Place("/a/1700000000123/1700000000123", "1699999800-10")


def test_the_time_of_writing_leaves_the_header_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in Flume, useLocalTimeStamp is for the letters, %t too and unrounded; %{timestamp} is the header."""
    monkeypatch.setattr(clock, "wall_ms", lambda: 1800000123456)
    places = Places("/a/%t/%{timestamp}", "%s", zone_of("UTC"), ("minute", 1), now=True)
    [(place, _)] = places.split(Batch([EVENT]))
    assert place == Place("/a/1800000123456/1700000000123", "1800000120")
