"""Counts (Flume's SequenceGeneratorSource): bodies are the ASCII numbers 0, 1, 2 ..., from 0 at every start."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from agent.backoff import Backoff
from agent.config.fields import Config as AnyConfig
from agent.config.fields import key
from agent.errors import ChannelFull
from agent.event import Batch, Event
from agent.source import Source, SourceConfig


class SeqConfig(SourceConfig):
    batchSize: int = key("batchSize", 1, low=1, doc="events put at once")
    totalEvents: int = key("totalEvents", 2**63 - 1, low=0, doc="events until it stops")


class SeqSource(Source):
    """A batch that finds the channel full is tried again with the same numbers."""

    Config: ClassVar[type[AnyConfig]] = SeqConfig
    config: SeqConfig

    async def run(self) -> None:
        number, wait = 0, Backoff(1.0, 5.0)
        while number < self.config.totalEvents:
            stop = min(number + self.config.batchSize, self.config.totalEvents)
            self.counter.EventReceivedCount += stop - number
            try:
                await self.process(Batch([Event({}, b"%d" % n) for n in range(number, stop)]))
            except ChannelFull:
                await asyncio.sleep(wait.next())
                continue
            wait.reset()
            self.counter.EventAcceptedCount += stop - number
            number = stop
            await asyncio.sleep(0)  # a put into memory never waits: let the others run
