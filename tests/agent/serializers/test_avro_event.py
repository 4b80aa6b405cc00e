"""avro_event: container files that a library of others reads."""

from __future__ import annotations

import io
from typing import Any

import fastavro
import pytest

from agent.event import Batch, Event
from agent.serializers.avro_event import AvroEventConfig, AvroEventSerializer
from agent.store.streams import Identity, Transit

EVENTS = [Event({"k": "ä", "topic": "t"}, b"one"), Event({}, b""), Event({"x": "y" * 200}, b"\0\xff" * 100)]
ORIGIN, OTHER = b"\x01" * 16, b"\x02" * 16


def make(**keys: Any) -> AvroEventSerializer:
    return AvroEventSerializer("s", AvroEventConfig(**keys))


def read(data: bytes) -> list[Event]:
    return [Event(one["headers"], one["body"]) for one in fastavro.reader(io.BytesIO(data))]  # type: ignore[union-attr, index, call-overload]


@pytest.mark.parametrize("codec", ["null", "deflate"])
def test_fastavro_reads_it(codec: str) -> None:
    """Header and batches, one after another, are a container with Flume's schema."""
    serializer = make(compressionCodec=codec)
    data = serializer.header() + serializer.encode(Batch(EVENTS)) + serializer.encode(Batch(EVENTS[:1]))
    assert read(data) == EVENTS + EVENTS[:1]
    schema = fastavro.reader(io.BytesIO(data)).writer_schema
    assert [field["name"] for field in schema["fields"]] == ["headers", "body"]  # type: ignore[index, call-overload]


def test_a_file_cut_after_a_batch_is_whole() -> None:
    """Each encoded batch stands alone."""
    serializer = make()
    start = serializer.header() + serializer.encode(Batch(EVENTS))
    assert read((start + serializer.encode(Batch(EVENTS)))[: len(start)]) == EVENTS


def test_the_block_is_not_made_again() -> None:
    """What came encoded stands in the file as it came."""
    block = Batch(EVENTS).block
    assert block in make().encode(Batch(None, block, 3))


@pytest.mark.parametrize("encoded", [True, False])
def test_identity(encoded: bool) -> None:
    """identity = true says in two headers who kept each event first; all else stays."""
    runs = (Identity(ORIGIN, 9, 2), Identity(OTHER, 127, 1))
    batch = Batch(None, Batch(EVENTS).block, 3, identity=runs) if encoded else Batch(EVENTS, identity=runs)
    serializer = make(identity=True)
    found = read(serializer.header() + serializer.encode(batch))
    ids = [(event.headers.pop("headrace.origin"), event.headers.pop("headrace.number")) for event in found]
    assert ids == [(ORIGIN.hex(), "9"), (ORIGIN.hex(), "10"), (OTHER.hex(), "127")]
    assert found == EVENTS


def test_an_identity_that_is_there_is_replaced() -> None:
    """Headers of that name which an event brought along don't stand beside its identity."""
    batch = Batch([Event({"headrace.number": "1", "a": "b", "headrace.origin": "x"}, b"")], transit=_transit())
    serializer = make(identity=True)
    [event] = read(serializer.header() + serializer.encode(batch))
    assert event.headers == {"headrace.origin": ORIGIN.hex(), "headrace.number": "5", "a": "b"}


def test_without_identity_nothing_is_added() -> None:
    """Events that no file channel has named are written as they are."""
    serializer = make(identity=True)
    assert read(serializer.header() + serializer.encode(Batch(EVENTS))) == EVENTS


def _transit() -> Transit:
    return Transit(ORIGIN, "c", 4, ((5, 1),), 4)
