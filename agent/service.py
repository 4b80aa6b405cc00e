"""Service: a listener that serves what the agent holds (`a1.services = ...`, a kind that Flume ignores)."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from agent.component import Component
from agent.http import Page, Request
from agent.metrics import Metrics


class Service(Component):
    """Set by the agent before `open`: `metrics`; `ready`, whether the agent is up and every source listens."""

    metrics: Metrics
    ready: Callable[[], bool]
    pages: ClassVar[tuple[str, ...]] = ()
    """Paths that the metrics service's index names, because `page` answers them."""

    async def run(self) -> None:
        """Serve until cancelled."""
        raise NotImplementedError

    async def page(self, request: Request) -> Page | None:
        """What the metrics service answers for a path that it doesn't know itself; None: it isn't this one's. Called
        for GET and HEAD, at any time after `open` has begun. There is no authentication before it."""
        return None
