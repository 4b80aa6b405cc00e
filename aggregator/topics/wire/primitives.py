"""The protocol's types (protocol guide, "Protocol Primitive Types"; KIP-482 for the compact ones), bytes to values.

    int8 .. int64   big-endian                        bool     1 byte, 0 is false
    string    int16 length, UTF-8; -1 is null         array    int32 count, elements; -1 is null
    bytes     int32 length, bytes; -1 is null         records  as bytes: record batches back to back
    compact   the same four with the length + 1 as uvarint; 0 is null
    tags      uvarint count, then (uvarint tag, uvarint size, bytes) each: optional fields, skipped if not known

A peer's bytes are hostile. A length is believed only as far as the frame's bytes go, before anything is made of it;
and as an empty topic of six bytes becomes objects of hundreds, a frame may have `MAX_ITEMS` elements in all.

What is large isn't copied: `records` are read as slices of the frame, and written as parts of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct, unpack_from
from typing import Any, NamedTuple

from agent.errors import LocalProtocolError, RemoteProtocolError

MAX_ITEMS = 1 << 15
"""Array elements in one frame, nested ones counted: some 10 MB of objects."""
WHOLE = 1024
"""From so many bytes on, a value is a part of its own instead of a copy."""

FIXED = {"bool": "?", "int8": "b", "int16": "h", "int32": "i", "int64": "q"}
"""Types of fixed size, as `struct` spells them."""
_INT16, _INT32 = Struct(">h"), Struct(">i")

Data = bytes | memoryview


class Input:
    """A frame that is being read, and how far."""

    __slots__ = ("at", "data", "end", "items")

    def __init__(self, data: Data) -> None:
        self.data, self.at, self.end, self.items = memoryview(data), 0, len(data), MAX_ITEMS

    def take(self, size: int) -> memoryview:
        """The next `size` bytes, as a slice."""
        at = self.at
        end = at + size
        if end > self.end:
            raise RemoteProtocolError(f"{size} bytes are claimed where {self.end - at} are left")
        self.at = end
        return self.data[at:end]

    def claim(self, count: int, least: int) -> None:
        """Believe an array's `count`, if elements of at least `least` bytes have room and the frame has few enough."""
        if count * least > self.end - self.at:
            raise RemoteProtocolError(f"an array claims {count} elements where {self.end - self.at} bytes are left")
        self.items -= count
        if self.items < 0:
            raise RemoteProtocolError(f"a frame has more than {MAX_ITEMS} elements in its arrays")


class Output:
    """A frame that is being written: whole parts, and the small values that have come since the last of them."""

    __slots__ = ("parts", "tail")

    def __init__(self) -> None:
        self.parts: list[Data] = []
        self.tail = bytearray()

    def put(self, data: Data) -> None:
        """Add bytes: large ones as a part."""
        if len(data) < WHOLE:
            self.tail += data
        else:
            self.finish()
            self.parts.append(data)

    def finish(self) -> list[Data]:
        """All the parts, in order."""
        if self.tail:
            self.parts.append(bytes(self.tail))
            self.tail.clear()
        return self.parts


class Codec(NamedTuple):
    """One type, both ways."""

    read: Callable[[Input], Any]
    write: Callable[[Output, Any], None]
    least: int
    """The fewest bytes that a value takes."""


class Length(NamedTuple):
    """How a length is written: -1 is null."""

    read: Callable[[Input], int]
    write: Callable[[Output, int], None]
    least: int


def fixed(kind: str) -> Codec:
    """A type of fixed size, by its name."""
    form = Struct(">" + FIXED[kind])
    unpack, pack, size = form.unpack_from, form.pack, form.size

    def read(source: Input) -> Any:
        (value,) = unpack(source.data, source.at)
        source.at += size
        return value

    def write(out: Output, value: Any) -> None:
        out.tail += pack(value)

    return Codec(read, write, size)


