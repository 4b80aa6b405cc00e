"""Service: a listener that serves what the agent holds (`a1.services = ...`, a kind that Flume ignores)."""

from __future__ import annotations

from agent.component import Component
from agent.metrics import Metrics


class Service(Component):
    """Set by the agent before `open`: `metrics`."""

    metrics: Metrics

    async def run(self) -> None:
        """Serve until cancelled."""
        raise NotImplementedError
