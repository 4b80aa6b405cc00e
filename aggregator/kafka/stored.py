"""What a topic holds now, by identity: for an audit. Read committed, from the start of each partition to its end.

What retention has removed was there and is gone: nobody can say which numbers that were, so it is said at the end.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Mapping

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from agent.errors import DeliveryError
from agent.store.streams import Identity
from aggregator.kafka import identity
from aggregator.kafka.client import consumer_settings
from aggregator.kafka.member import CLIENT, Quiet

log = logging.getLogger(__name__)


def stored(servers: str, given: Mapping[str, str], topics: re.Pattern[str], seconds: float) -> Iterator[Identity]:
    """Identities of the records of all topics whose whole name matches. `given`: a producer's settings, of which those
    of any client count; `seconds`: the longest wait for an answer. DeliveryError: the broker doesn't give them."""
    ours = {name: value for name, value in given.items() if name.startswith(CLIENT) and name != "client.id"}
    settings = consumer_settings(servers, "headrace-audit", ours)
    settings |= {"isolation.level": "read_committed", "enable.partition.eof": True, "allow.auto.create.topics": False}
    consumer = Consumer(settings, logger=Quiet(log))
    try:
        places = _places(consumer, topics, seconds)
        consumer.assign(places)
        for message in _messages(consumer, len(places), seconds):
            name = identity.carried(message)
            if name:
                yield Identity(*name, 1)
        _complete(consumer, places, seconds)
    except KafkaException as error:
        raise DeliveryError(f"kafka: {error.args[0].str()}") from error
    finally:
        consumer.close()


def _places(consumer: Consumer, topics: re.Pattern[str], seconds: float) -> list[TopicPartition]:
    found = [one for name, one in consumer.list_topics(timeout=seconds).topics.items() if topics.fullmatch(name)]
    return [
        TopicPartition(str(one.topic), partition, OFFSET_BEGINNING) for one in found for partition in one.partitions
    ]


def _complete(consumer: Consumer, places: list[TopicPartition], seconds: float) -> None:
    """DeliveryError if a partition no longer begins with its first record; asked after reading, as that moves on."""
    gone = []
    for place in places:
        found = consumer.get_watermark_offsets(place, seconds)
        if found is None:
            raise DeliveryError(f"kafka: no answer in {seconds:g} s")
        if found[0] > 0:
            gone.append(f"of {place.topic}-{place.partition} before offset {found[0]}")
    if gone:
        more = f" and of {len(gone) - 1} partitions more" if gone[1:] else ""
        raise DeliveryError(f"kafka: records {gone[0]} are gone by retention{more}")


def _messages(consumer: Consumer, places: int, seconds: float) -> Iterator[Message]:
    """Until every partition's end was met once; what comes behind it counts too."""
    ended: set[tuple[str | None, int | None]] = set()
    late = time.monotonic() + seconds
    while len(ended) < places:
        for message in consumer.consume(1000, timeout=0.5):
            late = time.monotonic() + seconds
            error = message.error()
            if error is None:
                yield message
            elif error.code() == KafkaError._PARTITION_EOF:
                ended.add((message.topic(), message.partition()))
            else:
                raise KafkaException(error)
        if time.monotonic() > late:
            raise DeliveryError(f"kafka: no record and no end of a partition in {seconds:g} s")
