"""topics: records of the embedded log as events, from where the source left off."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.config.reading import read
from agent.errors import ChannelFull, DeliveryError
from agent.event import Batch
from agent.metrics import SourceCounter
from agent.source import DeadLetter, Kept
from agent.store.streams import Identity
from aggregator.sources.topics import Mark, TopicsConfig, TopicsSource
from aggregator.topics import record_batch
from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.log.log import Append, Offset
from tests.aggregator.sinks.test_topics import Here

NO_HEADERS: tuple[tuple[str, bytes | None], ...] = ()


class Door:
    """A channel: what was put, and the marks that it keeps."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.letters: list[DeadLetter] = []
        self.marks: dict[str, bytes] = {}
        self.full = 0

    async def process(self, batch: Batch, marks: Mapping[str, bytes] | None = None) -> Kept:
        if self.full:
            self.full -= 1
            raise ChannelFull("no room")
        self.batches.append(batch)
        self.marks |= marks or {}
        return Kept(len(batch), 0)

    async def bury(self, letters: list[DeadLetter], marks: Mapping[str, bytes] | None = None) -> None:
        self.letters += letters
        self.marks |= marks or {}

    @property
    def bodies(self) -> list[str]:
        return [event.body.decode() for batch in self.batches for event in batch.events]


async def until(true: Callable[[], object]) -> None:
    while not true():  # noqa: ASYNC110 (of whatever it asks)
        await asyncio.sleep(0.005)


class Place:
    """A service and what a source of it puts into a door."""

    def __init__(self, here: Here) -> None:
        self.here, self.door = here, Door()

    def source(self, **keys: str) -> TopicsSource:
        reading = read(TopicsConfig, {"channels": "c", "topics": "t", "backoff": "10ms", **keys}, "topics")
        assert not reading.faults
        source = TopicsSource("r", reading.config)
        source.services = lambda: {"topics": self.here.service}
        source.counter, source.durable = SourceCounter("r"), True
        source.process, source.bury, source.marks = self.door.process, self.door.bury, dict(self.door.marks)
        return source

    async def put(self, *values: str, topic: str = "t", transactional_id: str | None = None, **more: Any) -> None:
        broker = self.here.service.broker
        if topic not in broker.log.topics:
            await broker.create(topic)
        built = record_batch.build([(1000 + i, None, one.encode(), NO_HEADERS) for i, one in enumerate(values)], **more)
        [answer] = await broker.log.append([Append(topic, 0, [built], transactional_id)])
        assert not isinstance(answer, Exception), answer

    async def until(self, true: Callable[[], object], **keys: str) -> None:
        """Run a source until it is true."""
        source = self.source(**keys)
        async with source:
            running = asyncio.ensure_future(source.run())
            async with asyncio.timeout(30):
                while not true():
                    assert not running.done(), running.exception()
                    await asyncio.sleep(0.005)
                await asyncio.sleep(0.01)
            running.cancel()
            await asyncio.wait([running])

    async def reads(self, *bodies: str, **keys: str) -> None:
        await self.until(lambda: len(self.door.bodies) >= len(bodies), **keys)
        assert self.door.bodies == list(bodies)


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path / "topics")


def run(here: Here, steps: Callable[[Place], Awaitable[None]]) -> None:
    async def all_of_it() -> None:
        await here.open()
        try:
            async with asyncio.timeout(60):
                await steps(Place(here))
        finally:
            await here.close()

    asyncio.run(all_of_it())


def test_from_the_beginning_and_on(here: Here) -> None:
    """What is there is read in order, then what comes."""

    async def steps(place: Place) -> None:
        await place.put("a", "b")
        source = place.source()
        async with source:
            running = asyncio.ensure_future(source.run())
            await until(lambda: place.door.bodies == ["a", "b"])
            await place.put("c")
            await until(lambda: place.door.bodies == ["a", "b", "c"])
            running.cancel()

    run(here, steps)


def test_it_goes_on_where_it_was(here: Here) -> None:
    """A source that is made anew reads on behind what the channel has, whatever the size of its batches."""

    async def steps(place: Place) -> None:
        await place.put(*"abcde")
        await place.until(lambda: len(place.door.bodies) >= 2, batchSize="2")
        known = len(place.door.bodies)
        await place.reads(*"abcde", batchSize="3")
        assert known < 6

    run(here, steps)


