"""Format: what is inside one file of the hdfs sink, after Flume's keys fileType, codeC, writeFormat and serializer.

| fileType | codeC | what a batch becomes |
|---|---|---|
| SequenceFile | none | records, then a sync mark (sequence_file.py) |
| SequenceFile | any | one block of compressed keys and values |
| DataStream | refused | what the serializer gives: lines, or a block of an Avro container (avro.py) |
| CompressedStream | needed | the same as a gzip or bzip2 member, or whatever a codec makes of it (codecs.py) |

Each file gets a Format object of its own, and every `encode` gives a unit that can stand alone: a file that is cut
after any of them is whole, and any reader of that kind of file reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar, cast

from agent.component import load
from agent.config import flume_names
from agent.config.fields import Config
from agent.config.reading import read
from agent.errors import ConfigError
from agent.event import Batch
from agent.serializer import Serializer
from aggregator.formats import codecs
from aggregator.formats.avro import AvroEvents, AvroEventsConfig
from aggregator.formats.avro_datum import AvroDatums, AvroDatumsConfig, make_settings
from aggregator.formats.sequence_file import VALUES, SequenceFile
from aggregator.formats.stream import Compressed, Serialized

FILE_TYPES = ("SequenceFile", "DataStream", "CompressedStream")
LEVELS = ("BLOCK", "RECORD")
Keys = TypeVar("Keys", bound=Config)


class Format(Protocol):
    """The inside of one file, from its first byte to its last. Pure, but for the files that schema URLs name."""

    @property
    def extension(self) -> str:
        """What Flume puts behind the name when no fileSuffix is set: `.gz`, `.bz2`, `.snappy` ... or nothing."""

    def header(self, first: Batch | None = None) -> bytes:
        """Bytes at the start of the file, made once; may be none. `first` is the batch that comes next: only Avro
        files whose schema comes in the events' headers look at it. Rejected if that schema is no good."""

    def fits(self, batch: Batch) -> bool:
        """Whether this file can take it. If not, another file must: its events have another Avro schema."""

    def encode(self, batch: Batch) -> Sequence[bytes]:
        """The batch as parts to be written one after another; the unit ends with the last of them. Rejected if an
        event can't be written. It changes nothing here, so it may be called again."""


def make_format(
    file_type: str = "SequenceFile",
    codec: str | None = None,
    write_format: str = "Writable",
    serializer: str = "TEXT",
    keys: Mapping[str, str] | None = None,
    *,
    compression: str = "BLOCK",
) -> Callable[[], Format]:
    """What makes the Format of each new file. `keys` are the serializer's, without `serializer.`; `compression` is a
    SequenceFile's with a codec (Flume: always BLOCK). Names are taken in any case, and a codec also by its Java class.

    ConfigError for what Flume refuses too (DataStream with codeC, CompressedStream without), for unknown names and
    keys, for lzo, and where the library of a codec is missing.
    """
    kind = _choice("fileType", file_type, FILE_TYPES)
    found = codecs.find(codec) if codec else None
    if kind == "SequenceFile":
        values, level = _choice("writeFormat", write_format, tuple(VALUES)), _choice("compression", compression, LEVELS)
        return lambda: SequenceFile(values, found, level == "RECORD")
    if kind == "DataStream" and codec:
        raise ConfigError("fileType DataStream takes no codeC; for compressed output set fileType = CompressedStream")
    inner = _serialized(serializer, dict(keys or {}))
    if kind == "DataStream":
        return inner
    if found is None:
        raise ConfigError(f"fileType CompressedStream needs codeC, one of {', '.join(codecs.NAMES)}")
    one = found
    return lambda: Compressed(inner(), one)


def _choice(key: str, value: str, choices: Sequence[str]) -> str:
    for choice in choices:
        if choice.lower() == value.lower():
            return choice
    raise ConfigError(f"{key} = {value}: takes {', '.join(choices)}")


def _serialized(serializer: str, keys: dict[str, str]) -> Callable[[], Format]:
    name = flume_names.ours("serializers", serializer)
    if name == "avro_event":
        events = _config(AvroEventsConfig, keys, serializer)
        return lambda: AvroEvents(events)
    if name == "avro_datum":
        datums = make_settings(_config(AvroDatumsConfig, keys, serializer))
        return lambda: AvroDatums(datums)
    cls = cast(type[Serializer], load("serializers", name))
    config = _config(cls.Config, keys, serializer)
    return lambda: Serialized(cls(name, config))


def _config(cls: type[Keys], keys: dict[str, str], serializer: str) -> Keys:
    reading = read(cls, keys, f"serializer {serializer}")
    if reading.config is None or reading.faults:
        raise ConfigError("; ".join(f"serializer.{fault.key}: {fault.text}" for fault in reading.faults))
    return reading.config
