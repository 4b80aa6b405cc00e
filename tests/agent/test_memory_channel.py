"""The memory channel."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agent.channel import Channel, Put
from agent.channels.memory import MemoryChannel, MemoryConfig
from agent.config.fields import Bytes, Seconds
from agent.errors import ChannelFull
from agent.event import Batch, Event
from agent.metrics import ChannelCounter
from agent.store.streams import Identity, Transit
from tests.contracts.channel import ChannelContract, batch, bodies, settle


def memory(**keys: Any) -> MemoryChannel:
    if "keepAlive" in keys:
        keys["keepAlive"] = Seconds(keys["keepAlive"])
    channel = MemoryChannel("c1", MemoryConfig(**keys))
    channel.counter = ChannelCounter("c1")
    return channel


class TestMemoryChannel(ChannelContract):
    def make(self, **keys: Any) -> Channel:
        return memory(**keys)

    def test_a_batch_leaves_as_the_object_that_came(self) -> None:
        """Nothing is encoded or copied on the way when no limit asks for it."""

        async def steps(channel: Channel) -> None:
            came = batch(*range(10))
            await channel.put(came)
            assert (await channel.take(10)).batch is came

        self.run(steps)

    def test_transit_ends_and_becomes_identity(self) -> None:
        """The sender's labels promise what only a store keeps; its numbers stay as the events' identity."""

        async def steps(channel: Channel) -> None:
            origin = bytes(16)
            came = Batch([Event({}, b"x")] * 3, transit=Transit(origin, "c9", 4, ((5, 3),), 4))
            await channel.put(came)
            left = (await channel.take(10)).batch
            assert left.transit is None
            assert left.identity == (Identity(origin, 5, 3),)

        self.run(steps)

    def test_batches_with_and_without_identity_are_not_joined(self) -> None:
        """A batch has an identity for each of its events or for none."""

        async def steps(channel: Channel) -> None:
            await channel.put(batch("a"))
            await channel.put(Batch([Event({}, b"b")], identity=(Identity(bytes(16), 1, 1),)))
            assert bodies(await channel.take(10)) == ["a"]
            assert bodies(await channel.take(10)) == ["b"]

        self.run(steps)

    def test_bytes_are_bounded(self) -> None:
        """byteCapacity holds a put back, and names itself when a batch alone is over it."""

        async def steps(channel: Channel) -> None:
            await channel.put(batch("x" * 600))
            with pytest.raises(ChannelFull):
                await channel.put(batch("y" * 600))
            with pytest.raises(ChannelFull, match="byteCapacity"):
                await channel.put(batch("z" * 1100))
            async with await channel.take(1):
                pass
            await channel.put(batch("y" * 600))

        self.run(steps, byteCapacity=Bytes(1000), keepAlive=0.05)

    def test_no_byte_capacity_is_practically_unlimited(self) -> None:
        """byteCapacity = 0 takes what capacity allows."""

        async def steps(channel: Channel) -> None:
            await channel.put(batch("x" * 1_000_000))
            assert channel.counter.value("bytes") > 1_000_000

        self.run(steps, byteCapacity=Bytes(0))

    def test_waiting_puts_are_served_in_their_order(self) -> None:
        """A small put doesn't overtake a large one that waits for room."""

        async def steps(channel: Channel) -> None:
            await channel.put(batch(*range(4)))
            large = asyncio.create_task(channel.put(batch(*"abcd")))
            await settle()
            small = asyncio.create_task(channel.put(batch("e")))
            await settle()
            assert not small.done()
            (await channel.take(4)).commit()
            await asyncio.gather(large, small)
            assert bodies(await channel.take(10)) == list("abcde")

        self.run(steps, capacity=5, transactionCapacity=5, keepAlive=20.0)

    def test_a_put_behind_one_that_gave_up_goes_on(self) -> None:
        """When the first in line is cancelled, the next that fits is stored."""

        async def steps(channel: Channel) -> None:
            await channel.put(batch(*range(3)))
            large = asyncio.create_task(channel.put(batch(*"abcd")))
            await settle()
            small = asyncio.create_task(channel.put(batch("e")))
            await settle()
            large.cancel()
            assert await small == (1, 0)

        self.run(steps, capacity=5, transactionCapacity=5, keepAlive=20.0)

    def test_an_optional_put_waits_for_nobody(self) -> None:
        """An optional put is decided at once although others wait for room."""

        async def steps(channel: Channel) -> None:
            await channel.put(batch(*range(4)))
            waiting = asyncio.create_task(channel.put(batch(*"abcd")))
            await settle()
            await channel.put_all([Put(batch("x"), (), (channel,))])
            waiting.cancel()
            assert channel.depth == 5

        self.run(steps, capacity=5, transactionCapacity=5, keepAlive=20.0)

    def test_the_oldest_event_may_be_in_an_open_take(self) -> None:
        """oldest_seconds counts from the put of the oldest event inside, and is 0 when there is none."""

        async def steps(channel: Channel) -> None:
            assert channel.counter.value("oldest_seconds") == 0.0
            await channel.put(batch("a"))
            take = await channel.take(1)
            assert channel.counter.value("oldest_seconds") > 0.0
            take.commit()
            assert channel.counter.value("oldest_seconds") == 0.0

        self.run(steps)


def test_transaction_capacity_above_capacity_is_refused() -> None:
    """As in Flume: transactionCapacity must be at most capacity."""
    assert MemoryConfig(capacity=10, transactionCapacity=11).problems()
    assert not MemoryConfig(capacity=10, transactionCapacity=10).problems()