def test_a_kill_between_the_store_and_the_group(here: Here) -> None:
    """The mark counts where the group has only what it had before."""

    async def steps(place: Place) -> None:
        log = here.service.broker.log
        await place.put(*"ab")
        await place.reads(*"ab")
        before = log.committed("agent.r")["t", 0]
        await place.put(*"cd")
        await place.reads(*"abcd")
        await log.commit("agent.r", {("t", 0): before})  # as if the last commit had not been made
        await place.put("e")
        await place.reads(*"abcde")

    run(here, steps)


def test_an_operator_sets_the_group_back(here: Here) -> None:
    """An offset that the source has not committed last is followed."""

    async def steps(place: Place) -> None:
        await place.put(*"ab")
        await place.reads(*"ab")
        await place.put(*"cd")
        await place.reads(*"abcd")
        await here.service.broker.log.commit("agent.r", {("t", 0): Offset(1)})
        await place.reads(*"abcdbcd")

    run(here, steps)


def test_an_operator_sets_the_group_to_where_it_was(here: Here) -> None:
    """A reset to what was committed before the last batch isn't taken for a kill."""

    async def steps(place: Place) -> None:
        await place.put("a")
        await place.reads("a")
        await place.put("b")
        await place.reads("a", "b")
        await here.service.broker.log.commit("agent.r", {("t", 0): Offset(1, time_ms=12_345)})
        await place.reads("a", "b", "b")

    run(here, steps)


def test_a_reset_while_it_runs(here: Here) -> None:
    """It is followed at once, and not overwritten by the next batch."""

    async def steps(place: Place) -> None:
        log = here.service.broker.log
        await place.put(*"abc")
        source = place.source()
        async with source:
            running = asyncio.ensure_future(source.run())
            await until(lambda: place.door.bodies == ["a", "b", "c"])
            await until(lambda: log.committed("agent.r")["t", 0].offset == 3)
            await log.commit("agent.r", {("t", 0): Offset(1)})
            await place.put("d")
            await until(lambda: len(place.door.bodies) >= 6)
            assert place.door.bodies == [*"abc", *"bcd"]
            running.cancel()

    run(here, steps)


def test_a_log_that_was_set_back(here: Here, caplog: pytest.LogCaptureFixture) -> None:
    """A place behind the log's end is said, and reading begins as if nothing had been read: no record is left out."""

    async def steps(place: Place) -> None:
        await place.put("a")
        topic_id = here.service.broker.topic("t").id
        place.door.marks["agent.r/t-0"] = bytes(Mark(topic_id, -1, -1, 5))
        await place.reads("a")
        assert "the log was set back" in caplog.text

    run(here, steps)


