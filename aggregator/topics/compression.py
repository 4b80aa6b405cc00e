"""The four compressions of a record batch. A broker hands batches on as they came; what compaction leaves of one is
compressed as that was.

Else they are read, where records are looked at (compaction, a tail of a topic), and what is read came from anyone who
may produce. So each has its bound before it has its memory:

    1 gzip     one member; it stops at the bound
    2 snappy   each block says its size first. What Java writes (xerial) is a header of 16 bytes, then (u32 size, raw
               block) as often as needed; what librdkafka writes is one raw block
    3 lz4      one frame (LZ4F, as all clients write with magic 2)   4 zstd   one frame
               Their writers needn't say a size, but the sizes of their blocks, which a walk from block to block
               finds, say how much can come out at most

A batch has one member or frame, so bytes behind it are a fault. libzstd takes windows up to 128 MiB, for a frame that
says it needs one, and touches no more of it than it writes.

Source: org.apache.kafka.common.compress; xerial's SnappyOutputStream; librdkafka's rdkafka_msgset_reader.c; the LZ4
frame format; RFC 8878.
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
LZ4_MAGIC = b"\x04\x22\x4d\x18"
LZ4_GROWTH = 255
"""No byte of an LZ4 block stands for more."""
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
ZSTD_BLOCK = 128 << 10
"""No block becomes larger."""


def decompress(kind: int, data: memoryview, most: int) -> bytes:
    """The records of a batch, at most `most` bytes. TopicsError CORRUPT_MESSAGE: more, cut off or malformed;
    UNSUPPORTED_COMPRESSION_TYPE: no such kind."""
    if not 0 <= kind < len(NAMES):
        raise TopicsError(Code.UNSUPPORTED_COMPRESSION_TYPE, f"compression {kind} is none of {', '.join(NAMES)}")
    try:
        return _BY_KIND[kind](data, most)
    except (_Unreadable, cramjam.DecompressionError, zlib.error) as error:
        raise TopicsError(Code.CORRUPT_MESSAGE, f"a batch's {NAMES[kind]} can't be read: {error}") from None


def compress(kind: int, data: bytes) -> bytes:
    """Records for a batch, as clients in all languages read them. `kind` is one that `decompress` knows."""
    return _PACKERS[kind](data)


def _pack_gzip(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=31)
    return stream.compress(data) + stream.flush()


def _pack_snappy(data: bytes) -> bytes:
    return bytes(cramjam.snappy.compress_raw(data))


def _pack_lz4(data: bytes) -> bytes:
    stream = cramjam.lz4.Compressor(block_linked=False)  # Java reads no linked blocks (KIP-57)
    stream.compress(data)
    return bytes(stream.finish())


def _pack_zstd(data: bytes) -> bytes:
    return bytes(cramjam.zstd.compress(data))


_PACKERS = (bytes, _pack_gzip, _pack_snappy, _pack_lz4, _pack_zstd)


class _Unreadable(Exception):
    """Says why."""


def _none(data: memoryview, most: int) -> bytes:
    if len(data) > most:
        raise _Unreadable(f"{len(data)} bytes, above {most}")
    return bytes(data)


def _gzip(data: memoryview, most: int) -> bytes:
    stream = zlib.decompressobj(wbits=31)
    out = stream.decompress(data, most + 1)
    if len(out) > most:
        raise _Unreadable(f"more than {most} bytes come out of it")
    if not stream.eof or stream.unused_data:
        raise _Unreadable("it is cut off, or something follows it")
    return out


def _snappy(data: memoryview, most: int) -> bytes:
    if data[: len(XERIAL)] != XERIAL:
        return _snappy_block(data, most)
    if len(data) < XERIAL_HEADER:
        raise _Unreadable("its header is cut off")
    out: list[bytes] = []
    at = XERIAL_HEADER
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        at += 4
        if at + size > len(data):
            raise _Unreadable("its last block is cut off")
        out.append(_snappy_block(data[at : at + size], most))
        most -= len(out[-1])
        at += size
    return b"".join(out)


def _snappy_block(block: memoryview, most: int) -> bytes:
    size = cramjam.snappy.decompress_raw_len(block)
    if size > most:
        raise _Unreadable(f"it claims {size} bytes, {most} are left")
    out = bytearray(size)
    cramjam.snappy.decompress_raw_into(block, out)
    return bytes(out)


def _lz4(data: memoryview, most: int) -> bytes:
    return _framed(cramjam.lz4.decompress_into, data, min(most, _lz4_bound(data)))


def _zstd(data: memoryview, most: int) -> bytes:
    return _framed(cramjam.zstd.decompress_into, data, min(most, _zstd_bound(data)))


def _framed(decompress_into: Callable[[memoryview, bytearray], int], data: memoryview, most: int) -> bytes:
    out = bytearray(most)
    written = decompress_into(data, out)
    return bytes(memoryview(out)[:written])


def _lz4_bound(data: memoryview) -> int:
    """Bytes that can come out of a frame of blocks of (u32 size, the top bit: stored; data; u32 checksum if flagged).

    The first flags: 1 dictionary, 4 checksum of the whole, 8 its size, 16 checksums of blocks. Bits 4-6 of the second
    byte: a block is at most 64 KiB (4), 256 KiB (5), 1 MiB (6) or 4 MiB (7).
    """
    if data[:4] != LZ4_MAGIC or len(data) < 7:
        raise _Unreadable("it is no frame of lz4")
    flags, largest = data[4], 1 << (8 + 2 * (data[5] >> 4 & 7))
    at = 7 + 8 * bool(flags & 8) + 4 * (flags & 1)
    bound = 0
    while size := _little(data[at : at + 4]):
        size &= 0x7FFFFFFF
        bound += min(largest, LZ4_GROWTH * size)
        at += 4 + size + 4 * bool(flags & 16)
    _check_end(data, at + 4 + 4 * bool(flags & 4))
    return bound


def _zstd_bound(data: memoryview) -> int:
    """Bytes that can come out of a frame of blocks of (u24: last, 2 bits of type, size; data).

    Types: 0 stored, 1 one byte repeated, 2 compressed. The flags of the frame: 1 and 2 size of a dictionary's id, 4 a
    checksum, 32 no byte for the window, 64 and 128 size of the content's size.
    """
    if data[:4] != ZSTD_MAGIC or len(data) < 5:
        raise _Unreadable("it is no frame of zstd")
    flags, single = data[4], bool(data[4] & 32)
    at = 5 + (not single) + (0, 1, 2, 4)[flags & 3] + (int(single), 2, 4, 8)[flags >> 6]
    bound = block = 0
    while not block & 1:
        block = _little(data[at : at + 3])
        kind, size = block >> 1 & 3, block >> 3
        bound += ZSTD_BLOCK if kind == 2 else min(size, ZSTD_BLOCK)
        at += 3 + (1 if kind == 1 else size)
        if at > len(data):
            break
    _check_end(data, at + 4 * bool(flags & 4))
    return bound


def _little(data: memoryview) -> int:
    """A little-endian number; 0 at the end of the data."""
    return int.from_bytes(data, "little")


def _check_end(data: memoryview, at: int) -> None:
    if at != len(data):
        raise _Unreadable("it is cut off, or something follows it")


_BY_KIND = (_none, _gzip, _snappy, _lz4, _zstd)
