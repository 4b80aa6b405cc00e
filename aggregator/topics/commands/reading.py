"""Records of partitions, up to an end."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from agent.errors import DeliveryError
from aggregator.topics.commands.cluster import Cluster, Place

PATIENCE = 60.0
"""Seconds without a record or an end."""
MANY = 1000
"""Records taken at once. The library waits until it has them all, so the wait is short."""
WAIT = 0.05
END = (KafkaError._PARTITION_EOF,)
HARMLESS = (*END, KafkaError.GROUP_AUTHORIZATION_FAILED)
FURTHER = 4
"""How many times as far back each next look for the last records goes."""


# The library's types say what a message may be anywhere. One that a consumer gives has a place, and bytes.


def place_of(message: Message) -> Place:
    """Topic and partition of a record."""
    return message.topic(), message.partition()  # type: ignore[return-value]


def offset_of(message: Message) -> int:
    """Of a record, or of the end of a partition."""
    return message.offset()  # type: ignore[return-value]


def key_of(message: Message) -> bytes | None:
    return message.key()


def value_of(message: Message) -> bytes | None:
    return message.value()


def headers_of(message: Message) -> list[tuple[str, bytes | None]]:
    """In their order; a name may be there twice. DeliveryError if one isn't UTF-8."""
    try:
        return message.headers() or []  # type: ignore[return-value]
    except (SystemError, UnicodeDecodeError):  # confluent-kafka 2.16 raises the first; it must not be asked again
        topic, partition = place_of(message)
        where = f"offset {offset_of(message)} of {topic}-{partition}"
        raise DeliveryError(f"{where} has a header whose name isn't UTF-8, which can't be read") from None


def parted(messages: Sequence[Message], group: bool = False) -> tuple[Sequence[Message], Sequence[Message]]:
    """Records, and words that a partition has no more. KafkaException for other words.

    The library asks for its group's coordinator even where it needs none; only a `group` that is used must be allowed.
    """
    words = [message for message in messages if message.error() is not None]
    if not words:
        return messages, ()
    for word in words:
        error = word.error()
        if error and error.code() not in (END if group else HARMLESS):
            raise KafkaException(error)
    ended = [word for word in words if (error := word.error()) and error.code() in END]
    return [message for message in messages if message.error() is None], ended


def between(
    cluster: Cluster, consumer: Consumer, begins: Mapping[Place, int], ends: Mapping[Place, int]
) -> Iterator[Message]:
    """Records of partitions from where they begin to an end (an offset that is not theirs any more), in order within
    each. `consumer`: of `Cluster.reader`. DeliveryError."""
    left = {place: ends[place] - 1 for place, begin in begins.items() if begin < ends[place]}
    with cluster.asked():
        consumer.assign([TopicPartition(*place, begins[place]) for place in left])
        late = time.monotonic() + PATIENCE
        while left:
            records, ended = parted(consumer.consume(MANY, WAIT))
            for message in records:
                place = place_of(message)
                last, offset = left.get(place, -1), offset_of(message)
                if offset <= last:
                    yield message
                if offset >= last:
                    left.pop(place, None)
            for message in ended:
                left.pop(place_of(message), None)
            if records or ended:
                late = time.monotonic() + PATIENCE
            elif time.monotonic() > late:
                raise DeliveryError(f"{cluster.servers}: no record and no end of a partition in {PATIENCE:g} s")


def newest(
    cluster: Cluster, starts: Mapping[Place, int], ends: Mapping[Place, int], count: int
) -> dict[Place, list[Message]]:
    """The last `count` records of each partition. Offsets without one (ends of transactions, what was aborted or
    compacted) make it look further back."""
    found: dict[Place, list[Message]] = {}
    consumer = cluster.reader()
    left, back = set(starts), count
    try:
        while left:
            begins = {place: max(starts[place], ends[place] - back) for place in left}
            last = {place: deque[Message](maxlen=count) for place in left}
            for message in between(cluster, consumer, begins, ends):
                last[place_of(message)].append(message)
            found |= {place: list(messages) for place, messages in last.items()}
            left = {place for place in left if len(found[place]) < count and begins[place] > starts[place]}
            back *= FURTHER
    finally:
        consumer.close()
    return found
