"""The kafka source against a real broker."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from agent.avro import record
from agent.config.reading import read
from agent.errors import DeliveryError
from agent.metrics import SourceCounter
from agent.source import Source
from aggregator.kafka.member import Place
from aggregator.sources.kafka import KafkaConfig, KafkaSource, Mark
from tests.contracts.source import Door, SourceContract
from tests.needs import need
from tests.peers.harness import Program, wait_until
from tests.peers.kafka import Kafka, shared_kafka

ORIGIN = bytes(range(16))


@pytest.fixture(autouse=True)
def _needs() -> None:
    need("kafka", "java")


class Topic:
    """A topic of its own, with a group of its own."""

    def __init__(self, kafka: Kafka, partitions: int = 1) -> None:
        self.kafka, self.name = kafka, f"t-{uuid.uuid4().hex[:12]}"
        self.group = f"g-{self.name}"
        self.admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
        self.make(partitions)
        self.producer = Producer({"bootstrap.servers": kafka.bootstrap, "log_level": 0})

    def make(self, partitions: int = 1) -> None:
        self.admin.create_topics([NewTopic(self.name, partitions, 1)])[self.name].result(30)

    def delete(self) -> None:
        self.admin.delete_topics([self.name])[self.name].result(30)

    def put(self, *values: str | bytes, partition: int = 0, **fields: Any) -> None:
        for value in values:
            self.producer.produce(self.name, value, partition=partition, **fields)
        assert self.producer.flush(30) == 0

    def source(self, door: Door, marks: Mapping[str, bytes] | None = None, **keys: str) -> KafkaSource:
        """A source as a configuration makes it; `__` in a key stands for its dot."""
        raw = {
            "channels": "c1", "kafka.bootstrap.servers": self.kafka.bootstrap, "kafka.topics": self.name,
            "kafka.consumer.group.id": self.group, "kafka.consumer.auto.offset.reset": "earliest",
            "batchDurationMillis": "50ms", "backoffSleepIncrement": "50ms",
        }  # fmt: skip
        reading = read(KafkaConfig, raw | {name.replace("__", "."): text for name, text in keys.items()}, "kafka")
        assert reading.config, reading.faults
        source = KafkaSource("r1", reading.config)
        source.process, source.bury = door.process, door.bury
        source.marks, source.durable, source.counter = marks or {}, True, SourceCounter("r1")
        return source

    def committed(self, partition: int = 0) -> int:
        """What the group has committed; negative if nothing, or if the broker is about to load it."""
        asked = [ConsumerGroupTopicPartitions(self.group, [TopicPartition(self.name, partition)])]
        try:
            found = self.admin.list_consumer_group_offsets(asked)[self.group].result(30)
        except KafkaException:
            return -1
        return int(found.topic_partitions[0].offset)

    def commit(self, offset: int, partition: int = 0) -> None:
        """As an operator does, with no member in the group."""
        offsets = [ConsumerGroupTopicPartitions(self.group, [TopicPartition(self.name, partition, offset)])]
        self.admin.alter_consumer_group_offsets(offsets)[self.group].result(30)

    def id(self) -> bytes:
        """As the source keeps it in its marks."""
        import logging

        from aggregator.kafka.member import topic_ids

        settings = {"bootstrap.servers": self.kafka.bootstrap}
        return topic_ids(settings, {self.name}, logging.getLogger())[self.name]


@pytest.fixture
def topic() -> Topic:
    return Topic(shared_kafka())


@asynccontextmanager
async def running(source: Source) -> AsyncIterator[None]:
    async with asyncio.timeout(60), source:
        task = asyncio.create_task(source.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def until(true: Callable[[], object]) -> None:
    """Bounded by whoever runs the test."""
    while not true():  # noqa: ASYNC110
        await asyncio.sleep(0.02)


def taken(source: KafkaSource, door: Door, count: int, then: Callable[[], object] = lambda: True) -> None:
    """Run the source until the door has so many events and `then` is true."""

    async def steps() -> None:
        async with running(source):
            await until(lambda: len(door.bodies) >= count and then())

    asyncio.run(steps())


def names(door: Door) -> list[tuple[bytes, int]]:
    runs = [run for batch in door.batches for run in batch.identities or ()]
    return [(run.origin, run.first + i) for run in runs for i in range(run.count)]


class TestKafkaSource(SourceContract):
    """The group's committed offset is the answer."""

    repeats_by_itself = True

    def make(self) -> Source:
        self.topic = Topic(shared_kafka())
        return self.topic.source(Door())

    @asynccontextmanager
    async def peer(self, source: Source) -> AsyncIterator[Callable[[str], Coroutine[Any, Any, bool]]]:
        count = 0

        async def send(body: str) -> bool:
            nonlocal count
            count += 1
            end = count
            await asyncio.to_thread(self.topic.put, body)
            await until(lambda: self.topic.committed() >= end)
            return True

        yield send


