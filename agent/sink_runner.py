"""A channel's way out: take, send, commit.

**One runner a sink** (or sink group). A sink that waits for one answer at a time is served in a plain loop; one that
keeps several sends open gets `Flights` (agent/flights.py).

Three kinds of failure. DeliveryError is the destination's: put back, wait, twice as long each time. Rejected is an
event's, and the batch is halved to find it (agent/halving.py). An exception that nobody raised on purpose is a bug of
the sink: the batch goes back and the sink is made anew; when the same head has done it five times, the batch is halved
as if it were rejected. Only the channel's own failure ends the agent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from agent.backoff import Backoff
from agent.channel import Channel, Take
from agent.component import Component
from agent.errors import AgentError, ChannelError, ChannelFull, Rejected
from agent.flights import Failure, Flights, Send
from agent.halving import Halving
from agent.metrics import SinkCounter
from agent.sink import Sink

CRASHES = 5
"""Unexpected exceptions on one head before its batch is halved."""
HEAD = 256
"""Bytes of a block by which its first event is known again."""
WIDEST = 10
"""Batches that are searched at most for one event that proves the others at fault."""


class Outlet(NamedTuple):
    """What a runner sends through: sinks that are not open yet, and the one way to all of them."""

    sinks: Sequence[Sink]
    send: Send
    processor: Component | None = None


class SinkRunner:
    """Drains `channel` until `finish` or cancellation. `make` gives new sinks with their attributes set."""

    def __init__(
        self, name: str, make: Callable[[], Outlet], channel: Channel, counter: SinkCounter, backoff: Backoff
    ) -> None:
        self.name, self.make, self.channel, self.counter, self.backoff = name, make, channel, counter, backoff
        self.log = logging.getLogger(f"{__name__}.{name}")
        self.sinks: Sequence[Sink] = ()
        self._processor: Component | None = None
        self._task: asyncio.Task[None] | None = None
        self._flights: Flights | None = None
        self._halving: Halving | None = None
        self._waiting = self._stopping = self._draining = False
        self._crash_head, self._crashes = b"", 0
        self._wider = 0

    async def run(self) -> None:
        """ChannelError if the channel fails; everything else is waited out. Cancelled: what is open goes back."""
        self._task = asyncio.current_task()
        try:
            await self._open()
            while not self._stopping:
                failure = await (self._one_by_one() if self._in_flight() == 1 else self._several())
                if failure:
                    await self._recover(failure)
        finally:
            await self._close()
            self.counter.say("stopped")

    def finish(self) -> None:
        """Take no more; `run` ends when what is under way is settled."""
        self._stopping = True
        if self._halving:
            self._halving.stopping = True
        if self._flights:
            self._flights.finish()
        elif self._waiting and self._task:
            self._task.cancel()

    def drain(self) -> None:
        """Go on until the channel is empty."""
        self._draining = True
        if not self.channel.depth:
            self.finish()

    def _in_flight(self) -> int:
        return min(sink.in_flight for sink in self.sinks)

    # -- the sink's life

    async def _open(self) -> None:
        """Make and open the sinks, as often as it takes."""
        failed = False
        while not await self._opened():
            failed = True
        self.counter.start()
        if failed:
            self._recovered("is open")
        elif not self.backoff.failures:
            self.counter.say("running")

    async def _opened(self) -> bool:
        """Whether one try succeeded; waits when it didn't."""
        try:
            self._waiting = True
            self.sinks, self._send, self._processor = self.make()
            receipt = self.channel.receipt()
            for sink in self.sinks:
                sink.receipt = receipt
                if sink.durable:
                    sink.keep = self.channel.keep_receipt
                await sink.open()
                if sink.receipt is not None and sink.receipt != receipt:
                    await self.channel.keep_receipt(sink.receipt)
            if self._processor:
                await self._processor.open()
        except Exception as error:
            self._waiting = False
            await self._close()
            await self._wait(error, "can't be opened")
            return False
        finally:
            self._waiting = False
        return True

    async def _close(self) -> None:
        processor, sinks = self._processor, self.sinks
        self._processor, self.sinks = None, ()
        for part in (processor, *sinks) if processor else sinks:
            try:
                await part.close()
            except Exception:
                self.log.exception("closing failed")
        self.counter.stop()

    async def _wait(self, error: Exception, what: str = "waits") -> None:
        """Back off; one line when the reason is new."""
        if _is_fatal(error):
            raise error
        seconds = self.backoff.next()
        text = str(error) or type(error).__name__
        if self.counter.say(f"waiting: {text}"):
            again = f"tries again in {seconds:g} s, then in up to {self.backoff.most:g} s"
            self.log.warning("%s %s: %s; %s", self.name, what, text, again)
        if self._stopping:
            return
        self._waiting = True
        try:
            await asyncio.sleep(seconds)
        finally:
            self._waiting = False

    def _recovered(self, how: str) -> None:
        self.log.info("%s %s, after %d failures", self.name, how, self.backoff.failures)
        self.backoff.reset()
        self.counter.say("running")

    # -- sending

    async def _take(self, limit: int | None = None) -> Take:
        """The next batch within the sink's limits; `finish` may end the wait."""
        sinks = self.sinks
        if len(sinks) == 1:
            most, max_bytes = sinks[0].batch_size, sinks[0].max_bytes
        else:
            most, max_bytes = min(s.batch_size for s in sinks), min(s.max_bytes for s in sinks)
        counter = self.counter
        if not self.channel.depth:
            counter.BatchEmptyCount += 1
        self._waiting = True
        try:
            take = await self.channel.take(min(limit or most, most), max_bytes)
        except ChannelError:
            counter.ChannelReadFail += 1
            raise
        finally:
            self._waiting = False
        count = take.batch.count
        counter.EventDrainAttemptCount += count
        if count >= most:
            counter.BatchCompleteCount += 1
        else:
            counter.BatchUnderflowCount += 1
        return take

    def _commit(self, take: Take, receipt: bytes | None) -> None:
        take.commit(receipt)
        self.counter.EventDrainSuccessCount += take.batch.count
        if self.backoff.failures:
            self._recovered("delivers again")
        if self._crash_head and self._crash_head == take.batch.block[:HEAD]:
            self._crash_head, self._crashes = b"", 0
        if self._draining and not self.channel.depth:
            self.finish()

    async def _one_by_one(self) -> Failure | None:
        """No task a send: this is the hot path. Ends with a failure, or when there is nothing more to do here."""
        sinks = self.sinks
        alone = sinks[0] if len(sinks) == 1 else None
        while not self._stopping and (alone.in_flight if alone else self._in_flight()) == 1:
            take = await self._take()
            try:
                receipt = await self._send(take.batch)
            except Exception as error:
                take.rollback()
                return Failure(error, take.batch)
            except BaseException:
                take.rollback()
                raise
            self._commit(take, receipt)
        return None

    async def _several(self) -> Failure | None:
        self._flights = Flights(self._take, self._send, self._commit, self._in_flight)
        try:
            return await self._flights.run()
        finally:
            self._flights = None

    # -- failures

    async def _recover(self, failure: Failure) -> None:
        error: Exception | None = failure.error
        if _is_fatal(failure.error):
            raise failure.error
        self.counter.EventWriteFail += 1
        if isinstance(error, Rejected):
            error = await self._halve(failure.batch.count, crashes=False)
        elif not isinstance(error, AgentError):
            error = await self._crashed(failure)
        if error:
            await self._wait(error)

    async def _crashed(self, failure: Failure) -> Exception | None:
        """A bug of the sink: make it anew, and suspect the batch when the same head has done it too often. An OSError
        is the world's fault, never an event's."""
        head = failure.batch.block[:HEAD]
        if head != self._crash_head:
            self._crash_head, self._crashes = head, 0
            self.log.error("%s: unexpected exception", self.name, exc_info=failure.error)
        self._crashes += not isinstance(failure.error, OSError)
        await self._close()
        if self._stopping:
            return None
        if self._crashes >= CRASHES:
            self._crash_head, self._crashes = b"", 0
            await self._open()
            return await self._halve(failure.batch.count, crashes=True)
        await self._wait(failure.error, "crashed")
        await self._open()
        return None

    async def _halve(self, count: int, crashes: bool) -> Exception | None:
        """`crashes`: unexpected exceptions are an event's fault as well, and the sink is made anew after each.

        A batch of which every event was rejected alike is searched together with what follows it the next time: several
        bad events in a row must not stop the channel for good.
        """

        def faulty(error: Exception) -> bool:
            unexpected = not isinstance(error, AgentError | OSError)
            return isinstance(error, Rejected) or (crashes and unexpected)

        async def attempt(take: Take) -> Exception | None:
            error = await self._try(take)
            if error and crashes and not isinstance(error, AgentError):
                await self._close()
                await self._open()
            return error

        count = max(count, min(self._wider, self.channel.depth))
        most = WIDEST * min(sink.batch_size for sink in self.sinks)
        self._halving = Halving(self._take, attempt, faulty, self._bury)
        try:
            error = await self._halving.run(count)
        finally:
            self._halving = None
        self._wider = min(2 * count, most) if error else 0
        return error

    async def _try(self, take: Take) -> Exception | None:
        try:
            receipt = await self._send(take.batch)
        except Exception as error:
            if _is_fatal(error):
                raise
            return error
        self._commit(take, receipt)
        return None

    async def _bury(self, take: Take, reason: str) -> None:
        await take.bury(reason)
        self.counter.rejected += take.batch.count
        self.log.error("%s: an event can never be delivered and is a dead letter now: %s", self.name, reason)


def _is_fatal(error: Exception) -> bool:
    return isinstance(error, ChannelError) and not isinstance(error, ChannelFull)
