"""Batches for tests, made and read by other Kafka clients: aiokafka, kafka-python."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable

import cramjam
import google_crc32c
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from kafka.record.default_records import DefaultRecordBatch as PythonBatch
from kafka.record.default_records import DefaultRecordBatchBuilder as PythonBuilder

from aggregator.topics.record_batch import Headers

Row = tuple[int, bytes | None, bytes | None, Headers]
"""(time, key, value, headers), as `build` takes them."""

T = 1_790_000_000_000
ROWS: list[Row] = [
    (T, b"pi-1", b"21.5", (("host", b"pi-1"), ("type", b"temp"))),
    (T + 70_000, None, b"x" * 5000, (("host", b"pi-1"), ("type", b"temp"))),
    (T - 5, b"", None, ()),
    (T - 9_000_000, b"k", b"", (("", b""), ("größe", None))),
    (T + 1, None, None, ()),
]
SNAPPY, LZ4, ZSTD = 2, 3, 4


def by_aiokafka(rows: Iterable[Row], compression: int = 0) -> bytes:
    """What aiokafka's producer sends."""
    return _built(DefaultRecordBatchBuilder, rows, compression)


def by_kafka_python(rows: Iterable[Row], compression: int = 0) -> bytes:
    """What kafka-python's producer sends; here it can do none and gzip."""
    return _built(PythonBuilder, rows, compression)


def _built(builder: Callable[..., DefaultRecordBatchBuilder], rows: Iterable[Row], compression: int) -> bytes:
    batch = builder(
        magic=2,
        compression_type=compression,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 20,
    )
    for at, (time, key, value, headers) in enumerate(rows):
        batch.append(at, time, key, value, list(headers))
    return bytes(batch.build())


def read_by_aiokafka(batch: bytes) -> list[tuple[int, Row]]:
    """(offset, row) each, as aiokafka's consumer sees them; its CRC, too."""
    return _read(DefaultRecordBatch(batch))


def read_by_kafka_python(batch: bytes) -> list[tuple[int, Row]]:
    """The same by kafka-python's consumer."""
    return _read(PythonBatch(batch))


def _read(batch: DefaultRecordBatch) -> list[tuple[int, Row]]:
    assert batch.validate_crc()
    return [(one.offset, (one.timestamp, one.key, one.value, tuple(one.headers))) for one in batch]


def sealed(batch: bytes, payload: bytes, attributes: int | None = None) -> bytes:
    """The batch with other records, its length and CRC made right."""
    changed = bytearray(batch[:61] + payload)
    if attributes is not None:
        struct.pack_into(">h", changed, 21, attributes)
    struct.pack_into(">i", changed, 8, len(changed) - 12)
    struct.pack_into(">I", changed, 17, google_crc32c.value(bytes(changed[21:])))
    return bytes(changed)


def changed(batch: bytes, layout: str, at: int, *values: int) -> bytes:
    """The batch with numbers of its header changed and the CRC made right."""
    head = bytearray(batch)
    struct.pack_into(layout, head, at, *values)
    struct.pack_into(">I", head, 17, google_crc32c.value(bytes(head[21:])))
    return bytes(head)


def as_librdkafka(batch: bytes) -> bytes:
    """An uncompressed batch in the snappy that librdkafka writes: one raw block."""
    return sealed(batch, bytes(cramjam.snappy.compress_raw(batch[61:])), SNAPPY)


def gzip(data: bytes) -> bytes:
    """One member."""
    squeeze = zlib.compressobj(wbits=31)
    return squeeze.compress(data) + squeeze.flush()


def xerial(*blocks: bytes) -> bytes:
    """Raw snappy blocks in the frame that Java writes."""
    return b"\x82SNAPPY\0" + struct.pack(">II", 1, 1) + b"".join(struct.pack(">I", len(one)) + one for one in blocks)
