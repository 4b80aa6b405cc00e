"""Transactions of the kafka channel, with a producer that does what it is told (tests/peers has a real one)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import ClusterMetadata, TopicMetadata

from agent.errors import AgentError, ChannelFull, Rejected
from aggregator.kafka.transactions import Outgoing, Transactions


class Fake:
    """A producer for a topic of three partitions that takes values of up to 9 bytes."""

    def __init__(self) -> None:
        self.partitions: list[int] = []

    def list_topics(self, topic: str, timeout: float) -> ClusterMetadata:
        found, its = ClusterMetadata(), TopicMetadata()
        its.partitions = dict.fromkeys(range(3))
        found.topics = {topic: its}
        return found

    def produce(self, topic: str, value: bytes, key: str, partition: int, **_: Any) -> None:
        if len(value) > 9:
            raise KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
        if partition > 2:
            raise KafkaException(KafkaError(KafkaError._UNKNOWN_PARTITION))
        self.partitions.append(partition)

    def begin_transaction(self) -> None: ...

    def commit_transaction(self, timeout: float) -> None: ...

    def abort_transaction(self, timeout: float) -> None: ...


def written(*partitions: int, default: int = -1, value: bytes = b"x") -> list[int]:
    """The partitions that records for these went to."""
    writer, producer = Transactions({}, "t", logging.getLogger("test"), default), Fake()
    writer._producer = cast(Producer, producer)
    try:
        asyncio.run(writer.write([Outgoing(value, None, partition, []) for partition in partitions]))
    finally:
        writer.close()
    return producer.partitions


def test_a_partition_that_the_topic_lacks_is_as_if_none_were_named(caplog: pytest.LogCaptureFixture) -> None:
    """The event isn't lost for that, nor does it hold up its source; it is said."""
    assert written(1, 7, -1) == [1, -1, -1]
    assert written(1, 7, -1, default=2) == [1, 2, -1]
    assert "has 3 partitions: an event for partition 7" in caplog.text


@pytest.mark.parametrize(
    ("write", "kind", "text"),
    [
        (lambda: written(7, default=7), ChannelFull, "defaultPartitionId"),
        (lambda: written(1, value=b"x" * 10), Rejected, "max.request.size"),
    ],
)
def test_whose_fault_it_is(write: Callable[[], object], kind: type[AgentError], text: str) -> None:
    """A default that is wrong is the operator's, a record that is too large an event's."""
    with pytest.raises(kind, match=text):
        write()
