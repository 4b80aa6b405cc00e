"""logger shows events as Flume does; the expected texts are those of Flume 1.11."""

from __future__ import annotations

import asyncio
import logging

import pytest

from agent.event import Batch, Event
from agent.sinks.logger import LoggerConfig, LoggerSink, dump

SIXTEEN = "61 62 63 64 65 66 67 68 69 6A 6B 6C 6D 6E 6F 70 abcdefghijklmnop"


@pytest.mark.parametrize(
    ("body", "most", "text"),
    [
        (b"Hello world!\r", 16, "48 65 6C 6C 6F 20 77 6F 72 6C 64 21 0D          Hello world!."),
        (b"", 16, ""),
        (b"abcdefghijklmnop", 16, SIXTEEN),
        (b"abcdefghijklmnopqrst", 16, SIXTEEN),
        ("hé\x7f~ ".encode(), 16, "68 C3 A9 7F 7E 20                               h...~ "),
        (b"Z[\\]", 3, "5A 5B 5C                                        Z[\\"),
        (
            bytes(range(90, 150)),
            40,
            "5A 5B 5C 5D 5E 5F 60 61 62 63 64 65 66 67 68 69 Z[\\]^_`abcdefghi\n"
            "00000010 6A 6B 6C 6D 6E 6F 70 71 72 73 74 75 76 77 78 79 jklmnopqrstuvwxy\n"
            "00000020 7A 7B 7C 7D 7E 7F 80 81                         z{|}~...",
        ),
    ],
)
def test_the_dump(body: bytes, most: int, text: str) -> None:
    """Sixteen bytes a line, missing ones as blanks, an offset before each line but the first, nothing for no body."""
    expected = f"{{ headers:{{}} body: {text} }}" if text else "{ headers:{} body: }"
    assert dump(Event({}, body), most) == expected


def test_the_line(caplog: pytest.LogCaptureFixture) -> None:
    """One line an event at INFO, headers as Java prints a map."""
    sink = LoggerSink("k1", LoggerConfig(channel="c1"))
    batch = Batch([Event({"zone": "a", "k2": "value"}, b"ok"), Event({}, b"")])
    with caplog.at_level(logging.INFO):
        asyncio.run(sink.send(batch))
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (20, "Event: { headers:{zone=a, k2=value} body: 6F 6B                                           ok }"),
        (20, "Event: { headers:{} body: }"),
    ]
