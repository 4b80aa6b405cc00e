"""An event as a record: its topic, partition, key, time, value and headers.

topic      text of the pattern stays as it is; what an escape brings, such as an MQTT topic, is translated
           (names.py): `site.%{topic}` makes of plant/line1/temp site.plant.line1.temp
key        a pattern, nothing where it is empty; records of one key are in one partition, in order
partition  of a key murmur2, as the Java clients do it (org.apache.kafka.clients.producer.internals.
           BuiltInPartitioner, org.apache.kafka.common.utils.Utils.murmur2); without a key a batch goes to one
time       the header `timestamp` (ms), else now
value      the body
headers    the event's, without the `timestamp` that is the record's time; its identity if asked for
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache

from agent import clock
from agent.errors import Rejected
from agent.escape import Escape
from agent.event import Batch, stamp_in
from agent.serializers.avro_event import NUMBER, ORIGIN
from aggregator.topics import names
from aggregator.topics.record import Headers

Mapped = tuple[str, int, bytes | None, bytes, Headers]
"""Topic, time in ms, key, value, headers."""
TIMESTAMP = "timestamp"
LATEST_MS = 253_402_300_800_000
"""The year 10000: no header `timestamp` means that."""
MASK = 0xFFFF_FFFF
_translated = lru_cache(4096)(names.topic_of)


class _Translated:
    """Headers whose values are legal in a topic's name. ValueError for one that can't be."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.headers = headers

    def get(self, name: str, default: str = "") -> str:
        text = self.headers.get(name, "")
        return (text if name == TIMESTAMP else _translated(text)) if text else default


class Mapper:
    """How the events of one sink are mapped."""

    def __init__(self, topic: str, key: str, headers: bool, identity: bool) -> None:
        """ValueError: a pattern has an escape that there isn't."""
        self.topic, self.key = Escape(topic), Escape(key)
        self.headers, self.identity = headers, identity

    def records(self, batch: Batch) -> Iterator[Mapped]:
        """Each event's record, in order. Rejected: a header makes no legal topic."""
        now = clock.wall_ms()
        fixed, key = self.topic.fixed, self.key.fixed
        names_of = self._identities(batch)
        for event in batch.events:
            headers, body = event
            stamp = stamp_in(headers, LATEST_MS)
            time, skipped = (now, "") if stamp is None else (stamp, TIMESTAMP)
            topic = fixed if fixed is not None else self._topic(headers)
            its_key = (key if key is not None else self.key.expand(headers)).encode() or None
            out: list[tuple[str, bytes | None]] = []
            if self.headers:
                out = [(name, text.encode()) for name, text in headers.items() if name != skipped]
            if names_of is not None:
                out += next(names_of)
            yield topic, time, its_key, body, out

    def _identities(self, batch: Batch) -> Iterator[list[tuple[str, bytes | None]]] | None:
        runs = batch.identities
        if not self.identity or not runs:
            return None
        return (
            [(ORIGIN, run.origin.hex().encode()), (NUMBER, b"%d" % (run.first + i))]
            for run in runs
            for i in range(run.count)
        )

    def _topic(self, headers: Mapping[str, str]) -> str:
        try:
            name = self.topic.expand(_Translated(headers))  # type: ignore[arg-type]
        except ValueError as error:
            raise Rejected(str(error)) from None
        if not name or len(name) > names.LONGEST or name in (".", ".."):
            raise Rejected(
                f"the pattern {self.topic.pattern} makes {name[:60]!r} of an event's headers: no legal topic"
            )
        return name


@lru_cache(8192)
def partition_of(key: bytes, count: int) -> int:
    """Of `count` partitions, the one for a key."""
    return (murmur2(key) & 0x7FFF_FFFF) % count


def murmur2(data: bytes) -> int:
    """The 32-bit hash of Kafka's clients, unsigned."""
    m = 0x5BD1_E995
    h = 0x9747_B28C ^ len(data)
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at : at + 4], "little") * m & MASK
        k = (k ^ k >> 24) * m & MASK
        h = (h * m & MASK) ^ k
    if rest := data[whole:]:
        h = (h ^ int.from_bytes(rest, "little")) * m & MASK
    h = (h ^ h >> 13) * m & MASK
    return h ^ h >> 15
