"""Several sends open at once, started in order.

Each send has a task and is committed when its answer comes; the channel keeps the gaps. When one fails, those before
it come to their end, those after it are cancelled, and everything that was not answered goes back, so that the order
stays. Nothing goes back while a send is open or the channel is being taken from: it would be taken at once and
overtake.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

from agent.channel import Take
from agent.errors import DeliveryError
from agent.event import Batch

Send = Callable[[Batch], Awaitable[bytes | None]]


class Failure(NamedTuple):
    """What a send raised, and its batch, which has gone back."""

    error: Exception
    batch: Batch


@dataclass(slots=True, eq=False)
class Flight:
    """A send that is under way, or has failed."""

    take: Take
    task: asyncio.Task[None] | None = None
    error: Exception | None = None


class Flights:
    """One stretch of sending, from the first take to a failure, to `finish`, or until `limit` allows one at a time."""

    def __init__(
        self,
        take: Callable[[], Awaitable[Take]],
        send: Send,
        commit: Callable[[Take, bytes | None], None],
        limit: Callable[[], int],
    ) -> None:
        self.take, self.send, self.commit, self.limit = take, send, commit, limit
        self.line: deque[Flight] = deque()
        self.changed = asyncio.Event()
        self.slot = asyncio.Event()
        self.pump = asyncio.create_task(self._pump(), name="takes")

    def finish(self) -> None:
        """Take no more; `run` ends when what is open is answered."""
        self.pump.cancel()

    async def run(self) -> Failure | None:
        """The failure of the earliest send that failed. Raises what `take` raised; cancelled, everything goes back."""
        try:
            while not self.pump.done() and not any(flight.error for flight in self.line):
                self.changed.clear()
                await self.changed.wait()
            self.pump.cancel()
            await asyncio.wait({self.pump})
            await self._settle()
            failure = next((Failure(f.error, f.take.batch) for f in self.line if f.error), None)
        finally:
            await self._put_back()
        broken = None if self.pump.cancelled() else self.pump.exception()
        if broken and not failure:
            raise broken
        return failure

    async def _pump(self) -> None:
        """Start sends, as many as may be open."""
        try:
            while self.limit() > 1:
                while len(self.line) >= self.limit():
                    self.slot.clear()
                    await self.slot.wait()
                flight = Flight(await self.take())
                self.line.append(flight)
                flight.task = asyncio.create_task(self._fly(flight), name="sends")
                flight.task.add_done_callback(self._landed)
        finally:
            self.changed.set()

    def _landed(self, task: asyncio.Task[None]) -> None:
        self.slot.set()
        self.changed.set()

    async def _fly(self, flight: Flight) -> None:
        try:
            receipt = await self.send(flight.take.batch)
        except Exception as error:
            flight.error = error
        except asyncio.CancelledError:
            flight.error = DeliveryError("the send was cancelled")
            raise
        else:
            if flight in self.line:
                self.line.remove(flight)
                self.commit(flight.take, receipt)

    async def _settle(self) -> None:
        """Cancel what comes after the first failure, and let what is before it come to its end."""
        while True:
            failed = next((i for i, flight in enumerate(self.line) if flight.error), len(self.line))
            for flight in list(self.line)[failed + 1 :]:
                if flight.task:
                    flight.task.cancel()
            if not failed:
                return
            self.changed.clear()
            await self.changed.wait()

    async def _put_back(self) -> None:
        tasks = [self.pump, *(flight.task for flight in self.line if flight.task)]
        for task in tasks:
            task.cancel()
        try:
            await asyncio.wait(tasks)
        finally:
            for flight in self.line:
                flight.take.rollback()
            self.line.clear()
