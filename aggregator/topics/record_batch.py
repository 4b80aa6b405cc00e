"""Kafka's record batch, version 2 (magic 2; Kafka's documentation, "Message Format"; class DefaultRecordBatch).

All numbers of the header are big-endian; `length` counts what is behind itself, and so does the CRC-32C:

    0 base offset i64 | 8 length i32 | 12 leader epoch i32 | 16 magic i8 | 17 crc u32 |
    21 attributes i16 | 23 last offset delta i32 | 27 base time i64 | 35 max time i64 |
    43 producer id i64 | 51 epoch i16 | 53 base sequence i32 | 57 count i32 | 61 records, compressed or not

    attributes   bits 0-2 compression, 3 the time is that of appending, 4 transactional, 5 control

So the base offset and the leader epoch, which only the log knows, can be written without a look at the rest. `split`
reads headers alone: a batch whose records are malformed under a right CRC is its readers' concern, as it is when only
they can decompress it. Readers trust nothing. Times are milliseconds since 1970.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import google_crc32c

from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.record import Headers, Record, damaged, encode, walk

__all__ = [
    "Header",
    "Headers",
    "Record",
    "build",
    "control",
    "header",
    "placed",
    "records",
    "rewritten",
    "split",
    "with_time",
]
HEADER = struct.Struct(">qiibIhiqqqhii")
SIZE = HEADER.size
MAGIC = 2
ZSTD = 4
"""The last of the kinds of compression."""
_BEFORE_LENGTH = 12
_CHECKED_FROM = 21
_COMPRESSION, _APPEND_TIME, _TRANSACTIONAL, _CONTROL = 0x07, 0x08, 0x10, 0x20
_BODY = struct.Struct(">hiqqqhii")
"""The header behind the CRC."""
_MARKER_KEY = struct.Struct(">hh")
_MARKER_VALUE = struct.Struct(">hi")

NO_PRODUCER = (-1, -1, -1)
MOST = 64 << 20
"""Bytes that the records of a batch may take once decompressed."""


class Header(NamedTuple):
    """The first 61 bytes of a batch."""

    base_offset: int
    length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_delta: int
    base_time: int
    max_time: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    count: int  # type: ignore[assignment]  # tuples have a method of this name

    @property
    def size(self) -> int:
        """Bytes of the whole batch."""
        return self.length + _BEFORE_LENGTH

    @property
    def last_offset(self) -> int:
        """Of its last record, also where compaction took that out."""
        return self.base_offset + self.last_delta

    @property
    def compression(self) -> int:
        """0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd; 5 to 7 are nothing."""
        return self.attributes & _COMPRESSION

    @property
    def is_transactional(self) -> bool:
        """Whether it belongs to a transaction, which a marker ends."""
        return bool(self.attributes & _TRANSACTIONAL)

    @property
    def is_control(self) -> bool:
        """Whether it is such a marker: consumers don't show it."""
        return bool(self.attributes & _CONTROL)

    @property
    def next_sequence(self) -> int:
        """Of the producer's next batch, 0 after 2**31 - 1; without meaning where base_sequence is -1."""
        return (self.base_sequence + self.last_delta + 1) & 0x7FFFFFFF


def header(data: bytes | memoryview, at: int = 0) -> Header:
    """The header of the batch that starts at `at`, as it is. struct.error where there are less than 61 bytes."""
    return Header._make(HEADER.unpack_from(data, at))


def split(data: memoryview, most: int) -> list[memoryview]:
    """The batches that a producer sent for a partition, each at most `most` bytes and checked as Kafka's LogValidator
    does, without a look at the records.

    TopicsError: CORRUPT_MESSAGE (cut off, CRC), UNSUPPORTED_FOR_MESSAGE_FORMAT (magic 0 or 1), MESSAGE_TOO_LARGE,
    UNSUPPORTED_COMPRESSION_TYPE, INVALID_RECORD (no batch, counts that contradict each other, a control batch, a
    producer without a sequence number).
    """
    batches: list[memoryview] = []
    at = 0
    while at < len(data):
        head = _sound(data[at:])
        if head.size > most:
            raise TopicsError(Code.MESSAGE_TOO_LARGE, f"a batch has {head.size} bytes, the limit is {most}")
        _check_producible(head)
        batches.append(data[at : at + head.size])
        at += head.size
    if not batches:
        raise TopicsError(Code.INVALID_RECORD, "there is no batch to append")
    return batches


def _sound(data: bytes | memoryview) -> Header:
    """The header of the batch at the front, which is whole and of our version; or the TopicsError."""
    if len(data) > 16 and data[16] in (0, 1):
        raise TopicsError(
            Code.UNSUPPORTED_FOR_MESSAGE_FORMAT, f"messages of format {data[16]} are not taken, only batches (format 2)"
        )
    if len(data) < SIZE:
        raise damaged(f"it has {len(data)} bytes, its header alone is {SIZE}")
    head = header(data)
    if head.magic != MAGIC:
        raise damaged(f"its format is {head.magic}, not {MAGIC}")
    if not SIZE <= head.size <= len(data):
        raise damaged(f"it claims {head.size} bytes of the {len(data)} there are")
    if google_crc32c.value(bytes(data[_CHECKED_FROM : head.size])) != head.crc:
        raise damaged("its CRC doesn't fit its bytes")
    return head


def _check_producible(head: Header) -> None:
    if head.count <= 0 or head.last_delta != head.count - 1:
        raise TopicsError(
            Code.INVALID_RECORD, f"a batch of {head.count} records can't end {head.last_delta} after its first"
        )
    if head.is_control:
        raise TopicsError(Code.INVALID_RECORD, "control batches are the broker's to write")
    if (head.producer_id >= 0 or head.is_transactional) and min(head.producer_id, head.base_sequence) < 0:
        raise TopicsError(Code.INVALID_RECORD, "a batch with a producer or a transaction needs a sequence number")
    if head.compression > ZSTD:
        raise TopicsError(Code.UNSUPPORTED_COMPRESSION_TYPE, f"there is no compression {head.compression}")


