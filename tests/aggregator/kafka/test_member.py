"""A member of a group, with a consumer that does what it is told (tests/peers/test_kafka_source.py has a real one)."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
from confluent_kafka import KafkaError, TopicPartition
from confluent_kafka.admin import ClusterMetadata

from agent.errors import DeliveryError
from aggregator.kafka.member import Member, Place

PLACE = Place("t", 0)


class FakeConsumer:
    """Gives nothing, and takes down what it is asked."""

    def __init__(self) -> None:
        self.topics: list[str] = []
        self.subscribed: list[list[str]] = []
        self.commits: list[int] = []
        self.calls: list[str] = []

    def consume(self, count: int, seconds: float) -> list[Any]:
        return []

    def list_topics(self, timeout: float) -> ClusterMetadata:
        found = ClusterMetadata()
        found.topics = dict.fromkeys(self.topics)
        return found

    def subscribe(self, topics: list[str], **calls: Any) -> None:
        self.subscribed.append(topics)

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> None:
        self.commits += [one.offset for one in offsets]

    def assign(self, partitions: list[TopicPartition]) -> None:
        self.calls.append("assign")

    def incremental_assign(self, partitions: list[TopicPartition]) -> None:
        self.calls.append("incremental_assign")


def member(pattern: re.Pattern[str] | None = None, **settings: str) -> tuple[Member, FakeConsumer]:
    """That has one partition."""
    given = {name.replace("__", "."): text for name, text in settings.items()}
    made = Member(given, pattern or ["t"], logging.getLogger())
    made._consumer = consumer = FakeConsumer()  # type: ignore[assignment]
    made.assigned = {PLACE}
    return made, consumer


def answer(to: Member, offset: int, code: int | None = None) -> None:
    """The broker's answer to a commit."""
    to._on_commit(None if code is None else KafkaError(code), [TopicPartition(*PLACE, offset)])


def test_a_commit_that_the_broker_missed_is_asked_for_again() -> None:
    """With the broker away a commit fails; the next idle poll repeats it, until it is there."""
    one, consumer = member()
    one._commit({PLACE: 5})
    answer(one, 5, KafkaError._TRANSPORT)
    one._poll(10, 0)
    answer(one, 5)
    one._poll(10, 0)
    assert consumer.commits == [5, 5]
    assert one.committed == {PLACE: 5}


def test_offsets_never_go_back() -> None:
    """A failed commit isn't repeated once a later one was asked for, whichever is answered first."""
    one, consumer = member()
    one._commit({PLACE: 5})
    one._commit({PLACE: 7})
    answer(one, 5, KafkaError._TRANSPORT)
    answer(one, 7)
    one._poll(10, 0)
    one._commit({PLACE: 8})
    answer(one, 8, KafkaError._TRANSPORT)
    one._commit({PLACE: 9})
    one._poll(10, 0)
    assert consumer.commits == [5, 7, 8, 9]


def test_a_commit_that_the_group_refuses_is_left() -> None:
    """Who was put out of the group doesn't insist, and a partition that went isn't committed any more."""
    one, consumer = member()
    one._commit({PLACE: 5})
    answer(one, 5, KafkaError.ILLEGAL_GENERATION)
    one._poll(10, 0)
    one._commit({PLACE: 6})
    one._on_revoke(consumer, [TopicPartition(*PLACE)])  # type: ignore[arg-type]
    answer(one, 6, KafkaError._TRANSPORT)
    one._poll(10, 0)
    assert consumer.commits == [5, 6]


def test_a_pattern_is_pythons() -> None:
    """Whole names; `\\d`, groups and lazy quantifiers as everywhere else. Kafka's own topics are none."""
    one, consumer = member(pattern=re.compile(r"(?:plant-[\w]+?\d|__.*)"))
    consumer.topics = ["plant-a1", "plant-a1-old", "plant-x", "__consumer_offsets", "plant-b2"]
    one._poll(10, 0)
    one._poll(10, 0)
    assert consumer.subscribed == [["plant-a1", "plant-b2"]] and not one.trouble


def test_a_pattern_takes_new_topics_in() -> None:
    """The next look finds them."""
    one, consumer = member(pattern=re.compile("p.*"))
    consumer.topics = ["p1"]
    one._poll(10, 0)
    consumer.topics = ["p1", "p2"]
    one._look_at = 0
    one._poll(10, 0)
    assert consumer.subscribed == [["p1"], ["p1", "p2"]]


def test_a_pattern_that_no_topic_matches_is_said() -> None:
    """Until there is one."""
    one, consumer = member(pattern=re.compile("p.*"))
    one._poll(10, 0)
    assert "no topic matches p.*" in one.trouble and not consumer.subscribed
    consumer.topics = ["p1"]
    one._poll(10, 0)
    assert consumer.subscribed == [["p1"]] and not one.trouble


def test_no_offset_and_none_to_begin_with() -> None:
    """auto.offset.reset = none: the group's offset is the operator's to set, and nothing is read until then."""
    one, _ = member()
    one._error(KafkaError(KafkaError._AUTO_OFFSET_RESET))
    with pytest.raises(DeliveryError, match="--reset-offsets"):
        one._poll(10, 0)


@pytest.mark.parametrize(
    ("settings", "call"),
    [
        ({}, "assign"),
        ({"partition__assignment__strategy": "range,roundrobin"}, "assign"),
        ({"partition__assignment__strategy": "cooperative-sticky"}, "incremental_assign"),
        ({"group__protocol": "consumer"}, "incremental_assign"),
    ],
)
def test_how_partitions_are_taken(settings: dict[str, str], call: str) -> None:
    """In a cooperative group what is assigned comes in addition."""
    one, consumer = member(**settings)
    one._on_assign(consumer, [])  # type: ignore[arg-type]
    assert consumer.calls == [call]
