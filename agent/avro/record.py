"""Flume's event record in Avro binary: `AvroFlumeEvent {map<string> headers; bytes body}`.

A *block* is events back to back, as in the items of an Avro array or the data of a container block:

    headers   blocks of (count varint, [size varint if count < 0], count x (string key, string value)), then 00
    body      length varint, bytes

int and long are zig-zag varints (Avro 1.11 specification, "Binary encoding"). No I/O here.
"""

from __future__ import annotations

from collections.abc import Iterable

from agent.errors import RemoteProtocolError

MAX_HEADERS = 10_000


def varint(number: int) -> bytes:
    """A long as zig-zag varint."""
    number = (number << 1) ^ (number >> 63)
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def read_varint(data: bytes | memoryview, pos: int) -> tuple[int, int]:
    """(long, position after it). RemoteProtocolError if it is cut off or longer than 64 bits."""
    shift = value = 0
    while True:
        try:
            byte = data[pos]
        except IndexError:
            raise RemoteProtocolError("Avro data ends inside a number") from None
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 63:
            raise RemoteProtocolError("an Avro number has more than 64 bits")
    return (value >> 1) ^ -(value & 1), pos


def encode(events: Iterable[tuple[dict[str, str], bytes]]) -> bytes:
    """Events -> block."""
    out: list[bytes] = []
    add = out.append
    for headers, body in events:
        if headers:
            add(varint(len(headers)))
            for key, value in headers.items():
                raw = key.encode()
                add(varint(len(raw)))
                add(raw)
                raw = value.encode()
                add(varint(len(raw)))
                add(raw)
        add(b"\0")
        add(varint(len(body)))
        add(body)
    return b"".join(out)


def offsets(block: bytes, count: int) -> list[int]:
    """The end of each of the block's `count` events; RemoteProtocolError unless they fill the block exactly."""
    ends: list[int] = []
    pos = 0
    for _ in range(count):
        pos = skip(block, pos)
        ends.append(pos)
    if pos != len(block):
        raise RemoteProtocolError(f"a block of {count} events has {len(block) - pos} bytes too many")
    return ends


def check(block: bytes, count: int) -> None:
    """Walk a block from a peer: `count` events that fill it exactly, or RemoteProtocolError."""
    offsets(block, count)


def skip(block: bytes, pos: int) -> int:
    """The position after the event that starts at `pos`."""
    size = len(block)
    while True:
        count, pos = read_varint(block, pos)
        if count == 0:
            break
        if count < 0:
            count = -count
            _, pos = read_varint(block, pos)
        if count > MAX_HEADERS:
            raise RemoteProtocolError(f"an event claims {count} headers, more than {MAX_HEADERS}")
        for _ in range(2 * count):
            length, pos = read_varint(block, pos)
            pos += length
            if length < 0 or pos > size:
                raise RemoteProtocolError("a header runs past the end of its block")
    length, pos = read_varint(block, pos)
    pos += length
    if length < 0 or pos > size:
        raise RemoteProtocolError("a body runs past the end of its block")
    return pos


def decode(block: bytes, count: int) -> list[tuple[dict[str, str], bytes]]:
    """Block -> [(headers, body)]. RemoteProtocolError if malformed. Header bytes that are no UTF-8 are replaced."""
    out: list[tuple[dict[str, str], bytes]] = []
    pos, size = 0, len(block)
    for _ in range(count):
        headers: dict[str, str] = {}
        while True:
            pairs, pos = read_varint(block, pos)
            if pairs == 0:
                break
            if pairs < 0:
                pairs = -pairs
                _, pos = read_varint(block, pos)
            if pairs > MAX_HEADERS:
                raise RemoteProtocolError(f"an event claims {pairs} headers, more than {MAX_HEADERS}")
            for _ in range(pairs):
                length, pos = read_varint(block, pos)
                if length < 0 or pos + length > size:
                    raise RemoteProtocolError("a header runs past the end of its block")
                key = block[pos : pos + length].decode("utf-8", "replace")
                length, pos = read_varint(block, pos + length)
                if length < 0 or pos + length > size:
                    raise RemoteProtocolError("a header runs past the end of its block")
                headers[key] = block[pos : pos + length].decode("utf-8", "replace")
                pos += length
        length, pos = read_varint(block, pos)
        if length < 0 or pos + length > size:
            raise RemoteProtocolError("a body runs past the end of its block")
        out.append((headers, block[pos : pos + length]))
        pos += length
    if pos != size:
        raise RemoteProtocolError(f"a block of {count} events has {size - pos} bytes too many")
    return out