def placed(batch: bytes | memoryview, base_offset: int, leader_epoch: int = 0) -> bytes:
    """A copy that starts at this offset of the log."""
    view = memoryview(batch)
    return b"".join((base_offset.to_bytes(8, "big"), view[8:12], leader_epoch.to_bytes(4, "big"), view[16:]))


def with_time(batch: bytes | memoryview, ms: int) -> bytes:
    """A copy all of whose records have this time: that of appending (message.timestamp.type=LogAppendTime)."""
    head = header(batch)
    changed = head._replace(attributes=head.attributes | _APPEND_TIME, max_time=ms)
    return _sealed(changed, bytes(memoryview(batch)[SIZE:]))


def _sealed(head: Header, payload: bytes) -> bytes:
    """Header and records, with the length and the CRC that they come to. struct.error: a number is out of range."""
    body = _BODY.pack(*head[5:])
    crc = google_crc32c.extend(google_crc32c.value(body), payload)
    length = SIZE - _BEFORE_LENGTH + len(payload)
    return HEADER.pack(head.base_offset, length, head.leader_epoch, MAGIC, crc, *head[5:]) + payload


def build(
    records: Iterable[tuple[int, bytes | None, bytes | None, Headers]],
    *,
    producer: tuple[int, int, int] = NO_PRODUCER,
    transactional: bool = False,
    base_offset: int = 0,
) -> bytes:
    """A batch, uncompressed, of (time in ms, key, value, headers) each; `producer` is its id, epoch and the sequence
    number of the first record. ValueError: there is no record, or a number is out of range."""
    return _built(records, producer, _TRANSACTIONAL if transactional else 0, base_offset)


def control(commit: bool, producer_id: int, producer_epoch: int, time_ms: int) -> bytes:
    """The marker that ends a producer's transaction in a partition (Kafka: ControlRecordType, EndTransactionMarker)."""
    marker = (time_ms, _MARKER_KEY.pack(0, commit), _MARKER_VALUE.pack(0, 0), ())
    return _built([marker], (producer_id, producer_epoch, -1), _TRANSACTIONAL | _CONTROL, 0)


def _built(
    records: Iterable[tuple[int, bytes | None, bytes | None, Headers]],
    producer: tuple[int, int, int],
    attributes: int,
    base_offset: int,
) -> bytes:
    payload, count, base_time, max_time = encode(records)
    if not count:
        raise ValueError("a batch needs a record")
    head = Header(base_offset, 0, 0, MAGIC, 0, attributes, count - 1, base_time, max_time, *producer, count)
    try:
        return _sealed(head, payload)
    except struct.error as error:
        raise ValueError(f"a batch's header can't hold {head}: {error}") from None


def records(batch: bytes | memoryview, most: int = MOST) -> Iterator[Record]:
    """Each of the batch's records; its header and CRC are checked before the first. TopicsError CORRUPT_MESSAGE, also
    when it takes more than `most` bytes decompressed, or in the midst of it; UNSUPPORTED_COMPRESSION_TYPE."""
    for _, record in read_on(*opened(batch, most)):
        yield record


def read_on(head: Header, payload: bytes, at: int = 0, before: int = 0) -> Iterator[tuple[int, Record]]:
    """(position behind it, record) each, of what `opened` gave, from `at` on, where `before` records end.
    TopicsError CORRUPT_MESSAGE."""
    rest = payload[at:]
    for end, record in walk(rest, head.count - before, head.base_offset, head.last_delta, head.base_time):
        yield at + end, record if not head.attributes & _APPEND_TIME else record._replace(time=head.max_time)


def opened(batch: bytes | memoryview, most: int = MOST) -> tuple[Header, bytes]:
    """The header, and the records decompressed. TopicsError as `records`."""
    head = _sound(batch)
    payload = memoryview(batch)[SIZE : head.size]
    if not head.compression and len(payload) <= most:
        return head, bytes(payload)
    from aggregator.topics import compression  # its library is 2 MB, and seldom needed

    return head, compression.decompress(head.compression, payload, most)


def _walk(head: Header, payload: bytes) -> Iterator[tuple[int, Record]]:
    return walk(payload, head.count, head.base_offset, head.last_delta, head.base_time)


def _compressed(kind: int, payload: bytes) -> bytes:
    if not kind:
        return payload
    from aggregator.topics import compression

    return compression.compress(kind, payload)


def rewritten(batch: bytes | memoryview, keep: Callable[[Record], bool], most: int = MOST) -> bytes | None:
    """The batch without the records that compaction drops: None if it drops all, the batch as it is if it drops none.

    What stays is compressed as it was and keeps its offsets; so do the header's base offset and last delta, producer
    and sequence. A reader sees holes. TopicsError as `records`: nothing damaged gets a CRC that is right.
    """
    head, payload = opened(batch, most)
    kept = bytearray()
    count = start = 0
    latest = -(1 << 63)
    for end, record in _walk(head, payload):
        if keep(record):
            kept += payload[start:end]
            count += 1
            latest = max(latest, record.time)
        start = end
    if not count or count == head.count:
        return bytes(batch) if count else None
    changed = head._replace(count=count)
    if not head.attributes & _APPEND_TIME:
        changed = changed._replace(max_time=latest)
    try:
        return _sealed(changed, _compressed(head.compression, bytes(kept)))
    except struct.error:
        raise damaged("a record's time has more than 64 bits") from None