def test_an_offset_is_renewed(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """The group of a source whose topic is quiet keeps its offset: it is committed again once a day."""
    monkeypatch.setattr("aggregator.sources.topics.LOOK_SECONDS", 0.02)

    async def steps(place: Place) -> None:
        log = here.service.broker.log
        await place.put("a")
        await place.reads("a")
        await log.commit("agent.r", {("t", 0): Offset(1, time_ms=1)})
        await place.until(lambda: log.committed("agent.r")["t", 0].time_ms > 1)
        assert log.committed("agent.r")["t", 0].offset == 1

    run(here, steps)


def test_a_log_that_can_not_be_read(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source fails with the reason, so that it is tried again with back-off, and said."""

    async def steps(place: Place) -> None:
        await place.put("a")

        async def read(*_: Any) -> None:
            raise TopicsError(Code.KAFKA_STORAGE_ERROR, "disk I/O error")

        monkeypatch.setattr(here.service.broker.log, "read", read)
        source = place.source()
        async with source:
            with pytest.raises(DeliveryError, match="t-0: disk I/O error"):
                await source.run()

    run(here, steps)


def test_everybody_sees_the_group(here: Here) -> None:
    """The group's committed offset is what the channel has."""

    async def steps(place: Place) -> None:
        await place.put(*"abc")
        await place.until(lambda: here.service.broker.log.committed("mine"), groupId="mine")
        assert here.service.broker.log.committed("mine")["t", 0].offset == 3

    run(here, steps)


def test_a_full_channel(here: Here) -> None:
    """It waits, and nothing is lost or doubled."""

    async def steps(place: Place) -> None:
        place.door.full = 3
        await place.put(*"abc")
        await place.reads(*"abc")

    run(here, steps)


def test_what_was_aborted_is_not_read(here: Here) -> None:
    """Records of an aborted transaction and markers are left out; what an open transaction holds is waited for."""

    async def steps(place: Place) -> None:
        transactions = here.service.broker.transactions
        await place.put("a")
        for value, commit in (("no", False), ("yes", True)):
            producer, epoch = await transactions.init("x", 60_000)
            await transactions.add("x", producer, epoch, {("t", 0)})
            await place.put(value, transactional_id="x", producer=(producer, epoch, 0), transactional=True)
            await place.put(f"beside {value}")
            await transactions.end("x", producer, epoch, commit)
        await place.reads("a", "beside no", "yes", "beside yes")

    run(here, steps)


def test_headers_and_identity(here: Here) -> None:
    """An event has the record's headers, those that tell where it was, and the identity that the sink wrote."""

    async def steps(place: Place) -> None:
        broker = here.service.broker
        await broker.create("t")
        headers = [("unit", b"C"), ("headrace.origin", b"00" * 16), ("headrace.number", b"7")]
        built = record_batch.build([(1234, b"k", b"v", headers), (1235, None, None, ())])
        await broker.log.append([Append("t", 0, [built])])
        await place.until(lambda: place.door.batches)
        [batch] = place.door.batches
        assert [event.headers for event in batch.events] == [
            {"unit": "C", "timestamp": "1234", "topic": "t", "partition": "0", "offset": "0", "key": "k"},
            {"timestamp": "1235", "topic": "t", "partition": "0", "offset": "1"},
        ]
        assert batch.events[1].body == b""
        assert batch.identities
        assert batch.identities[0] == Identity(bytes(16), 7, 1)
        assert batch.identities[1].first == 2

    run(here, steps)


def test_a_batch_that_can_not_be_read(here: Here) -> None:
    """It is a dead letter that says where it was; what is around it is read."""

    async def steps(place: Place) -> None:
        log = here.service.broker.log
        await place.put("a")
        good = record_batch.build([(1, None, b"x", ())])
        await log.append([Append("t", 0, [good[:-1] + b"\x55"])])  # below the protocol, where CRCs are checked
        await place.put("b")
        await place.reads("a", "b")
        [letter] = place.door.letters
        assert letter.reason.startswith("batch t-0@1: a record batch is damaged")
        await place.put("c")
        await place.reads("a", "b", "c")

    run(here, steps)


def test_what_retention_took(here: Here, caplog: pytest.LogCaptureFixture) -> None:
    """The source says that records are gone, and goes on with the first that there is."""

    async def steps(place: Place) -> None:
        log = here.service.broker.log
        await place.put("a")
        await place.reads("a")
        await place.put("b")
        await place.put("c")
        await log.trim(log.partition("t", 0), 2)
        await place.reads("a", "c")
        assert "was never read" in caplog.text

    run(here, steps)


def test_a_topic_that_comes_later(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for."""
    monkeypatch.setattr("aggregator.sources.topics.LOOK_SECONDS", 0.02)

    async def steps(place: Place) -> None:
        source = place.source()
        async with source:
            running = asyncio.ensure_future(source.run())
            await until(lambda: "no topic t" in source.counter.state)
            await place.put("a")
            await until(lambda: place.door.bodies == ["a"])
            running.cancel()

    run(here, steps)


def test_latest(here: Here) -> None:
    """With auto.offset.reset = latest what was never read begins at the end."""

    async def steps(place: Place) -> None:
        await place.put("a")
        source = place.source(**{"auto.offset.reset": "latest"})
        async with source:
            running = asyncio.ensure_future(source.run())
            await asyncio.sleep(0.05)
            await place.put("b")
            await until(lambda: place.door.bodies == ["b"])
            running.cancel()

    run(here, steps)


def test_no_service(here: Here) -> None:
    """It says what it needs."""
    source = Place(here).source()
    source.services = dict
    with pytest.raises(DeliveryError, match="needs one service of type topics"):
        asyncio.run(source.open())
