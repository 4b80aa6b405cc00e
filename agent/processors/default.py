"""`processor.type = default`: a group of one sink."""

from __future__ import annotations

from agent.event import Batch
from agent.processor import Processor


class DefaultProcessor(Processor):
    """Flume's DefaultSinkProcessor: takes exactly one sink."""

    async def process(self, batch: Batch) -> bytes | None:
        return await self.sinks[0].send(batch)
