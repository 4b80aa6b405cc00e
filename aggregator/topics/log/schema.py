"""The log's file, `topics.db`: its tables, and the one integer under which a batch is found.

A batch's row id is `partition << 44 | its last offset`. So a fetch at any offset, also one inside a batch, is one scan
that begins with the batch which holds it, and a partition's batches lie side by side. Of a batch the 61-byte header
stands apart from the rest, for who reads many headers and no records: producers at open, retention, times.

`time` is the greatest record time in the partition so far and `total` all bytes that it ever took, this batch
included: both only rise, so a time is found by halving and a partition's size is a difference. Nothing but the batch
itself is written when one is appended.
"""

from __future__ import annotations

from typing import NamedTuple

from agent.store.schema import Form

OFFSET_BITS = 44
OFFSET_LIMIT = 1 << OFFSET_BITS
PARTITION_LIMIT = 1 << (63 - OFFSET_BITS)

TABLES = """
CREATE TABLE meta(name TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;
CREATE TABLE topic(id INTEGER PRIMARY KEY, name TEXT UNIQUE, uuid BLOB, config TEXT);
CREATE TABLE part(id INTEGER PRIMARY KEY, topic INTEGER, number INTEGER, start INTEGER, next INTEGER, dropped INTEGER,
  time INTEGER);
CREATE TABLE batch(id INTEGER PRIMARY KEY, time INTEGER, kept INTEGER, total INTEGER, head BLOB, body BLOB);
CREATE TABLE snapshot(id INTEGER PRIMARY KEY, upto INTEGER, producers BLOB);
CREATE TABLE aborted(part INTEGER, last INTEGER, producer INTEGER, first INTEGER,
  PRIMARY KEY(part, last)) WITHOUT ROWID;
CREATE TABLE cleaned(part INTEGER, time INTEGER, upto INTEGER, PRIMARY KEY(part, time)) WITHOUT ROWID;
CREATE TABLE committed(team TEXT, topic TEXT, number INTEGER, place INTEGER, epoch INTEGER, metadata TEXT, time INTEGER,
  PRIMARY KEY(team, topic, number)) WITHOUT ROWID;
CREATE TABLE transactional(id TEXT PRIMARY KEY, producer INTEGER, epoch INTEGER, before INTEGER, before_epoch INTEGER,
  timeout INTEGER, state TEXT, started INTEGER, touched INTEGER) WITHOUT ROWID;
CREATE TABLE enlisted(id TEXT, name TEXT, number INTEGER, PRIMARY KEY(id, name, number)) WITHOUT ROWID;
CREATE TABLE pending(id TEXT, team TEXT, topic TEXT, number INTEGER, place INTEGER, epoch INTEGER, metadata TEXT,
  PRIMARY KEY(id, team, topic, number)) WITHOUT ROWID;
CREATE TABLE stream(id INTEGER PRIMARY KEY, origin BLOB, channel TEXT, settled INTEGER, ranges BLOB,
  touched_ms INTEGER, version INTEGER, crc INTEGER);
"""

LOG = Form(application_id=0x4844544F, major=1, minor=0, page_size=4096, tables=TABLES, shared=True)
"""`HDTO`. A second connection reads it.

Pages as large as those of most disks. Of 2, 4, 8 and 16 KiB a byte in batches of 16 KB cost 2.3, 2.4, 2.8 and 3.6 on
the device, in batches of 180 KB 2.1, 2.1, 2.3 and 2.5, the commit of one small record 11, 14, 20 and 31 KB; CPU is
less with larger ones (5.3, 5.0, 4.3 and 4.3 ns a byte).
"""


def key(part: int, offset: int) -> int:
    """The row id of a batch of partition `part` (1 ...) that ends at `offset`."""
    return part << OFFSET_BITS | offset


class Offset(NamedTuple):
    """How far a group has come in a partition: the next offset that it wants."""

    offset: int
    leader_epoch: int = -1
    metadata: str = ""
    time_ms: int = -1
    """Of the commit; -1: now."""
