"""Cells of events: Flume's key shapes, and the same cells at a repeat."""

from __future__ import annotations

import re
from typing import Any

import pytest

from agent import clock
from agent.config.fields import Config
from agent.errors import Rejected
from agent.event import Event
from agent.store.streams import Identity
from aggregator.hbase.cells import CellSerializer, Increment, Row, coalesced, names_of, parts
from aggregator.hbase.readings import ReadingsConfig, ReadingsSerializer
from aggregator.hbase.regex import RegexConfig, RegexSerializer
from aggregator.hbase.simple import SimpleConfig, SimpleSerializer

ORIGIN = bytes(range(16))
NAME = (ORIGIN, 7)


def simple(**keys: Any) -> SimpleSerializer:
    return SimpleSerializer(SimpleConfig(**keys), "d")


def regex(**keys: Any) -> RegexSerializer:
    config = RegexConfig(**keys)
    assert not config.problems()
    return RegexSerializer(config, "d")


def readings(**keys: Any) -> ReadingsSerializer:
    return ReadingsSerializer(ReadingsConfig(**keys), "d")


def row(serializer: CellSerializer, body: bytes, headers: dict[str, str] | None = None) -> Row:
    """What becomes of one event."""
    [one] = serializer.rows([Event(headers or {}, body)], [NAME])
    return one


def test_names_follow_the_runs() -> None:
    """An event's name is its origin and number."""
    other = bytes(16)
    assert names_of([Identity(ORIGIN, 3, 2), Identity(other, 1, 1)]) == [(ORIGIN, 3), (ORIGIN, 4), (other, 1)]


@pytest.mark.parametrize(
    "make",
    [simple, lambda: regex(depositHeaders=True), readings],
    ids=["simple", "regex", "readings"],
)
def test_a_repeat_is_the_same_cells(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the default keys, another serializer at another time makes the same rows of the same events."""
    events = [Event({"topic": "t"}, b"1"), Event({"timestamp": "5"}, b'{"a": 1}')]
    names = [NAME, (ORIGIN, 8)]
    first = make().rows(events, names)
    monkeypatch.setattr(clock, "wall_ms", lambda: 0)
    assert make().rows(events, names) == first
    assert len({key for key, _ in first}) == 2


def test_uuid() -> None:
    """The prefix and a UUID of version 8 that differs from event to event."""
    keys = [
        key.decode()
        for key, _ in simple(rowPrefix="r-").rows([Event({}, b"x")] * 3, [(ORIGIN, 1), (ORIGIN, 2), (bytes(16), 1)])
    ]
    assert len(set(keys)) == 3
    assert all(re.fullmatch(r"r-[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", k) for k in keys)


def test_the_body_is_one_cell() -> None:
    """payloadColumn holds the body as it is."""
    assert row(simple(payloadColumn="p"), b"\xff\0")[1] == {b"d:p": b"\xff\0"}


@pytest.mark.parametrize("suffix", ["timestamp", "nano", "random"])
def test_suffixes_of_chance(suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flume's other suffixes are numbers, and named as what a repeat writes again."""
    monkeypatch.setattr(clock, "wall_ms", lambda: 1700000000123)
    serializer = simple(suffix=suffix, rowPrefix="", countEvents=False)
    assert serializer.repeats == f"rows by suffix = {suffix}"
    key = row(serializer, b"x")[0]
    assert re.fullmatch(rb"-?\d+", key) and (suffix != "timestamp" or key == b"1700000000123")


def test_the_counter() -> None:
    """One increment an event, which is at least once; coalesced they are one."""
    serializer = simple(incrementColumn="n", incrementRow="all")
    assert serializer.repeats == "the counter all:n"
    increments = serializer.increments([Event({}, b"")] * 3)
    assert increments == [Increment(b"all", b"d:n", 1)] * 3
    assert coalesced(increments) == [Increment(b"all", b"d:n", 3)]
    assert simple(countEvents=False).increments([Event({}, b"")]) == []
    assert simple(countEvents=False).repeats == ""


def test_groups_are_columns() -> None:
    """The groups of a match by colNames; a group that took no part has no cell; a dot takes line ends."""
    serializer = regex(regex=r"(\w+)=(\d+)?(.*)", colNames=["name", "value", "rest"])
    assert row(serializer, b"t=21!\n!")[1] == {b"d:name": b"t", b"d:value": b"21", b"d:rest": b"!\n!"}
    assert row(serializer, b"t=")[1] == {b"d:name": b"t", b"d:rest": b""}


def test_generated_keys() -> None:
    """`<ms>-<10 letters and digits>-<number>`: the header's time, letters of the origin, the event's number."""
    key = row(regex(), b"x", {"timestamp": "1700000000123"})[0].decode()
    assert re.fullmatch(r"1700000000123-[A-Za-z0-9]{10}-7", key)
    assert row(regex(), b"x")[0].startswith(b"0-")
    [(other, _)] = regex().rows([Event({"timestamp": "1700000000123"}, b"x")], [(bytes(16), 7)])
    assert other.decode() != key


def test_a_group_is_the_key() -> None:
    """rowKeyIndex names the group that is the key and no column."""
    serializer = regex(regex="(.*);(.*)", colNames=["v", "ROW_KEY"], rowKeyIndex=1)
    assert row(serializer, b"5;boiler") == (b"boiler", {b"d:v": b"5"})
    with pytest.raises(Rejected, match="row key is empty"):
        row(serializer, b"5;")
    with pytest.raises(Rejected, match="40000 bytes"):
        row(serializer, b"5;" + b"x" * 40000)


def test_what_does_not_match_is_rejected() -> None:
    """Where Flume drops an event in silence, it is rejected with the regex; a match of a part is none."""
    with pytest.raises(Rejected, match=r"does not match regex = \(\[0-9\]\+\)"):
        row(regex(regex="([0-9]+)"), b"12x")
    with pytest.raises(Rejected, match="is not UTF-8"):
        row(regex(), b"\xff")


def test_headers_as_columns() -> None:
    """depositHeaders writes each header, in the charset."""
    cells = row(regex(depositHeaders=True, charset="ISO-8859-1"), b"\xe9", {"unit": "°"})[1]
    assert cells == {b"d:payload": "é".encode(), b"d:unit": b"\xb0"}


def test_java_spellings_of_a_regex() -> None:
    """(?<name>...) is a named group; regexIgnoreCase counts case for nothing; lookbehind stays what it is."""
    serializer = regex(regex=r"(?<a>ok) (?:x(?<=x))(.*)", colNames=["a", "b"], regexIgnoreCase=True)
    assert row(serializer, b"OK xy")[1] == {b"d:a": b"OK", b"d:b": b"y"}


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"regex": "("}, "no regular expression"),
        ({"regex": "(a)(b)"}, "names 1 columns, but the regex has 2 groups"),
        ({"rowKeyIndex": 0}, "has to be called ROW_KEY"),
        ({"rowKeyIndex": 3}, "column 3"),
        ({"charset": "latin-99"}, "no charset"),
    ],
)
def test_wrong_keys_of_regex(keys: dict[str, Any], text: str) -> None:
    """Each is said before anything runs."""
    config: Config = RegexConfig(**keys)
    assert text in " ".join(said for _, said in config.problems())


