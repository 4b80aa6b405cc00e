"""The way from a source into its channels."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from agent.channel import Channel, Put, SourceMarks, Take
from agent.channel_processor import ChannelProcessor
from agent.config.fields import Config
from agent.errors import ChannelError, ChannelFull
from agent.event import Batch
from agent.interceptor import Interceptor
from agent.metrics import ChannelCounter, SourceCounter
from agent.selector import Selector
from agent.selectors.multiplexing import MultiplexingConfig, MultiplexingSelector
from agent.selectors.replicating import ReplicatingConfig, ReplicatingSelector
from agent.source import DeadLetter, Kept
from tests.contracts.channel import batch, bodies


class Recording(Channel):
    """Notes each call in `calls`, which all channels of a test share; `fails` is raised instead."""

    calls: list[tuple[str, list[list[str]], SourceMarks | None]]

    def __init__(self, name: str, calls: list[Any], home: object = None, durable: bool = True) -> None:
        super().__init__(name, Config())
        self.counter = ChannelCounter(name)
        self.calls, self.place = calls, home or self
        self.durable = durable  # type: ignore[misc]
        self.fails: ChannelError | None = None
        self.drops = False
        self.got: list[str] = []

    @property
    def home(self) -> object:
        return self.place

    async def put_all(self, puts: Sequence[Put], marks: SourceMarks | None = None) -> Kept:
        if self.fails:
            raise self.fails
        self.calls.append((self.name, [bodies(put.batch) for put in puts], marks))
        for put in puts:
            for channel in (*put.channels, *put.optional):
                assert isinstance(channel, Recording)
                if channel in put.optional and channel.drops:
                    channel.counter.dropped += put.batch.count
                else:
                    channel.got += bodies(put.batch)
        return Kept(sum(put.batch.count for put in puts if put.channels), 0)

    async def take(self, limit: int, max_bytes: int = 1 << 20) -> Take:
        raise NotImplementedError

    async def bury(self, letters: list[DeadLetter], marks: SourceMarks | None = None) -> None:
        self.calls.append((f"bury {self.name}", [[letter.reason for letter in letters]], marks))

    def marks(self, source: str) -> Mapping[str, bytes]:
        return {"of": self.name.encode()}


class World:
    """Channels by 'name@home' (in memory: 'name'), the calls they got, and a processor."""

    def __init__(self, *places: str, optional: str = "", interceptors: Sequence[Interceptor] = ()) -> None:
        self.calls: list[Any] = []
        self.channels: dict[str, Recording] = {}
        homes: dict[str, object] = {}
        for place in places:
            name, _, home = place.partition("@")
            where = homes.setdefault(home, object()) if home else None
            self.channels[name] = Recording(name, self.calls, where, durable=bool(home))
        selector = ReplicatingSelector("r1", ReplicatingConfig(optional=optional.split()), list(self.channels))
        self.processor = self.with_selector(selector, interceptors)

    def with_selector(self, selector: Selector, interceptors: Sequence[Interceptor] = ()) -> ChannelProcessor:
        self.processor = ChannelProcessor("r1", interceptors, selector, self.channels, SourceCounter("r1"))
        return self.processor

    def process(self, batch: Batch, marks: dict[str, bytes] | None = None) -> Kept:
        return asyncio.run(self.processor(batch, marks))


def test_one_home_gets_one_call_with_the_marks() -> None:
    """Channels of one store get the batch and the source's marks in one transaction."""
    world = World("c1@store", "c2@store")
    assert world.process(batch("a", "b"), {"offset": b"7"}) == (2, 0)
    assert world.calls == [("c1", [["a", "b"]], ("r1", {"offset": b"7"}))]
    assert world.channels["c2"].got == ["a", "b"]


def test_a_batch_is_handed_on_as_it_is() -> None:
    """Without interceptors the channel gets the very object that came."""
    seen: list[Batch] = []

    class Watching(Recording):
        async def put_all(self, puts: Sequence[Put], marks: SourceMarks | None = None) -> Kept:
            seen.append(puts[0].batch)
            return Kept(1, 0)

    world = World("c1@store")
    world.channels["c1"] = Watching("c1", [])
    world.with_selector(ReplicatingSelector("r1", ReplicatingConfig(), ["c1"]))
    came = batch("a")
    world.process(came)
    assert seen == [came] and seen[0] is came


def test_the_home_with_the_marks_comes_last() -> None:
    """With several homes no mark says 'done' of events that another home has not got."""
    world = World("m", "c1@one", "c2@two")
    world.process(batch("a"), {"offset": b"7"})
    assert [call[0] for call in world.calls] == ["m", "c2", "c1"]
    assert [bool(call[2]) for call in world.calls] == [False, False, True]
    assert not world.processor.durable
    assert world.processor.marks == {"of": b"c1"}


def test_marks_are_not_kept_when_another_home_is_full() -> None:
    """ChannelFull of one required home leaves the marks where they were."""
    world = World("c1@one", "c2@two")
    world.channels["c2"].fails = ChannelFull("no room")
    with pytest.raises(ChannelFull):
        world.process(batch("a"), {"offset": b"7"})
    assert not any(call[2] for call in world.calls)


