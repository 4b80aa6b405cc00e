"""What every channel keeps: inherited by the tests of each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agent.channel import Channel, Put, Take
from agent.errors import ChannelFull
from agent.event import Batch, Event
from agent.metrics import ChannelCounter
from agent.source import DeadLetter

Steps = Callable[[Channel], Coroutine[Any, Any, None]]
SOON = 0.01
"""Seconds in which a task that can go on has done so; nothing is asserted of the time itself."""


def batch(*bodies: str | int, headers: dict[str, str] | None = None) -> Batch:
    """A batch of events with these bodies."""
    return Batch([Event(dict(headers or {}), str(body).encode()) for body in bodies])


def bodies(of: Batch | Take) -> list[str]:
    """The bodies of a batch, as text."""
    found = of.batch if isinstance(of, Take) else of
    return [event.body.decode() for event in found.events]


async def settle(rounds: int = 5) -> None:
    """Let every task that can go on do so."""
    for _ in range(rounds):
        await asyncio.sleep(0)
    await asyncio.sleep(SOON)


class ChannelContract:
    """Override `make`; keyword arguments are fields of the channel's Config (`capacity`, `keepAlive` ...)."""

    def make(self, **keys: Any) -> Channel:
        """A channel that isn't open yet, its counter set. Called again in a test: the same place, if it has one."""
        raise NotImplementedError

    @asynccontextmanager
    async def opened(self, **keys: Any) -> AsyncIterator[Channel]:
        channel = self.make(**keys)
        if not hasattr(channel, "counter"):
            channel.counter = ChannelCounter(channel.name)
        async with channel:
            yield channel

    def run(self, steps: Steps, **keys: Any) -> None:
        """Open a channel and take these steps with it, within a bound."""

        async def bounded() -> None:
            async with asyncio.timeout(30), self.opened(**keys) as channel:
                await steps(channel)

        asyncio.run(bounded())

    # -- order and limits

    def test_events_leave_in_the_order_in_which_they_came(self) -> None:
        """First in, first out, over several batches, headers and bodies untouched."""

        async def steps(channel: Channel) -> None:
            for start in range(0, 30, 3):
                kept = await channel.put(batch(*range(start, start + 3), headers={"k": "ä"}))
                assert kept == (3, 0)
            seen: list[str] = []
            while len(seen) < 30:
                async with await channel.take(7) as take:
                    seen += bodies(take)
                    assert all(event.headers == {"k": "ä"} for event in take.batch.events)
            assert seen == [str(i) for i in range(30)]
            assert channel.depth == 0

        self.run(steps)

    def test_a_large_batch_is_split_to_the_limit(self) -> None:
        """No take has more events than its limit."""

        async def steps(channel: Channel) -> None:
            await channel.put(batch(*range(50)))
            seen: list[str] = []
            while len(seen) < 50:
                async with await channel.take(8) as take:
                    assert len(take.batch) <= 8
                    assert len(bodies(take)) == len(take.batch)
                    seen += bodies(take)
            assert seen == [str(i) for i in range(50)]

        self.run(steps)

    def test_small_batches_are_joined(self) -> None:
        """What came in ten puts leaves in one take."""

        async def steps(channel: Channel) -> None:
            for i in range(10):
                await channel.put(batch(i))
            async with await channel.take(100) as take:
                assert bodies(take) == [str(i) for i in range(10)]

        self.run(steps)

    def test_a_take_stays_within_max_bytes(self) -> None:
        """A take's block has at most max_bytes, whether batches are joined or cut for it."""

        async def steps(channel: Channel) -> None:
            await channel.put(batch(*("x" * 50 for _ in range(10))))
            for _ in range(10):
                await channel.put(batch("y" * 50))
            seen = 0
            while seen < 20:
                async with await channel.take(100, 200) as take:
                    assert take.batch.size <= 200
                    seen += len(take.batch)

        self.run(steps)

    def test_one_event_leaves_however_large_it_is(self) -> None:
        """An event above max_bytes is taken alone, and doesn't block the channel."""

        async def steps(channel: Channel) -> None:
            await channel.put(batch("a", "b" * 500, "c"))
            seen: list[list[str]] = []
            while sum(map(len, seen)) < 3:
                async with await channel.take(100, 100) as take:
                    seen.append(bodies(take))
            assert [body for part in seen for body in part] == ["a", "b" * 500, "c"]
            assert ["b" * 500] in seen

        self.run(steps)

    def test_an_empty_batch_changes_nothing(self) -> None:
        """A put of no events returns and leaves nothing to take."""

        async def steps(channel: Channel) -> None:
            assert await channel.put(Batch([])) == (0, 0)
            assert await channel.put_all([]) == (0, 0)
            assert channel.depth == 0

        self.run(steps)

    # -- all or nothing

    def test_a_put_without_room_stores_nothing(self) -> None:
        """ChannelFull after keep-alive, and no event of the batch is inside."""

        async def steps(channel: Channel) -> None:
            await channel.put(batch(*range(8)))
            with pytest.raises(ChannelFull):
                await channel.put(batch(*"abc"))
            assert channel.depth == 8
            async with await channel.take(100) as take:
                assert bodies(take) == [str(i) for i in range(8)]

        self.run(steps, capacity=10, transactionCapacity=10, keepAlive=0.05)

    def test_several_batches_are_put_together_or_not_at_all(self) -> None:
        """put_all leaves nothing of the first batch when the second has no room."""

        async def steps(channel: Channel) -> None:
            with pytest.raises(ChannelFull):
                await channel.put_all([Put(batch(*"abcdef"), (channel,)), Put(batch(*"ghijkl"), (channel,))])
            assert channel.depth == 0
            await channel.put_all([Put(batch(*"abc"), (channel,)), Put(batch(*"def"), (channel,))])
            async with await channel.take(100) as take:
                assert bodies(take) == list("abcdef")

        self.run(steps, capacity=10, transactionCapacity=10, keepAlive=0.05)

    def test_a_batch_over_transaction_capacity_is_refused(self) -> None:
        """ChannelFull, and the text names the key."""

        async def steps(channel: Channel) -> None:
            with pytest.raises(ChannelFull, match="transactionCapacity"):
                await channel.put(batch(*range(6)))
            assert channel.depth == 0
            await channel.put(batch(*range(5)))

        self.run(steps, capacity=10, transactionCapacity=5, keepAlive=0.05)

    def test_a_waiting_put_goes_on_when_there_is_room(self) -> None:
        """A put that waits is stored as soon as a commit has made room."""

        async def steps(channel: Channel) -> None:
            await channel.put(batch(*range(5)))
            waiting = asyncio.create_task(channel.put(batch("late")))
            await settle()
            assert not waiting.done()
            async with await channel.take(5):
                await settle()
                assert not waiting.done(), "events of an open take are still inside"
            assert await waiting == (1, 0)

        self.run(steps, capacity=5, transactionCapacity=5, keepAlive=20.0)

    def test_a_cancelled_waiting_put_stores_nothing(self) -> None:
        """Cancelled before there was room: nothing of it comes later."""

        async def steps(channel: Channel) -> None:
            await channel.put(batch(*range(5)))
            waiting = asyncio.create_task(channel.put(batch("lost")))
            await settle()
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            async with await channel.take(5):
                pass
            await channel.put(batch("next"))
            async with await channel.take(5) as take:
                assert bodies(take) == ["next"]

        self.run(steps, capacity=5, transactionCapacity=5, keepAlive=20.0)

    def test_a_put_that_is_cancelled_at_any_moment_is_all_or_nothing(self) -> None:
        """Cancelled after 0, 1, 2 ... turns of the loop: all three events are inside, or none."""

        async def steps(channel: Channel) -> None:
            for turns in range(12):
                put = asyncio.create_task(channel.put(batch(*(f"{turns}-{i}" for i in range(3)))))
                for _ in range(turns):
                    await asyncio.sleep(0)
                put.cancel()
                await asyncio.gather(put, return_exceptions=True)
            await channel.put(batch("last"))
            seen: list[str] = []
            while "last" not in seen:
                async with await channel.take(1000) as take:
                    seen += bodies(take)
            for turns in range(12):
                assert sum(body.startswith(f"{turns}-") for body in seen) in (0, 3)
            assert channel.depth == 0

        self.run(steps)

    # -- optional channels

    def test_an_optional_put_drops_and_counts(self) -> None:
        """Optional: what finds no room is dropped at once and counted, and the put succeeds."""

        async def steps(channel: Channel) -> None:
            await channel.put(batch(*range(8)))
            await channel.put_all([Put(batch(*"abc"), (), (channel,))])
            assert channel.counter.value("dropped") == 3
            await channel.put_all([Put(batch(*"de"), (), (channel,))])
            async with await channel.take(100) as take:
                assert bodies(take) == [*map(str, range(8)), "d", "e"]
            assert channel.counter.value("dropped") == 3

        self.run(steps, capacity=10, transactionCapacity=10, keepAlive=20.0)

    # -- takes

    def test_a_rollback_puts_back_at_the_head(self) -> None:
        """What a rollback returned is taken again before everything else, in its order."""

        async def steps(channel: Channel) -> None:
            await channel.put(batch(*range(6)))
            await channel.put(batch(*"ab"))
            take = await channel.take(4)
            assert bodies(take) == ["0", "1", "2", "3"]
            take.rollback()
            assert channel.depth == 8
            seen: list[str] = []
            while len(seen) < 8:
                async with await channel.take(100) as take:
                    seen += bodies(take)
            assert seen == ["0", "1", "2", "3", "4", "5", "a", "b"]

        self.run(steps)

    def test_an_exception_in_the_block_rolls_back(self) -> None:
        """`async with` puts the events back when it is left by an exception."""

        async def steps(channel: Channel) -> None:
            await channel.put(batch(*"abc"))
            with pytest.raises(KeyError):
                async with await channel.take(100):
                    raise KeyError
            async with await channel.take(100) as take:
                assert bodies(take) == ["a", "b", "c"]

        self.run(steps)

    @pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (0, 2, 1), (2, 0, 1), (1, 2, 0)])
    @pytest.mark.parametrize("fates", ["ccr", "crc", "rcc", "rrc", "rcr", "crr", "rrr", "ccc"])
    def test_open_takes_end_in_any_order(self, order: Sequence[int], fates: str) -> None:
        """Three open takes, each committed or rolled back, in any order: what was rolled back is left, in order."""

        async def steps(channel: Channel) -> None:
            await channel.put(batch(*range(9)))
            await channel.put(batch("end"))
            takes = [await channel.take(3) for _ in range(3)]
            assert [bodies(take) for take in takes] == [[str(3 * i + j) for j in range(3)] for i in range(3)]
            for index in order:
                takes[index].commit() if fates[index] == "c" else takes[index].rollback()
            left = [str(3 * i + j) for i in range(3) if fates[i] == "r" for j in range(3)]
            assert channel.depth == len(left) + 1
            seen: list[str] = []
            while "end" not in seen:
                async with await channel.take(100) as take:
                    seen += bodies(take)
            assert seen == [*left, "end"]
            assert channel.depth == 0

        self.run(steps)

    def test_a_waiting_take_gets_what_comes(self) -> None:
        """take waits for data."""

        async def steps(channel: Channel) -> None:
            waiting = asyncio.create_task(channel.take(10))
            await settle()
            assert not waiting.done()
            await channel.put(batch("a"))
            async with await waiting as take:
                assert bodies(take) == ["a"]

        self.run(steps)

    def test_a_waiting_take_gets_what_is_rolled_back(self) -> None:
        """A rollback wakes a take that waits."""

        async def steps(channel: Channel) -> None:
            await channel.put(batch("a"))
            first = await channel.take(10)
            waiting = asyncio.create_task(channel.take(10))
            await settle()
            first.rollback()
            async with await waiting as take:
                assert bodies(take) == ["a"]

        self.run(steps)

    def test_a_cancelled_waiting_take_takes_nothing_with_it(self) -> None:
        """Cancelled while it waited, and in the moment in which data came: another take gets all of it."""

        async def steps(channel: Channel) -> None:
            for turns in range(6):
                first, second = (asyncio.create_task(channel.take(10)) for _ in range(2))
                await settle()
                put = asyncio.create_task(channel.put(batch(turns)))
                for _ in range(turns):
                    await asyncio.sleep(0)
                first.cancel()
                await asyncio.gather(first, return_exceptions=True)
                await put
                if first.cancelled():
                    async with await second as take:
                        assert bodies(take) == [str(turns)]
                else:
                    second.cancel()
                    first.result().commit()
                    await asyncio.gather(second, return_exceptions=True)
                assert channel.depth == 0

        self.run(steps)

    def test_a_buried_event_leaves_the_channel(self) -> None:
        """bury steps over the event; what comes after it is taken next."""

        async def steps(channel: Channel) -> None:
            await channel.put(batch("bad", "good"))
            take = await channel.take(1)
            await take.bury("too heavy")
            async with await channel.take(1) as take:
                assert bodies(take) == ["good"]
            assert channel.depth == 0
            assert channel.counter.value("dead_letters") + channel.counter.value("dropped") == 1

        self.run(steps)

    def test_what_a_source_buries_is_counted(self) -> None:
        """Dead letters at the door: kept or dropped, but counted."""

        async def steps(channel: Channel) -> None:
            await channel.bury([DeadLetter({"k": "v"}, b"raw", "malformed")])
            assert channel.depth == 0
            assert channel.counter.value("dead_letters") + channel.counter.value("dropped") == 1

        self.run(steps)

    def test_the_counters_are_those_of_flume(self) -> None:
        """Put and take counts, size and fill percentage."""

        async def steps(channel: Channel) -> None:
            await channel.put(batch(*range(5)))
            counter = channel.counter
            assert (counter.value("EventPutAttemptCount"), counter.value("EventPutSuccessCount")) == (5, 5)
            assert (counter.value("ChannelSize"), counter.value("ChannelCapacity")) == (5, 10)
            assert counter.value("ChannelFillPercentage") == 50.0
            async with await channel.take(3):
                assert counter.value("EventTakeSuccessCount") == 0
            assert counter.value("EventTakeSuccessCount") == 3
            assert counter.value("ChannelSize") == 2

        self.run(steps, capacity=10, transactionCapacity=10)

    def test_identity_stays_with_the_events(self) -> None:
        """Identity that a batch came with is that of the same events when they leave, joined, split or put back."""
        from agent.store.streams import Identity

        async def steps(channel: Channel) -> None:
            origin = bytes(range(16))
            for first in range(1, 13, 4):
                events = [Event({}, str(first + i).encode()) for i in range(4)]
                await channel.put(Batch(events, identity=(Identity(origin, first, 4),)))
            (await channel.take(5)).rollback()
            seen: list[str] = []
            while len(seen) < 12:
                async with await channel.take(5) as take:
                    names = take.batch.identities
                    assert names is not None
                    numbers = [run.first + i for run in names for i in range(run.count)]
                    assert {run.origin for run in names} == {origin}
                    assert list(map(str, numbers)) == bodies(take)
                    seen += bodies(take)

        self.run(steps)


