"""Selector: which channels a batch goes to. Pure."""

from __future__ import annotations

from typing import NamedTuple

from agent.component import Component
from agent.config.fields import Config
from agent.event import Batch


class Route(NamedTuple):
    """Events that go to the same channels: `required` hold the source back when full, `optional` drop and count."""

    required: tuple[str, ...]
    optional: tuple[str, ...]
    batch: Batch


class Selector(Component):
    """Names only: the channel processor holds the channels. `channels` are those of its source, in order."""

    def __init__(self, name: str, config: Config, channels: list[str]) -> None:
        super().__init__(name, config)
        self.channels = channels

    def select(self, batch: Batch) -> list[Route]:
        """Every event in at most one route, so that a store keeps it once, whatever number of channels it goes to.

        Each channel sees its events in the batch's order when the routes are put one after another. An event that
        goes nowhere is in no route. The same batch object is returned where a route holds all of it.
        """
        raise NotImplementedError

    def problems(self) -> list[tuple[str, str]]:
        """(key, what is wrong), such as a mapping to a channel that the source doesn't have."""
        return []
