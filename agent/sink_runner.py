"""A channel's way out: take, send, commit.

**One runner a sink** (or sink group). A sink that waits for one answer at a time is served in a plain loop; one that
keeps several sends open gets a task for each, started in order, committed as the answers come (the channel keeps the
gaps). When one fails, the later ones are cancelled and all go back, so that the order stays.

**Whose fault is it?** DeliveryError is the destination's: put back, wait, twice as long each time. Rejected says that
an event is at fault, but not which: the batch is halved until it is single, left to right, each accepted part moving
the cursor. A rejected event is held until another event of its batch was accepted, or was rejected for another reason,
and only then buried; when all of two or more are rejected for one reason, the destination is at fault after all and
everything waits. An exception that nobody raised on purpose is a bug of the sink: the batch goes back and the sink is
made anew; when the same head has done it five times, the batch is halved as if it were rejected. Only the channel's
own failure ends the agent.
"""

from __future__ import annotations

import asyncio
import logging
import re
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from agent.backoff import Backoff
from agent.channel import Channel, Take
from agent.component import Component
from agent.errors import AgentError, ChannelError, ChannelFull, DeliveryError, Rejected
from agent.event import Batch
from agent.metrics import SinkCounter
from agent.sink import Sink

Send = Callable[[Batch], Awaitable[bytes | None]]
CRASHES = 5
"""Unexpected exceptions on one head before its batch is halved."""
PART_SECONDS = 1.0
"""How long a halved batch waits for its next part; another sink of the channel may have taken it."""
HEAD = 256
"""Bytes of a block by which its first event is known again."""


class Outlet(NamedTuple):
    """What a runner sends through: the sinks, made anew after each crash, and the one way to all of them."""

    sinks: Sequence[Sink]
    send: Send
    processor: Component | None = None


class Failure(NamedTuple):
    error: BaseException
    batch: Batch


