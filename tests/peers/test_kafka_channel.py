"""The kafka channel against a real broker."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from agent.avro import record
from agent.channel import Channel, Put, SourceMarks
from agent.config.reading import read
from agent.errors import ChannelFull
from agent.event import Batch, Event
from agent.metrics import ChannelCounter
from agent.source import Kept
from agent.store.streams import Identity
from aggregator.channels import kafka as module
from aggregator.channels.kafka import KafkaChannel, KafkaChannelConfig
from tests.contracts.channel import ChannelContract, batch, bodies
from tests.needs import need
from tests.peers.harness import Program, wait_until
from tests.peers.kafka import Kafka, Record, shared_kafka

ORIGIN = bytes(range(16))


@pytest.fixture(autouse=True)
def _needs() -> None:
    need("kafka", "java")


class Topic:
    """A topic of its own, with a group of its own, that several channels may name."""

    def __init__(self, kafka: Kafka, partitions: int = 1) -> None:
        self.kafka, self.name = kafka, f"c-{uuid.uuid4().hex[:12]}"
        self.admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
        self.admin.create_topics([NewTopic(self.name, partitions, 1)])[self.name].result(30)

    def channel(self, cls: type[KafkaChannel] = KafkaChannel, **keys: str) -> Any:
        """A channel as a configuration makes it; `__` in a key stands for its dot."""
        raw = {
            "kafka.bootstrap.servers": self.kafka.bootstrap, "kafka.topic": self.name, "kafka.pollTimeout": "50",
            "kafka.consumer.group.id": f"g-{self.name}",
        }  # fmt: skip
        given = {name.replace("__", "."): text for name, text in keys.items()}
        reading = read(KafkaChannelConfig, raw | given, "kafka")
        assert reading.config, reading.faults
        channel = cls("c1", reading.config)
        channel.counter = ChannelCounter("c1")
        return channel

    def send(self, values: Sequence[bytes], **fields: Any) -> None:
        """As somebody else's producer."""
        producer = Producer({"bootstrap.servers": self.kafka.bootstrap, "log_level": 0})
        for value in values:
            producer.produce(self.name, value, **fields)
        assert producer.flush(30) == 0

    def records(self) -> list[Record]:
        return self.kafka.consume(self.name, committed=True)

    def committed(self, partition: int = 0) -> int:
        group = f"g-{self.name}"
        asked = [ConsumerGroupTopicPartitions(group, [TopicPartition(self.name, partition)])]
        try:
            found = self.admin.list_consumer_group_offsets(asked)[group].result(30)
        except KafkaException:
            return -1
        return int(found.topic_partitions[0].offset)


def run(steps: Any, seconds: float = 60) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(seconds):
            await steps()

    asyncio.run(bounded())


async def until(true: Callable[[], object]) -> None:
    """Bounded by `run`."""
    while not true():  # noqa: ASYNC110
        await asyncio.sleep(0.02)


class ReadBack(KafkaChannel):
    """Its puts return when what they put has been read back, which a topic leaves open and the contract asks for."""

    put_events = 0

    async def put_all(self, puts: Sequence[Put], marks: SourceMarks | None = None) -> Kept:
        kept = await super().put_all(puts, marks)
        self.put_events += kept.stored
        self._start_reading()
        while self._serial < self.put_events:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        return kept


