"""Hive's types in Avro: what fits, what doesn't, and what another Avro library reads."""

from __future__ import annotations

import io
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import fastavro
import pytest

from agent.errors import Rejected
from agent.event import Batch, Event
from aggregator.metastore.rows import Rows, delimited_fields, json_fields, plain_delimiter
from aggregator.metastore.types import Column, columns_of


def read(data: bytes) -> list[dict[str, Any]]:
    reader: Any = fastavro.reader(io.BytesIO(data))
    return list(reader)


def rows(columns: list[Column], *bodies: bytes) -> list[dict[str, Any]]:
    made = Rows("t", columns, json_fields(columns))
    return read(made.header() + b"".join(made.encode(Batch([Event({}, body) for body in bodies]))))


def one(kind: str, value: object) -> Any:
    [row] = rows(columns_of(f"c {kind}"), json.dumps({"c": value}).encode())
    return row["c"]


@pytest.mark.parametrize(
    ("kind", "value", "read_back"),
    [
        ("string", "°", "°"),
        ("string", 5, "5"),
        ("string", {"a": ["°", True]}, '{"a":["°",true]}'),
        ("varchar(3)", "abc", "abc"),
        ("tinyint", -128, -128),
        ("smallint", 32767, 32767),
        ("int", -(2**31), -(2**31)),
        ("int", 3.0, 3),
        ("int", "-12", -12),
        ("bigint", 2**63 - 1, 2**63 - 1),
        ("bigint", -(2**63), -(2**63)),
        ("float", 0.5, 0.5),
        ("double", 21.7, 21.7),
        ("double", 3, 3.0),
        ("double", "1e3", 1000.0),
        ("boolean", True, True),
        ("boolean", "FALSE", False),
        ("decimal(10,2)", 12.34, Decimal("12.34")),
        ("decimal(10,2)", -1, Decimal("-1.00")),
        ("decimal(4,2)", "-99.99", Decimal("-99.99")),
        ("decimal(38,0)", 10**38 - 1, Decimal(10**38 - 1)),
        ("date", "1600-02-29", date(1600, 2, 29)),
        ("timestamp", 1700000000123, datetime(2023, 11, 14, 22, 13, 20, 123000, UTC)),
        ("timestamp", "1700000000123", datetime(2023, 11, 14, 22, 13, 20, 123000, UTC)),
        ("timestamp", "20231114", datetime(2023, 11, 14, tzinfo=UTC)),
        ("timestamp", "2026-11-25 02:00:54.123", datetime(2026, 11, 25, 2, 0, 54, 123000, UTC)),
        ("timestamp", "2026-11-25T02:00:54+02:00", datetime(2026, 11, 25, 0, 0, 54, 0, UTC)),
        ("binary", "°", b"\xc2\xb0"),
        ("int", None, None),
    ],
)
def test_a_value_that_fits(kind: str, value: object, read_back: object) -> None:
    """It is what an Avro reader gives."""
    assert one(kind, value) == read_back


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("varchar(3)", "abcd"), ("tinyint", 128), ("smallint", -32769), ("int", 2**31), ("bigint", 2**63),
        ("int", 1.5),
        ("int", "x"), ("int", "1_0"), ("int", True), ("int", [1]), ("float", 1e39), ("double", "nan"),
        ("double", False), ("double", "1e999"),
        ("double", {}), ("boolean", 1), ("boolean", "yes"), ("decimal(4,2)", 100), ("decimal(4,2)", 0.001),
        ("decimal(4,2)", "1_0"), ("decimal(4,2)", True), ("decimal(4,2)", "1e999"), ("decimal(4,2)", []),
        ("decimal(4,2)", "0.1" + "0" * 80 + "1"), ("timestamp", "9" * 40),
        ("date", "25.11.2026"), ("date", 5), ("timestamp", "soon"), ("timestamp", 1.5), ("timestamp", 10**18),
        ("timestamp", True), ("binary", 5), ("double", 10**400), ("int", 10**500),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit(kind: str, value: object) -> None:
    """It is the event's fault, and the reason names the column and its type, not the value."""
    with pytest.raises(Rejected, match=r"^column c takes .*, and the event's field doesn't fit$"):
        one(kind, value)


def test_a_decimal_of_json_is_what_was_written() -> None:
    """Also beyond the digits of a float; the other columns of the table take numbers as ever."""
    columns = columns_of("c decimal(38,18), d double, s string")
    [row] = rows(columns, b'{"c": 12345678901234567.123456789012345678, "d": 0.5, "s": [1.50]}')
    assert row == {"c": Decimal("12345678901234567.123456789012345678"), "d": 0.5, "s": "[1.5]"}


def test_fields_go_by_name() -> None:
    """Without case; what is missing is null, what the table doesn't have is left out."""
    columns = columns_of("id bigint, note")
    assert rows(columns, b'{"ID": 1, "other": 2}', b'{"note": "x"}', b"{}") == [
        {"id": 1, "note": None},
        {"id": None, "note": "x"},
        {"id": None, "note": None},
    ]


@pytest.mark.parametrize("body", [b"", b"[1]", b"5", b"{", b"\xff", b'{"c": NaN}', b"[" * 100_000])
def test_a_body_that_is_no_json_object(body: bytes) -> None:
    """It is the event's fault."""
    with pytest.raises(Rejected, match="the body is no"):
        rows(columns_of("c double"), body)


def test_delimited_fields() -> None:
    """By place; an empty name leaves a field out, further ones too; \\N, and an empty number, are null."""
    columns = columns_of("id bigint, note, other")
    parse = delimited_fields(columns, "|", ["id", "", "Note"])
    assert parse(b"7|x|a,b\n") == ["7", "a,b", None]
    assert parse(b"|x||more") == [None, "", None]
    assert parse(rb"\N|x|\N") == [None, None, None]
    assert parse(b"8") == ["8", None, None]
    with pytest.raises(Rejected, match="not UTF-8"):
        parse(b"\xff")


@pytest.mark.parametrize(
    ("given", "means"), [(",", ","), ('"\\t"', "\t"), ("\\t", "\t"), ('"|"', "|"), ("\\u0001", "\1")]
)
def test_a_delimiter(given: str, means: str) -> None:
    """As Flume writes special ones."""
    assert plain_delimiter(given) == means


def test_each_batch_is_a_block() -> None:
    """A file that is cut after a batch is whole."""
    columns = columns_of("id int")
    made = Rows("t", columns, json_fields(columns))
    first, second = (made.header() + b"".join(made.encode(Batch([Event({}, b'{"id": 1}')]))) for _ in range(2))
    assert first == second
    assert read(first + b"".join(made.encode(Batch([Event({}, b'{"id": 2}')])))) == [{"id": 1}, {"id": 2}]
    assert made.fits(Batch([Event({}, b"")]))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a-b int", "is no column"), ("a int, A string", "named twice"), ("a map<string,int>", "can't be written"),
        ("a decimal(39,2)", "is no type"), ("a decimal(2,3)", "is no type"), ("a int, ", "is no column"),
        ("a uniontype", "can't be written"),
    ],
)  # fmt: skip
def test_columns_that_can_not_be(text: str, why: str) -> None:
    """ValueError says what is wrong."""
    with pytest.raises(ValueError, match=why):
        columns_of(text)


def test_columns() -> None:
    """Names in lower case; a type may have blanks; none is string."""
    assert columns_of("Id BIGINT, v decimal( 10 , 2 ),note") == [
        Column("id", "bigint"), Column("v", "decimal(10,2)"), Column("note", "string"),
    ]  # fmt: skip