@dataclass(slots=True, eq=False)
class Flight:
    """A send that is under way."""

    take: Take
    task: asyncio.Task[None] | None = None
    error: BaseException | None = None


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
        self._pump_task: asyncio.Task[None] | None = None
        self._waiting = self._stopping = self._draining = False
        self._crash_head, self._crashes = b"", 0

    async def run(self) -> None:
        """ChannelError if the channel fails; everything else is waited out. Cancelled: what is open goes back."""
        self._task = asyncio.current_task()
        try:
            await self._open()
            while not self._stopping:
                failure = await (self._one_by_one() if self._in_flight == 1 else self._several())
                if failure:
                    await self._recover(failure)
        finally:
            await self._close()
            self.counter.say("stopped")

    def finish(self) -> None:
        """Take no more; end when what is under way is settled."""
        self._stopping = True
        task = self._pump_task or self._task
        if self._waiting and task:
            task.cancel()

    def drain(self) -> None:
        """Go on until the channel is empty."""
        self._draining = True
        if not self.channel.depth:
            self.finish()

    @property
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
        self._waiting = True
        try:
            self.sinks, self._send, self._processor = self.make()
            receipt = self.channel.receipt()
            for sink in self.sinks:
                sink.receipt = receipt
                await sink.open()
                if sink.receipt is not None and sink.receipt != receipt:
                    await self.channel.keep_receipt(sink.receipt)
            if self._processor:
                await self._processor.open()
        except Exception as error:
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

    async def _wait(self, error: BaseException, what: str = "waits") -> None:
        """Back off; one line when the reason is new."""
        seconds = self.backoff.next()
        if _is_fatal(error):
            raise error
        text = str(error) or type(error).__name__
        if self.counter.say(f"waiting: {text}"):
            again = f"tries again in {seconds:g} s, then in up to {self.backoff.most:g} s"
            self.log.warning("%s %s: %s; %s", self.name, what, text, again)
        self._waiting = True
        try:
            await asyncio.sleep(seconds)
        finally:
            self._waiting = False

    # -- the plain loop

    async def _take(self, limit: int | None = None) -> Take:
        """The next batch within the limits; `finish` may end the wait."""
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
            take = await self.channel.take(limit or most, max_bytes)
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

    def _recovered(self, how: str) -> None:
        self.log.info("%s %s, after %d failures", self.name, how, self.backoff.failures)
        self.backoff.reset()
        self.counter.say("running")

    async def _one_by_one(self) -> Failure | None:
        """No task a send: this is the hot path. Ends with a failure, or when there is nothing more to do here."""
        sinks = self.sinks
        alone = sinks[0] if len(sinks) == 1 else None
        while not self._stopping and (alone.in_flight if alone else self._in_flight) == 1:
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

    # -- several sends open

    async def _several(self) -> Failure | None:
        """The failure of the earliest send that failed, once all later ones have gone back."""
        line: deque[Flight] = deque()
        changed = asyncio.Event()
        pump = self._pump_task = asyncio.create_task(self._pump(line, changed), name=f"{self.name} takes")
        try:
            while not pump.done() and not any(flight.error for flight in line):
                changed.clear()
                await changed.wait()
            pump.cancel()
            await asyncio.wait({pump})
            await self._settle(line, changed)
            failure = next((Failure(f.error, f.take.batch) for f in line if f.error), None)
        finally:
            self._pump_task = None
            await self._put_back(pump, line)
        broken = None if pump.cancelled() else pump.exception()
        if broken and not failure:
            raise broken
        return failure

    async def _pump(self, line: deque[Flight], changed: asyncio.Event) -> None:
        """Start sends in order, as many as the sink wants open."""
        slot = asyncio.Event()

        def landed(task: asyncio.Task[None]) -> None:
            slot.set()
            changed.set()

        try:
            while not self._stopping and self._in_flight > 1:
                while len(line) >= self._in_flight:
                    slot.clear()
                    await slot.wait()
                if self._stopping:
                    return
                flight = Flight(await self._take())
                line.append(flight)
                flight.task = asyncio.create_task(self._fly(flight, line), name=f"{self.name} sends")
                flight.task.add_done_callback(landed)
        finally:
            changed.set()

    async def _fly(self, flight: Flight, line: deque[Flight]) -> None:
        try:
            receipt = await self._send(flight.take.batch)
        except Exception as error:
            flight.error = error
        except asyncio.CancelledError:
            flight.error = DeliveryError("the send was cancelled")
            raise
        else:
            if flight in line:
                line.remove(flight)
                self._commit(flight.take, receipt)

    async def _settle(self, line: deque[Flight], changed: asyncio.Event) -> None:
        """Let those before the first failure come to their end; cancel those after it."""
        while True:
            failed = next((i for i, flight in enumerate(line) if flight.error), len(line))
            for flight in list(line)[failed + 1 :]:
                if flight.task:
                    flight.task.cancel()
            if not failed:
                return
            changed.clear()
            await changed.wait()

    async def _put_back(self, pump: asyncio.Task[None], line: deque[Flight]) -> None:
        tasks = [pump, *(flight.task for flight in line if flight.task)]
        for task in tasks:
            task.cancel()
        try:
            await asyncio.wait(tasks)
        finally:
            for flight in line:
                flight.take.rollback()
            line.clear()

    # -- failures

    async def _recover(self, failure: Failure) -> None:
        error: BaseException | None = failure.error
        if _is_fatal(failure.error):
            raise failure.error
        self.counter.EventWriteFail += 1
        if isinstance(error, Rejected):
            error = await self._halve(failure.batch.count, crashes=False)
        elif not isinstance(error, AgentError):
            error = await self._crashed(failure)
        if error and not self._stopping:
            await self._wait(error)

    async def _crashed(self, failure: Failure) -> BaseException | None:
        """A bug of the sink: make it anew, and suspect the batch when the same head has done it too often. An OSError
        is the world's fault, never an event's."""
        head = failure.batch.block[:HEAD]
        if head != self._crash_head:
            self._crash_head, self._crashes = head, 0
            self.log.error("%s: unexpected exception", self.name, exc_info=failure.error)
        self._crashes += not isinstance(failure.error, OSError)
        await self._close()
        if self._crashes >= CRASHES:
            self._crash_head, self._crashes = b"", 0
            await self._open()
            return await self._halve(failure.batch.count, crashes=True)
        await self._wait(failure.error, "crashed")
        await self._open()
        return None

    async def _halve(self, count: int, crashes: bool) -> BaseException | None:
        """Find the events at fault among the next `count`; None if the rest went through, else why all wait."""
        held: list[tuple[Take, str]] = []
        sizes = [count - count // 2, count // 2] if count > 1 else [1]
        proved, error = False, None
        try:
            while sizes and not self._stopping:
                size = sizes.pop()
                try:
                    async with asyncio.timeout(PART_SECONDS):
                        take = await self._take(size)
                except TimeoutError:
                    break
                taken = take.batch.count
                if taken < size:
                    sizes.append(size - taken)
                error = await self._try(take, crashes)
                if error is None:
                    proved = True
                elif not (crashes if not isinstance(error, AgentError) else isinstance(error, Rejected)):
                    take.rollback()
                    return error
                elif taken > 1:
                    take.rollback()
                    sizes += [taken - taken // 2, taken // 2]
                else:
                    held.append((take, _reason(error)))
                    proved = proved or count == 1 or len({_kind(reason) for _, reason in held}) > 1
                if proved:
                    await self._bury(held)
            return DeliveryError(f"rejects whole batches: {held[0][1]}") if held else None
        except ChannelFull as full:
            return DeliveryError(f"the dead letters have no room: {full}")
        finally:
            for take, _ in held:
                take.rollback()

    async def _try(self, take: Take, crashes: bool) -> Exception | None:
        """Send a part; on an unexpected exception the sink is made anew."""
        try:
            receipt = await self._send(take.batch)
        except Exception as error:
            if _is_fatal(error):
                take.rollback()
                raise
            if crashes and not isinstance(error, AgentError):
                await self._close()
                await self._open()
            return error
        except BaseException:
            take.rollback()
            raise
        self._commit(take, receipt)
        return None

    async def _bury(self, held: list[tuple[Take, str]]) -> None:
        while held:
            take, reason = held[0]
            await take.bury(reason)
            held.pop(0)
            self.counter.rejected += take.batch.count
            self.log.error("%s: an event can never be delivered and is a dead letter now: %s", self.name, reason)


def _is_fatal(error: BaseException) -> bool:
    return isinstance(error, ChannelError) and not isinstance(error, ChannelFull)


def _reason(error: BaseException) -> str:
    """What the dead letter says: the error's text, or the last lines of an unexpected one's traceback."""
    if isinstance(error, AgentError):
        return str(error) or type(error).__name__
    return "".join(traceback.format_exception(error)).strip()[-600:]


def _kind(reason: str) -> str:
    """Reasons that differ in numbers alone (a row, a size) are one reason."""
    return re.sub(r"\d+", "#", reason)
