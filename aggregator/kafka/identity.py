"""Whose a record is: the identity (docs/delivery.md) of what is read from Kafka.

A record that our kafka sink or channel wrote carries it, as record headers or (Flume's event format) event headers:

    headrace.origin   32 hexadecimal digits        headrace.number   decimal

Any other record is named by where it lies, which nobody ever changes: a number one above its offset (numbers begin at
1), under an origin made of the topic's id, which Kafka gives once, and the partition. So whoever reads it, and however
often, gives it one name; compacted topics and transactions leave holes in such numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import TYPE_CHECKING

from agent.serializers.avro_event import NUMBER, ORIGIN
from agent.store.streams import NUMBER_LIMIT
from aggregator.kafka.records import headers_of, to_text

if TYPE_CHECKING:
    from confluent_kafka import Message

Name = tuple[bytes, int]
"""(origin, number) of one event."""


def origin_of(topic_id: bytes, topic: str, partition: int) -> bytes:
    """Of what lies in a partition; `topic_id` may be all zero with a broker that gives none."""
    return blake2b(topic_id + b"%d/" % partition + topic.encode(), digest_size=16, person=b"headrace kafka").digest()


def carried(message: Message) -> Name | None:
    """What the record headers say; None if they don't, or not so that it makes sense."""
    return name_in(headers_of(message))


def name_in(headers: Iterable[tuple[str, bytes | None]]) -> Name | None:
    """The same of record headers."""
    found = {name: value for name, value in headers if name in (ORIGIN, NUMBER)}
    return _name(to_text(found[ORIGIN]), to_text(found[NUMBER])) if len(found) == 2 else None


def taken_off(headers: dict[str, str]) -> Name | None:
    """What event headers say, and they don't any more."""
    if ORIGIN not in headers and NUMBER not in headers:
        return None
    return _name(headers.pop(ORIGIN, ""), headers.pop(NUMBER, ""))


def record_headers(name: Name) -> list[tuple[str, str | bytes | None]]:
    """To be written with a record."""
    return [(ORIGIN, name[0].hex().encode()), (NUMBER, b"%d" % name[1])]


def _name(origin: str, number: str) -> Name | None:
    try:
        found = bytes.fromhex(origin), int(number)
    except ValueError:
        return None
    return found if len(found[0]) == 16 and 0 < found[1] < NUMBER_LIMIT and number.isdigit() else None
