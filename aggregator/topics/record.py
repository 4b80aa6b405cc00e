"""The records inside a batch, once nothing is compressed (Kafka's documentation, "Record"; class DefaultRecord).

    record    length | attributes i8, 0 | time delta | offset delta | key | value | count of headers, then each of them
    header    key, UTF-8 | value

Numbers are zig-zag varints, as Avro's. Keys and values are a length and that many bytes; of length -1 is null, which
a header's key can't be. Deltas count from the batch's base time and base offset; a time may lie before the first.

`encode` is the way of every event of the embedded sink: numbers up to 4095 are looked up, and headers that repeat
those of the last record are not coded again. `walk` reads what anyone may have produced and trusts nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from agent.avro import record as avro
from aggregator.topics.errors import Code, TopicsError

Headers = Sequence[tuple[str, bytes | None]]
_SMALL = 4096


class Record(NamedTuple):
    """One record; `time` in ms since 1970."""

    offset: int
    time: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


def varint(number: int) -> bytes:
    """A signed number as zig-zag varint. ValueError if it has more than 64 bits."""
    if not -(1 << 63) <= number < 1 << 63:
        raise ValueError(f"{number} has more than 64 bits")
    return avro.varint(number)


_VARINTS = [varint(number) for number in (*range(_SMALL), *range(-_SMALL, 0))]
"""Of -4096 to 4095, each at its own index, as a negative one counts from the end."""


def number(value: int) -> bytes:
    """A signed number as zig-zag varint, those that occur looked up. ValueError if it has more than 64 bits."""
    return _VARINTS[value] if -_SMALL <= value < _SMALL else varint(value)


def encode(records: Iterable[tuple[int, bytes | None, bytes | None, Headers]]) -> tuple[bytes, int, int, int]:
    """(time, key, value, headers) each -> (the records of a batch, their count, its base time, its greatest time).
    ValueError: a number has more than 64 bits."""
    out: list[bytes] = []
    base = latest = last_time = delta = 0
    since = b"\0"
    last: Headers = ()
    coded = b"\0"
    for time, key, value, headers in records:
        if not delta:
            base = latest = last_time = time
        elif time != last_time:
            last_time, since = time, number(time - base)
            latest = max(latest, time)
        if headers is not last:
            if headers != last:
                coded = _encode_headers(headers)
            last = headers
        record = b"".join(
            (
                b"\0",
                since,
                _VARINTS[delta] if delta < _SMALL else varint(delta),
                b"\1" if key is None else number(len(key)) + key,
                b"\1" if value is None else number(len(value)),
                value or b"",
                coded,
            )
        )
        out += (number(len(record)), record)
        delta += 1
    return b"".join(out), delta, base, latest


def _encode_headers(headers: Headers) -> bytes:
    out = [number(len(headers))]
    for key, value in headers:
        raw = key.encode()
        out += (number(len(raw)), raw)
        out += (b"\1",) if value is None else (number(len(value)), value)
    return b"".join(out)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """(number, position after it). IndexError if the data ends in it, TopicsError if it has more than 64 bits."""
    byte = data[at]
    if byte < 0x80:
        return (byte >> 1) ^ -(byte & 1), at + 1
    value, shift = byte & 0x7F, 7
    while byte > 0x7F and shift < 70:
        at += 1
        byte = data[at]
        value |= (byte & 0x7F) << shift
        shift += 7
    if byte > 0x7F or value >> 64:
        raise damaged("a number has more than 64 bits")
    return (value >> 1) ^ -(value & 1), at + 1


def damaged(why: str) -> TopicsError:
    """What every reader of batches raises."""
    return TopicsError(Code.CORRUPT_MESSAGE, f"a record batch is damaged: {why}")


def walk(data: bytes, count: int, base_offset: int, last_delta: int, base_time: int) -> Iterator[tuple[int, Record]]:
    """(position behind it, record) each. TopicsError CORRUPT_MESSAGE unless `count` records fill the data exactly and
    their offsets rise, up to at most `last_delta`."""
    at = 0
    before = -1
    coded: bytes = b"\0"
    headers: tuple[tuple[str, bytes | None], ...] = ()
    try:
        for _ in range(count):
            size, at = read_varint(data, at)
            end = at + size
            time, at = read_varint(data, at + 1)
            offset, at = read_varint(data, at)
            key, at = _read_bytes(data, at)
            value, at = _read_bytes(data, at)
            if not data.startswith(coded, at):  # nearly always those of the last record
                headers, behind = _read_headers(data, at)
                coded = data[at:behind]
            at += len(coded)
            if at != end:
                raise damaged("a record's length doesn't fit what is in it")
            if not before < offset <= last_delta:
                raise damaged(f"a record's offset is {offset} after its base, behind one of {before}")
            before = offset
            yield at, Record(base_offset + offset, base_time + time, key, value, headers)
    except IndexError:
        raise damaged(f"its data ends before {count} records do") from None
    if at != len(data):
        raise damaged(f"{len(data) - at} bytes follow its {count} records")


def _read_bytes(data: bytes, at: int) -> tuple[bytes | None, int]:
    size, at = read_varint(data, at)
    if size < 0:
        if size < -1:
            raise damaged(f"a length is {size}")
        return None, at
    end = at + size
    if end > len(data):
        raise damaged("a key or value runs past its end")
    return data[at:end], end


def _read_headers(data: bytes, at: int) -> tuple[tuple[tuple[str, bytes | None], ...], int]:
    """Keys that are no UTF-8 are replaced, as Java does."""
    count, at = read_varint(data, at)
    if count < 0:
        raise damaged(f"a record claims {count} headers")
    headers: list[tuple[str, bytes | None]] = []
    for _ in range(count):
        key, at = _read_bytes(data, at)
        if key is None:
            raise damaged("a header has no key")
        value, at = _read_bytes(data, at)
        headers.append((key.decode("utf-8", "replace"), value))
    return tuple(headers), at
