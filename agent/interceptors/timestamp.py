"""Stamps events with the time (Flume's TimestampInterceptor)."""

from __future__ import annotations

from typing import ClassVar

from agent import clock
from agent.config.fields import Config as AnyConfig
from agent.config.fields import key
from agent.event import Batch, Event
from agent.interceptor import Interceptor


class TimestampConfig(AnyConfig):
    headerName: str = key("headerName", "timestamp", doc="header that takes the time, in ms since the epoch")
    preserveExisting: bool = key("preserveExisting", False, doc="leave a header that is there")


class TimestampInterceptor(Interceptor):
    """Milliseconds since the epoch as text; the events of one batch get one time."""

    Config: ClassVar[type[AnyConfig]] = TimestampConfig
    config: TimestampConfig

    def intercept(self, batch: Batch) -> Batch:
        name, now = self.config.headerName, str(clock.wall_ms())
        if not self.config.preserveExisting:
            return batch.with_events([Event({**headers, name: now}, body) for headers, body in batch.events])
        if all(name in event.headers for event in batch.events):
            return batch
        return batch.with_events([Event({name: now, **headers}, body) for headers, body in batch.events])
