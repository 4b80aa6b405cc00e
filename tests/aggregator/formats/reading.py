"""Readers of our files in Python, written after the formats' specifications and not after our writers."""

from __future__ import annotations

import bz2
import io
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cramjam
import fastavro
from backports import zstd

from agent.event import Batch, Event
from aggregator.formats.format import Format

Record = tuple[int, bytes]
EVENTS = [
    Event({"timestamp": str(1_700_000_000_000 + number), "k": f"ä{number}"}, b"body %d " % number + bytes(number % 7))
    for number in range(200)
]


def write(form: Format, *batches: Sequence[Event]) -> bytes:
    """A whole file; its batches reach the format as blocks."""
    encoded = [Batch(None, Batch(list(events)).block, len(events)) for events in batches]
    return form.header(encoded[0]) + b"".join(b"".join(form.encode(batch)) for batch in encoded)


def members(data: bytes, start: Callable[[], object]) -> bytes:
    """Streams of zlib, gzip or bzip2, one after another."""
    out = b""
    while data:
        stream: zlib._Decompress | bz2.BZ2Decompressor = start()  # type: ignore[assignment]
        out += stream.decompress(data)
        assert stream.eof
        data = stream.unused_data
    return out


def hadoop_blocks(data: bytes, expand: Callable[[bytes, int], bytes]) -> bytes:
    """(u32 raw size, u32 size, data) as often as there is data."""
    out, at = b"", 0
    while at < len(data):
        raw, size = struct.unpack_from(">II", data, at)
        chunk = expand(data[at + 8 : at + 8 + size], raw)
        assert len(chunk) == raw <= 1 << 18
        out, at = out + chunk, at + 8 + size
    return out


EXPAND: dict[str, Callable[[bytes], bytes]] = {
    "default": lambda data: members(data, zlib.decompressobj),
    "deflate": lambda data: members(data, zlib.decompressobj),
    "gzip": lambda data: members(data, lambda: zlib.decompressobj(31)),
    "bzip2": lambda data: members(data, bz2.BZ2Decompressor),
    "zstandard": zstd.decompress,
    "snappy": lambda data: hadoop_blocks(data, lambda one, _: bytes(cramjam.snappy.decompress_raw(one))),
    "lz4": lambda data: hadoop_blocks(
        data, lambda one, size: bytes(cramjam.lz4.decompress_block(one, output_len=size))
    ),
}


def avro(data: bytes) -> list[Event]:
    """The events of a container, by fastavro."""
    found: Any = list(fastavro.reader(io.BytesIO(data)))
    return [Event(one["headers"], one["body"]) for one in found]


class Sequence6:
    """A SequenceFile of any compression: `records` are (key, value without its size)."""

    def __init__(self, data: bytes) -> None:
        self.file = io.BytesIO(data)
        assert self.file.read(4) == b"SEQ\x06"
        self.key, self.value = self.text(), self.text()
        self.compressed, self.blocks = self.file.read(1) == b"\1", self.file.read(1) == b"\1"
        self.codec = self.text() if self.compressed else ""
        assert self.u32() == 0
        self.sync = self.file.read(16)
        name = self.codec.rpartition(".")[2].removesuffix("Codec").lower()
        self.expand = EXPAND[name] if name else bytes
        self.records = list(self._blocks() if self.blocks else self._records())

    def u32(self) -> int:
        return int.from_bytes(self.file.read(4), "big")

    def vint(self, file: io.BytesIO | None = None) -> int:
        file = file or self.file
        (first,) = struct.unpack("b", file.read(1))
        return first if first >= -112 else int.from_bytes(file.read(-112 - first), "big")

    def text(self) -> str:
        return self.file.read(self.vint()).decode()

    def plain(self, value: bytes) -> bytes:
        file = io.BytesIO(value)
        size = self.vint(file) if self.value.endswith("Text") else int.from_bytes(file.read(4), "big")
        body = file.read()
        assert len(body) == size
        return body

    def _records(self) -> Iterator[Record]:
        while head := self.file.read(4):
            if head == b"\xff" * 4:
                assert self.file.read(16) == self.sync
                continue
            assert self.u32() == 8
            key = int.from_bytes(self.file.read(8), "big", signed=True)
            value = self.file.read(int.from_bytes(head, "big") - 8)
            yield key, self.plain(self.expand(value) if self.compressed else value)

    def _blocks(self) -> Iterator[Record]:
        while head := self.file.read(4):
            assert head == b"\xff" * 4 and self.file.read(16) == self.sync
            count = self.vint()
            sizes, keys, lengths, values = (io.BytesIO(self.expand(self.file.read(self.vint()))) for _ in range(4))
            for _ in range(count):
                assert self.vint(sizes) == 8
                (key,) = struct.unpack(">q", keys.read(8))
                yield key, self.plain(values.read(self.vint(lengths)))
            assert not values.read() and not keys.read()
