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
    if pos < len(data) and data[pos] < 0x80:
        value = data[pos]
        return (value >> 1) ^ -(value & 1), pos + 1
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


_LENGTHS = [varint(number) for number in range(4096)]


def length(number: int) -> bytes:
    """A count or length as zig-zag varint; those that occur are looked up."""
    return _LENGTHS[number] if number < 4096 else varint(number)


def encode(events: Iterable[tuple[dict[str, str], bytes]]) -> bytes:
    """Events -> block."""
    out: list[bytes] = []
    last: dict[str, str] | None = None
    coded = b""
    for headers, body in events:
        if headers != last:
            last, coded = headers, encode_headers(headers)
        size = len(body)
        out += (coded, _LENGTHS[size] if size < 4096 else varint(size), body)
    return b"".join(out)


def encode_headers(headers: dict[str, str]) -> bytes:
    """An event up to its body."""
    if not headers:
        return b"\0"
    out = [length(len(headers))]
    for key, value in headers.items():
        raw, text = key.encode(), value.encode()
        out += (length(len(raw)), raw, length(len(text)), text)
    out.append(b"\0")
    return b"".join(out)


def offsets(block: bytes, count: int) -> list[int]:
    """The end of each of the block's `count` events; RemoteProtocolError unless they fill the block exactly.

    This walk is most of what a batch costs on its way in, so it takes two short cuts: events that all have the shape
    of the first (one length, the same length bytes at the same places) are compared slice by slice, and headers that
    repeat the last event's byte for byte are stepped over whole.
    """
    if count > 2 and len(block) % count == 0 and _uniform(block, count):
        size = len(block) // count
        return list(range(size, len(block) + 1, size))
    ends: list[int] = []
    pos, size = 0, len(block)
    headers = b""
    try:
        for _ in range(count):
            if headers and block.startswith(headers, pos):
                pos += len(headers)
            else:
                start = pos
                pos = _skip_headers(block, pos)
                headers = block[start:pos]
            length = block[pos]
            if length < 0x80 and not length & 1:
                pos += 1 + (length >> 1)
            else:
                pos = _skip_bytes(block, pos)
            ends.append(pos)
    except IndexError:
        raise RemoteProtocolError(f"a block of {count} events ends early") from None
    if pos != size:
        raise RemoteProtocolError(f"a block of {count} events has {size - pos} bytes too many")
    return ends


def check(block: bytes, count: int) -> None:
    """Walk a block from a peer: `count` events that fill it exactly, or RemoteProtocolError."""
    offsets(block, count)


def _skip_headers(block: bytes, pos: int) -> int:
    """The position after an event's headers. IndexError where the block ends early."""
    while True:
        pairs = block[pos]
        pos += 1
        if pairs == 0:
            return pos
        if pairs & 0x81:
            pairs, pos = read_varint(block, pos - 1)
            if pairs < 0:
                pairs = -2 * pairs
                _, pos = read_varint(block, pos)
            else:
                pairs *= 2
            if pairs > 2 * MAX_HEADERS:
                raise RemoteProtocolError(f"an event claims {pairs >> 1} headers, more than {MAX_HEADERS}")
        for _ in range(pairs):
            length = block[pos]
            if length & 0x81:
                pos = _skip_bytes(block, pos)
            else:
                pos += 1 + (length >> 1)


def _skip_bytes(block: bytes, pos: int) -> int:
    """The position after a string or bytes value; past the end of the block if it claims to be longer."""
    length, pos = read_varint(block, pos)
    if length < 0:
        raise RemoteProtocolError("an Avro length is negative")
    return pos + length


def _uniform(block: bytes, count: int) -> bool:
    """Whether every event has the shape of the first: then all of them are as sound as that one."""
    size = len(block) // count
    try:
        places = _shape(block[:size])
    except (IndexError, RemoteProtocolError):
        return False
    return bool(places) and all(block[at::size] == block[at : at + 1] * count for at in places)


def _shape(event: bytes) -> list[int]:
    """Where an event that fills these bytes exactly has its counts and lengths; empty if it doesn't fill them."""
    places: list[int] = []
    pos = 0

    def number() -> int:
        nonlocal pos
        start = pos
        value, pos = read_varint(event, pos)
        places.extend(range(start, pos))
        return value

    while pairs := number():
        if pairs < 0 or pairs > MAX_HEADERS:
            return []
        for _ in range(2 * pairs):
            length = number()
            if length < 0:
                return []
            pos += length
    length = number()
    return places if length >= 0 and pos + length == len(event) else []


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
    start = 0
    last = b""
    known: dict[str, str] = {}
    for end in offsets(block, count):
        if last and block.startswith(last, start):
            pos = start + len(last)
        else:
            known, pos = _headers(block, start)
            last = block[start:pos]
        _, pos = read_varint(block, pos)
        out.append((known.copy(), block[pos:end]))
        start = end
    return out


def bodies(block: bytes, count: int) -> list[bytes]:
    """The body of each event, headers stepped over. RemoteProtocolError unless the events fill the block exactly."""
    out: list[bytes] = []
    pos = 0
    try:
        for _ in range(count):
            length, pos = read_varint(block, _skip_headers(block, pos))
            if length < 0:
                raise RemoteProtocolError("an Avro length is negative")
            out.append(block[pos : pos + length])
            pos += length
    except IndexError:
        raise RemoteProtocolError(f"a block of {count} events ends early") from None
    if pos != len(block):
        raise RemoteProtocolError(f"a block of {count} events has {len(block)} bytes, not {pos}")
    return out


def _headers(block: bytes, pos: int) -> tuple[dict[str, str], int]:
    """The headers that start at `pos` of a block that has been walked, and the position after them."""
    headers: dict[str, str] = {}
    while True:
        pairs, pos = read_varint(block, pos)
        if pairs == 0:
            return headers, pos
        if pairs < 0:
            pairs = -pairs
            _, pos = read_varint(block, pos)
        for _ in range(pairs):
            # A length of one byte is read in place: nearly all are.
            length = block[pos] >> 1
            if block[pos] < 0x80:
                pos += 1
            else:
                length, pos = read_varint(block, pos)
            end = pos + length
            name = block[pos:end].decode("utf-8", "replace")
            length = block[end] >> 1
            if block[end] < 0x80:
                pos = end + 1
            else:
                length, pos = read_varint(block, end)
            headers[name] = block[pos : pos + length].decode("utf-8", "replace")
            pos += length
