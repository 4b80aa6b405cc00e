"""Source: takes readings in. It answers its peer only after `process` returned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple, Protocol

from agent.component import Component
from agent.config.fields import Config, key
from agent.event import Batch
from agent.metrics import SourceCounter

Marks = Mapping[str, bytes]
"""Positions of a source (file offset, window of identifiers), by a name of its own."""


class Kept(NamedTuple):
    """What became of a batch: how many events were stored now, how many were there already."""

    stored: int
    repeats: int


class DeadLetter(NamedTuple):
    """Something that can never be delivered: the event's headers and raw body, and why."""

    headers: dict[str, str]
    body: bytes
    reason: str


class Process(Protocol):
    """The way into the channels (agent/channel_processor.py)."""

    async def __call__(self, batch: Batch, marks: Marks | None = None) -> Kept: ...


class Bury(Protocol):
    """The way into the dead letters for what can never be stored; `marks` are kept in the same transaction."""

    async def __call__(self, letters: list[DeadLetter], marks: Marks | None = None) -> None: ...


class SourceConfig(Config):
    """Keys that every source has; the wiring reads them."""

    channels: list[str] = key("channels", doc="channels that the events go to")


class Source(Component):
    """`run` hands batches to `await self.process(batch, marks)` and answers its peer only after that returned.

    Set by the agent before `open`: `process` and `bury`; `marks`, what this source's last marks were (empty if the
    channels keep none); `durable`, whether an acknowledged event survives a restart; `counter`.
    `process` raises ChannelFull: say so to the peer in its own protocol; ChannelError: let it pass, the agent stops.
    """

    Config: ClassVar[type[Config]] = SourceConfig
    process: Process
    bury: Bury
    marks: Marks
    durable: bool
    counter: SourceCounter
    ready: bool = True

    async def run(self) -> None:
        """Take readings in until cancelled. Returning means that the source is done (seq with totalEvents)."""
        raise NotImplementedError
