"""Channel: keeps batches between a source and a sink."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, NamedTuple, Self

from agent.component import Component
from agent.event import Batch
from agent.metrics import ChannelCounter
from agent.source import DeadLetter, Kept

SourceMarks = tuple[str, Mapping[str, bytes]]
"""(name of the source, its marks)."""


class Take(ABC):
    """A batch taken from a channel's head: exactly one of commit, rollback or bury ends it.

    `async with` commits (with `receipt`, if one was set) when the block is left, and rolls back on an exception or
    cancellation.
    """

    batch: Batch
    receipt: bytes | None = None

    @abstractmethod
    def commit(self, receipt: bytes | None = None) -> None:
        """The far side has it. Never waits; the cursor is kept with the next commit of the store."""

    @abstractmethod
    def rollback(self) -> None:
        """Put the events back, at their place in the order."""

    @abstractmethod
    async def bury(self, reason: str) -> None:
        """Into the dead letters and step over, in one transaction. Memory channels log, count and drop."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.commit(self.receipt)
        else:
            self.rollback()


class Put(NamedTuple):
    """A batch and the channels of one home that it goes to; `optional` ones drop and count when they are full."""

    batch: Batch
    channels: Sequence[Channel]
    optional: Sequence[Channel] = ()


class Channel(Component):
    """put and take, all or nothing, in order. Set by the agent before `open`: `counter`."""

    durable: ClassVar[bool] = False
    counter: ChannelCounter

    @property
    def volatile(self) -> bool:
        """Whether what is inside is lost when the process ends. A channel that keeps events and neither marks nor
        receipts is neither volatile nor `durable`."""
        return not self.durable

    @property
    def home(self) -> object:
        """Channels with one home put together in one transaction (a store); by default each is its own."""
        return self

    async def put(self, batch: Batch, marks: SourceMarks | None = None) -> Kept:
        """Keep the whole batch, and the source's marks with it, as durably as this channel keeps things, or raise.

        ChannelFull: no room within keep-alive, or the batch is over a limit. A cancelled put is all or nothing too.
        """
        return await self.put_all([Put(batch, (self,))], marks)

    @abstractmethod
    async def put_all(self, puts: Sequence[Put], marks: SourceMarks | None = None) -> Kept:
        """Put several batches into channels of this home, all or nothing, in order. Kept counts each event once.

        Batches that share a `transit` stream are parts of one received batch (a multiplexing selector cut it): repeats
        are judged against what was known before the call.
        """

    @abstractmethod
    async def take(self, limit: int, max_bytes: int = 1 << 20) -> Take:
        """Wait for data, then the next events in order: at most `limit`, and at most `max_bytes` of block (one event
        at least). Several takes may be open; what a rollback puts back is taken again first.
        """

    async def bury(self, letters: list[DeadLetter], marks: SourceMarks | None = None) -> None:
        """Keep what a source can never store as dead letters. Here: log, count and drop."""
        for letter in letters:
            self.log.error("dropped what can never be kept (%s); this channel has no dead letters", letter.reason)
        self.counter.dropped += len(letters)

    def marks(self, source: str) -> Mapping[str, bytes]:
        """What a source's last marks were; empty where none are kept."""
        return {}

    def receipt(self) -> bytes | None:
        """The receipt stored with this channel's cursor, for the sink's `open`."""
        return None

    async def keep_receipt(self, receipt: bytes) -> None:
        """Store a receipt now, with the cursor as all commits so far have left it; returns once both are on the device.
        DeliveryError if there is no room even for that. Nothing happens where none are kept."""

    @property
    def folder(self) -> Path | None:
        """Where it keeps its events, if it does so in files."""
        return None

    @property
    def depth(self) -> int:
        """Events inside, those of open takes included."""
        return 0
