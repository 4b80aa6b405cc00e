"""Names of partition folders, as Hive makes them: `dt=2026-11-25/room=a%2Fb`.

Source: org.apache.hadoop.hive.common.FileUtils, makePartName and escapePathName. The metastore and every reader go by
the values; the folder must be the one that Hive itself would choose, so that `msck repair table` finds it too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from agent.errors import Rejected
from aggregator.metastore.types import DOES_NOT_FIT, INTEGERS, Column, avro_type

NOBODY = "__HIVE_DEFAULT_PARTITION__"
"""Hive's value for none."""
SPECIAL = re.compile(r"[\x00-\x1f\"#%'*/:=?\\\x7f{\[\]^]")
MOST_CHARACTERS = 256
"""Of a value (the metastore's column PART_KEY_VAL)."""
MOST_BYTES = 255
"""Of a folder's name, in HDFS and most local file systems."""


def escape(text: str) -> str:
    """One part of a path: characters that mean something are `%` and two hexadecimal digits."""
    return SPECIAL.sub(lambda match: f"%{ord(match[0]):02X}", text)


def values_for(columns: Sequence[Column], values: Sequence[str]) -> tuple[str, ...]:
    """The values as the metastore keeps them. Rejected if one doesn't fit its column's type or is too long."""
    return tuple(_value(column, value) for column, value in zip(columns, values, strict=True))


def _value(column: Column, value: str) -> str:
    if not value:
        return NOBODY
    if len(value) > MOST_CHARACTERS or len(f"{column.name}={escape(value)}".encode()) > MOST_BYTES:
        raise Rejected(f"the value for partition column {column.name} is too long")
    try:
        avro_type(column.type).encode(value)
        return str(int(value)) if column.type in INTEGERS else value
    except DOES_NOT_FIT:
        raise Rejected(f"partition column {column.name} takes {column.type}, and the event's value is none") from None


def folder_of(columns: Sequence[Column], values: Sequence[str]) -> str:
    """The path below the table's folder; empty for a table without partitions."""
    return "/".join(f"{escape(c.name)}={escape(value)}" for c, value in zip(columns, values, strict=True))
