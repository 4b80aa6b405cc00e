"""The four compressions of a record batch, read only: a broker hands batches on as they came.

They are needed where records are looked at (compaction, a tail of a topic), and what they read came from anyone who
may produce. So each has its bound before it has its memory: gzip stops at it, snappy says its size first, and lz4 and
zstd, whose writers needn't say one, get a buffer that grows from what is likely up to the bound and not beyond.

    1 gzip     one member                       3 lz4    a frame (LZ4F), as all clients write for magic 2
    2 snappy   what Java writes (xerial) is a header of 16 bytes, then (u32 size, raw block) as often as needed;
               what librdkafka writes is one raw block
    4 zstd     a frame; libzstd takes windows up to 128 MiB, of which it touches no more than it writes

Source: org.apache.kafka.common.compress; xerial's SnappyOutputStream; librdkafka's rdkafka_msgset_reader.c.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import cramjam

from aggregator.topics.errors import Code, TopicsError

NAMES = ("none", "gzip", "snappy", "lz4", "zstd")
"""By the number in a batch's attributes."""
XERIAL = b"\x82SNAPPY\0"
XERIAL_HEADER = 16
"""The magic, a version and the oldest version that can read it: two u32, both 1 since ever."""
FIRST_GUESS = 1 << 16


def decompress(kind: int, data: memoryview, most: int) -> bytes:
    """The records of a batch, at most `most` bytes. TopicsError CORRUPT_MESSAGE: more, cut off or malformed;
    UNSUPPORTED_COMPRESSION_TYPE: no such kind."""
    if not 0 <= kind < len(NAMES):
        raise TopicsError(Code.UNSUPPORTED_COMPRESSION_TYPE, f"compression {kind} is none of {', '.join(NAMES)}")
    return _BY_KIND[kind](data, most)


def _corrupt(kind: str, why: object) -> TopicsError:
    return TopicsError(Code.CORRUPT_MESSAGE, f"a batch's {kind} can't be read: {why}")


def _none(data: memoryview, most: int) -> bytes:
    if len(data) > most:
        raise _corrupt("data", f"more than {most} bytes")
    return bytes(data)


def _gzip(data: memoryview, most: int) -> bytes:
    stream = zlib.decompressobj(wbits=31)
    try:
        out = stream.decompress(data, most + 1)
    except zlib.error as error:
        raise _corrupt("gzip", error) from None
    if len(out) > most:
        raise _corrupt("gzip", f"more than {most} bytes come out of it")
    if not stream.eof or stream.unused_data:
        raise _corrupt("gzip", "it is cut off, or something follows it")
    return out


def _snappy(data: memoryview, most: int) -> bytes:
    if data[: len(XERIAL)] != XERIAL:
        return _snappy_block(data, most)
    out: list[bytes] = []
    at = XERIAL_HEADER
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        at += 4
        if at + size > len(data):
            raise _corrupt("snappy", "its last block is cut off")
        out.append(_snappy_block(data[at : at + size], most))
        most -= len(out[-1])
        at += size
    return b"".join(out)


def _snappy_block(block: memoryview, most: int) -> bytes:
    try:
        size = cramjam.snappy.decompress_raw_len(block)
        if size > most:
            raise _corrupt("snappy", f"it claims {size} bytes, {most} are left")
        out = bytearray(size)
        cramjam.snappy.decompress_raw_into(block, out)
    except cramjam.DecompressionError as error:
        raise _corrupt("snappy", error) from None
    return bytes(out)


def _lz4(data: memoryview, most: int) -> bytes:
    return _grown("lz4", cramjam.lz4.decompress_into, data, most)


def _zstd(data: memoryview, most: int) -> bytes:
    return _grown("zstd", cramjam.zstd.decompress_into, data, most)


def _grown(kind: str, into: Callable[[memoryview, bytearray], int], data: memoryview, most: int) -> bytes:
    """Decompress into a buffer; while that fails take a larger one, up to `most`: which of the errors say that the
    buffer is full is only in their words."""
    size = min(most, max(FIRST_GUESS, 4 * len(data)))
    while True:
        out = bytearray(size)
        try:
            written = into(data, out)
        except cramjam.DecompressionError as error:
            if size == most:
                raise _corrupt(kind, f"{error}, or more than {most} bytes come out of it") from None
            size = min(most, size * 4)
        else:
            return bytes(memoryview(out)[:written])


_BY_KIND = (_none, _gzip, _snappy, _lz4, _zstd)
