"""The store's file: its tables, version, and the checksum of each row (docs/storage.md shows it byte by byte).

Every row that delivery depends on ends with a CRC-32 of all its other columns: a flipped byte inside a blob passes
SQLite's own checks. `version` is the number of the transaction that wrote a row, so that of two copies of a row found
in a damaged file the newer one is known.

`position` counts events through the whole life of the file, over all openings; an event's number in its origin is its
position less the opening's `base`.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from agent.avro.record import read_varint, varint
from agent.errors import RemoteProtocolError
from agent.store.streams import Identity

APPLICATION_ID = 0x48445243  # "HDRC"
MAJOR, MINOR = 1, 0
USER_VERSION = MAJOR * 1000 + MINOR
PAGE_SIZE = 1024
CODEC_NULL = 0

TABLES = """
CREATE TABLE opening(id INTEGER PRIMARY KEY, origin BLOB, base INTEGER, boot_id BLOB, wall_ms INTEGER, version INTEGER,
  crc INTEGER);
CREATE TABLE channel(id INTEGER PRIMARY KEY, name TEXT, cursor INTEGER, finished BLOB, put_events INTEGER,
  put_bytes INTEGER, done_events INTEGER, done_bytes INTEGER, version INTEGER, crc INTEGER);
CREATE TABLE receipt(id INTEGER PRIMARY KEY, value BLOB, version INTEGER, crc INTEGER);
CREATE TABLE batch(position INTEGER PRIMARY KEY, count INTEGER, origin BLOB, number INTEGER, channels INTEGER,
  wall_ms INTEGER, boot_ns INTEGER, codec INTEGER, identity BLOB, crc INTEGER, block BLOB);
CREATE TABLE mark(id INTEGER PRIMARY KEY, source TEXT, name TEXT, value BLOB, version INTEGER, crc INTEGER);
CREATE TABLE stream(id INTEGER PRIMARY KEY, origin BLOB, channel TEXT, settled INTEGER, ranges BLOB,
  touched_ms INTEGER, version INTEGER, crc INTEGER);
CREATE TABLE dead_letter(id INTEGER PRIMARY KEY, channel TEXT, source TEXT, origin BLOB, number INTEGER,
  wall_ms INTEGER, reason TEXT, block BLOB, version INTEGER, crc INTEGER);
CREATE TABLE lost(id INTEGER PRIMARY KEY, origin BLOB, first INTEGER, count INTEGER, wall_ms INTEGER, reason TEXT,
  version INTEGER, crc INTEGER);
"""

_HEAD = struct.Struct(">qqqqqqB")


class Form(NamedTuple):
    """What tells one kind of file from another: its mark, its version, its tables, and how SQLite keeps it."""

    application_id: int
    major: int
    minor: int
    page_size: int
    tables: str
    shared: bool = False
    """Other connections read it while it is open."""

    @property
    def user_version(self) -> int:
        return self.major * 1000 + self.minor


STORE = Form(APPLICATION_ID, MAJOR, MINOR, PAGE_SIZE, TABLES)


class Row(NamedTuple):
    """A stored batch, in the columns' order (`events` is column `count`).

    `position` and `number` are those of its last event; the numbers of a row follow each other.
    """

    position: int
    events: int
    origin: bytes
    number: int
    channels: int
    wall_ms: int
    boot_ns: int
    codec: int
    identity: bytes | None
    crc: int
    block: bytes

    @property
    def first(self) -> int:
        """Number of the first event."""
        return self.number - self.events + 1

    def intact(self) -> bool:
        """Whether the checksum fits."""
        return self.crc == row_crc(self[:9], self.block)


def row_crc(columns: tuple[int, int, bytes, int, int, int, int, int, bytes | None], block: bytes) -> int:
    """CRC-32 (zlib) of a row of `batch`: the columns before `crc`, in their order, and the block."""
    position, count, origin, number, channels, wall_ms, boot_ns, codec, identity = columns
    head = _HEAD.pack(position, count, number, channels, wall_ms, boot_ns, codec) + origin
    if identity is not None:
        head += identity
    return zlib.crc32(block, zlib.crc32(head))


def value_crc(*columns: int | str | bytes | None) -> int:
    """CRC-32 of a row of one of the small tables: every column but the checksum, tagged and length-prefixed."""
    crc = 0
    for column in columns:
        if isinstance(column, int):
            data = b"i%d" % column
        elif column is None:
            data = b"n"
        else:
            raw = column.encode() if isinstance(column, str) else column
            data = b"b%d:" % len(raw) + raw
        crc = zlib.crc32(data, crc)
    return crc


def pack_identity(runs: tuple[Identity, ...]) -> bytes:
    """Identity runs as bytes: 16 of origin, then first and count as zig-zag varints, for each run."""
    return b"".join(run.origin + varint(run.first) + varint(run.count) for run in runs)


def unpack_identity(data: bytes) -> tuple[Identity, ...]:
    """`pack_identity` back; RemoteProtocolError if it is malformed."""
    out: list[Identity] = []
    at = 0
    while at < len(data):
        origin = data[at : at + 16]
        first, at = read_varint(data, at + 16)
        count, at = read_varint(data, at)
        if len(origin) != 16 or first < 0 or count < 1:
            raise RemoteProtocolError("malformed identity runs")
        out.append(Identity(origin, first, count))
    return tuple(out)
