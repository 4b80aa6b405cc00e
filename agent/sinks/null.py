"""Takes everything and keeps nothing (Flume's NullSink). Batches are counted, never decoded."""

from __future__ import annotations

from typing import ClassVar

from agent.config.fields import Config as AnyConfig
from agent.config.fields import key
from agent.event import Batch
from agent.sink import Sink, SinkConfig


class NullConfig(SinkConfig):
    batchSize: int = key("batchSize", 100, low=1, doc="most events taken at once")
    logEveryNEvents: int = key("logEveryNEvents", 10_000, low=1, doc="one log line each time so many have gone")


class NullSink(Sink):
    """Exactly as fast as its channel."""

    Config: ClassVar[type[AnyConfig]] = NullConfig
    config: NullConfig

    def __init__(self, name: str, config: AnyConfig) -> None:
        super().__init__(name, config)
        self.batch_size = self.config.batchSize
        self.total = 0

    async def send(self, batch: Batch) -> None:
        every = self.config.logEveryNEvents
        before, self.total = self.total, self.total + len(batch)
        if before // every != self.total // every:
            self.log.info("null sink %s: %d events so far", self.name, self.total)