class TestKafkaChannel(ChannelContract):
    """All of the contract but what speaks of capacity: a topic has none that a channel could know. It doesn't wait for
    room (ChannelFull says that Kafka isn't there), refuses no batch for its size, and has no fill percentage."""

    test_a_put_without_room_stores_nothing = None  # type: ignore[assignment]
    test_several_batches_are_put_together_or_not_at_all = None  # type: ignore[assignment]
    test_a_batch_over_transaction_capacity_is_refused = None  # type: ignore[assignment]
    test_a_waiting_put_goes_on_when_there_is_room = None  # type: ignore[assignment]
    test_a_cancelled_waiting_put_stores_nothing = None  # type: ignore[assignment]
    test_an_optional_put_drops_and_counts = None  # type: ignore[assignment]
    test_the_counters_are_those_of_flume = None  # type: ignore[assignment]

    def make(self, **keys: Any) -> Channel:
        channel: Channel = Topic(shared_kafka()).channel(ReadBack)
        return channel

    def test_puts_and_takes_are_counted(self) -> None:
        """Attempts and successes, as Flume counts them; the size is what has been read and isn't done."""

        async def steps(channel: Channel) -> None:
            await channel.put(batch(*range(5)))
            counter = channel.counter
            assert (counter.value("EventPutAttemptCount"), counter.value("EventPutSuccessCount")) == (5, 5)
            assert counter.value("ChannelSize") == 5
            async with await channel.take(3):
                assert counter.value("EventTakeSuccessCount") == 0
            assert counter.value("EventTakeSuccessCount") == 3
            assert counter.value("ChannelSize") == 2

        self.run(steps)


@pytest.fixture
def topic() -> Topic:
    return Topic(shared_kafka())


def put(topic: Topic, *batches: Batch, **keys: str) -> None:
    async def steps() -> None:
        async with topic.channel(**keys) as channel:
            for one in batches:
                assert await channel.put(one) == (len(one), 0)

    run(steps)


def test_a_record_is_flumes(topic: Topic) -> None:
    """The value is an event in Avro, the key its header `key`, the headers its identity where it has one."""
    event = Event({"key": "k", "h": "ä"}, b"body")
    put(topic, Batch([event], identity=(Identity(ORIGIN, 7, 1),)), Batch([Event({}, b"")]))
    first, second = topic.records()
    assert record.decode(first.value, 1) == [event]
    assert first.key == b"k"
    assert dict(first.headers) == {"headrace.origin": ORIGIN.hex().encode(), "headrace.number": b"7"}
    assert (second.key, second.value, dict(second.headers)) == (None, b"\0\0", {})


def test_bodies_alone(topic: Topic) -> None:
    """parseAsFlumeEvent = false: the value is the body, and headers are lost but for the key."""
    seen: list[Event] = []

    async def steps() -> None:
        async with topic.channel(parseAsFlumeEvent="false") as channel:
            await channel.put(Batch([Event({"key": "k", "h": "v"}, b"body")]))
            async with await channel.take(10) as take:
                seen.extend(take.batch.events)

    run(steps)
    assert [one.value for one in topic.records()] == [b"body"]
    assert seen == [Event({"key": "k"}, b"body")]


def test_partitions_of_a_header() -> None:
    """partitionIdHeader and defaultPartitionId say where a record goes."""
    topic = Topic(shared_kafka(), 3)
    events = [Event({"p": "2"}, b"a"), Event({}, b"b")]
    put(topic, Batch(events), partitionIdHeader="p", defaultPartitionId="1")
    assert {record.decode(one.value, 1)[0][1]: one.partition for one in topic.records()} == {b"a": 2, b"b": 1}


def test_what_is_no_event_is_stepped_over(topic: Topic) -> None:
    """A record that is no event of Flume's is said, counted as dropped and passed; the place goes on."""
    good = record.encode([({}, b"good")])
    topic.send([b"\xff\xff", good])

    async def steps() -> None:
        async with topic.channel() as channel:
            async with await channel.take(10) as take:
                assert bodies(take) == ["good"]
            await until(lambda: topic.committed() == 2)
            assert channel.counter.dropped == 1

    run(steps)


def test_a_foreign_record_is_named_by_its_place(topic: Topic) -> None:
    """Records without identity have one nevertheless, and the same for whoever reads them; a key becomes a header."""
    topic.send([record.encode([({}, b"a")])], key="k")
    names: list[Any] = []

    async def steps() -> None:
        for group in ("one", "two"):
            async with topic.channel(kafka__consumer__group__id=group) as channel, await channel.take(10) as take:
                names.append(take.batch.identities)
                assert take.batch.events[0].headers == {"key": "k"}

    run(steps)
    assert names[0] == names[1]
    assert (names[0][0].first, names[0][0].count) == (1, 1)