def test_an_event_of_a_record(topic: Topic) -> None:
    """The value is the body; time, topic, partition, offset, key and the named headers are event headers."""
    topic.put("v", key="k", timestamp=1234, headers={"x-sensor": b"s1", "other": b"o"})
    door = Door()
    taken(topic.source(door, header__sensor="x-sensor", timestampHeader="at"), door, 1)
    [event] = door.batches[0].events
    assert event.body == b"v"
    assert event.headers == {
        "timestamp": "1234", "at": "1234", "sensor": "s1", "topic": topic.name, "partition": "0", "offset": "0",
        "key": "k",
    }  # fmt: skip


def test_flumes_events(topic: Topic) -> None:
    """useFlumeEventFormat: headers and body are the event's, and its own headers count before the record's."""
    topic.put(record.encode([({"timestamp": "7", "k": "ä"}, b"body")]))
    door = Door()
    taken(topic.source(door, useFlumeEventFormat="true", setTopicHeader="false"), door, 1)
    [event] = door.batches[0].events
    assert event == ({"timestamp": "7", "k": "ä", "partition": "0", "offset": "0"}, b"body")


def test_poison_goes_to_the_dead_letters(topic: Topic) -> None:
    """What is no event of Flume's is buried with its place, in order; what follows it goes on."""
    good = record.encode([({}, b"a")])
    topic.put(good, b"\xff\xff", good)
    door = Door()
    taken(topic.source(door, useFlumeEventFormat="true"), door, 2, lambda: topic.committed() == 3)
    [letter] = door.letters
    assert letter.body == b"\xff\xff"
    assert (letter.headers["topic"], letter.headers["offset"]) == (topic.name, "1")
    assert f"{topic.name}/0@1" in letter.reason
    assert door.bodies == ["a", "a"]


def test_a_regex_reads_what_it_matches() -> None:
    """kafka.topics.regex matches whole names, as Python's re does."""
    first, second = Topic(shared_kafka()), Topic(shared_kafka())
    first.put("1")
    second.put("2")
    door = Door()
    taken(first.source(door, kafka__topics="", kafka__topics__regex=f"(?:{first.name[:-1]})[\\w]"), door, 1)
    assert door.bodies == ["1"]


def test_a_regex_takes_new_topics_in() -> None:
    """A topic that is made later is read too, as soon as it is looked for."""
    first = Topic(shared_kafka())
    first.put("1")
    door, later = Door(), f"{first.name}-2"

    async def steps() -> None:
        keys = {"kafka__topics__regex": f"{first.name}(-\\d)?"}
        keys["kafka__consumer__topic.metadata.refresh.interval.ms"] = "1000"
        async with running(first.source(door, kafka__topics="", **keys)):
            await until(lambda: door.bodies == ["1"])
            await asyncio.to_thread(first.admin.create_topics([NewTopic(later, 1, 1)])[later].result, 30)
            first.producer.produce(later, "2")
            await until(lambda: door.bodies == ["1", "2"])

    asyncio.run(steps())


def test_nothing_to_begin_with(topic: Topic) -> None:
    """auto.offset.reset = none in a group that has no offset: it fails and says what to do, and reads nothing."""
    topic.put("1")
    door = Door()

    async def steps() -> None:
        keys = {"kafka__consumer__auto__offset__reset": "none"}
        async with asyncio.timeout(60), topic.source(door, **keys) as source:
            with pytest.raises(DeliveryError, match="--reset-offsets"):
                await source.run()

    asyncio.run(steps())
    assert not door.bodies


def test_identity_is_carried_on(topic: Topic) -> None:
    """Records that say who kept their event first keep that identity; others are named by their place."""
    ours: dict[str, bytes] = {"headrace.origin": ORIGIN.hex().encode(), "headrace.number": b"41"}
    topic.put("a", headers=ours)
    topic.put("b", headers=ours | {"headrace.number": b"42"})
    topic.put("c", "d")
    door, again = Door(), Door()
    taken(topic.source(door), door, 4)
    topic.group += "-other"
    taken(topic.source(again), again, 4)
    assert names(door)[:2] == [(ORIGIN, 41), (ORIGIN, 42)]
    assert [number for _, number in names(door)[2:]] == [3, 4]
    assert names(again) == names(door)