class DurableContract(ChannelContract):
    """For channels that keep things over a restart: `make` called again in a test gives the same place."""

    def reopened(self, first: Steps, second: Steps, **keys: Any) -> None:
        """Steps before and after the channel was closed and opened again."""
        self.run(first, **keys)
        self.run(second, **keys)

    def test_events_are_there_after_a_restart(self) -> None:
        """What was put and not committed is taken after the channel was opened again, in order."""

        async def first(channel: Channel) -> None:
            await channel.put(batch(*range(6)))
            async with await channel.take(2):
                pass

        async def second(channel: Channel) -> None:
            assert channel.depth == 4
            async with await channel.take(10) as take:
                assert bodies(take) == ["2", "3", "4", "5"]

        self.reopened(first, second)

    def test_marks_are_kept_with_the_put(self) -> None:
        """A source's marks are there after a restart, later ones replacing those of the same name."""

        async def first(channel: Channel) -> None:
            await channel.put(batch("a"), ("r1", {"offset": b"1", "other": b"x"}))
            await channel.put(batch("b"), ("r1", {"offset": b"2"}))
            await channel.put(batch("c"), ("r2", {"offset": b"3"}))

        async def second(channel: Channel) -> None:
            assert dict(channel.marks("r1")) == {"offset": b"2", "other": b"x"}
            assert dict(channel.marks("r2")) == {"offset": b"3"}

        self.reopened(first, second)

    def test_marks_are_kept_without_events(self) -> None:
        """put_all of nothing keeps the marks: interceptors may have dropped every event."""

        async def first(channel: Channel) -> None:
            await channel.put_all([], ("r1", {"offset": b"9"}))

        async def second(channel: Channel) -> None:
            assert dict(channel.marks("r1")) == {"offset": b"9"}

        self.reopened(first, second)

    def test_marks_of_a_refused_put_are_not_kept(self) -> None:
        """All or nothing holds for the marks too."""

        async def steps(channel: Channel) -> None:
            with pytest.raises(ChannelFull):
                await channel.put(batch(*range(6)), ("r1", {"offset": b"6"}))
            assert not channel.marks("r1")

        self.run(steps, capacity=5, transactionCapacity=5, keepAlive=0.05)

    def test_a_receipt_is_kept_with_the_cursor(self) -> None:
        """The receipt of the last commit is handed back after a restart."""

        async def first(channel: Channel) -> None:
            assert channel.receipt() is None
            await channel.put(batch(*"ab"))
            for receipt in (b"one", b"two"):
                (await channel.take(1)).commit(receipt)

        async def second(channel: Channel) -> None:
            assert channel.receipt() == b"two"
            await channel.keep_receipt(b"three")
            assert channel.receipt() == b"three"

        self.reopened(first, second)


