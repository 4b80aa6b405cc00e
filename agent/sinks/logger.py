"""Logs events at INFO (Flume's LoggerSink), for looking at a flow.

    Event: { headers:{zone=a} body: 48 65 6C 6C 6F 20 77 6F 72 6C 64 21 0D          Hello world!. }

The text is that of org.apache.flume.event.EventHelper.dumpEvent over Commons IO's HexDump, compared with Flume 1.11:
16 bytes a line as upper-case pairs, three blanks for each byte that is missing, then the bytes as text with `.` for
what isn't printable ASCII. Lines after the first open with their offset; an empty body leaves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from agent.config.fields import Config as AnyConfig
from agent.config.fields import key
from agent.event import Batch, Event
from agent.sink import Sink, SinkConfig

LINE = 16


class LoggerConfig(SinkConfig):
    maxBytesToLog: int = key("maxBytesToLog", 16, low=0, doc="bytes of each body that are shown")


class LoggerSink(Sink):
    """One line of log an event (more above 16 bytes)."""

    Config: ClassVar[type[AnyConfig]] = LoggerConfig
    config: LoggerConfig

    async def send(self, batch: Batch) -> None:
        for event in batch.events:
            self.log.info("Event: %s", dump(event, self.config.maxBytesToLog))


def dump(event: Event, most: int) -> str:
    """An event as Flume's logger sink shows it, with the first `most` bytes of its body."""
    body = event.body[:most]
    lines = [_line(body, at) for at in range(0, len(body), LINE)]
    return f"{{ headers:{java_map(event.headers)} body:{chr(10).join(lines)} }}"


def java_map(headers: Mapping[str, str]) -> str:
    """Headers as Java prints a map: `{k=v, k2=v2}`."""
    return "{" + ", ".join(f"{name}={value}" for name, value in headers.items()) + "}"


def _line(body: bytes, at: int) -> str:
    part = body[at : at + LINE]
    offset = f"{at:08X}" if at else ""
    pairs = part.hex(" ").upper().ljust(3 * LINE - 1)
    return f"{offset} {pairs} " + "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
