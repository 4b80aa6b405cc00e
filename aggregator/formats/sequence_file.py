"""Hadoop's SequenceFile, version 6, with keys LongWritable (the event's timestamp in ms) and the bodies as values.

    header    "SEQ" 06 | key class | value class | compressed, by blocks: a byte each | codec class if compressed
              | metadata: u32 count, pairs of texts | 16 bytes of sync mark                  (a text: vint size, UTF-8)
    record    u32 size of key and value | u32 size of key | key | value, compressed alone with RECORD
    sync      ff ff ff ff | the sync mark again; stands between records wherever the writer likes
    block     sync | vint count | four buffers, each vint size and compressed: sizes of keys, keys, sizes of values,
              values                                                     (sizes in the second and fourth are vints)

Source: org.apache.hadoop.io.SequenceFile (its Writer, RecordCompressWriter, BlockCompressWriter), WritableUtils. Like
Flume's HDFSSequenceFile at a flush, a batch ends with a sync or is a whole block, so a file may be cut behind it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence

from agent import clock
from agent.errors import Rejected
from agent.event import Batch, Event
from aggregator.formats.codecs import Codec

KEY = "org.apache.hadoop.io.LongWritable"
VALUES = {"Writable": "org.apache.hadoop.io.BytesWritable", "Text": "org.apache.hadoop.io.Text"}
ESCAPE = b"\xff\xff\xff\xff"
SYNC_SIZE = 16


def vint(number: int) -> bytes:
    """Hadoop's variable int, for sizes and counts: one byte up to 127, else how many bytes follow, big-endian."""
    if number <= 127:
        return bytes((number,))
    size = (number.bit_length() + 7) // 8
    return bytes((0x90 - size,)) + number.to_bytes(size, "big")


def text(words: str) -> bytes:
    raw = words.encode()
    return vint(len(raw)) + raw


class SequenceFile:
    """One file. `values` is Flume's writeFormat; with a codec the values are compressed by batch, or one by one."""

    def __init__(self, values: str = "Writable", codec: Codec | None = None, by_record: bool = False) -> None:
        self.value_class, self.codec, self.by_record = VALUES[values], codec, by_record
        self.size: Callable[[int], bytes] = vint if values == "Text" else _u32
        self.sync = os.urandom(SYNC_SIZE)
        self.extension = codec.extension if codec else ""

    def header(self, first: Batch | None = None) -> bytes:
        flags = bytes((self.codec is not None, self.codec is not None and not self.by_record))
        codec = text(self.codec.java) if self.codec else b""
        return b"".join((b"SEQ\6", text(KEY), text(self.value_class), flags, codec, _u32(0), self.sync))

    def fits(self, batch: Batch) -> bool:
        return True

    def encode(self, batch: Batch) -> Sequence[bytes]:
        """Rejected if a timestamp header is no long."""
        now = clock.wall_ms()
        times = [_time(event, now) for event in batch.events]
        values = [self.size(len(event.body)) + event.body for event in batch.events]
        if self.codec is None:
            return (self._records(times, values),)
        if self.by_record:
            return (self._records(times, [self.codec.compress(value) for value in values]),)
        return (self._block(times, values, self.codec.compress),)

    def _records(self, times: list[int], values: list[bytes]) -> bytes:
        pack = struct.Struct(">iiq").pack
        out: list[bytes] = []
        for time, value in zip(times, values, strict=True):
            out += (pack(8 + len(value), 8, time), value)
        return b"".join((*out, ESCAPE, self.sync))

    def _block(self, times: list[int], values: list[bytes], compress: Callable[[bytes], bytes]) -> bytes:
        count = len(times)
        keys, sizes = struct.pack(f">{count}q", *times), b"".join(vint(len(value)) for value in values)
        out = [ESCAPE, self.sync, vint(count)]
        for buffer in (b"\x08" * count, keys, sizes, b"".join(values)):
            squeezed = compress(buffer)
            out += (vint(len(squeezed)), squeezed)
        return b"".join(out)


def _u32(number: int) -> bytes:
    return number.to_bytes(4, "big")


def _time(event: Event, now: int) -> int:
    stamp = event.headers.get("timestamp")
    if stamp is None:
        return now
    try:
        time = int(stamp)
    except ValueError:
        time = 1 << 63
    if not -(1 << 63) <= time < 1 << 63:
        raise Rejected(f"the timestamp header {stamp[:80]!r} is no number of milliseconds")
    return time
