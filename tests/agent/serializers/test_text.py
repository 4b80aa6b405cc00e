"""text and header_and_text; the expected lines are those of Flume 1.11."""

from __future__ import annotations

import pytest

from agent.event import Batch, Event
from agent.serializers.header_and_text import HeaderAndTextConfig, HeaderAndTextSerializer
from agent.serializers.text import TextConfig, TextSerializer

BATCH = Batch([Event({"zone": "a", "k2": "välue"}, b"Hello\r"), Event({}, b""), Event({}, b"\xff")])


@pytest.mark.parametrize(("newline", "text"), [(True, b"Hello\r\n\n\xff\n"), (False, b"Hello\r\xff")])
def test_text(newline: bool, text: bytes) -> None:
    """Bodies, each with a newline unless appendNewline = false."""
    assert TextSerializer("s", TextConfig(appendNewline=newline)).encode(BATCH) == text


@pytest.mark.parametrize("end", [b"\n", b""])
def test_header_and_text(end: bytes) -> None:
    """Headers as a Java map, a blank, the body."""
    serializer = HeaderAndTextSerializer("s", HeaderAndTextConfig(appendNewline=bool(end)))
    expected = "{zone=a, k2=välue} Hello\r".encode() + end + b"{} " + end + b"{} \xff" + end
    assert serializer.encode(BATCH) == expected
    assert serializer.header() == b""