def test_the_place_outlives_the_channel(topic: Topic) -> None:
    """What was committed is not taken again after a restart; what was not is, in order."""

    async def first() -> None:
        async with topic.channel() as channel:
            await channel.put(batch(*range(6)))
            takes = [await channel.take(2) for _ in range(3)]
            takes[0].commit()
            takes[2].commit()

    async def second() -> None:
        async with topic.channel() as channel, await channel.take(10) as take:
            assert bodies(take) == ["2", "3", "4", "5"]

    run(first)
    run(second)


@pytest.mark.parametrize("size", ["2000000", "10000000"])
def test_an_event_that_is_too_large_does_not_hold_up_the_others(topic: Topic, size: str) -> None:
    """Refused by the client or by the broker: it is dropped and counted, what is around it is there in order."""
    events = [Event({}, b"a"), Event({}, b"b"), Event({}, b"x" * 3_000_000), Event({}, b"c")]

    async def steps() -> None:
        async with topic.channel(kafka__producer__max__request__size=size) as channel:
            assert await channel.put(Batch(events)) == (3, 0)
            assert channel.counter.dropped == 1
            await channel.put(batch("next"))

    run(steps)
    assert [record.decode(one.value, 1)[0][1] for one in topic.records()] == [b"a", b"b", b"c", b"next"]


def test_a_put_of_which_all_is_refused_leaves_nothing(topic: Topic) -> None:
    """ChannelFull that says why; the next put is there."""

    async def steps() -> None:
        async with topic.channel(kafka__producer__max__request__size="10000000") as channel:
            with pytest.raises(ChannelFull, match="too large"):
                await channel.put(Batch([Event({}, b"x" * 3_000_000)] * 2))
            await channel.put(batch("next"))

    run(steps)
    assert [record.decode(one.value, 1)[0][1] for one in topic.records()] == [b"next"]


def test_a_partition_that_the_topic_lacks(topic: Topic) -> None:
    """An event that names one goes where one without goes; the first put of a channel may hold it."""

    async def steps() -> None:
        async with topic.channel(partitionIdHeader="p") as channel:
            await channel.put(Batch([Event({"p": "0"}, b"a"), Event({"p": "7"}, b"b")]))

    run(steps)
    assert [record.decode(one.value, 1)[0][1] for one in topic.records()] == [b"a", b"b"]


def test_an_optional_put_never_holds_back(tmp_path: Path) -> None:
    """Optional and no Kafka: dropped and counted; required: ChannelFull."""
    with Kafka(tmp_path / "kafka") as kafka:
        topic = Topic(kafka)

    async def steps() -> None:
        async with topic.channel() as channel:
            assert await channel.put_all([Put(batch(*"abc"), (), (channel,))]) == (0, 0)
            assert channel.counter.dropped == 3
            with pytest.raises(ChannelFull):
                await channel.put(batch("a"))

    monkey = pytest.MonkeyPatch()
    with monkey.context() as patched:
        patched.setattr("aggregator.kafka.transactions.TIMEOUT", 1.0)
        run(steps)


def test_two_agents_share_a_topic() -> None:
    """Each takes its share; when one leaves, the other takes the rest; each event is taken once."""
    topic = Topic(shared_kafka(), 4)
    seen: list[list[str]] = [[], []]

    async def drain(channel: KafkaChannel, into: list[str]) -> None:
        while True:
            async with await channel.take(10) as take:
                await asyncio.sleep(0)
                into += bodies(take)

    async def steps() -> None:
        async with topic.channel(partitionIdHeader="p") as writer, topic.channel() as first:

            async def write(start: int) -> None:
                for number in range(start, start + 40):
                    await writer.put(Batch([Event({"p": str(number % 4)}, str(number).encode())]))

            tasks = [asyncio.create_task(drain(first, seen[0]))]
            await write(0)
            await until(lambda: len(seen[0]) == 40)
            async with topic.channel() as second:
                other = asyncio.create_task(drain(second, seen[1]))
                await until(lambda: len(second._tracks) == 2 and len(first._tracks) == 2)
                await write(40)
                await until(lambda: len(seen[1]) == 20 and len(seen[0]) == 60)
                other.cancel()
                await asyncio.gather(other, return_exceptions=True)
            await write(80)
            await until(lambda: len(seen[0]) == 100)
            for task in tasks:
                task.cancel()

    run(steps)
    assert sorted(map(int, seen[0] + seen[1])) == list(range(120))


