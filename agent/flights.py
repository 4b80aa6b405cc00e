"""Several sends open at once, started in order.

A few workers, each with one batch at a time: take, send, commit. One of them takes, the others send or wait for their
turn to take; whoever has taken passes the turn on and sends in the same step, so sends start in the channel's order and
no task is made for a batch. The channel keeps the gaps.

When a send fails, those before it come to their end, those after it are cancelled, and everything that was not answered
goes back, so that the order stays. Nothing goes back while a send is open or the channel is being taken from: it would
be taken at once and overtake.
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
Worker = asyncio.Task[None]


class Failure(NamedTuple):
    """What a send raised, and its batch, which has gone back."""

    error: Exception
    batch: Batch


@dataclass(slots=True, eq=False)
class Flight:
    """A send that is under way, or has failed."""

    take: Take
    worker: Worker
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
        """Something to look at for `run`, once the end has begun."""
        self.workers: set[Worker] = set()
        self.taker: Worker | None = None
        self.waiting: deque[asyncio.Future[None]] = deque()
        """Workers whose turn it isn't."""
        self.ending = False
        self.broken: Exception | None = None
        """What `take` raised."""

    def finish(self) -> None:
        """Take no more; `run` ends when what is open is answered."""
        self.ending = True
        self.changed.set()

    async def run(self) -> Failure | None:
        """The failure of the earliest send that failed. Raises what `take` raised; cancelled, everything goes back."""
        try:
            self._hire()
            await self.changed.wait()
            await self._end_takes()
            await self._settle()
            failure = next((Failure(f.error, f.take.batch) for f in self.line if f.error), None)
        finally:
            await self._put_back()
        if self.broken and not failure:
            raise self.broken
        return failure

    # -- workers

    def _hire(self) -> None:
        worker = asyncio.create_task(self._work(), name="sends")
        self.workers.add(worker)
        worker.add_done_callback(self._left)

    def _left(self, worker: Worker) -> None:
        self.workers.discard(worker)
        error = None if worker.cancelled() else worker.exception()
        if isinstance(error, Exception):
            self.broken = error
            self.finish()

    async def _work(self) -> None:
        """Take, send, commit, until the end begins."""
        worker = asyncio.current_task()
        assert worker
        while not self.ending:
            if self.taker or len(self.line) >= max(1, self.limit()):
                await self._wait()
                continue
            flight = await self._taken(worker)
            if flight:
                await self._fly(flight)

    async def _wait(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        await future

    async def _taken(self, worker: Worker) -> Flight | None:
        """The next batch, put in line; None if the end has begun instead."""
        if self.limit() <= 1:
            self.finish()
            return None
        self.taker = worker
        try:
            take = await self.take()
        except Exception as error:
            self.broken = error
            self.finish()
            return None
        finally:
            self.taker = None
        flight = Flight(take, worker)
        self.line.append(flight)
        self._pass_on()
        return flight

    def _pass_on(self) -> None:
        """Let another worker take, if one more send may be open."""
        if self.ending or len(self.line) >= self.limit():
            return
        while self.waiting:
            future = self.waiting.popleft()
            if not future.done():
                future.set_result(None)
                return
        if len(self.workers) < self.limit():
            self._hire()

    async def _fly(self, flight: Flight) -> None:
        try:
            receipt = await self.send(flight.take.batch)
        except Exception as error:
            flight.error = error
            self.finish()
        except asyncio.CancelledError:
            flight.error = DeliveryError("the send was cancelled")
            raise
        else:
            if flight in self.line:
                self.line.remove(flight)
                self.commit(flight.take, receipt)
            if self.ending:
                self.changed.set()

    # -- the end

    async def _end_takes(self) -> None:
        """Nobody takes any more; sends go on."""
        idle = self.workers - {flight.worker for flight in self.line}
        for worker in idle:
            worker.cancel()
        if idle:
            await asyncio.wait(idle)

    async def _settle(self) -> None:
        """Cancel what comes after the first failure, and let what is before it come to its end."""
        while True:
            failed = next((i for i, flight in enumerate(self.line) if flight.error), len(self.line))
            for flight in list(self.line)[failed + 1 :]:
                flight.worker.cancel()
            if not failed:
                return
            self.changed.clear()
            await self.changed.wait()

    async def _put_back(self) -> None:
        workers = list(self.workers)
        for worker in workers:
            worker.cancel()
        try:
            if workers:
                await asyncio.wait(workers)
        finally:
            for flight in self.line:
                flight.take.rollback()
            self.line.clear()