def test_a_json_reading() -> None:
    """A column a field, numbers as written; the key is sensor, reversed time, identity; the identity is a cell."""
    body = b'{"t": 21.50, "n": 1e2, "ok": true, "unit": "\xc2\xb0C", "none": null, "in": {"a": [1, 2.5]}}'
    key, cells = row(readings(), body, {"topic": "a/b", "timestamp": "1700000000123"})
    name = ORIGIN.hex()
    assert key == f"a/b|{2**63 - 1 - 1700000000123}|{name}-7".encode()
    assert cells == {
        b"d:t": b"21.50", b"d:n": b"1e2", b"d:ok": b"true", b"d:unit": "°C".encode(), b"d:in": b'{"a": [1, 2.5]}',
        b"d:headrace": f"{name}:7".encode(),
    }  # fmt: skip


def test_the_latest_reading_comes_first() -> None:
    """Keys of one sensor sort from new to old, those without a time last."""
    times = [{"timestamp": "2000"}, {"timestamp": "1000"}, {}]
    events = [Event({"topic": "t", **one}, b"") for one in times]
    keys = [key for key, _ in readings().rows(events, [(ORIGIN, 1), (ORIGIN, 2), (ORIGIN, 3)])]
    assert keys == sorted(keys)


@pytest.mark.parametrize("body", [b"21.5", b"[1]", b"{oops", b"", b'{"a":"\xff"}', b'{"a":' * 100_000])
def test_a_body_that_is_no_object(body: bytes) -> None:
    """It is kept whole in one column."""
    assert row(readings(), body)[1][b"d:body"] == body


def test_names_of_columns_and_headers() -> None:
    """Each can be another; a sensor without a name is unknown."""
    serializer = readings(sensorHeader="s", timeHeader="t", bodyColumn="b", identityColumn="i")
    key, cells = row(serializer, b"x", {"s": "boiler", "t": "1"})
    assert key.startswith(f"boiler|{2**63 - 2}|".encode()) and cells.keys() == {b"d:b", b"d:i"}
    assert row(serializer, b"x")[0].startswith(b"unknown|")


def test_parts() -> None:
    """Items in order, in parts of at most so many bytes, or of one row."""
    items = ["x" * 14] * 5 + ["x" * 100]
    assert [len(part) for part in parts(items, len, 30)] == [2, 2, 1, 1]
    assert [one for part in parts(items, len, 30) for one in part] == items
    assert list(parts([], len, 30)) == []
