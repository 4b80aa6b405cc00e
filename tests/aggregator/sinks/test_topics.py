"""topics: events as records of the embedded log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from kafka.partitioner.default import murmur2

from agent.config.reading import read
from agent.errors import DeliveryError, Rejected
from agent.event import Batch, Event
from agent.metrics import Metrics
from agent.store.streams import Identity, Transit
from aggregator.services.topics import TopicsService
from aggregator.sinks import topics
from aggregator.sinks.topics import TopicsSink
from aggregator.topics import record_batch
from aggregator.topics.configuration import TopicsConfig
from aggregator.topics.record import Record
from tests.contracts.sink import FarSide, SinkContract

ORIGIN = bytes(range(16))


class Here:
    """A service in this process, and a sink that finds it."""

    def __init__(self, folder: Path, **service: str) -> None:
        self.folder = folder
        self.config = {"port": "0", "path": str(folder), **service}
        self.service = self._make()

    def _make(self) -> TopicsService:
        service = TopicsService("topics", settled(TopicsConfig, self.config))
        service.metrics, service.ready = Metrics(), lambda: True
        return service

    def make(self, durable: bool = True, **keys: str) -> TopicsSink:
        given = {"channel": "c", "topic": "readings", "callTimeout": "500ms", **keys}
        sink = TopicsSink("t", settled(topics.TopicsConfig, given))
        sink.durable, sink.services = durable, lambda: {"topics": self.service}
        return sink

    async def records(self, topic: str = "readings") -> list[Record]:
        """Of each partition, in order."""
        log, found = self.service.broker.log, []
        for partition in log.topics[topic].partitions if topic in log.topics else ():
            at = partition.start
            while at < partition.end:
                for one in await log.read(partition, at, 1 << 20, partition.end):
                    found += list(record_batch.records(one))
                    at = record_batch.header(one).last_offset + 1
        return found

    async def bodies(self, topic: str = "readings") -> list[str]:
        return [str(one.value, "utf-8") for one in await self.records(topic)]

    async def open(self) -> None:
        await self.service.open()

    async def close(self) -> None:
        await self.service.close()

    async def again(self) -> None:
        await self.close()
        self.service = self._make()
        await self.open()


def settled(kind: Any, keys: dict[str, str]) -> Any:
    reading = read(kind, keys, "topics")
    assert not reading.faults, reading.faults
    return reading.config


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path / "topics")


def run(here: Here, steps: Any) -> Any:
    async def all_of_it() -> Any:
        await here.open()
        try:
            async with asyncio.timeout(60):
                return await steps()
        finally:
            await here.close()

    return asyncio.run(all_of_it())


def plain(*bodies: str, **headers: str) -> Batch:
    return Batch([Event(headers, body.encode()) for body in bodies])


def labelled(first: int, *bodies: str, channel: str = "c") -> Batch:
    events = [Event({}, body.encode()) for body in bodies]
    return Batch(events, transit=Transit(ORIGIN, channel, first - 1, ((first, len(bodies)),), 0))


class Far:
    """The service, which ends and is opened anew."""

    def __init__(self, here: Here) -> None:
        self.here, self.sink = here, here.make()

    async def arrived(self) -> list[str]:
        return await self.here.bodies()

    async def go_away(self) -> None:
        await self.here.close()

    async def come_back(self) -> None:
        self.here.service = self.here._make()
        await self.here.open()


class TestTopicsSink(SinkContract):
    """The contract of sinks."""

    @pytest.fixture(autouse=True)
    def _place(self, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
        self.here = here
        monkeypatch.setattr("aggregator.services.topics.OPENING_SECONDS", 0.05)

    @asynccontextmanager
    async def far_side(self) -> AsyncIterator[FarSide]:  # type: ignore[override]
        await self.here.open()
        try:
            yield Far(self.here)
        finally:
            await self.here.close()


def test_a_record(here: Here) -> None:
    """The topic of the pattern, the key, the timestamp header as time, the event's other headers and its body."""

    async def steps() -> list[Record]:
        async with here.make(topic="site.%{topic}", key="%{sensor}") as sink:
            await sink.send(plain("21.5", topic="plant/line 1", sensor="s1", timestamp="1700000000123"))
        return await here.records("site.plant.line_201")

    [record] = run(here, steps)
    assert (record.key, record.value, record.time) == (b"s1", b"21.5", 1700000000123)
    assert dict(record.headers) == {"topic": b"plant/line 1", "sensor": b"s1"}


def test_identity(here: Here) -> None:
    """With identity = true a record says which store kept its event first, and under which number."""

    async def steps() -> list[Record]:
        async with here.make(identity="true", headers="false") as sink:
            await sink.send(Batch([Event({}, b"a")], identity=(Identity(ORIGIN, 7, 1),)))
        return await here.records()

    [record] = run(here, steps)
    assert dict(record.headers) == {"headrace.origin": ORIGIN.hex().encode(), "headrace.number": b"7"}


def test_a_repeat_changes_nothing(here: Here) -> None:
    """Whole, in part, split otherwise, also after the service was opened anew: each event is stored once."""

    async def steps() -> list[str]:
        async with here.make() as sink:
            await sink.send(labelled(1, "a", "b", "c"))
            await sink.send(labelled(1, "a", "b", "c"))
            await sink.send(labelled(2, "b", "c", "d"))
            await here.again()
            await sink.send(labelled(1, "a"))
            await sink.send(labelled(3, "c", "d", "e", "f"))
        return await here.bodies()

    assert run(here, steps) == ["a", "b", "c", "d", "e", "f"]


