"""Whose fault is it? A batch was rejected, but not the event that is at fault.

The batch is halved until the parts are single events, left to right; each accepted part moves the cursor. A rejected
event is held (its take stays open) until another event of the batch was accepted, or was rejected for another reason;
only then is it buried. When all of two or more are rejected for one reason the destination is at fault after all:
everything goes back and waits. A batch of one event has nothing to be compared with and is buried at once.

Parts are taken from the channel again, each with its own limit: a take can only be committed whole.
"""

from __future__ import annotations

import asyncio
import re
import traceback
from collections.abc import Awaitable, Callable

from agent.channel import Take
from agent.errors import AgentError, ChannelFull, DeliveryError

PART_SECONDS = 1.0
"""How long the next part is waited for; another sink of the channel may have taken it."""


class Halving:
    """`take` gives at most so many events; `attempt` sends and commits a take, or returns why not; `faulty` says
    whether that may be an event's fault; `bury` ends a take as a dead letter."""

    def __init__(
        self,
        take: Callable[[int], Awaitable[Take]],
        attempt: Callable[[Take], Awaitable[Exception | None]],
        faulty: Callable[[Exception], bool],
        bury: Callable[[Take, str], Awaitable[None]],
    ) -> None:
        self.take, self.attempt, self.faulty, self.bury = take, attempt, faulty, bury
        self.held: list[tuple[Take, str]] = []
        self.stopping = False

    async def run(self, count: int) -> Exception | None:
        """Find the events at fault among the next `count`. None if the rest went through, else why all of it waits."""
        self.sizes = [count - count // 2, count // 2] if count > 1 else [1]
        self.proved = count == 1
        try:
            while self.sizes and not self.stopping:
                error = await self._part(self.sizes.pop())
                if error:
                    return error
                if self.proved:
                    await self._bury_held()
            return DeliveryError(f"rejects whole batches: {self.held[0][1]}") if self.held else None
        except ChannelFull as full:
            return DeliveryError(f"the dead letters have no room: {full}")
        finally:
            for take, _ in self.held:
                take.rollback()

    async def _part(self, size: int) -> Exception | None:
        """Send the next part; an error is none that an event is at fault for."""
        try:
            async with asyncio.timeout(PART_SECONDS):
                take = await self.take(size)
        except TimeoutError:
            self.sizes.clear()
            return None
        taken = take.batch.count
        if taken < size:
            self.sizes.append(size - taken)
        try:
            error = await self.attempt(take)
        except BaseException:
            take.rollback()
            raise
        if error is None:
            self.proved = True
        elif not self.faulty(error):
            take.rollback()
            return error
        elif taken > 1:
            take.rollback()
            self.sizes += [taken - taken // 2, taken // 2]
        else:
            self.held.append((take, reason(error)))
            self.proved = self.proved or len({_kind(why) for _, why in self.held}) > 1
        return None

    async def _bury_held(self) -> None:
        while self.held:
            await self.bury(*self.held[0])
            self.held.pop(0)


def reason(error: Exception) -> str:
    """What the dead letter says: the error's text, or the last lines of an unexpected one's traceback."""
    if isinstance(error, AgentError):
        return str(error) or type(error).__name__
    return "".join(traceback.format_exception(error)).strip()[-600:]


def _kind(why: str) -> str:
    """Reasons that differ in numbers alone (a row, a size) are one reason."""
    return re.sub(r"\d+", "#", why)
