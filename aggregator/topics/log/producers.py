"""Which batch of a producer is the next, which a repeat, and which is refused: ProducerStateManager's rules.

Kafka's classes ProducerStateManager, ProducerAppendInfo and ProducerStateEntry (KIP-98, KIP-360). A repeat among the
last five batches is answered with the offset it has; a gap, or an older repeat, is OUT_OF_ORDER_SEQUENCE_NUMBER. A
producer of whom nothing is known may begin with any number: its state may have expired. A batch inside a transaction
opens it, a marker ends it.

Pure: states in, states out.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.log.states import Producer
from aggregator.topics.record_batch import Header

REMEMBERED = 5
"""Batches of a producer, as in Kafka: it may have so many on the way (max.in.flight.requests.per.connection)."""
IDLE_MS = 7 * 86_400_000
LIMIT = 10_000
"""Producers a partition remembers; then those that were idle longest go."""

_HEAD = struct.Struct(">qhqqB")
"""Id, epoch, time, first offset of its open transaction or -1, count of batches."""
_BATCH = struct.Struct(">iiq")


def last_sequence(head: Header) -> int:
    """Sequence number of a batch's last record."""
    return (head.base_sequence + head.last_delta) & 0x7FFFFFFF


def repeated(known: Producer | None, head: Header) -> int | None:
    """The offset of the same batch, if the partition has it already."""
    if known is None or known.epoch != head.producer_epoch:
        return None
    for first, last, offset in known.batches:
        if first == head.base_sequence and last == last_sequence(head):
            return offset
    return None


def check(known: Producer | None, head: Header) -> None:
    """TopicsError, if a batch of this producer can't come now."""
    if known is None:
        return
    if head.producer_epoch < known.epoch:
        raise TopicsError(
            Code.INVALID_PRODUCER_EPOCH,
            f"producer {head.producer_id} has epoch {known.epoch} here, the batch says {head.producer_epoch}",
        )
    wanted = (known.last_sequence + 1) & 0x7FFFFFFF if head.producer_epoch == known.epoch else 0
    if head.base_sequence != wanted:
        raise TopicsError(
            Code.OUT_OF_ORDER_SEQUENCE_NUMBER,
            f"producer {head.producer_id} goes on with sequence number {wanted}, the batch has {head.base_sequence}",
        )


def after(known: Producer | None, head: Header, offset: int, now_ms: int) -> Producer:
    """The producer, once its batch stands at `offset`."""
    if head.is_control:
        if known and known.epoch == head.producer_epoch:
            return known._replace(time_ms=now_ms)
        return Producer(head.producer_epoch, (), now_ms)
    batches = known.batches if known and known.epoch == head.producer_epoch else ()
    new = (head.base_sequence, last_sequence(head), offset)
    return Producer(head.producer_epoch, (*batches[1 - REMEMBERED :], new), now_ms)


def idle(producers: Mapping[int, Producer], open_: Mapping[int, int], now_ms: int) -> list[int]:
    """Those to forget: idle for seven days, and beyond the bound the tenth of all that came least recently. Never one
    with an open transaction."""
    free = [(known.time_ms, id_) for id_, known in producers.items() if id_ not in open_]
    if len(producers) > LIMIT:
        return [id_ for _, id_ in sorted(free)[: LIMIT // 10]]
    return [id_ for time, id_ in free if time < now_ms - IDLE_MS]


def pack(producers: Mapping[int, Producer], open_: Mapping[int, int]) -> bytes:
    """As bytes, for the table."""
    out = bytearray()
    for id_, known in producers.items():
        out += _HEAD.pack(id_, known.epoch, known.time_ms, open_.get(id_, -1), len(known.batches))
        for batch in known.batches:
            out += _BATCH.pack(*batch)
    return bytes(out)


def unpack(data: bytes) -> tuple[dict[int, Producer], dict[int, int]]:
    """`pack` back."""
    producers: dict[int, Producer] = {}
    open_: dict[int, int] = {}
    at = 0
    while at < len(data):
        id_, epoch, time, first, count = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        batches = tuple(_BATCH.unpack_from(data, at + i * _BATCH.size) for i in range(count))
        at += count * _BATCH.size
        producers[id_] = Producer(epoch, batches, time)
        if first >= 0:
            open_[id_] = first
    return producers, open_