def test_two_channels_of_one_store(here: Here) -> None:
    """Numbers of another channel are another stream: nothing of it is taken for a repeat."""

    async def steps() -> list[str]:
        async with here.make() as sink:
            await sink.send(labelled(1, "a", "b"))
            await sink.send(labelled(1, "c", "d", channel="other"))
        return await here.bodies()

    assert run(here, steps) == ["a", "b", "c", "d"]


def test_a_memory_channel(here: Here) -> None:
    """At least once: what comes again is stored again."""

    async def steps() -> list[str]:
        async with here.make(durable=False) as sink:
            await sink.send(plain("a"))
            await sink.send(plain("a"))
        return await here.bodies()

    assert run(here, steps) == ["a", "a"]


def test_keys_stay_together(tmp_path: Path) -> None:
    """Records of one key are in one partition, the one that Java's client would take, in order."""
    here = Here(tmp_path, partitions="3")

    async def steps() -> None:
        async with here.make(key="%{k}") as sink:
            for at in range(4):
                await sink.send(Batch([Event({"k": f"k{i}"}, b"%d" % at) for i in range(9)]))
        seen: dict[bytes, list[tuple[int, bytes]]] = {}
        log = here.service.broker.log
        for partition in log.topics["readings"].partitions:
            for one in await log.read(partition, 0, 1 << 20, partition.end):
                for record in record_batch.records(one):
                    seen.setdefault(record.key or b"", []).append((partition.index, record.value or b""))
        assert len(seen) == 9
        for places in seen.values():
            assert len({index for index, _ in places}) == 1
            assert [value for _, value in places] == [b"0", b"1", b"2", b"3"]
        assert {index for index, _ in seen[b"k0"]} == {(murmur2(b"k0") & 0x7FFFFFFF) % 3}

    run(here, steps)


def test_without_keys_batches_go_round(tmp_path: Path) -> None:
    """Each partition gets its share."""
    here = Here(tmp_path, partitions="2")

    async def steps() -> list[int]:
        async with here.make() as sink:
            for at in range(4):
                await sink.send(plain(f"{at}"))
        return [partition.end for partition in here.service.broker.log.topics["readings"].partitions]

    assert run(here, steps) == [2, 2]


def test_a_large_batch_is_several(here: Here) -> None:
    """No record batch is above the topic's max.message.bytes."""

    async def steps() -> list[int]:
        async with here.make() as sink:
            await sink.send(plain(*("x" * 1000 for _ in range(2500))))
        log = here.service.broker.log
        [partition] = log.topics["readings"].partitions
        return [len(one) for one in await log.read(partition, 0, 1 << 30, partition.end)]

    sizes = run(here, steps)
    assert len(sizes) > 2
    assert max(sizes) < 1_048_588


@pytest.mark.parametrize(
    ("keys", "event", "why"),
    [
        ({}, Event({}, b"x" * 1_100_000), "max.message.bytes of 1048588"),
        ({"topic": "%{topic}"}, Event({}, b"x"), "no legal topic"),
        ({"topic": "%{topic}"}, Event({"topic": "x" * 300}, b"x"), "above 249"),
        ({"topic": "%{topic}%{topic}"}, Event({"topic": "x" * 200}, b"x"), "no legal topic"),
    ],
)
def test_an_event_that_can_be_no_record(here: Here, keys: dict[str, str], event: Event, why: str) -> None:
    """It is rejected with the reason, and nothing of its batch is stored."""

    async def steps() -> list[str]:
        async with here.make(**keys) as sink:
            with pytest.raises(Rejected, match=why):
                await sink.send(Batch([event]))
        return await here.bodies()

    assert run(here, steps) == []


def test_no_topic_is_made(tmp_path: Path) -> None:
    """With autoCreate = false a batch waits, or the sink where its topic is fixed, and the reason says what to do."""
    here = Here(tmp_path, autoCreate="false")

    async def steps() -> None:
        with pytest.raises(DeliveryError, match="no topic readings, and the service has autoCreate = false"):
            await here.make().open()
        async with here.make(topic="%{topic}") as sink:
            with pytest.raises(DeliveryError, match="no topic a, and the service has autoCreate = false"):
                await sink.send(plain("x", topic="a"))

    run(here, steps)


def test_no_service(here: Here) -> None:
    """Without a service of its kind the sink doesn't open, and says what it needs."""
    sink = here.make()
    sink.services = dict

    with pytest.raises(DeliveryError, match="needs one service of type topics"):
        asyncio.run(sink.open())


def faults_of(**keys: str) -> Iterator[str]:
    return map(str, read(topics.TopicsConfig, {"channel": "c", **keys}, "topics").faults)


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"topic": "a b"}, "is no topic"),
        ({"topic": "a/b"}, "is no topic"),
        ({"topic": "%[nohost]"}, "is no escape"),
        ({"positionTopic": "p"}, "has no meaning without kafka.bootstrap.servers"),
        ({"kafka.bootstrap.servers": "h:1"}, "positionTopic"),
    ],
)
def test_a_configuration_that_can_not_be(keys: dict[str, str], fault: str) -> None:
    """The fault names the key."""
    assert any(fault in one for one in faults_of(**keys)), list(faults_of(**keys))