def test_an_open_take_may_end_before_its_partition_goes(topic: Topic) -> None:
    """While a second agent joins, what the first has under way is settled, and nobody gets it again."""
    wide = Topic(topic.kafka, 2)

    async def steps() -> None:
        async with wide.channel(partitionIdHeader="p") as first, wide.channel() as second:
            await first.put(Batch([Event({"p": str(number % 2)}, b"%d" % number) for number in range(10)]))
            got: list[str] = []
            while len(got) < 10:
                take = await first.take(10)
                got += bodies(take)
                if len(got) < 10:
                    take.commit()
            waiting = asyncio.create_task(second.take(10))
            await until(lambda: second._reading)
            await asyncio.sleep(4)
            assert not second._tracks, "the partitions have not gone yet"
            take.commit()
            await until(lambda: second._tracks and first._tracks)
            await asyncio.sleep(0.5)
            assert not waiting.done()
            assert wide.committed(0) + wide.committed(1) >= 10
            waiting.cancel()

    run(steps)


def test_reading_has_a_bound(topic: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for a take is bounded, however much the topic holds; all of it is taken in the end."""
    monkeypatch.setattr(module, "READY", 10_000)
    monkeypatch.setattr(module, "MOST", 10)
    topic.send([record.encode([({}, b"%0500d" % number)]) for number in range(300)])

    async def steps() -> None:
        async with topic.channel() as channel:
            seen: list[int] = []
            async with await channel.take(1) as take:
                seen += map(int, bodies(take))
            await asyncio.sleep(2.5)
            assert channel._ready_bytes < 20_000
            while len(seen) < 300:
                async with await channel.take(7) as take:
                    seen += map(int, bodies(take))
            assert seen == list(range(300))

    run(steps)


FLOW = """
a.sources = r
a.channels = c
a.sinks = k
a.sources.r.type = seq
a.sources.r.channels = c
a.sources.r.batchSize = 20
a.sources.r.totalEvents = 2000
a.channels.c.type = kafka
a.channels.c.kafka.bootstrap.servers = {servers}
a.channels.c.kafka.topic = {topic}
a.channels.c.kafka.consumer.group.id = {topic}
a.channels.c.kafka.consumer.session.timeout.ms = 1000
a.sinks.k.type = sqlite
a.sinks.k.channel = c
a.sinks.k.batchSize = 50
a.sinks.k.database = {folder}/events.db
"""


@pytest.mark.limit(240)
def test_sigkill_of_the_agent(tmp_path: Path, topic: Topic) -> None:
    """Killed while it writes and reads: what was put is in the keyed table once, and nothing of it is missing."""
    import sqlite3

    flow = FLOW.format(servers=topic.kafka.bootstrap, topic=topic.name, folder=tmp_path)
    program = Program("aggregator", flow, tmp_path)
    for _ in range(3):
        program.start()
        wait_until(lambda: program.count("CHANNEL.c", "EventTakeSuccessCount") >= 100, 60, program.log[-2000:])
        program.kill9()
    with program:
        wait_until(lambda: program.count("CHANNEL.c", "EventPutSuccessCount") == 2000, 60, program.log[-2000:])
        written = len(topic.records())

        def rows() -> int:
            with sqlite3.connect(tmp_path / "events.db") as connection:
                return int(connection.execute("SELECT count(*) FROM events").fetchone()[0])

        wait_until(lambda: rows() >= written, 60, program.log[-2000:])
        assert rows() == written
