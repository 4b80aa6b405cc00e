"""What every sink keeps: inherited by the tests of each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import pytest

from agent.errors import DeliveryError
from agent.metrics import SinkCounter
from agent.sink import Sink
from tests.contracts.channel import batch


class FarSide(Protocol):
    """A sink that isn't open yet, and the far side that it sends to."""

    sink: Sink

    async def arrived(self) -> list[str]:
        """Bodies that the far side holds, in order; what is repeated is there twice unless the far side is keyed."""
        ...

    async def go_away(self) -> None:
        """Make the far side unreachable, refuse, or full, for a reason that is not in an event."""
        ...

    async def come_back(self) -> None:
        """Undo go_away."""
        ...


class SinkContract:
    """Override `far_side`; set `can_go_away = False` for a sink without a destination that fails (logger, null)."""

    can_go_away = True
    keyed = False
    """The far side recognises a batch that it has (sqlite, our own receiver)."""

    back_seconds = 20.0
    """How long a far side that has come back may take until a send succeeds; a bound, never a measurement."""

    def far_side(self) -> AbstractAsyncContextManager[FarSide]:
        raise NotImplementedError

    def run(self, steps: Callable[[FarSide], Coroutine[Any, Any, None]]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(40 + self.back_seconds), self.far_side() as far:
                if not hasattr(far.sink, "counter"):
                    far.sink.counter = SinkCounter(far.sink.name)
                try:
                    await steps(far)
                finally:
                    await far.sink.close()

        asyncio.run(bounded())

    def test_a_batch_that_was_sent_has_arrived(self) -> None:
        """When send returns, the far side has every event, in order."""

        async def steps(far: FarSide) -> None:
            await far.sink.open()
            await far.sink.send(batch(*"abc"))
            assert await far.arrived() == ["a", "b", "c"]
            await far.sink.send(batch(*"de"))
            assert await far.arrived() == ["a", "b", "c", "d", "e"]

        self.run(steps)

    def test_a_batch_may_be_sent_again(self) -> None:
        """The same batch object a second time is accepted, and whole."""

        async def steps(far: FarSide) -> None:
            await far.sink.open()
            again = batch(*"abc")
            await far.sink.send(again)
            await far.sink.send(again)
            assert await far.arrived() in (["a", "b", "c"] * 2, ["a", "b", "c"] if self.keyed else None)

        self.run(steps)

    def test_a_far_side_that_is_away_is_a_delivery_error(self) -> None:
        """DeliveryError, not a library's error; and when it is back the same sink, or a new one, delivers."""
        if not self.can_go_away:
            return

        async def steps(far: FarSide) -> None:
            await far.sink.open()
            await far.sink.send(batch("before"))
            await far.go_away()
            with pytest.raises(DeliveryError):
                await far.sink.send(batch("meanwhile"))
            await far.come_back()
            async with asyncio.timeout(self.back_seconds):
                while True:
                    try:
                        await far.sink.send(batch("after"))
                        break
                    except DeliveryError:
                        await asyncio.sleep(0.05)
            assert (await far.arrived())[-1] == "after"

        self.run(steps)

    def test_a_cancelled_send_leaves_the_sink_usable(self) -> None:
        """Cancelled at any of its first steps; the next send delivers."""

        async def steps(far: FarSide) -> None:
            await far.sink.open()
            for turns in range(6):
                send = asyncio.create_task(far.sink.send(batch("x")))
                for _ in range(turns):
                    await asyncio.sleep(0)
                send.cancel()
                await asyncio.gather(send, return_exceptions=True)
            async with asyncio.timeout(20):
                while True:
                    try:
                        await far.sink.send(batch("last"))
                        break
                    except DeliveryError:
                        await asyncio.sleep(0.05)
            assert (await far.arrived())[-1] == "last"

        self.run(steps)

    def test_close_without_open_does_nothing(self) -> None:
        """close is called whatever happened before."""

        async def steps(far: FarSide) -> None:
            pass  # run closes it

        self.run(steps)

    def test_the_limits_are_sane(self) -> None:
        """batch_size, max_bytes and in_flight are positive once it is open."""

        async def steps(far: FarSide) -> None:
            await far.sink.open()
            assert min(far.sink.batch_size, far.sink.max_bytes, far.sink.in_flight) >= 1

        self.run(steps)
