"""Processor: picks a sink of a group."""

from __future__ import annotations

from collections.abc import Sequence

from agent.component import Component
from agent.event import Batch
from agent.sink import Sink


class Processor(Component):
    """Set by the agent before `open`: `sinks`, in the group's order."""

    sinks: Sequence[Sink]

    async def process(self, batch: Batch) -> bytes | None:
        """Send through one of the sinks; DeliveryError if none accepts."""
        raise NotImplementedError
