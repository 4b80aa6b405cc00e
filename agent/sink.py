"""Sink: hands batches to the far side."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import ClassVar, NamedTuple

from agent.component import Component
from agent.config.fields import Config, Seconds, key
from agent.errors import DeliveryError
from agent.event import Batch
from agent.metrics import SinkCounter
from agent.store.streams import Identity


class SinkConfig(Config):
    """Keys that every sink has."""

    channel: str = key("channel", doc="the channel it drains")
    backoff: Seconds = key("backoff", Seconds(1.0), unit="ms", low=0.001, doc="first wait after a failure; doubles")
    maxBackoff: Seconds = key("maxBackoff", Seconds(30.0), unit="ms", low=0.001, doc="longest wait after failures")


class Held(NamedTuple):
    """What an audit finds at a destination: runs of identities, and the file that holds them ("" for rows).

    `gone` says why they can't be read there any more ("is not there"); "" if they can.
    """

    runs: tuple[Identity, ...]
    place: str = ""
    gone: str = ""


async def _keep_nothing(receipt: bytes) -> None:
    """Where nobody keeps receipts."""


class Sink(Component):
    """`send` returns once the far side has accepted.

    Set by the agent before `open`: `receipt`, the last receipt that was kept (None at first, or where the channel
    keeps none); `durable`, whether receipts are kept; `keep`; `folder`; `counter`. If `open` sets another `receipt`,
    the runner keeps it before the first `send`.
    """

    Config: ClassVar[type[Config]] = SinkConfig
    receipt: bytes | None = None
    durable: bool = False
    keeps_receipt: ClassVar[bool] = False
    """Whether its `send` returns receipts. A channel keeps one: of two such sinks on a channel neither is `durable`."""
    holds_its_own: ClassVar[bool] = False
    """Whether `held` tells what this sink wrote, and not all that its destination holds, whoever wrote it."""
    keep: Callable[[bytes], Awaitable[None]] = staticmethod(_keep_nothing)
    """Keep a receipt now, with the place in the channel that all `send`s so far have led to; returns once both are on
    the device. For what must be said before it is done outside (a file is about to get its final name). DeliveryError
    if it could not be kept; does nothing where none are kept."""
    folder: Path | None = None
    """Where the channel keeps its events: the place for what a sink keeps beside its receipt. None: in memory."""
    counter: SinkCounter

    batch_size: int = 100
    """Most events the runner takes for one `send`."""
    max_bytes: int = 1 << 20
    """Most bytes of block for one `send`; may change when the far side says its limit."""
    in_flight: int = 1
    """How many `send` may wait for the far side at once; they are started in order."""

    async def send(self, batch: Batch) -> bytes | None:
        """Deliver; may be called again with the same batch. Returns a receipt (at most 64 KiB) or None.

        DeliveryError: a condition of the destination, the batch waits. Rejected: a cause in an event itself.
        """
        raise NotImplementedError

    def held(self) -> Iterator[Held]:
        """For an audit: what the destination really holds of what this sink sent, by identity, in any order.

        Called on a sink that is not open, with `folder` set, while another process may be sending. DeliveryError where
        it can't be known: the text says why, or which key to set; what was found before counts nonetheless.
        """
        raise DeliveryError("what it sends carries no identity that can be read back")
