"""Selector: which channels a batch goes to. Pure."""

from __future__ import annotations

from agent.component import Component
from agent.config.fields import Config
from agent.event import Batch


class Selector(Component):
    """Names only: the channel processor holds the channels. `channels` are those of its source, in order."""

    def __init__(self, name: str, config: Config, channels: list[str]) -> None:
        super().__init__(name, config)
        self.channels = channels

    def select(self, batch: Batch) -> tuple[list[tuple[str, Batch]], list[tuple[str, Batch]]]:
        """(required, optional) pairs of channel and batch; the same batch object where a channel gets all of it."""
        raise NotImplementedError

    def problems(self) -> list[tuple[str, str]]:
        """(key, what is wrong), such as a mapping to a channel that the source doesn't have."""
        return []
