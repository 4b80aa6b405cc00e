"""Sends equal events as fast as the channels take them, for measurements (org.apache.flume.source.StressSource)."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from agent.backoff import Backoff
from agent.config.fields import Config as AnyConfig
from agent.config.fields import key
from agent.errors import ChannelFull
from agent.event import Batch, Event
from agent.source import Source, SourceConfig


class StressConfig(SourceConfig):
    size: int = key("size", 500, low=0, high=1 << 24, doc="bytes of each body, all 0x7F")
    maxTotalEvents: int = key("maxTotalEvents", -1, low=-1, doc="events sent until it stops; -1: no limit")
    maxSuccessfulEvents: int = key("maxSuccessfulEvents", -1, low=-1, doc="events kept until it stops; -1: no limit")
    batchSize: int = key("batchSize", 1, low=1, doc="events put at once")
    maxEventsPerSecond: int = key("maxEventsPerSecond", 0, low=0, doc="rate; 0: no limit")


class StressSource(Source):
    """A batch that finds the channel full counts as sent, not as kept."""

    Config: ClassVar[type[AnyConfig]] = StressConfig
    config: StressConfig

    async def run(self) -> None:
        events = [Event({}, b"\x7f" * self.config.size)] * self.config.batchSize
        full = Batch(None, Batch(events).block, len(events))
        clock, wait = asyncio.get_running_loop().time, Backoff(1.0, 5.0)
        sent = kept = 0
        due = clock()
        while size := self._next(sent, kept):
            # a new object each time: what a channel notes on a batch must not reach the next one
            batch = Batch(None, full.block, size) if size == len(full) else full.part(0, size)
            sent += size
            self.counter.EventReceivedCount += size
            try:
                await self.process(batch)
                kept += size
                self.counter.EventAcceptedCount += size
                wait.reset()
            except ChannelFull:
                await asyncio.sleep(wait.next())
            due = max(due + self._pace(size), clock() - 1.0)
            await asyncio.sleep(max(0.0, due - clock()))

    def _next(self, sent: int, kept: int) -> int:
        """Events of the next batch; 0 when it is done."""
        size = self.config.batchSize
        if self.config.maxTotalEvents >= 0:
            size = min(size, self.config.maxTotalEvents - sent)
        if self.config.maxSuccessfulEvents >= 0:
            size = min(size, self.config.maxSuccessfulEvents - kept)
        return size

    def _pace(self, size: int) -> float:
        """Seconds that a batch may take at most at the rate asked for."""
        return size / self.config.maxEventsPerSecond if self.config.maxEventsPerSecond else 0.0
