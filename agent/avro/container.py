"""Avro object container files of Flume events (Avro 1.11 specification, "Object Container Files").

    header   "Obj" 01 | map<bytes> with avro.schema, avro.codec and whatever else | 16 bytes of sync marker
    block    count varint | size varint | data, `size` bytes after the codec | the sync marker again

The data of a block is events back to back: exactly what a Batch holds as its `block`, so with codec `null` nothing is
encoded again. Any Avro tool reads such a file. Codecs: null, and deflate (RFC 1951 without a zlib header).
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from agent.avro import record, schema
from agent.avro.handshake import read_map, write_map
from agent.avro.record import read_varint, varint
from agent.errors import RemoteProtocolError

MAGIC = b"Obj\1"
SYNC_SIZE = 16
CODECS = ("null", "deflate")
MAX_BLOCK = 16 << 20
"""Bytes of one block, before and after its codec."""
MAX_HEADER = 1 << 20
MAX_META = 256


class Header(NamedTuple):
    """What opens a container: all of its metadata, its codec and its sync marker."""

    metadata: dict[str, bytes]
    codec: str
    sync: bytes


@dataclass(slots=True)
class Block:
    """`count` events back to back in `data`, checked."""

    count: int
    data: bytes


def new_sync() -> bytes:
    """A marker for a new container."""
    return os.urandom(SYNC_SIZE)


def write_header(sync: bytes, metadata: Mapping[str, bytes] | None = None, codec: str = "null") -> bytes:
    """The header of a container of Flume events; `metadata` are further entries, not those of Avro itself."""
    own = {"avro.schema": schema.EVENT, "avro.codec": codec.encode()}
    return MAGIC + write_map({**own, **(metadata or {})}) + sync


def write_block(count: int, data: bytes, sync: bytes, codec: str = "null", level: int = 6) -> bytes:
    """One block; it can stand alone behind any header with the same sync marker and codec."""
    if codec == "deflate":
        squeeze = zlib.compressobj(level, zlib.DEFLATED, -15)
        data = squeeze.compress(data) + squeeze.flush()
    return b"".join((varint(count), varint(len(data)), data, sync))


def write(block: bytes, count: int, metadata: Mapping[str, bytes] | None = None, codec: str = "null") -> bytes:
    """A whole container with one block."""
    sync = new_sync()
    return write_header(sync, metadata, codec) + write_block(count, block, sync, codec)


def read(data: bytes, max_block: int = MAX_BLOCK) -> tuple[Header, list[Block]]:
    """A whole container. RemoteProtocolError if it is malformed, cut off or above `max_block` bytes a block."""
    reader = ContainerReader(max_block)
    reader.feed(data)
    blocks: list[Block] = []
    total = 0
    while (block := reader.next()) is not None:
        blocks.append(block)
        total += len(block.data)
        if total > max_block:
            raise RemoteProtocolError(f"a container holds more than {max_block} bytes of events")
    if reader.header is None or reader.held:
        raise RemoteProtocolError("an Avro container is cut off")
    return reader.header, blocks


class ContainerReader:
    """Bytes in, blocks out; `header` is there before the first block. An error ends it."""

    def __init__(self, max_block: int = MAX_BLOCK) -> None:
        self.max_block = max_block
        self.header: Header | None = None
        self._held = bytearray()

    @property
    def held(self) -> int:
        """Bytes fed that are in no block yet."""
        return len(self._held)

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes of the container."""
        self._held += data

    def next(self) -> Block | None:
        """The next whole block, or None until more bytes come. RemoteProtocolError: no container of Flume events."""
        if self.header is None and not self._read_header():
            return None
        assert self.header is not None
        prefix = self._prefix()
        if prefix is None:
            return None
        count, size, pos = prefix
        if count < 0 or not 0 <= size <= self.max_block:
            raise RemoteProtocolError(
                f"a container block claims {count} events in {size} bytes; not above {self.max_block}"
            )
        end = pos + size
        if len(self._held) < end + SYNC_SIZE:
            return None
        if self._held[end : end + SYNC_SIZE] != self.header.sync:
            raise RemoteProtocolError("a container block does not end with the sync marker")
        data = bytes(self._held[pos:end])
        del self._held[: end + SYNC_SIZE]
        if self.header.codec == "deflate":
            data = _inflate(data, self.max_block)
        record.check(data, count)
        return Block(count, data)

    def _prefix(self) -> tuple[int, int, int] | None:
        """(count, size, position after them), or None while they are not all there."""
        start = bytes(self._held[:20])
        try:
            count, pos = read_varint(start, 0)
            size, pos = read_varint(start, pos)
        except RemoteProtocolError:
            if len(start) == 20:
                raise
            return None
        return count, size, pos

    def _read_header(self) -> bool:
        held = bytes(self._held[:MAX_HEADER])
        if held[:4] != MAGIC[: len(held)]:
            raise RemoteProtocolError("not an Avro container: it does not start with Obj 01")
        try:
            metadata, pos = read_map(held, 4, MAX_META)
        except RemoteProtocolError:
            if len(held) == MAX_HEADER:
                raise
            return False
        if len(held) < pos + SYNC_SIZE:
            return False
        self.header = _header(metadata, held[pos : pos + SYNC_SIZE])
        del self._held[: pos + SYNC_SIZE]
        return True


def _header(metadata: dict[str, bytes], sync: bytes) -> Header:
    codec = metadata.get("avro.codec", b"null").decode("ascii", "replace")
    if codec not in CODECS:
        raise RemoteProtocolError(f"the container's codec {codec!r} is none of {', '.join(CODECS)}")
    if "avro.schema" not in metadata:
        raise RemoteProtocolError("the container has no avro.schema")
    schema.check_event(metadata["avro.schema"])
    return Header(metadata, codec, sync)


def _inflate(data: bytes, limit: int) -> bytes:
    stream = zlib.decompressobj(-15)
    try:
        out = stream.decompress(data, limit + 1)
    except zlib.error as error:
        raise RemoteProtocolError(f"a container block can't be inflated: {error}") from None
    if len(out) > limit or not stream.eof:  # fastavro leaves 3 bytes of zlib's checksum behind the data
        raise RemoteProtocolError(f"a container block is cut off or inflates to more than {limit} bytes")
    return out
