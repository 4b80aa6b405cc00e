"""The choice of a format, and plain and compressed streams."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from agent.errors import ConfigError
from agent.event import Batch
from aggregator.formats import codecs
from aggregator.formats.format import make_format
from tests.aggregator.formats.reading import EVENTS, EXPAND, avro, write

LINES = b"".join(event.body + b"\n" for event in EVENTS)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"file_type": "Parquet"}, "fileType = Parquet: takes SequenceFile, DataStream, CompressedStream"),
        ({"file_type": "DataStream", "codec": "gzip"}, "set fileType = CompressedStream"),
        ({"file_type": "DataStream", "codec": "none"}, "takes no codeC"),
        ({"file_type": "CompressedStream"}, "needs codeC, one of gzip, bzip2"),
        ({"file_type": "CompressedStream", "codec": "None"}, "needs codeC"),
        ({"codec": "lzo"}, "take snappy"),
        ({"codec": "com.hadoop.compression.lzo.LzopCodec"}, "take snappy"),
        ({"codec": "brotli"}, "codeC = brotli: takes gzip, bzip2, snappy"),
        ({"write_format": "xml"}, "writeFormat = xml: takes Writable, Text"),
        ({"compression": "most"}, "takes BLOCK, RECORD"),
        ({"file_type": "DataStream", "serializer": "morse"}, "morse"),
        ({"file_type": "DataStream", "keys": {"appendNewLine": "x"}}, "serializer.appendNewLine"),
        ({"file_type": "DataStream", "serializer": "avro_event", "keys": {"compressionCodec": "lzma"}}, "snappy"),
    ],
)
def test_what_is_refused(keys: dict[str, Any], message: str) -> None:
    """Combinations that Flume refuses, unknown names and LZO are errors when the configuration is read."""
    with pytest.raises(ConfigError, match=message):
        make_format(**keys)


@pytest.mark.parametrize("library", ["cramjam", "backports"])
def test_a_missing_library_is_named(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the extra that brings it; codecs of Python itself need none."""
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setitem(sys.modules, f"{library}.zstd", None)
    with pytest.raises(ConfigError, match=r"pip install 'headrace\[hdfs\]'"):
        make_format(codec="snappy" if library == "cramjam" else "zstandard")
    make_format(codec="gzip")


@pytest.mark.parametrize("name", ["GZIP", "GzipCodec", "org.apache.hadoop.io.compress.GzipCodec"])
def test_a_codec_has_the_names_that_flume_takes(name: str) -> None:
    """Its prefix or its class's name in any case, or the whole class."""
    found = codecs.find(name)
    assert found and (found.java, found.extension) == ("org.apache.hadoop.io.compress.GzipCodec", ".gz")


@pytest.mark.parametrize("codec", codecs.NAMES)
@pytest.mark.parametrize("file_type", ["SequenceFile", "CompressedStream"])
def test_the_extension(codec: str, file_type: str) -> None:
    """A codec gives the name its extension in both file types that take one."""
    extensions = {
        "gzip": ".gz", "bzip2": ".bz2", "snappy": ".snappy", "lz4": ".lz4", "zstandard": ".zst", "default": ".deflate",
        "deflate": ".deflate",
    }  # fmt: skip
    assert make_format(file_type, codec)().extension == extensions[codec]
    assert make_format("DataStream")().extension == ""


@pytest.mark.parametrize("codec", codecs.NAMES)
def test_a_compressed_file_cut_after_a_batch_is_whole(codec: str) -> None:
    """A batch is a unit of the codec, and units one after another are a file."""
    form = make_format("CompressedStream", codec)()
    first = write(form, EVENTS[:50])
    whole = first + b"".join(form.encode(Batch(EVENTS[50:])))
    assert EXPAND[codec](whole) == LINES
    assert LINES.startswith(EXPAND[codec](first)) and EXPAND[codec](first)


def test_plain_lines() -> None:
    """DataStream is what the serializer gives; its keys reach it."""
    assert write(make_format("datastream")(), EVENTS) == LINES
    bare = make_format("DataStream", serializer="TEXT", keys={"appendNewline": "false"})()
    assert write(bare, EVENTS) == b"".join(event.body for event in EVENTS)


def test_headers_and_bodies() -> None:
    """By the class of Java, too."""
    name = "org.apache.flume.serialization.HeaderAndBodyTextEventSerializer$Builder"
    found = write(make_format("DataStream", serializer=name)(), EVENTS[:1])
    assert found == "{timestamp=1700000000000, k=ä0} body 0 \n".encode()


@pytest.mark.parametrize("codec", codecs.NAMES)
def test_a_container_in_a_compressed_stream(codec: str) -> None:
    """An Avro container inside, header first, as Flume writes it."""
    form = make_format("CompressedStream", codec, serializer="avro_event")()
    assert avro(EXPAND[codec](write(form, EVENTS[:9], EVENTS[9:]))) == EVENTS