def test_what_was_rolled_back_is_not_read(topic: Topic) -> None:
    """Aborted transactions stay out, unless isolation.level says otherwise."""
    writer = Producer({
        "bootstrap.servers": topic.kafka.bootstrap, "transactional.id": topic.name, "log_level": 0,
    })  # fmt: skip
    writer.init_transactions(30)
    for value, end in (("aborted", writer.abort_transaction), ("kept", writer.commit_transaction)):
        writer.begin_transaction()
        writer.produce(topic.name, value, partition=0)
        writer.flush(30)
        end(30)
    door, every = Door(), Door()
    taken(topic.source(door), door, 1)
    assert door.bodies == ["kept"]
    topic.group += "-other"
    taken(topic.source(every, kafka__consumer__isolation__level="read_uncommitted"), every, 2)
    assert every.bodies == ["aborted", "kept"]


def test_a_kill_between_both_commits_repeats_nothing(topic: Topic) -> None:
    """The store has 5 of which the group knows nothing: a source with the store's marks begins behind them."""
    topic.put(*"abcde")
    door = Door()
    taken(topic.source(door), door, 5)
    topic.commit(0)
    topic.put("f")
    again = Door()
    taken(topic.source(again, door.marks), again, 1, lambda: topic.committed() == 6)
    assert again.bodies == ["f"]


def test_the_group_is_told_what_only_the_store_knew(topic: Topic) -> None:
    """After a kill between both commits the group learns at once how far the store is, records or not."""
    topic.put(*"abcde")
    topic.commit(2)
    marks = {f"{topic.group}/{topic.name}/0": bytes(Mark(topic.id(), 0, 5))}
    door = Door()
    taken(topic.source(door, marks), door, 0, lambda: topic.committed() == 5)
    assert door.bodies == []


def test_a_partition_that_others_had_meanwhile(topic: Topic) -> None:
    """The group is ahead of the mark: what others have read isn't read again."""
    topic.put(*"abcdef")
    topic.commit(4)
    marks = {f"{topic.group}/{topic.name}/0": bytes(Mark(topic.id(), 0, 2))}
    door = Door()
    taken(topic.source(door, marks), door, 2)
    assert door.bodies == ["e", "f"]


def test_a_group_that_was_set_back(topic: Topic) -> None:
    """An operator wants it again and gets it, although the store has it."""
    topic.put(*"abcdef")
    topic.commit(1)
    marks = {f"{topic.group}/{topic.name}/0": bytes(Mark(topic.id(), 3, 6))}
    door = Door()
    taken(topic.source(door, marks), door, 5)
    assert door.bodies == list("bcdef")


def test_a_topic_that_was_made_anew(topic: Topic) -> None:
    """Marks of the deleted topic don't hide records of its namesake, and identities differ."""
    topic.put(*"abc")
    door, again = Door(), Door()
    taken(topic.source(door), door, 3)
    topic.delete()
    wait_until(lambda: topic.name not in topic.admin.list_topics(timeout=10).topics)
    topic.make()
    topic.put(*"uvw")
    taken(topic.source(again, door.marks), again, 3)
    assert again.bodies == list("uvw")
    assert not set(names(again)) & set(names(door))


@pytest.mark.parametrize("strategy", ["range,roundrobin", "cooperative-sticky"])
def test_a_second_member_takes_its_share(topic: Topic, strategy: str) -> None:
    """Two sources of one group have each record once, over the coming and going of one, full channel and all."""
    wide = Topic(topic.kafka, partitions=6)
    doors = [Door(), Door()]
    sources = [wide.source(door, kafka__consumer__partition__assignment__strategy=strategy) for door in doors]

    def put(first: int) -> None:
        for number in range(first, first + 60):
            wide.put(str(number), partition=number % 6)

    async def steps() -> None:
        async with running(sources[0]):
            await asyncio.to_thread(put, 0)
            await until(lambda: len(doors[0].bodies) == 60)
            doors[0].full = True
            await asyncio.to_thread(put, 60)
            await until(lambda: sources[0].counter.state.startswith("waiting"))
            async with running(sources[1]):
                await until(lambda: len(doors[1].bodies) == 30)
                assert len(doors[0].bodies) == 60
                doors[0].full = False
                await until(lambda: len(doors[0].bodies) == 90)
            await asyncio.to_thread(put, 120)
            await until(lambda: len(doors[0].bodies) == 150)

    asyncio.run(steps())
    assert sorted(map(int, doors[0].bodies + doors[1].bodies)) == list(range(180))
    assert [wide.committed(partition) for partition in range(6)] == [30] * 6


