"""kafka channel: what needs no broker (tests/peers/test_kafka_channel.py has one)."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

import pytest

from agent.config.reading import Reading, read
from agent.errors import ChannelFull, Rejected
from agent.event import Batch, Event
from agent.metrics import ChannelCounter
from agent.source import Kept
from aggregator.channels.kafka import Entry, KafkaChannel, KafkaChannelConfig, Track
from aggregator.kafka.member import Place
from aggregator.kafka.transactions import Outgoing
from tests.agent.parts import flow

BASE = {"kafka.bootstrap.servers": "127.0.0.1:1"}


def config(**keys: str) -> Reading[KafkaChannelConfig]:
    raw = BASE | {name.replace("__", "."): text for name, text in keys.items()}
    return read(KafkaChannelConfig, raw, "kafka")


def test_defaults_are_flumes() -> None:
    """Topic flume-channel, group flume, events of Flume's, half a second a poll."""
    found = config().config
    assert found
    assert (found.topic, found.group, found.parseAsFlumeEvent, found.pollTimeout) == (
        "flume-channel", "flume", True, 0.5,
    )  # fmt: skip


def test_old_spellings() -> None:
    """brokerList, topic, groupId and pollTimeout are read as what they are called now."""
    found = read(
        KafkaChannelConfig, {"brokerList": "h:1", "topic": "t", "groupId": "g", "pollTimeout": "100"}, "kafka"
    ).config
    assert found
    assert (found.servers, found.topic, found.group, found.pollTimeout) == ("h:1", "t", "g", 0.1)


@pytest.mark.parametrize("name", ["zookeeperConnect", "migrateZookeeperOffsets", "readSmallestOffset"])
def test_zookeeper_is_refused_by_name(name: str) -> None:
    """What speaks of ZooKeeper is an error that says what to do instead."""
    [fault] = config(**{name: "true"}).faults
    assert fault.refused
    assert fault.key == name


def test_settings_are_judged() -> None:
    """Producer and consumer settings that no client has are errors of their own key."""
    assert [fault.key for fault in config(kafka__producer__nix="1").faults] == ["kafka.producer.nix"]
    assert [fault.key for fault in config(kafka__consumer__nix="1").faults] == ["kafka.consumer.nix"]


@pytest.mark.parametrize("without", ["sources", "sinks"])
def test_a_source_or_a_sink_alone_will_do(without: str) -> None:
    """A flow with nothing on the channel's other side is judged good: other agents have it."""
    text = """
        sources = r1
        channels = c1
        sinks = k1
        sources.r1.type = hand
        sources.r1.channels = c1
        channels.c1.type = org.apache.flume.channel.kafka.KafkaChannel
        channels.c1.kafka.bootstrap.servers = 127.0.0.1:1
        sinks.k1.type = list
        sinks.k1.channel = c1
    """
    left = "\n".join(line for line in text.splitlines() if not line.strip().startswith(without))
    found = flow(left)
    assert list(found.channels) == ["c1"]
    assert bool(found.sources) != bool(found.sinks)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_what_is_committed_is_a_prefix(order: tuple[int, ...]) -> None:
    """Whatever the order in which events are done, the place is that of the first that isn't."""
    track = Track(Place("t", 0))
    track.waiting.extend([10, 11, 15, 16])  # transaction markers leave holes
    done: set[int] = set()
    for index in order:
        offset = [10, 11, 15, 16][index]
        track.finish(offset)
        done.add(offset)
        prefix = list(itertools.takewhile(done.__contains__, [10, 11, 15, 16]))
        assert track.reached == (prefix[-1] + 1 if prefix else -1)
    assert not track.waiting
    assert not track.done


def test_partition_of_an_event() -> None:
    """partitionIdHeader counts before defaultPartitionId; what is no number there is as if it weren't."""
    found = config(partitionIdHeader="p", defaultPartitionId="3").config
    assert found
    channel = KafkaChannel("c1", found)
    events = [Event({"p": "5"}, b""), Event({}, b""), Event({"p": "x"}, b""), Event({"p": "9" * 12}, b"")]
    assert [channel._partition(event) for event in events] == [5, 3, 3, 3]


@pytest.mark.parametrize(
    ("name", "value"), [("acks", "1"), ("enable.idempotence", "false"), ("delivery.timeout.ms", "60000")]
)
def test_what_a_transaction_does_not_go_with(name: str, value: str) -> None:
    """A put is one: settings of a plain producer's that it doesn't take are errors before anything opens."""
    assert [fault.key for fault in config(**{f"kafka.producer.{name}": value}).faults] == [f"kafka.producer.{name}"]


class Bounded:
    """In place of the transactions: takes records of up to 9 bytes."""

    def __init__(self) -> None:
        self.values: list[bytes] = []

    async def write(self, records: Sequence[Outgoing]) -> None:
        if any(len(one.value) > 9 for one in records):
            raise Rejected("too large")
        self.values += [one.value for one in records]

    def close(self) -> None: ...


def put(*bodies: bytes) -> tuple[list[bytes], Kept | None, int]:
    """What the topic has after a put, what the put said (None: ChannelFull), and how many were dropped."""

    async def steps() -> tuple[list[bytes], Kept | None, int]:
        found = config(parseAsFlumeEvent="false").config
        assert found
        channel, topic = KafkaChannel("c1", found), Bounded()
        channel.counter = ChannelCounter("c1")
        async with channel:
            channel._transactions = topic  # type: ignore[assignment]
            try:
                kept = await channel.put(Batch([Event({}, body) for body in bodies]))
            except ChannelFull:
                kept = None
            return topic.values, kept, channel.counter.dropped

    return asyncio.run(steps())


def test_an_event_that_is_too_large_does_not_hold_up_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """It is dropped, said and counted, here where there are no dead letters; the others are there in order."""
    assert put(b"a", b"b", b"x" * 10, b"c", b"d") == ([b"a", b"b", b"c", b"d"], Kept(4, 0), 1)
    assert put(b"x" * 10) == ([], Kept(0, 0), 1)
    assert "dropped what can never be kept (10 bytes: too large)" in caplog.text


def test_when_all_are_too_large_the_topic_is_at_fault() -> None:
    """The source is held back."""
    assert put(b"x" * 10, b"y" * 10) == ([], None, 0)


def test_what_comes_back_has_its_turn_among_the_rest() -> None:
    """Rolled back in any order, takes that reach over each other's gaps: the order is that of reading."""

    async def steps() -> list[int]:
        found = config().config
        assert found
        channel = KafkaChannel("c1", found)
        channel.counter = ChannelCounter("c1")
        channel._start_reading = lambda: None  # type: ignore[method-assign]
        async with channel:
            track = Track(Place("t", 0))
            channel._ready.extend(Entry(turn, track, turn, (bytes(16), turn + 1), b"\0\0") for turn in range(10))
            first, second = await channel.take(3), await channel.take(3)
            first.rollback()
            third = await channel.take(5)
            second.rollback()
            third.rollback()
            return [entry.serial for entry in channel._ready]

    assert asyncio.run(steps()) == list(range(10))
