"""seq counts from 0."""

from __future__ import annotations

import asyncio

import pytest

from agent.backoff import Backoff
from agent.errors import ChannelFull
from agent.event import Batch
from agent.metrics import SourceCounter
from agent.source import Kept, Marks
from agent.sources import seq
from agent.sources.seq import SeqConfig, SeqSource


class Sink:
    """Takes batches, and refuses those whose turn is in `full`."""

    def __init__(self, *full: int) -> None:
        self.full, self.turn = full, 0
        self.batches: list[list[str]] = []

    async def process(self, batch: Batch, marks: Marks | None = None) -> Kept:
        self.turn += 1
        if self.turn in self.full:
            raise ChannelFull("full")
        self.batches.append([event.body.decode() for event in batch.events])
        return Kept(len(batch), 0)


def run(sink: Sink, total: int, size: int) -> SourceCounter:
    source = SeqSource("r1", SeqConfig(channels=["c1"], totalEvents=total, batchSize=size))
    source.process, source.counter = sink.process, SourceCounter("r1")
    asyncio.run(asyncio.wait_for(source.run(), 20))
    return source.counter


def test_it_counts_and_ends() -> None:
    """Bodies are 0, 1, 2 ... in batches of batchSize; it ends after totalEvents."""
    sink = Sink()
    counter = run(sink, 7, 3)
    assert sink.batches == [["0", "1", "2"], ["3", "4", "5"], ["6"]]
    assert counter.EventReceivedCount == counter.EventAcceptedCount == 7


def test_a_full_channel_gets_the_same_numbers_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What found no room is tried again, nothing is left out."""
    monkeypatch.setattr(seq, "Backoff", lambda *_: Backoff(0.001, 0.001))
    sink = Sink(2, 3)
    counter = run(sink, 4, 2)
    assert sink.batches == [["0", "1"], ["2", "3"]]
    assert counter.EventAcceptedCount == 4 and counter.EventReceivedCount == 8
