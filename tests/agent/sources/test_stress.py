"""stress sends equal events."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agent.backoff import Backoff
from agent.errors import ChannelFull
from agent.event import Batch
from agent.metrics import SourceCounter
from agent.source import Kept, Marks
from agent.sources import stress
from agent.sources.stress import StressConfig, StressSource


def run(full: tuple[int, ...] = (), **keys: Any) -> list[Batch | None]:
    """What `process` got; None for a batch that it refused."""
    seen: list[Batch | None] = []

    async def process(batch: Batch, marks: Marks | None = None) -> Kept:
        if len(seen) in full:
            seen.append(None)
            raise ChannelFull("full")
        seen.append(batch)
        return Kept(len(batch), 0)

    source = StressSource("r1", StressConfig(channels=["c1"], **keys))
    source.process, source.counter = process, SourceCounter("r1")
    asyncio.run(asyncio.wait_for(source.run(), 20))
    return seen


def test_bodies() -> None:
    """`size` bytes of 0x7F, in batches of batchSize, until maxTotalEvents were sent; the last batch is smaller."""
    seen = run(size=3, batchSize=4, maxTotalEvents=10)
    assert [len(batch) for batch in seen if batch] == [4, 4, 2]
    assert all(event == ({}, b"\x7f\x7f\x7f") for batch in seen if batch for event in batch.events)


def test_what_found_no_room_counts_as_sent_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """maxTotalEvents counts refused events, maxSuccessfulEvents doesn't."""
    monkeypatch.setattr(stress, "Backoff", lambda *_: Backoff(0.001, 0.001))
    assert [batch and len(batch) for batch in run((1,), batchSize=2, maxTotalEvents=6)] == [2, None, 2]
    assert [batch and len(batch) for batch in run((1,), batchSize=2, maxSuccessfulEvents=6)] == [2, None, 2, 2]


def test_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """With maxEventsPerSecond it sleeps as long as its batches may take."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(stress.asyncio, "sleep", sleep)
    run(batchSize=10, maxTotalEvents=30, maxEventsPerSecond=1000)
    assert len(slept) == 3 and sorted(slept) == slept
    assert all(0 < seconds <= 0.03 for seconds in slept)
