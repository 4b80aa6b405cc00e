"""The kafka sink without a broker: its keys, and the records that it makes of events."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from agent.avro import record
from agent.config.reading import read
from agent.errors import Rejected
from agent.event import Batch, Event
from agent.store.streams import Identity, Transit
from aggregator.kafka.member import Daemon
from aggregator.kafka.position import MOST, Position
from aggregator.kafka.sender import Records
from aggregator.sinks import kafka as module
from aggregator.sinks.kafka import KafkaConfig, KafkaSink

BASE = {"channel": "c", "kafka.bootstrap.servers": "127.0.0.1:1", "kafka.topic": "t"}


def faults(**keys: str) -> list[str]:
    """What is wrong with these keys; `__` stands for a dot."""
    return [fault.text for fault in read(KafkaConfig, BASE | _dotted(keys), "kafka").faults]


def _dotted(keys: dict[str, str]) -> dict[str, str]:
    return {name.replace("__", "."): text for name, text in keys.items()}


class Listening:
    """In place of the sender: what it is told to send."""

    def __init__(self) -> None:
        self.position = Position()
        self.groups: list[Records] = []

    def missing(self, transit: Transit | None) -> list[int] | None:
        return None

    def send(self, groups: Sequence[Records], transit: Transit | None) -> None:
        self.groups += groups

    def close(self) -> None: ...


def groups(*events: Event, names: tuple[Identity, ...] | None = None, **keys: str) -> list[Records]:
    """Records of a batch, by topic."""
    reading = read(KafkaConfig, BASE | _dotted(keys), "kafka")
    assert reading.config, reading.faults
    sink, sender = KafkaSink("k", reading.config), Listening()
    sink.sender, sink.thread = sender, Daemon("test")  # type: ignore[assignment]
    try:
        asyncio.run(sink.send(Batch(list(events), identity=names)))
    finally:
        sink.thread.end()
    return sender.groups


def records(*events: Event, **keys: Any) -> list[dict[str, Any]]:
    return [one for group in groups(*events, **keys) for one in group.records]


def test_flumes_old_names() -> None:
    """brokerList, topic, batchSize and requiredAcks are what they became."""
    old = {"channel": "c", "brokerList": "h:1", "topic": "x", "batchSize": "7", "requiredAcks": "1"}
    config = read(KafkaConfig, old, "kafka").config
    assert config
    assert (config.servers, config.topic, config.batchSize, config.acks) == ("h:1", "x", 7, "1")


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"kafka__topic": "a/b"}, "is no topic"),
        ({"kafka__topic": "x-%{s"}, "%{"),
        ({"positionTopic": "a b"}, "is no topic"),
        ({"kafka__topic": "x-%{s}", "transactional": "true"}, "name a topic that exists"),
        ({"kafka__producer__liner.ms": "5"}, "No such configuration property"),
        ({"kafka__producer__bootstrap.servers": "h:1"}, "give kafka.bootstrap.servers"),
        ({"kafka__producer__acks": "1", "transactional": "true"}, "needs all, not 1"),
        ({"kafka__producer__acks": "2"}, "takes all, -1, 0 or 1"),
        ({"kafka__producer__acks": "1", "kafka__producer__transactional.id": "x"}, "needs all, not 1"),
        ({"transactional.id": "x"}, "without transactional = true"),
        ({"flumeBatchSize": "0"}, "at least 1"),
        ({"zookeeperConnect": "z:2181"}, "name brokers in kafka.bootstrap.servers"),
    ],
)
def test_a_wrong_key_is_named(keys: dict[str, str], text: str) -> None:
    """Before anything is opened, with what is wrong about it."""
    assert any(text in fault for fault in faults(**keys)), faults(**keys)


def test_a_plain_record_is_a_value_and_perhaps_a_key() -> None:
    """The header `key` is the key; other headers stay out."""
    assert records(Event({"key": "k", "x": "1"}, b"a"), Event({}, b"b")) == [
        {"value": b"a", "key": "k"},
        {"value": b"b"},
    ]


def test_header_name_is_the_events_and_its_value_the_records() -> None:
    """As in Flume, where `header.unit = u` gives record header u what event header unit says; a missing one is left
    out."""
    [one, two] = records(Event({"unit": "°C", "u": "no"}, b"a"), Event({}, b"b"), header__unit="u")
    assert (one["headers"], two["headers"]) == ([("u", "°C".encode())], [])


def test_neighbours_of_one_topic_go_together_in_order() -> None:
    """Order within a topic is the channel's."""
    to = [Event({"topic": name} if name else {}, name.encode() or b"-") for name in ("", "", "x", "x", "", "x")]
    assert [(group.topic, len(group.records)) for group in groups(*to)] == [("t", 2), ("x", 2), ("t", 1), ("x", 1)]


