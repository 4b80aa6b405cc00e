"""What the commands print of bytes, times and rows."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.topics.commands.shown import ms_of, shown, table, time_of


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (None, "NULL"),
        (b"", ""),
        ("21.5 °C".encode(), "21.5 °C"),
        (b'{"t": 21.5}', '{"t": 21.5}'),
        (b'{\n\t"t": 1\r\n}', '{\n\t"t": 1\r\n}'),
        (b"two\nlines", "base64:" + base64.b64encode(b"two\nlines").decode()),
        (b"\xff\x00", "base64:/wA="),
        (b"\x1b[2J", "base64:G1sySg=="),
        (json.dumps("\x9b2J", ensure_ascii=False).encode(), "base64:IsKbMkoi"),
    ],
    ids=["null", "empty", "text", "json", "json with breaks", "text with breaks", "bytes", "escape", "escape in json"],
)
def test_what_is_shown_as_it_is(data: bytes | None, text: str) -> None:
    """Printable text and JSON as they are, everything else as base64; a terminal is never given a control code."""
    assert shown(data) == text


@given(st.binary())
def test_nothing_harms_a_terminal(data: bytes) -> None:
    """Whatever the bytes are, what is printed are printable characters, tabs and line breaks."""
    assert shown(data).translate(dict.fromkeys(map(ord, "\t\n\r"))).isprintable()


@given(st.integers(min_value=-62_135_596_800_000, max_value=253_402_300_799_999))
def test_a_time_comes_back(ms: int) -> None:
    """Every time from year 1 to 9999 is printed so that it can be read again; -1 is none."""
    assert time_of(ms) == "-" if ms == -1 else ms_of(time_of(ms)) == ms


def test_times() -> None:
    """UTC with milliseconds; what no calendar has is printed as the number."""
    assert time_of(1_764_223_200_005) == "2025-11-27T06:00:00.005Z"
    assert time_of(10**15) == "1000000000000000 ms"


@pytest.mark.parametrize("text", ["2025-11-27T06:00", "2025-11-27T07:00+01:00", "2025-11-27T06:00:00Z"])
def test_a_time_without_a_zone_is_utc(text: str) -> None:
    """Whatever zone the machine is in."""
    assert ms_of(text) == 1_764_223_200_000


def test_a_table() -> None:
    """Columns are as wide as their widest cell, figures stand right, nothing trails."""
    rows = [("TOPIC", "RECORDS", ""), ("t", "1,000", "same"), ("longer", "5", "")]
    assert [*table(rows, right=(1,))] == ["TOPIC   RECORDS", "t         1,000  same", "longer        5"]
