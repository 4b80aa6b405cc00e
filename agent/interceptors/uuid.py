"""Gives each event a random UUID (org.apache.flume.sink.solr.morphline.UUIDInterceptor)."""

from __future__ import annotations

import uuid
from typing import ClassVar

from agent.config.fields import Config as AnyConfig
from agent.config.fields import key
from agent.event import Batch, Event
from agent.interceptor import Interceptor


class UuidConfig(AnyConfig):
    headerName: str = key("headerName", "id", doc="header that takes the UUID")
    preserveExisting: bool = key("preserveExisting", True, doc="leave a header that is there")
    prefix: str = key("prefix", "", doc="text before the UUID")


class UuidInterceptor(Interceptor):
    """A version 4 UUID in its 36 character form, after `prefix`."""

    Config: ClassVar[type[AnyConfig]] = UuidConfig
    config: UuidConfig

    def intercept(self, batch: Batch) -> Batch:
        name = self.config.headerName
        if self.config.preserveExisting and all(name in event.headers for event in batch.events):
            return batch
        return batch.with_events([self._named(event) for event in batch.events])

    def _named(self, event: Event) -> Event:
        if self.config.preserveExisting and self.config.headerName in event.headers:
            return event
        return Event({**event.headers, self.config.headerName: f"{self.config.prefix}{uuid.uuid4()}"}, event.body)