def test_a_full_channel_keeps_the_membership(topic: Topic) -> None:
    """Held back for longer than max.poll.interval.ms, it is still a member, and goes on where it was."""
    door = Door()
    door.full = True
    source = topic.source(
        door, kafka__consumer__max__poll__interval__ms="1000", kafka__consumer__session__timeout__ms="1000"
    )
    topic.put("a")

    async def steps() -> None:
        async with running(source):
            await door.knocked.wait()
            await asyncio.sleep(2.5)
            assert source._member
            assert source._member.assigned == {Place(topic.name, 0)}
            door.full = False
            await until(lambda: door.bodies == ["a"] and topic.committed() == 1)

    asyncio.run(steps())


def test_a_topic_that_is_not_there() -> None:
    """It waits and says so; when the topic is made it goes on."""
    topic = Topic(shared_kafka())
    topic.delete()
    door = Door()
    source = topic.source(door, kafka__consumer__topic__metadata__refresh__interval__ms="300")

    async def steps() -> None:
        async with running(source):
            await until(lambda: topic.name in source.counter.state)
            await asyncio.to_thread(topic.make)
            await asyncio.to_thread(topic.put, "a")
            await until(lambda: door.bodies == ["a"] and source.counter.state == "running")

    asyncio.run(steps())


def test_a_broker_that_is_down(tmp_path: Path) -> None:
    """Down at start, then there, SIGKILLed and back: it waits, says so, and takes each record once."""
    need("kafka", "java")
    kafka = Kafka(tmp_path / "kafka", apart=True)
    with kafka:
        topic = Topic(kafka)
        topic.put("a")
        kafka.kill9()
        door = Door()
        source = topic.source(door)

        async def steps() -> None:
            async with running(source):
                await until(lambda: "no broker" in source.counter.state)
                await asyncio.to_thread(kafka.start)
                await until(lambda: door.bodies == ["a"] and source.counter.state == "running")
                kafka.kill9()
                await until(lambda: "no broker" in source.counter.state)
                await asyncio.to_thread(kafka.start)
                await asyncio.to_thread(topic.put, "b")
                await until(lambda: door.bodies == ["a", "b"])

        asyncio.run(steps())


FLOW = """
a.sources = r
a.channels = c
a.sinks = k
a.sources.r.type = org.apache.flume.source.kafka.KafkaSource
a.sources.r.channels = c
a.sources.r.kafka.bootstrap.servers = {servers}
a.sources.r.kafka.topics = {topic}
a.sources.r.kafka.consumer.group.id = {group}
a.sources.r.kafka.consumer.auto.offset.reset = earliest
a.sources.r.batchSize = 100
a.sources.r.batchDurationMillis = 20
a.channels.c.type = file
a.channels.c.path = {folder}/store
a.sources.r.kafka.consumer.session.timeout.ms = 1000
a.sinks.k.type = file_roll
a.sinks.k.channel = c
a.sinks.k.sink.directory = {folder}/out
a.sinks.k.sink.rollInterval = 0
"""


@pytest.mark.limit(240)
def test_sigkill_of_the_aggregator(tmp_path: Path, topic: Topic) -> None:
    """Killed six times while it reads: the files, which take whatever the channel has, hold each record once."""
    wide = Topic(topic.kafka, partitions=3)
    flow = FLOW.format(servers=wide.kafka.bootstrap, topic=wide.name, group=wide.group, folder=tmp_path)
    count = 0
    program = Program("aggregator", flow, tmp_path)
    for _ in range(6):
        program.start()
        for number in range(count, count + 500):
            wide.producer.produce(wide.name, str(number), partition=number % 3)
        wide.producer.flush(30)
        count += 500
        wait_until(lambda: program.count("SOURCE.r", "EventAcceptedCount") >= 50, 60, program.log[-2000:])
        program.kill9()
    with program:
        wait_until(lambda: sum(map(wide.committed, range(3))) == count, 60, program.log[-3000:])
        wait_until(lambda: program.count("CHANNEL.c", "ChannelSize") == 0, 60, program.log[-3000:])
    lines = [line for path in (tmp_path / "out").glob("[!.]*") for line in path.read_text().split()]
    assert sorted(map(int, lines)) == list(range(count))
