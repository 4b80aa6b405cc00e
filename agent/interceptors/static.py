"""Puts one fixed header on each event (Flume's StaticInterceptor)."""

from __future__ import annotations

from typing import ClassVar

from agent.config.fields import Config as AnyConfig
from agent.config.fields import key
from agent.event import Batch, Event
from agent.interceptor import Interceptor


class StaticConfig(AnyConfig):
    header: str = key("key", "key", doc="name of the header")
    value: str = key("value", "value", doc="its value")
    preserveExisting: bool = key("preserveExisting", True, doc="leave a header that is there")


class StaticInterceptor(Interceptor):
    """Adds `key` = `value`; an event that has it keeps its own unless preserveExisting = false."""

    Config: ClassVar[type[AnyConfig]] = StaticConfig
    config: StaticConfig

    def intercept(self, batch: Batch) -> Batch:
        name, value = self.config.header, self.config.value
        keep = self.config.preserveExisting
        if all(name in headers if keep else headers.get(name) == value for headers, _ in batch.events):
            return batch
        return batch.with_events(
            [
                event if keep and name in event.headers else Event({**event.headers, name: value}, event.body)
                for event in batch.events
            ]
        )
