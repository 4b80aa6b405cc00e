"""Every channel gets every event (Flume's ReplicatingChannelSelector, the default)."""

from __future__ import annotations

from typing import ClassVar

from agent.config.fields import Config as AnyConfig
from agent.config.fields import key
from agent.event import Batch
from agent.selector import Route, Selector


class ReplicatingConfig(AnyConfig):
    optional: list[str] = key("optional", [], doc="channels that drop and count when full instead of holding back")


class ReplicatingSelector(Selector):
    """One route with the same batch object; nothing is decoded."""

    Config: ClassVar[type[AnyConfig]] = ReplicatingConfig
    config: ReplicatingConfig

    def __init__(self, name: str, config: AnyConfig, channels: list[str]) -> None:
        super().__init__(name, config, channels)
        optional = set(self.config.optional)
        self.required = tuple(channel for channel in channels if channel not in optional)
        self.optional = tuple(channel for channel in channels if channel in optional)

    def select(self, batch: Batch) -> list[Route]:
        return [Route(self.required, self.optional, batch)]

    def problems(self) -> list[tuple[str, str]]:
        strange = [channel for channel in self.config.optional if channel not in self.channels]
        return [("optional", f"{channel!r} is not a channel of this source") for channel in strange]
