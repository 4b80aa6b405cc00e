"""Rows: bodies of events to the columns of a table, as an Avro container.

A serializer takes a body apart into fields by column name, or by place; `Rows` writes them. What a body doesn't have is
null, what the table doesn't have is left out. A field that doesn't fit its column is the event's fault: Rejected. The
reason names the column and never the value, so that a batch of which every event has it is taken for what it is: a
table of the wrong type.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from agent.avro import container
from agent.avro.handshake import write_map
from agent.errors import Rejected
from agent.event import Batch
from aggregator.metastore.types import DOES_NOT_FIT, Column, Exact, avro_type, record_schema

NULL, VALUE = b"\0", b"\2"
"""Which branch of a union follows."""
METADATA = {"writer.time.zone": b"UTC", "writer.proleptic": b"true"}
"""For Hive's AvroSerDe: show timestamps as they are, whatever zone the reader is in; dates are of today's calendar."""
LONGEST_NUMBER = 400
"""Characters of a whole number in JSON; Python takes long over longer ones."""

Fields = Sequence[Any]
"""A value a column, None for null."""
Parse = Callable[[bytes], Fields]
"""A body to its fields. Rejected if it isn't what the serializer takes."""


class Rows:
    """One file of rows (aggregator.formats.format.Format). `name` is the table's."""

    extension = ".avro"

    def __init__(self, name: str, columns: Sequence[Column], parse: Parse) -> None:
        self.schema = json.dumps(record_schema(name, list(columns)), separators=(",", ":"))
        self.writers = [(column, avro_type(column.type).encode) for column in columns]
        self.parse = parse
        self.sync = container.new_sync()

    def header(self, first: Batch | None = None) -> bytes:
        own = {"avro.schema": self.schema.encode(), "avro.codec": b"null", **METADATA}
        return container.MAGIC + write_map(own) + self.sync

    def fits(self, batch: Batch) -> bool:
        return True

    def encode(self, batch: Batch) -> Sequence[bytes]:
        """One block. Rejected if an event's body can't be a row."""
        data = b"".join(map(self._row, batch.bodies))
        return (container.write_block(batch.count, data, self.sync),)

    def _row(self, body: bytes) -> bytes:
        out = []
        for (column, encode), value in zip(self.writers, self.parse(body), strict=True):
            if value is None:
                out.append(NULL)
                continue
            try:
                out += (VALUE, encode(value))
            except DOES_NOT_FIT:
                raise Rejected(f"column {column.name} takes {column.type}, and the event's field doesn't fit") from None
        return b"".join(out)


def json_fields(columns: Sequence[Column]) -> Parse:
    """Bodies are JSON objects; names are compared without case, as Hive does."""
    places = {column.name: index for index, column in enumerate(columns)}
    count = len(columns)
    number = Exact if any(column.type.startswith("decimal") for column in columns) else float

    def parse(body: bytes) -> Fields:
        try:
            found = json.loads(body.decode(), parse_constant=_refuse, parse_int=_integer, parse_float=number)
        except (ValueError, RecursionError):
            raise Rejected("the body is not JSON") from None
        if not isinstance(found, dict):
            raise Rejected("the body is no JSON object")
        fields: list[Any] = [None] * count
        for name, value in found.items():
            place = places.get(name)
            if place is None:
                place = places.get(name.lower())
            if place is not None:
                fields[place] = value
        return fields

    return parse


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _integer(text: str) -> int | float:
    return int(text) if len(text) < LONGEST_NUMBER else float(text)


def delimited_fields(columns: Sequence[Column], delimiter: str, names: Sequence[str]) -> Parse:
    """Bodies are lines; `names` says which column each of their fields is, an empty one leaves the field out.

    As Hive reads text: `\\N` is null, nothing is null unless the column is a text.
    """
    places = {column.name: index for index, column in enumerate(columns)}
    order = [places.get(name.strip().lower(), -1) for name in names]
    texts = {i for i, column in enumerate(columns) if column.type.startswith(("string", "varchar", "char"))}
    count = len(columns)

    def parse(body: bytes) -> Fields:
        try:
            parts = body.decode().rstrip("\r\n").split(delimiter)
        except UnicodeDecodeError:
            raise Rejected("the body is not UTF-8") from None
        fields: list[str | None] = [None] * count
        for place, part in zip(order, parts, strict=False):
            if place >= 0 and part != r"\N" and (part or place in texts):
                fields[place] = part
        return fields

    return parse


def plain_delimiter(text: str) -> str:
    """Flume's serializer.delimiter: special characters stand in double quotes, such as "\\t". ValueError for none."""
    if len(text) >= 2 and text[0] == text[-1] == '"':
        text = text[1:-1]
    if not text:
        raise ValueError("nothing stands between fields")
    return text.encode().decode("unicode_escape") if "\\" in text and text.isascii() else text
