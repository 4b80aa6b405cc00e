"""kafka source: what needs no broker (tests/peers/test_kafka_source.py has one)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

import pytest
from confluent_kafka import OFFSET_INVALID, Message

from agent.config.reading import Reading, read
from agent.event import Batch
from agent.metrics import SourceCounter
from agent.source import Kept, Marks
from aggregator.kafka import identity
from aggregator.kafka.member import Member, Place
from aggregator.sources.kafka import KafkaConfig, KafkaSource, Mark


class Told(Member):
    """A member that asks no broker."""

    def __init__(self, place: Place) -> None:
        super().__init__({}, [place.topic], logging.getLogger())
        self.assigned, self.committed, self.ids = {place}, {place: OFFSET_INVALID}, {place.topic: TOPIC}

    async def open(self) -> None: ...

    async def commit(self, offsets: Mapping[Place, int]) -> None:
        """Not confirmed."""


def message(place: Place, offset: int) -> Message:
    return Message(topic=place.topic, partition=place.partition, offset=offset, value=b"x", timestamp=(1, 1))


BASE = {"channels": "c1", "kafka.bootstrap.servers": "127.0.0.1:1", "kafka.topics": "a, b"}
TOPIC, OTHER = bytes(range(16)), bytes(16)


def config(**keys: str) -> Reading[KafkaConfig]:
    return read(KafkaConfig, BASE | {name.replace("__", "."): text for name, text in keys.items()}, "kafka")


def test_defaults_are_flumes() -> None:
    """Group flume, batches of 1000 in a second, the topic's name in the header topic."""
    found = config().config
    assert found
    assert found.topics == ["a", "b"]
    assert (found.group, found.batchSize, found.batchDuration) == ("flume", 1000, 1.0)
    assert (found.backoffSleepIncrement, found.maxBackoffSleep) == (1.0, 5.0)
    assert (found.useFlumeEventFormat, found.setTopicHeader, found.topicHeader) == (False, True, "topic")


def test_old_spellings() -> None:
    """topic and groupId are kafka.topics and kafka.consumer.group.id."""
    raw = {"channels": "c1", "kafka.bootstrap.servers": "h:1", "topic": "t", "groupId": "g"}
    found = read(KafkaConfig, raw, "kafka").config
    assert found
    assert (found.topics, found.group) == (["t"], "g")


@pytest.mark.parametrize("name", ["zookeeperConnect", "migrateZookeeperOffsets"])
def test_zookeeper_is_refused_by_name(name: str) -> None:
    """What speaks of ZooKeeper is an error that says what to do instead."""
    [fault] = config(**{name: "true"}).faults
    assert fault.refused
    assert fault.key == name
    assert "Kafka" in fault.text or "kafka-consumer-groups" in fault.text


def test_topics_or_regex() -> None:
    """One of them must be there; a regex must be one."""
    raw = {name: text for name, text in BASE.items() if name != "kafka.topics"}
    assert [fault.key for fault in read(KafkaConfig, raw, "kafka").faults] == ["kafka.topics"]
    assert read(KafkaConfig, {**raw, "kafka.topics.regex": "plant-.*"}, "kafka").config
    assert [fault.key for fault in config(kafka__topics__regex="(").faults] == ["kafka.topics.regex"]


def test_consumer_settings_are_judged() -> None:
    """A setting that no client has, and one that is ours to set, are errors of their own key."""
    assert [fault.key for fault in config(kafka__consumer__fetch__min="1").faults] == ["kafka.consumer.fetch.min"]
    [fault] = config(kafka__consumer__group__id="g", kafka__consumer__bootstrap__servers="h:1").faults
    assert fault.key == "kafka.consumer.bootstrap.servers"
    assert config(kafka__consumer__isolation__level="read_uncommitted").config


def test_header_names() -> None:
    """header.NAME = R collects into a table."""
    found = config(header__sensor="x-sensor").config
    assert found
    assert found.headers == {"sensor": "x-sensor"}


