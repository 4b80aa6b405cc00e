"""Tables as text."""

from __future__ import annotations

import pytest

from aggregator.topics.wire.fields import LAST, REQUIRED, Field, Versions, field, parse, versions


def one(text: str) -> Field:
    (node,) = parse(text)
    return field(node)


@pytest.mark.parametrize(("text", "low", "high"), [("3+", 3, LAST), ("0-2", 0, 2), ("7", 7, 7), ("0+", 0, LAST)])
def test_versions(text: str, low: int, high: int) -> None:
    """A window is from, from and to, or one."""
    assert versions(text) == Versions(low, high)
    assert [number in versions(text) for number in (low - 1, low, high, high + 1)] == [False, True, True, False]


def test_a_line() -> None:
    """A line has a name and a type; versions and a default may follow, in that order."""
    assert one("acks int16") == Field("acks", "int16", False, Versions(0, LAST), None, REQUIRED, ())
    assert one("epoch int32 3+ = -1  # why") == Field("epoch", "int32", False, Versions(3, LAST), None, -1, ())
    assert one('rack string?2+ 1-4 = ""') == Field("rack", "string", False, Versions(1, 4), Versions(2, LAST), "", ())


def test_nested_lines() -> None:
    """What is indented under an array is its elements' fields, to any depth; lines without text mean nothing."""
    table = one("""
      topics []?

        name string
        # of the topic
        partitions []
          index int32
        replicas []int32
    """)
    assert (table.kind, table.is_array, table.nullable) == ("", True, Versions(0, LAST))
    assert [under.name for under in table.fields] == ["name", "partitions", "replicas"]
    assert table.fields[1].fields == (one("index int32"),)
    assert table.fields[2] == one("replicas []int32")


@pytest.mark.parametrize(
    ("text", "default", "absent"),
    [
        ("a int32", REQUIRED, 0),
        ("a bool", REQUIRED, False),
        ("a string", REQUIRED, ""),
        ("a bytes", REQUIRED, b""),
        ("a []int32", REQUIRED, ()),
        ("a []", REQUIRED, ()),
        ("a string?", None, None),
        ("a []?", None, None),
        ("a int32 = 0x7fffffff", 0x7FFFFFFF, 0x7FFFFFFF),
        ("a bool = true", True, True),
        ("a records? = empty", b"", b""),
        ("a [] = ()", (), ()),
    ],
)
def test_defaults(text: str, default: object, absent: object) -> None:
    """A default that is written is the one; else null where that may be; else the type's nothing, on decoding only."""
    parsed = one(text)
    assert parsed.default is default or parsed.default == default
    assert parsed.absent == absent
    assert type(parsed.absent) is type(absent)
