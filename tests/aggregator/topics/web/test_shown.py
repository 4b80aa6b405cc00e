"""Records as JSON: nothing is lost, nothing is ambiguous, nothing breaks a line."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.topics.record import Record
from aggregator.topics.web.shown import MOST_BYTES, iso, line, members


def shown(value: bytes | None, key: bytes | None = None, *headers: tuple[str, bytes | None], time: int = 0) -> Any:
    return json.loads(line(members(3, Record(17, time, key, value, headers))))


def test_a_record() -> None:
    """Partition, offset, its time twice, key, headers, body."""
    record = Record(17, 1_795_780_800_250, b"s1", b'{"celsius": 21.50}', (("topic", b"plant/line1"),))
    assert line(members(0, record)) == (
        '{"partition": 0, "offset": 17, "time": "2026-11-27T12:00:00.250Z", "ms": 1795780800250, "key": "s1", '
        '"headers": {"topic": "plant/line1"}, "body": {"celsius": 21.50}}'
    )


@pytest.mark.parametrize(
    ("body", "raw"),
    [
        (b"21.50", "21.50"),
        (b'{"a":\n\t[1e999]}\r\n', '{"a":  [1e999]}'),
        (b"123456789012345678901234567890", "123456789012345678901234567890"),
        (b"9" * 5000, "9" * 5000),
        (b'{"a":1,"a":2}', '{"a":1,"a":2}'),
        (b"true", "true"),
        (b"007", '"007"'),
        (b"NaN", '"NaN"'),
        (b"[Infinity]", '"[Infinity]"'),
        (b"null", '"null"'),
        (b'"quoted"', '"\\"quoted\\""'),
        (b"", '""'),
        (b"on\noff", '"on\\noff"'),
        ("süd".encode(), '"süd"'),
        (b"[" * 100_000, '"' + "[" * 100_000 + '"'),
        (b"\x1b[2J", '"\\u001b[2J"'),
        ("\x9b2J\u2028".encode(), '"\\u009b2J\\u2028"'),
        (b'["\x7f"]', '["\\u007f"]'),
        (None, "null"),
        (b"\xff\x00", '"/wA=", "encoding": "base64"'),
    ],
)
def test_a_body(body: bytes | None, raw: str) -> None:
    """JSON as it was written; other text, JSON's strings and null as strings; the rest as base64."""
    assert line(members(0, Record(0, 0, None, body, ()))).endswith(f'"body": {raw}}}')


values = st.none() | st.binary(max_size=30) | st.text(max_size=30).map(str.encode)
json_bodies = st.recursive(
    st.integers() | st.booleans() | st.text() | st.none(), lambda one: st.lists(one) | st.dictionaries(st.text(), one)
).map(lambda found: json.dumps(found, ensure_ascii=False).encode("utf-8", "replace"))


@given(values | json_bodies, values, st.lists(st.tuples(st.text(max_size=5), values), max_size=4))
def test_there_and_back(body: bytes | None, key: bytes | None, headers: list[tuple[str, bytes | None]]) -> None:
    """From its one printable line every record can be told again."""
    headers = [(name.encode("utf-8", "replace").decode(), value) for name, value in headers]
    text = line(members(0, Record(0, 0, key, body, tuple(headers))))
    assert not [one for one in text if ord(one) < 32 or 127 <= ord(one) < 160]
    found = json.loads(text)
    if found.get("encoding") == "base64":
        assert base64.b64decode(found["body"]) == body
    elif isinstance(found["body"], str):
        assert found["body"].encode() == body
    else:
        assert found["body"] == (None if body is None else json.loads(body))
    assert told(found["key"]) == key
    by_name = {name: [value for its, value in headers if its == name] for name, _ in headers}
    assert {name: [told(one) for one in as_list(value)] for name, value in found["headers"].items()} == by_name


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def told(value: Any) -> bytes | None:
    if isinstance(value, dict):
        return base64.b64decode(value["base64"])
    return None if value is None else str(value).encode()


def test_headers_that_repeat() -> None:
    """A header that comes several times is a list, in their order."""
    assert shown(b"", None, ("a", b"1"), ("b", None), ("a", b"\xff"))["headers"] == {
        "a": ["1", {"base64": "/w=="}], "b": None,
    }  # fmt: skip


def test_a_large_record() -> None:
    """Above 1 MiB there is its size, and why the rest isn't there."""
    found = shown(b"x" * MOST_BYTES, b"k")
    assert "body" not in found
    assert (found["bytes"], found["left_out"]) == (MOST_BYTES + 1, "it has more than 1 MiB")
    assert len(shown(b"x" * MOST_BYTES)["body"]) == MOST_BYTES


@pytest.mark.parametrize(
    ("ms", "time"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (-2, "1969-12-31T23:59:59.998Z"),
        (-1, None),
        (1 << 62, None),
        (253_402_300_800_000, None),
    ],
)
def test_a_time(ms: int, time: str | None) -> None:
    """UTC; none for Kafka's -1, which means none, and for what no calendar has."""
    assert iso(ms) == time
