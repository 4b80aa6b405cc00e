"""Table: what the sink needs to know of a table in the metastore, and what it says when a table isn't as needed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from agent.errors import DeliveryError
from aggregator.metastore.types import Column, avro_type, record_schema

AVRO = "org.apache.hadoop.hive.serde2.avro.AvroSerDe"
INPUT = "org.apache.hadoop.hive.ql.io.avro.AvroContainerInputFormat"
OUTPUT = "org.apache.hadoop.hive.ql.io.avro.AvroContainerOutputFormat"
SCHEMA = "avro.schema.literal"


@dataclass(frozen=True)
class Table:
    """`descriptor` is the metastore's own, which each partition carries a copy of."""

    database: str
    name: str
    location: str
    columns: tuple[Column, ...]
    keys: tuple[Column, ...]
    descriptor: Any

    def __str__(self) -> str:
        return f"{self.database}.{self.name}"


def table_of(found: Any) -> Table:
    """The metastore's answer as a Table. DeliveryError if files of ours can't be added to it."""
    name = f"{found.dbName}.{found.tableName}"
    descriptor = found.sd
    serde = descriptor.serdeInfo.serializationLib if descriptor and descriptor.serdeInfo else "no serde"
    if serde != AVRO:
        raise DeliveryError(f"table {name} isn't stored as Avro (its serde is {serde}): name a table STORED AS AVRO")
    if (found.parameters or {}).get("transactional", "").lower() == "true":
        raise DeliveryError(f"table {name} is transactional, files can't be added to it: name an EXTERNAL table")
    if not descriptor.location:
        raise DeliveryError(f"table {name} has no location")
    columns, keys = _columns(descriptor.cols), _columns(found.partitionKeys)
    for column in columns + keys:
        try:
            avro_type(column.type)
        except ValueError as error:
            raise DeliveryError(f"table {name}, column {column.name}: {error}") from None
    return Table(found.dbName, found.tableName, descriptor.location.rstrip("/"), columns, keys, descriptor)


def place_of(location: str) -> tuple[str, str]:
    """URL of the file system and the folder there: of `file:/a`, `file:///a` or `hdfs://authority/a`. A `%` is a part
    of a folder's name. DeliveryError if it is another kind of place."""
    scheme, _, rest = location.partition(":")
    authority = urlsplit(location).netloc
    if scheme == "file":
        return "file://", "/" + rest.lstrip("/")
    if scheme == "hdfs" and authority:
        return f"hdfs://{authority}", rest.removeprefix(f"//{authority}")
    raise DeliveryError(f"the table lies in {location}; there are hdfs:// and file://")


def _columns(fields: Any) -> tuple[Column, ...]:
    return tuple(Column(field.name.lower(), field.type.lower().replace(" ", "")) for field in fields or ())


def schema_text(name: str, columns: Sequence[Column]) -> str:
    return json.dumps(record_schema(name, list(columns)), separators=(",", ":"))


def create_text(database: str, name: str, columns: Sequence[Column], keys: Sequence[Column], location: str = "") -> str:
    """The statement that makes the table; where columns aren't known, it says what has to stand there."""
    listed = ", ".join(f"`{c.name}` {c.type}" for c in columns) or "<column> <type>, ..."
    partitioned = f" PARTITIONED BY ({', '.join(f'`{c.name}` {c.type}' for c in keys)})" if keys else ""
    place = f" LOCATION '{location}'" if location else ""
    return f"CREATE EXTERNAL TABLE {database}.{name} ({listed}){partitioned} STORED AS AVRO{place}"
