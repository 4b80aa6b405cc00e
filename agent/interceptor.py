"""Interceptor: changes or drops events on their way in. Pure, never waits."""

from __future__ import annotations

from agent.component import Component
from agent.event import Batch


class Interceptor(Component):
    """`intercept` returns the same object when it changes nothing."""

    def intercept(self, batch: Batch) -> Batch:
        """One for one: `batch.with_events`. Leaving out: `batch.pick`."""
        raise NotImplementedError
