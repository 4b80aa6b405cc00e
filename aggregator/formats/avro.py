"""Avro containers of Flume's events with every codec of Avro (agent/avro/container.py has what collectors need).

With codec `null` a batch's block goes into the file as the very bytes that it came in: the parts of a unit are a short
prefix, the block and the sync marker, and nobody copies the one in the middle.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Sequence
from typing import ClassVar

from agent.avro import container
from agent.avro.record import varint
from agent.config.fields import Config, key
from agent.event import Batch
from agent.serializers.avro_event import AvroEventConfig, with_identity
from aggregator.formats import codecs

Compress = Callable[[bytes], bytes]
WHAT = "compressionCodec = {}"


def _deflate() -> Compress:
    def compress(data: bytes) -> bytes:
        squeeze = zlib.compressobj(wbits=-15)
        return squeeze.compress(data) + squeeze.flush()

    return compress


def _snappy() -> Compress:
    """A raw snappy block and the CRC-32 of what is in it, big-endian."""
    raw = codecs.library("cramjam", WHAT.format("snappy")).snappy.compress_raw
    return lambda data: bytes(raw(data)) + zlib.crc32(data).to_bytes(4, "big")


def _zstandard() -> Compress:
    compress: Compress = codecs.zstd(WHAT.format("zstandard")).compress
    return compress


CODECS: dict[str, Callable[[], Compress]] = {
    "null": lambda: lambda data: data,
    "deflate": _deflate,
    "snappy": _snappy,
    "bzip2": lambda: bz2.compress,
    "xz": lambda: lzma.compress,
    "zstandard": _zstandard,
}


class AvroKeys(Config):
    """The keys of both kinds of Avro files."""

    IGNORED: ClassVar[dict[str, str]] = AvroEventConfig.IGNORED
    compressionCodec: str = key("compressionCodec", "null", choices=tuple(CODECS), doc="codec of the blocks")

    def compressor(self) -> Compress:
        """ConfigError if its library is missing."""
        return CODECS[self.compressionCodec]()


class AvroEventsConfig(AvroKeys):
    identity: bool = key("identity", False, doc="add headrace.origin and headrace.number, the event's identity")


class AvroEvents:
    """Flume's avro_event: records {headers, body}."""

    extension = ""

    def __init__(self, config: AvroEventsConfig) -> None:
        self.config, self.compress = config, config.compressor()
        self.sync = container.new_sync()

    def header(self, first: Batch | None = None) -> bytes:
        return container.write_header(self.sync, codec=self.config.compressionCodec)

    def fits(self, batch: Batch) -> bool:
        return True

    def encode(self, batch: Batch) -> Sequence[bytes]:
        identities = batch.identities if self.config.identity else None
        block = with_identity(batch, identities) if identities else batch.block
        return unit(batch.count, self.compress(block), self.sync)


def unit(count: int, data: bytes, sync: bytes) -> Sequence[bytes]:
    """A container block; `data` is `count` records after the codec."""
    return (varint(count) + varint(len(data)), data, sync)