def test_a_full_channel_is_counted_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """ChannelWriteFail counts each failure; one line when it begins, one when it is over."""
    caplog.set_level(logging.INFO)
    world = World("c1@store")
    counter = world.processor.counter
    world.channels["c1"].fails = ChannelFull("channel c1 is full")
    for _ in range(3):
        with pytest.raises(ChannelFull):
            world.process(batch("a"))
    assert (counter.ChannelWriteFail, counter.state) == (3, "waiting: channel c1 is full")
    world.channels["c1"].fails = None
    world.process(batch("a"))
    world.process(batch("a"))
    assert counter.state == "running"
    assert len(caplog.messages) == 2


def test_an_optional_channel_elsewhere_is_best_effort(caplog: pytest.LogCaptureFixture) -> None:
    """Its failure is counted and said once, after the required ones have the batch."""
    world = World("c1@store", "c2", optional="c2")
    world.channels["c2"].fails = ChannelError("broken")
    for _ in range(3):
        assert world.process(batch("a", "b"), {"offset": b"7"}) == (2, 0)
    assert world.channels["c1"].got == ["a", "b"] * 3
    assert world.channels["c2"].counter.dropped == 6
    assert world.processor.counter.ChannelWriteFail == 0
    assert len(caplog.messages) == 1
    assert world.processor.durable


def test_an_optional_channel_in_the_same_home_is_part_of_the_put(caplog: pytest.LogCaptureFixture) -> None:
    """It rides in Put.optional; that it drops, and that it takes again, is said once each."""
    world = World("c1@store", "c2@store", optional="c2")
    world.channels["c2"].drops = True
    for _ in range(2):
        world.process(batch("a"))
    assert (world.channels["c1"].got, world.channels["c2"].got) == (["a", "a"], [])
    assert len(caplog.messages) == 1
    world.channels["c2"].drops = False
    world.process(batch("b"))
    assert world.channels["c2"].got == ["b"]
    assert len(caplog.messages) == 2
    assert len(world.calls) == 3


def test_routes_to_one_home_share_a_call() -> None:
    """What a multiplexing selector cut is put together; an event without a channel is acknowledged and goes nowhere."""
    world = World("c1@store", "c2@store")
    config = MultiplexingConfig(header="to", mapping={"1": "c1", "2": "c2"})
    world.with_selector(MultiplexingSelector("r1", config, ["c1", "c2"]))
    events = [event for to in "1231" for event in batch(to, headers={"to": to}).events]
    assert world.process(Batch(events), {"offset": b"7"}) == (3, 0)
    assert len(world.calls) == 1
    assert (world.channels["c1"].got, world.channels["c2"].got) == (["1", "1"], ["2"])
    assert world.processor.counter.dropped == 1


def test_interceptors_run_in_order() -> None:
    """Each gets what the one before it gave."""

    class Appending(Interceptor):
        def intercept(self, batch: Batch) -> Batch:
            return batch.with_events([event._replace(body=event.body + self.name.encode()) for event in batch.events])

    world = World("c1@store", interceptors=[Appending("1", Config()), Appending("2", Config())])
    world.process(batch("a", "b"))
    assert world.channels["c1"].got == ["a12", "b12"]


def test_marks_of_a_batch_that_was_dropped_whole_are_kept() -> None:
    """When interceptors leave nothing, the source still gets on: its marks are kept, nothing else."""

    class Dropping(Interceptor):
        def intercept(self, batch: Batch) -> Batch:
            return batch.pick([])

    world = World("m", "c1@store", interceptors=[Dropping("d", Config())])
    assert world.process(batch("a"), {"offset": b"7"}) == (0, 0)
    assert world.calls == [("c1", [], ("r1", {"offset": b"7"}))]


def test_dead_letters_go_to_the_first_durable_channel() -> None:
    """What can never be stored is kept where things are kept, with the marks."""
    world = World("m", "c1@store", "c2@store")
    asyncio.run(world.processor.bury([DeadLetter({}, b"x", "too large")], {"offset": b"7"}))
    assert world.calls == [("bury c1", [["too large"]], ("r1", {"offset": b"7"}))]


@pytest.mark.parametrize(
    ("places", "optional", "durable", "why"),
    [
        (["c1@s"], "", True, ""),
        (["c1@s", "c2@s"], "", True, ""),
        (["c1@s", "m"], "m", True, ""),
        (["m"], "", False, "m is in memory"),
        (["c1@s", "m"], "", False, "m is in memory"),
        (["c1@s", "c2@t"], "", False, "c1, c2 lie in different stores"),
        (["c1@s", "c2@t"], "c2", True, ""),
    ],
)
def test_a_source_is_told_what_is_promised(places: list[str], optional: str, durable: bool, why: str) -> None:
    """durable: all required channels keep things, in one home; else the weakness says why not."""
    processor = World(*places, optional=optional).processor
    assert processor.durable is durable
    assert why in processor.weakness and bool(why) == bool(processor.weakness)
