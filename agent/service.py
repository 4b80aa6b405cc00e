"""Service: a listener that serves what the agent holds (`a1.services = ...`, a kind that Flume ignores)."""

from __future__ import annotations

from collections.abc import Callable

from agent.component import Component
from agent.metrics import Metrics


class Service(Component):
    """Set by the agent before `open`: `metrics`; `ready`, whether the agent is up and every source listens."""

    metrics: Metrics
    ready: Callable[[], bool]

    async def run(self) -> None:
        """Serve until cancelled."""
        raise NotImplementedError
