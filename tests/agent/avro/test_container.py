"""Avro object container files of events."""

from __future__ import annotations

import io
import json
import zlib

import fastavro
import pytest

from agent.avro import container, record, schema
from agent.avro.container import ContainerReader
from agent.errors import RemoteProtocolError

EVENTS = [({"h": "v"}, b"hi"), ({}, b""), ({"a": "ä"}, b"\0" * 3000)]
BLOCK = record.encode(EVENTS)
SYNC = bytes(range(16))


def made(codec: str = "null") -> bytes:
    """A container with two blocks and a label."""
    head = container.write_header(SYNC, {"headrace.after": b"7"}, codec)
    return head + container.write_block(3, BLOCK, SYNC, codec) + container.write_block(3, BLOCK, SYNC, codec)


@pytest.mark.parametrize("codec", container.CODECS)
def test_round_trip(codec: str) -> None:
    """What is written is read: metadata, codec, marker and each block's bytes."""
    header, blocks = container.read(made(codec))
    assert (header.codec, header.sync, header.metadata["headrace.after"]) == (codec, SYNC, b"7")
    assert [(block.count, block.data) for block in blocks] == [(3, BLOCK), (3, BLOCK)]


@pytest.mark.parametrize("codec", container.CODECS)
def test_byte_by_byte(codec: str) -> None:
    """A reader that is fed one byte at a time finds the same blocks."""
    reader, found = ContainerReader(), []
    for byte in made(codec):
        reader.feed(bytes([byte]))
        block = reader.next()
        if block:
            found.append(block.data)
    assert found == [BLOCK, BLOCK]


@pytest.mark.parametrize("codec", container.CODECS)
def test_fastavro_reads_it(codec: str) -> None:
    """Another Avro library reads our containers."""
    read = [(one["headers"], one["body"]) for one in fastavro.reader(io.BytesIO(made(codec)))]
    assert read == EVENTS * 2


@pytest.mark.parametrize("codec", container.CODECS)
def test_reads_what_fastavro_writes(codec: str) -> None:
    """We read containers that another Avro library wrote."""
    out = io.BytesIO()
    parsed = fastavro.parse_schema(json.loads(schema.EVENT))
    fastavro.writer(out, parsed, [{"headers": h, "body": b} for h, b in EVENTS], codec=codec, metadata={"k": "v"})
    header, blocks = container.read(out.getvalue())
    assert header.metadata["k"] == b"v"
    assert [event for block in blocks for event in record.decode(block.data, block.count)] == EVENTS


@pytest.mark.parametrize("codec", container.CODECS)
def test_cut_off(codec: str) -> None:
    """A container that ends early anywhere but after a block is refused as a whole."""
    data = made(codec)
    head = len(container.write_header(SYNC, {"headrace.after": b"7"}, codec))
    whole = {head, head + (len(data) - head) // 2, len(data)}
    for end in range(len(data)):
        if end not in whole:
            with pytest.raises(RemoteProtocolError):
                container.read(data[:end])


HOSTILE = [
    ("no magic", b"Obj\2" + made()[4:], "Obj 01"),
    ("another codec", made().replace(b"\x08null", b"\x08lzma"), "codec"),
    ("another schema", made().replace(b'"bytes"', b'"float"'), "not Flume events"),
    ("a negative size", container.write_header(SYNC) + b"\2\1", "claims"),
    ("a huge block", container.write_header(SYNC) + b"\2\xfe\xff\xff\xff\x0f", "claims"),
    ("a huge map", b"Obj\1" + b"\xfe\xff\xff\xff\x0f", "cut off"),
    ("another marker", made()[:-1] + b"\0", "sync"),
    ("too few events", container.write_header(SYNC) + container.write_block(2, BLOCK, SYNC), "too many"),
    ("too many events", container.write_header(SYNC) + container.write_block(4, BLOCK, SYNC), "ends early"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "data", "says"), HOSTILE, ids=[one[0] for one in HOSTILE])
def test_hostile(what: str, data: bytes, says: str) -> None:
    """What isn't a container of events within the bounds is refused, and said why."""
    with pytest.raises(RemoteProtocolError, match=says):
        container.read(data)


def test_deflate_bomb() -> None:
    """A block that inflates beyond the bound is refused."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = squeeze.compress(bytes(1 << 24)) + squeeze.flush()
    data = container.write_header(SYNC, codec="deflate") + b"\2" + record.varint(len(bomb)) + bomb + SYNC
    with pytest.raises(RemoteProtocolError, match="inflates to more"):
        container.read(data, max_block=1 << 20)


def test_a_block_stands_alone() -> None:
    """Cutting a file after a block never breaks it."""
    assert len(container.read(made()[: -len(container.write_block(3, BLOCK, SYNC))])[1]) == 1