def read_uvarint(source: Input) -> int:
    """An unsigned number in groups of 7 bits, the lowest first; at most 31 bits, as a length has."""
    value = shift = 0
    while True:
        byte = source.data[source.at]
        source.at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 28:
            raise RemoteProtocolError("a compact length has more than 5 bytes")
    if value > 0x7FFFFFFF:
        raise RemoteProtocolError(f"a compact length is {value}")
    return value


def write_uvarint(out: Output, value: int) -> None:
    """See `read_uvarint`."""
    while value > 0x7F:
        out.tail.append(value & 0x7F | 0x80)
        value >>= 7
    out.tail.append(value)


def skip_tags(source: Input) -> None:
    """The tagged fields at the end of a flexible struct: none is known here, so all are skipped, as KIP-482 says."""
    count = read_uvarint(source)
    source.claim(count, 2)
    for _ in range(count):
        read_uvarint(source)
        source.take(read_uvarint(source))


def _plain(form: Struct) -> Length:
    unpack, pack, size = form.unpack_from, form.pack, form.size

    def read(source: Input) -> int:
        (value,) = unpack(source.data, source.at)
        source.at += size
        return int(value)

    def write(out: Output, value: int) -> None:
        out.tail += pack(value)

    return Length(read, write, size)


SHORT, LONG = _plain(_INT16), _plain(_INT32)
COMPACT = Length(lambda source: read_uvarint(source) - 1, lambda out, value: write_uvarint(out, value + 1), 1)


def _null(size: int, nullable: bool, what: str) -> Any:
    """A negative length: that of null, where it is allowed."""
    if size != -1 or not nullable:
        raise RemoteProtocolError(f"{what} has the length {size}")
    return None


def string(length: Length, nullable: bool) -> Codec:
    """Text."""
    measure, say = length.read, length.write

    def read(source: Input) -> Any:
        size = measure(source)
        return str(source.take(size), "utf-8") if size >= 0 else _null(size, nullable, "a string")

    def write(out: Output, value: str | None) -> None:
        if value is None:
            _write_null(out, length, nullable)
            return
        data = value.encode()
        say(out, len(data))
        out.tail += data

    return Codec(read, write, length.least)


def blob(length: Length, nullable: bool, make: Callable[[Data], Any]) -> Codec:
    """Bytes, read as what `make` makes of the slice. A list of bytes-likes is written as one value, too."""
    measure, say = length.read, length.write

    def read(source: Input) -> Any:
        size = measure(source)
        return make(source.take(size)) if size >= 0 else _null(size, nullable, "a bytes value")

    def write(out: Output, value: Data | Sequence[Data] | None) -> None:
        if value is None:
            _write_null(out, length, nullable)
        elif isinstance(value, bytes | bytearray | memoryview):
            say(out, len(value))
            out.put(value)
        else:
            say(out, sum(map(len, value)))
            for part in value:
                out.put(part)

    return Codec(read, write, length.least)


def array(element: Codec, length: Length, nullable: bool) -> Codec:
    """A list of what `element` reads."""
    measure, say = length.read, length.write
    read_one, write_one, least = element

    def read(source: Input) -> Any:
        count = measure(source)
        if count < 0:
            return _null(count, nullable, "an array")
        source.claim(count, least)
        return [read_one(source) for _ in range(count)]

    def write(out: Output, value: Sequence[Any] | None) -> None:
        if value is None:
            _write_null(out, length, nullable)
            return
        say(out, len(value))
        for item in value:
            write_one(out, item)

    return Codec(read, write, length.least)


def numbers(kind: str, length: Length, nullable: bool) -> Codec:
    """An array of a fixed size type, taken in one step."""
    general, code = array(fixed(kind), length, nullable), FIXED[kind]
    measure, size = length.read, Struct(">" + code).size

    def read(source: Input) -> Any:
        count = measure(source)
        if count < 0:
            return _null(count, nullable, "an array")
        source.claim(count, size)
        return list(unpack_from(f">{count}{code}", source.take(count * size)))

    return Codec(read, general.write, length.least)


def _write_null(out: Output, length: Length, nullable: bool) -> None:
    if not nullable:
        raise LocalProtocolError("null where the protocol has none")
    length.write(out, -1)
