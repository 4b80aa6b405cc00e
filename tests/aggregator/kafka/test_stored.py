"""What a topic holds, without a broker."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import pytest
from confluent_kafka import TopicPartition

from agent.errors import DeliveryError
from agent.store.streams import Identity
from aggregator.kafka import identity, stored


class Record:
    """`place` None: a partition's end."""

    def __init__(self, partition: int, name: tuple[bytes, int] | None) -> None:
        self.at, self.name = partition, name

    def error(self) -> Any:
        return None if self.name else self

    def code(self) -> int:
        return int(stored.KafkaError._PARTITION_EOF)

    def topic(self) -> str:
        return "t"

    def partition(self) -> int:
        return self.at


class Broker:
    """In place of a consumer: a topic of two partitions with a record each."""

    lows: ClassVar[dict[int, int]] = {}

    def __init__(self, *_: Any, **__: Any) -> None:
        self.left = [Record(0, (b"o" * 16, 7)), Record(0, None), Record(1, (b"o" * 16, 8)), Record(1, None)]
        self.topic, self.partitions = "t", {0: None, 1: None}

    def list_topics(self, timeout: float) -> Any:
        self.topics = {"t": self}
        return self

    def assign(self, places: list[TopicPartition]) -> None:
        pass

    def consume(self, count: int, timeout: float) -> list[Record]:
        found, self.left = self.left, []
        return found

    def get_watermark_offsets(self, place: TopicPartition, timeout: float) -> tuple[int, int]:
        return self.lows.get(place.partition, 0), 9

    def close(self) -> None:
        pass


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> type[Broker]:
    monkeypatch.setattr(stored, "Consumer", Broker)
    monkeypatch.setattr(identity, "carried", lambda message: message.name)
    monkeypatch.setattr(Broker, "lows", {})
    return Broker


def test_a_topic_that_is_whole(broker: type[Broker]) -> None:
    """Each record's identity, and no word more."""
    found = list(stored.stored("h:1", {}, re.compile("t"), 1.0))
    assert found == [Identity(b"o" * 16, 7, 1), Identity(b"o" * 16, 8, 1)]


def test_what_retention_removed_is_said(broker: type[Broker]) -> None:
    """What is there is told first; then that a partition has lost its first records: they are not missing."""
    broker.lows[1] = 5
    found = stored.stored("h:1", {}, re.compile("t"), 1.0)
    assert [run.first for run in (next(found), next(found))] == [7, 8]
    with pytest.raises(DeliveryError, match="records of t-1 before offset 5 are gone by retention"):
        next(found)
    broker.lows[0] = 2
    with pytest.raises(DeliveryError, match="t-0 before offset 2 are gone by retention and of 1 partitions more"):
        list(stored.stored("h:1", {}, re.compile("t"), 1.0))
