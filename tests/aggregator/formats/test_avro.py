"""Avro containers: of Flume's events, and of bodies that are Avro data already."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import fastavro
import pytest

from agent.errors import ConfigError, Rejected
from agent.event import Batch, Event
from agent.store.streams import Identity
from aggregator.formats.avro import CODECS
from aggregator.formats.format import Format, make_format
from tests.aggregator.formats.reading import EVENTS, avro, write

READING = json.dumps(
    {"type": "record", "name": "Reading", "namespace": "plant",
     "fields": [{"name": "sensor", "type": "string"}, {"name": "value", "type": ["null", "double"]}]}
)  # fmt: skip
OTHER = json.dumps({"type": "record", "name": "Other", "fields": [{"name": "n", "type": "long"}]})
LITERAL, URL = "flume.avro.schema.literal", "flume.avro.schema.url"
JAVA = "org.apache.flume.sink.hdfs.AvroEventSerializer$Builder"


def events_format(**keys: str) -> Format:
    return make_format("DataStream", serializer="avro_event", keys=keys)()


def datums_format(**keys: str) -> Format:
    return make_format("DataStream", serializer=JAVA, keys=keys)()


def datum(schema: str, value: dict[str, Any], **headers: str) -> Event:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(json.loads(schema)), value)
    return Event(headers, out.getvalue())


def reading(number: int, **headers: str) -> Event:
    return datum(READING, {"sensor": "t1", "value": float(number)}, **headers)


def values(data: bytes) -> list[Any]:
    return [one["value"] for one in fastavro.reader(io.BytesIO(data))]  # type: ignore[index, call-overload]


@pytest.mark.parametrize("codec", CODECS)
def test_fastavro_reads_every_codec(codec: str) -> None:
    """Also a file that was cut after its first batch."""
    form = events_format(compressionCodec=codec)
    first = write(form, EVENTS[:20])
    assert avro(first) == EVENTS[:20]
    assert avro(first + b"".join(form.encode(Batch(EVENTS[20:])))) == EVENTS


def test_the_block_is_not_copied() -> None:
    """With codec null the very bytes that came in are a part of what is written."""
    block = Batch(EVENTS).block
    parts = events_format().encode(Batch(None, block, len(EVENTS)))
    assert any(part is block for part in parts)


def test_identity() -> None:
    """identity = true says in headers who kept each event first."""
    batch = Batch(EVENTS[:2], identity=(Identity(b"\1" * 16, 9, 2),))
    form = events_format(identity="true")
    found = avro(form.header() + b"".join(form.encode(batch)))
    assert [event.headers["headrace.number"] for event in found] == ["9", "10"]


def test_each_file_has_a_sync_marker_of_its_own() -> None:
    """Two files' markers differ."""
    make = make_format("DataStream", serializer="avro_event")
    assert make().header()[-16:] != make().header()[-16:]


@pytest.mark.parametrize("codec", CODECS)
def test_bodies_that_are_avro_data(codec: str) -> None:
    """They are in the file as they came, under the schema of a header."""
    events = [reading(number, **{LITERAL: READING}) for number in range(9)]
    data = write(datums_format(compressionCodec=codec), events[:4], events[4:])
    assert values(data) == [float(number) for number in range(9)]
    assert fastavro.reader(io.BytesIO(data)).writer_schema["name"] == "plant.Reading"  # type: ignore[index, call-overload]


def test_where_the_schema_comes_from(tmp_path: Path) -> None:
    """The URL in a header, else the literal in a header, else the key schemaURL."""
    other, own = tmp_path / "other 1.avsc", tmp_path / "reading.avsc"
    other.write_text(OTHER)
    own.write_text(READING)
    form = datums_format(schemaURL=own.as_uri())
    assert b'"plant"' in form.header()
    assert b'"plant"' in form.header(Batch([reading(1)]))
    assert b'"Other"' in form.header(Batch([datum(OTHER, {"n": 1}, **{LITERAL: OTHER})]))
    both = datum(OTHER, {"n": 1}, **{URL: other.as_uri(), LITERAL: READING})
    assert b'"Other"' in form.header(Batch([both]))


def test_another_schema_needs_another_file() -> None:
    """A file has one schema: other events don't fit, and a mixed batch is to be halved."""
    one, two = reading(1, **{LITERAL: READING}), datum(OTHER, {"n": 1}, **{LITERAL: OTHER})
    form = datums_format()
    form.header(Batch([one]))
    assert form.fits(Batch([one])) and not form.fits(Batch([two]))
    with pytest.raises(Rejected, match="several Avro schemas"):
        form.encode(Batch([one, two]))
    spaced = reading(2, **{LITERAL: READING.replace(",", " , ")})
    assert form.fits(Batch([spaced]))


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/s.avsc", "hdfs://nn/s.avsc", "file://other/s.avsc", "/dev/zero", "/"]
)
def test_what_an_event_may_not_name(url: str) -> None:
    """Only local files of a bounded size are read for an event."""
    with pytest.raises(Rejected, match=r"local file|can't be read"):
        datums_format().header(Batch([reading(1, **{URL: url})]))


def test_a_pipe_holds_nobody(tmp_path: Path) -> None:
    """A schema URL that names a pipe is refused at once."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Rejected, match="it is no file"):
        datums_format().header(Batch([reading(1, **{URL: str(tmp_path / "pipe")})]))


@pytest.mark.parametrize(
    "text",
    ["", "{", '"strange"', "[1]", '{"type": "record", "name": "R"}', '{"type": "fixed", "name": "F", "size": "x"}',
     '{"type": "array"}', "[" * 60 + '"int"' + "]" * 60, "[" * 100_000, "7"],
)  # fmt: skip
def test_a_text_that_is_no_schema(text: str) -> None:
    """It is the event's fault; a file with it couldn't be read."""
    with pytest.raises(Rejected, match=r"no Avro schema|no schema"):
        datums_format().header(Batch([reading(1, **{LITERAL: text})]))


@pytest.mark.parametrize(
    "text",
    ['"bytes"', READING, OTHER, '{"type": "map", "values": {"type": "array", "items": ["null", "int"]}}',
     '{"type": "enum", "name": "E", "symbols": ["A"]}', '{"type": "long", "logicalType": "timestamp-millis"}',
     '{"type": "record", "name": "a.List", "fields": [{"name": "next", "type": ["null", "a.List"]}]}'],
)  # fmt: skip
def test_a_text_that_is_a_schema(text: str) -> None:
    """Every kind of type."""
    assert json.dumps(json.loads(text), separators=(",", ":")).encode() in datums_format().header(
        Batch([Event({LITERAL: text}, b"")])
    )


def test_no_schema_at_all() -> None:
    """An event that names none, without schemaURL, is told so."""
    with pytest.raises(Rejected, match=r"no header flume\.avro\.schema\.url"):
        datums_format().header(Batch([reading(1)]))


def test_a_configured_schema_that_is_not_there(tmp_path: Path) -> None:
    """schemaURL is read when the configuration is."""
    with pytest.raises(ConfigError, match="can't be read"):
        datums_format(schemaURL=str(tmp_path / "no.avsc"))
