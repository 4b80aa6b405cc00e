"""Avro containers of bodies that are Avro data already (Flume's org.apache.flume.sink.hdfs.AvroEventSerializer).

The bodies are appended unparsed. Their schema is that of the first event of a file: its header flume.avro.schema.url,
else its header flume.avro.schema.literal, else the key schemaURL. Other than in Flume, where an event of another schema
is appended all the same and breaks the file, it opens another file (`fits`), and a URL names a local file: what comes
over the network must not make an aggregator fetch from anywhere.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from agent.avro import container
from agent.avro.handshake import write_map
from agent.config.fields import key
from agent.errors import ConfigError, Rejected
from agent.event import Batch, Event
from aggregator.formats.avro import AvroKeys, Compress, unit

URL, LITERAL = "flume.avro.schema.url", "flume.avro.schema.literal"
MAX_SCHEMA = 1 << 20
MAX_DEPTH = 50
PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
Problem = type[ConfigError] | type[Rejected]


class AvroDatumsConfig(AvroKeys):
    schemaURL: str = key("schemaURL", "", doc="file: URL of the schema of events that name none in their headers")


class Settings(NamedTuple):
    """What all files of a sink share."""

    codec: str
    compress: Compress
    schema: str
    cache: dict[str, str]
    """URL -> schema."""


def make_settings(config: AvroDatumsConfig) -> Settings:
    """ConfigError if schemaURL can't be read or holds no schema."""
    url = config.schemaURL
    return Settings(config.compressionCodec, config.compressor(), load(url, ConfigError) if url else "", {})


class AvroDatums:
    """One file, whose schema is fixed by its header."""

    extension = ""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.schema = settings, settings.schema
        self.sync = container.new_sync()

    def header(self, first: Batch | None = None) -> bytes:
        if first is not None:
            self.schema = self._schema(first.events[0])
        elif not self.schema:
            raise Rejected("no schema: schemaURL isn't set, and no event is there to tell")
        own = {"avro.schema": self.schema.encode(), "avro.codec": self.settings.codec.encode()}
        return container.MAGIC + write_map(own) + self.sync

    def fits(self, batch: Batch) -> bool:
        return self._schema(batch.events[0]) == self.schema

    def encode(self, batch: Batch) -> Sequence[bytes]:
        """Rejected if its events have several schemas, of which a file takes one: the halves go into files apart."""
        if any(self._schema(event) != self.schema for event in batch.events):
            raise Rejected("events of several Avro schemas in one batch")
        return unit(batch.count, self.settings.compress(b"".join(batch.bodies)), self.sync)

    def _schema(self, event: Event) -> str:
        url, literal = event.headers.get(URL), event.headers.get(LITERAL)
        name = url or literal
        if not name:
            if not self.settings.schema:
                raise Rejected(f"no schema: the event has no header {URL} or {LITERAL}, and schemaURL isn't set")
            return self.settings.schema
        cache = self.settings.cache
        if name not in cache:
            if len(cache) >= 1000:
                cache.clear()
            cache[name] = load(url, Rejected) if url else check(name, Rejected, f"header {LITERAL}")
        return cache[name]


def load(url: str, problem: Problem) -> str:
    """The schema text in a local file; `problem` is raised if there is none."""
    parts = urlsplit(url)
    if parts.scheme not in ("", "file") or parts.netloc not in ("", "localhost"):
        raise problem(f"the schema {url[:200]!r} is not in a local file; copy it to one and give its file: URL")
    try:
        with open(unquote(parts.path), "rb", opener=_open_regular) as file:
            text = file.read(MAX_SCHEMA + 1)
    except (OSError, ValueError) as error:
        raise problem(f"the schema {url[:200]!r} can't be read: {error}") from None
    return check(text.decode("utf-8", "replace"), problem, url[:200])


def _open_regular(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NONBLOCK)  # a pipe must not hold the sink
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError("it is no file")


def check(text: str, problem: Problem, where: str) -> str:
    """The text of a schema, in short form; `problem` is raised if it is none."""
    try:
        if len(text) > MAX_SCHEMA:
            raise ValueError(f"it has more than {MAX_SCHEMA} characters")
        schema = json.loads(text)
        _walk(schema, set(), 0)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise problem(f"{where} is no Avro schema: {error}") from None
    return json.dumps(schema, separators=(",", ":"))


def _walk(schema: Any, names: set[str], depth: int) -> None:
    """ValueError, KeyError or TypeError unless it is laid out as the Avro specification says ("Schema Declaration")."""
    if depth > MAX_DEPTH:
        raise ValueError(f"it is deeper than {MAX_DEPTH}")
    if isinstance(schema, str):
        if schema not in PRIMITIVES and schema.rpartition(".")[2] not in names:
            raise ValueError(f"there is no type {schema[:80]!r}")
    elif isinstance(schema, list):
        for branch in schema:
            _walk(branch, names, depth + 1)
    else:
        _walk_complex(schema, names, depth)


def _walk_complex(schema: dict[str, Any], names: set[str], depth: int) -> None:
    kind = schema["type"]
    if kind in ("record", "error", "enum", "fixed"):
        names.add(str(schema["name"]).rpartition(".")[2])
    if kind in ("record", "error"):
        for field in schema["fields"]:
            str(field["name"])
            _walk(field["type"], names, depth + 1)
    elif kind in ("array", "map"):
        _walk(schema["items" if kind == "array" else "values"], names, depth + 1)
    elif kind == "enum":
        list(schema["symbols"])
    elif kind == "fixed":
        int(schema["size"])
    else:
        _walk(kind, names, depth + 1)
