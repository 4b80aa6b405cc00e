"""Counters with Flume's names; as Flume's JSON (all strings) and as Prometheus text.

A counter is a plain attribute: `counter.EventReceivedCount += n`. Flume 1.11: SourceCounter, ChannelCounter,
SinkCounter (org.apache.flume.instrumentation). Counters live by name in `Metrics` and survive a reload.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import ClassVar, TypeVar

from agent import clock

LINES, LINES_SECONDS = 10, 60.0
"""Changes of one component's state that are logged: so many in so long."""


class Counter:
    """One component's numbers. FLUME are shown under their own names in Flume's JSON; OURS only for Prometheus."""

    kind: ClassVar[str] = ""
    FLUME: ClassVar[tuple[str, ...]] = ()
    OURS: ClassVar[tuple[str, ...]] = ("dropped",)
    dropped: int

    def __init__(self, name: str) -> None:
        self.name = name
        self.StartTime = self.StopTime = 0
        self.state = "starting"
        """running, waiting: why, failed: why ... one phrase for `status`."""
        self.since_ms = clock.wall_ms()
        self._said = ""
        self._lines: deque[float] = deque(maxlen=LINES)
        self.gauges: dict[str, Callable[[], float]] = {}
        """Values that are asked for when somebody looks; Flume's names override the attribute."""
        for field in self.FLUME + self.OURS:
            setattr(self, field, 0)

    def start(self) -> None:
        self.StartTime, self.StopTime = clock.wall_ms(), 0

    def stop(self) -> None:
        self.StopTime = clock.wall_ms()

    def say(self, state: str) -> bool:
        """Set the state; True if it is to be logged (then, and only then).

        That is each change of it, but of many in a row `LINES` in `LINES_SECONDS`: a peer that fails in a new way at
        each try must not fill the log.
        """
        if state != self.state:
            self.state, self.since_ms = state, clock.wall_ms()
        now = time.monotonic()
        if state == self._said or (len(self._lines) == LINES and now - self._lines[0] < LINES_SECONDS):
            return False
        self._said = state
        self._lines.append(now)
        return True

    def value(self, field: str) -> float:
        """A field's number, from its gauge if it has one."""
        gauge = self.gauges.get(field)
        number: float = gauge() if gauge else getattr(self, field)
        return number


class SourceCounter(Counter):
    kind = "SOURCE"
    FLUME = (
        "EventReceivedCount", "EventAcceptedCount", "AppendReceivedCount", "AppendAcceptedCount",
        "AppendBatchReceivedCount", "AppendBatchAcceptedCount", "OpenConnectionCount", "EventReadFail",
        "ChannelWriteFail", "GenericProcessingFail",
    )  # fmt: skip
    OURS = ("dropped", "repeats")
    EventReceivedCount: int
    EventAcceptedCount: int
    AppendReceivedCount: int
    AppendAcceptedCount: int
    AppendBatchReceivedCount: int
    AppendBatchAcceptedCount: int
    OpenConnectionCount: int
    EventReadFail: int
    ChannelWriteFail: int
    GenericProcessingFail: int
    repeats: int


class ChannelCounter(Counter):
    kind = "CHANNEL"
    FLUME = (
        "ChannelSize", "ChannelCapacity", "ChannelFillPercentage", "EventPutAttemptCount", "EventPutSuccessCount",
        "EventTakeAttemptCount", "EventTakeSuccessCount",
    )  # fmt: skip
    OURS = ("dropped", "rolled_back", "dead_letters", "salvage_missing", "orphan_events", "bytes", "oldest_seconds")
    ChannelSize: int
    ChannelCapacity: int
    ChannelFillPercentage: float
    EventPutAttemptCount: int
    EventPutSuccessCount: int
    EventTakeAttemptCount: int
    EventTakeSuccessCount: int
    rolled_back: int
    dead_letters: int
    salvage_missing: int
    orphan_events: int
    bytes: int
    oldest_seconds: float


class SinkCounter(Counter):
    kind = "SINK"
    FLUME = (
        "ConnectionCreatedCount", "ConnectionClosedCount", "ConnectionFailedCount", "BatchEmptyCount",
        "BatchUnderflowCount", "BatchCompleteCount", "EventDrainAttemptCount", "EventDrainSuccessCount",
        "EventWriteFail", "ChannelReadFail",
    )  # fmt: skip
    OURS = ("dropped", "rejected")
    ConnectionCreatedCount: int
    ConnectionClosedCount: int
    ConnectionFailedCount: int
    BatchEmptyCount: int
    BatchUnderflowCount: int
    BatchCompleteCount: int
    EventDrainAttemptCount: int
    EventDrainSuccessCount: int
    EventWriteFail: int
    ChannelReadFail: int
    rejected: int


AnyCounter = TypeVar("AnyCounter", bound=Counter)


class Metrics:
    """Every counter of an agent, by kind and name."""

    def __init__(self) -> None:
        self.counters: dict[tuple[str, str], Counter] = {}

    def counter(self, make: type[AnyCounter], name: str) -> AnyCounter:
        """The counter of this kind and name: the one there is, or a new one."""
        found = self.counters.get((make.kind, name))
        if not isinstance(found, make):
            found = self.counters[make.kind, name] = make(name)
        return found