class HomeContract:
    """For channels that share a home: `pair` gives two open ones."""

    def pair(self, **keys: Any) -> Any:
        """An async context manager that gives (first, second), channels of one home."""
        raise NotImplementedError

    def run_pair(self, steps: Callable[[Channel, Channel], Coroutine[Any, Any, None]], **keys: Any) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(30), self.pair(**keys) as (first, second):
                assert first.home is second.home
                await steps(first, second)

        asyncio.run(bounded())

    def test_a_batch_goes_to_both(self) -> None:
        """Each channel gives the batch once; Kept counts it once."""

        async def steps(first: Channel, second: Channel) -> None:
            assert await first.put_all([Put(batch(*"abc"), (first, second))]) == (3, 0)
            for channel in (first, second):
                async with await channel.take(10) as take:
                    assert bodies(take) == ["a", "b", "c"]

        self.run_pair(steps)

    def test_one_full_channel_refuses_for_both(self) -> None:
        """When the second has no room, the first gets nothing."""

        async def steps(first: Channel, second: Channel) -> None:
            await second.put(batch(*range(5)))
            with pytest.raises(ChannelFull):
                await first.put_all([Put(batch("x"), (first, second))])
            assert (first.depth, second.depth) == (0, 5)

        self.run_pair(steps, capacity=5, transactionCapacity=5, keepAlive=0.05)

    def test_a_full_optional_channel_holds_nobody_back(self) -> None:
        """The required one gets the batch, the optional one drops and counts."""

        async def steps(first: Channel, second: Channel) -> None:
            await second.put(batch(*range(5)))
            assert await first.put_all([Put(batch("x"), (first,), (second,))]) == (1, 0)
            assert (first.depth, second.depth) == (1, 5)
            assert second.counter.value("dropped") == 1

        self.run_pair(steps, capacity=5, transactionCapacity=5, keepAlive=20.0)