def test_topics_of_a_pattern() -> None:
    """kafka.topic takes headers in; an event's own topic goes first, unless allowTopicOverride = false."""
    events = Event({"s": "1"}, b""), Event({"s": "1", "topic": "o"}, b"")
    assert [group.topic for group in groups(*events, kafka__topic="p-%{s}")] == ["p-1", "o"]
    assert [group.topic for group in groups(*events, kafka__topic="p-%{s}", allowTopicOverride="false")] == ["p-1"]


@pytest.mark.parametrize("topic", ["a/b", ".", "..", "x" * 250, "ü"])
def test_an_illegal_topic_is_the_events_fault(topic: str) -> None:
    """Kafka would refuse it for ever."""
    with pytest.raises(Rejected, match="is no topic"):
        groups(Event({"topic": topic}, b"x"))


def test_an_empty_topic_is_the_events_fault() -> None:
    """A pattern whose header is missing may leave nothing."""
    with pytest.raises(Rejected, match="is no topic"):
        groups(Event({}, b"x"), kafka__topic="%{none}")


@pytest.mark.parametrize("text", ["", "-1", "1.5", "٣", str(2**31)])
def test_a_partition_that_is_none_is_the_events_fault(text: str) -> None:
    """partitionIdHeader must hold a number."""
    with pytest.raises(Rejected, match="not a number"):
        groups(Event({"p": text}, b"x"), partitionIdHeader="p")


def test_a_time_that_is_none_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """As Flume does: the record gets its time from the client; said once."""
    events = Event({"w": "17"}, b""), Event({"w": "noon"}, b""), Event({"w": "-3"}, b""), Event({}, b"")
    caplog.set_level(logging.WARNING)
    assert [one.get("timestamp") for one in records(*events, timestampHeader="w")] == [17, None, None, None]
    assert caplog.text.count("header w is") == 1


def test_flumes_event_format() -> None:
    """The value is the whole event in Avro, with key and place as without it."""
    [one] = records(Event({"key": "k"}, b"b"), useFlumeEventFormat="true", defaultPartitionId="3")
    assert record.decode(one["value"], 1) == [({"key": "k"}, b"b")]
    assert (one["key"], one["partition"]) == ("k", 3)


def test_identity_in_record_headers() -> None:
    """Each record gets the number of its event, over several runs."""
    one, other = bytes(16), bytes(range(16))
    names = (Identity(one, 7, 2), Identity(other, 1, 1))
    assert not any("headers" in made for made in records(*[Event({}, b"")] * 3, names=names))
    found = [dict(made["headers"]) for made in records(*[Event({}, b"")] * 3, names=names, identity="true")]
    assert [headers["headrace.number"] for headers in found] == [b"7", b"8", b"1"]
    assert found[2]["headrace.origin"] == other.hex().encode()


def test_a_producers_transactional_id_makes_it_transactional() -> None:
    """As in Flume, where nothing else says so."""
    config = read(KafkaConfig, BASE | {"kafka.producer.transactional.id": "x"}, "kafka").config
    assert config and config.transacts and config.settings()["transactional.id"] == "x"


def test_a_close_does_not_wait_for_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that is under way with Kafka down is left to its thread, long before a supervisor kills the process."""
    config = read(KafkaConfig, BASE, "kafka").config
    assert config
    sink, over = KafkaSink("k", config), threading.Event()
    monkeypatch.setattr(module, "LAST_WORDS", 0.01)

    async def steps() -> None:
        async with asyncio.timeout(30):
            sink.sender, sink.thread = Listening(), Daemon("test")  # type: ignore[assignment]
            hanging = asyncio.create_task(sink.thread.call(over.wait))
            await asyncio.sleep(0)
            await sink.close()
            over.set()
            await hanging

    asyncio.run(steps())


def test_a_crowded_position_is_kept_by_the_channel_first() -> None:
    """The metadata of an offset is bounded: with many gaps the channel's cursor is made durable, then they go."""
    config = read(KafkaConfig, BASE, "kafka").config
    assert config
    sink, sender, kept = KafkaSink("k", config), Listening(), list[bytes]()
    sink.sender, sink.thread = sender, Daemon("test")  # type: ignore[assignment]
    sender.position.intervals = [(bytes(16), 2 * n, 2 * n) for n in range(MOST)]

    async def keep(receipt: bytes) -> None:
        assert sender.position.crowded
        kept.append(receipt)

    sink.keep = keep
    asyncio.run(sink.send(Batch([Event({}, b"")])))
    sink.thread.end()
    assert kept and not sender.position.intervals
