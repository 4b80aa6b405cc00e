"""What every source that answers a peer keeps: inherited by the tests of each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

from agent.errors import ChannelFull
from agent.event import Batch
from agent.metrics import SourceCounter
from agent.source import DeadLetter, Kept, Marks, Source
from tests.contracts.channel import settle


class Door:
    """A source's `process` and `bury` under the test's hand: holds batches while `shut`, refuses them while `full`."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.marks: dict[str, bytes] = {}
        self.letters: list[DeadLetter] = []
        self.open = asyncio.Event()
        self.open.set()
        self.knocked = asyncio.Event()
        self.full = False

    async def process(self, batch: Batch, marks: Marks | None = None) -> Kept:
        self.knocked.set()
        await self.open.wait()
        if self.full:
            raise ChannelFull("channel c1 is full")
        self.batches.append(batch)
        self.marks |= marks or {}
        return Kept(batch.count, 0)

    async def bury(self, letters: list[DeadLetter], marks: Marks | None = None) -> None:
        self.letters += letters
        self.marks |= marks or {}

    @property
    def bodies(self) -> list[str]:
        return [event.body.decode() for batch in self.batches for event in batch.events]


class SourceContract:
    """Override `peer`, and `make` for the source's Config."""

    repeats_by_itself = False
    """The peer (a broker) keeps what was refused and offers it again, instead of being told."""

    def make(self) -> Source:
        """A source on a free port, not open yet."""
        raise NotImplementedError

    def peer(self, source: Source) -> AbstractAsyncContextManager[Callable[[str], Coroutine[Any, Any, bool]]]:
        """A client of an open source: `await send(body)` is True if acknowledged, False if refused."""
        raise NotImplementedError

    def run(self, steps: Callable[[Source, Door, Any], Coroutine[Any, Any, None]]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(60):
                source, door = self.make(), Door()
                source.process, source.bury = door.process, door.bury
                source.marks, source.durable = {}, True
                source.counter = SourceCounter(source.name)
                async with source:
                    running = asyncio.create_task(source.run())
                    async with self.peer(source) as send:
                        try:
                            await steps(source, door, send)
                        finally:
                            running.cancel()
                            await asyncio.gather(running, return_exceptions=True)

        asyncio.run(bounded())

    def test_what_is_acknowledged_was_processed(self) -> None:
        """Each body arrives once, in order, and is counted as received and accepted."""

        async def steps(source: Source, door: Door, send: Any) -> None:
            for body in "abc":
                assert await send(body)
            assert door.bodies == ["a", "b", "c"]
            assert source.counter.EventReceivedCount == source.counter.EventAcceptedCount == 3

        self.run(steps)

    def test_nothing_is_answered_before_process_returned(self) -> None:
        """While process waits, the peer waits."""

        async def steps(source: Source, door: Door, send: Any) -> None:
            door.open.clear()
            answer = asyncio.create_task(send("a"))
            await door.knocked.wait()
            await settle()
            assert not answer.done()
            assert door.bodies == []
            door.open.set()
            assert await answer
            assert door.bodies == ["a"]

        self.run(steps)

    def test_a_full_channel_is_said_to_the_peer(self) -> None:
        """ChannelFull is no acknowledgement; when there is room the peer is served again."""

        async def steps(source: Source, door: Door, send: Any) -> None:
            door.full = True
            if self.repeats_by_itself:
                waiting = asyncio.create_task(send("a"))
                await door.knocked.wait()
                await settle()
                assert not waiting.done()
                door.full = False
                assert await waiting
            else:
                assert not await send("a")
                door.full = False
                assert await send("a")
            assert door.bodies == ["a"]

        self.run(steps)

    def test_run_may_be_cancelled_while_process_waits(self) -> None:
        """Cancelled and closed in the middle of a put: it ends, and nothing was acknowledged."""
        answers: list[asyncio.Task[bool]] = []

        async def steps(source: Source, door: Door, send: Any) -> None:
            door.open.clear()
            answers.append(asyncio.create_task(send("a")))
            await door.knocked.wait()
            await settle()

        self.run(steps)
        assert answers[0].cancelled() or answers[0].exception() or not answers[0].result()