@pytest.mark.parametrize(
    ("committed", "start", "what"),
    [
        (100, 200, "killed between the channel's commit and the group's"),
        (150, 200, "so, after others have read again a part of what was stored"),
        (200, 200, "nothing happened"),
        (250, 250, "others have read on meanwhile"),
        (99, 99, "an operator has set the group back"),
        (-1001, 200, "the group's offsets have expired"),
    ],
)
def test_where_a_partition_begins(committed: int, start: int, what: str) -> None:
    """The mark 100..200 counts when the group is behind it by what one kill can leave, else the group does."""
    mark = Mark.read(bytes(Mark(TOPIC, 100, 200)))
    assert mark.start(TOPIC, committed) == start, what


def test_a_mark_before_the_first_commit() -> None:
    """Killed in the first batch ever: the group has nothing, the store has it."""
    assert Mark(TOPIC, 0, 7).start(TOPIC, -1001) == 7
    assert Mark(TOPIC, 0, 7).start(TOPIC, 0) == 7


def test_a_mark_that_does_not_say_where_reading_began() -> None:
    """As older stores have them: any offset that the group has now is right, or else records are left out."""
    assert Mark(TOPIC, -1001, 7).start(TOPIC, -1001) == 7
    assert Mark(TOPIC, -1001, 7).start(TOPIC, 0) == 0


def test_with_nothing_committed_a_mark_says_where_reading_began(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all batches until the group has something: so an operator's offset before that isn't taken for ours."""
    place = Place("a", 0)
    member = Told(place)
    monkeypatch.setattr("aggregator.sources.kafka.Member", lambda *_: member)

    async def steps() -> list[bytes]:
        found = config(setTopicHeader="false").config
        assert found
        source, marks = KafkaSource("r1", found), list[bytes]()

        async def process(batch: Batch, its: Marks | None = None) -> Kept:
            marks.extend((its or {}).values())
            return Kept(batch.count, 0)

        source.process, source.marks, source.counter = process, {}, SourceCounter("r1")
        async with source:
            source._arrive({place: OFFSET_INVALID})
            for offset in (1000, 1050):
                source._take_up(member, [message(place, offset)])
                await source._settle(member)
            member.committed[place] = 1051
            source._take_up(member, [message(place, 1060)])
            await source._settle(member)
        return marks

    assert [Mark.read(mark)[1:] for mark in asyncio.run(steps())] == [(1000, 1001), (1000, 1051), (1051, 1061)]


def test_a_topic_made_anew_has_no_mark() -> None:
    """Offsets of a deleted topic say nothing of its namesake."""
    assert Mark(TOPIC, 100, 200).start(OTHER, 150) == 150
    assert Mark(TOPIC, 100, 200).start(OTHER, -1001) == -1001


def test_a_place_names_its_records_apart() -> None:
    """Origins differ by topic id, topic and partition, and are the same each time."""
    origins = [identity.origin_of(*at) for at in ((TOPIC, "a", 0), (TOPIC, "a", 1), (OTHER, "a", 0), (OTHER, "b", 0))]
    assert len(set(origins)) == 4
    assert all(len(origin) == 16 for origin in origins)
    assert origins[0] == identity.origin_of(TOPIC, "a", 0)


def test_identity_in_event_headers_is_taken_off() -> None:
    """What an event says of its identity is its identity, and no header any more; nonsense is none."""
    headers = {"k": "v", "headrace.origin": TOPIC.hex(), "headrace.number": "7"}
    assert identity.taken_off(headers) == (TOPIC, 7)
    assert headers == {"k": "v"}
    for origin, number in (("00", "7"), (TOPIC.hex(), "0"), (TOPIC.hex(), "-1"), (TOPIC.hex(), "x"), ("zz", "1")):
        assert identity.taken_off({"headrace.origin": origin, "headrace.number": number}) is None
