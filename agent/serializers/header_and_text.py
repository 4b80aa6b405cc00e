"""Headers and body as lines: `{k=v, k2=v2} body` (Flume's HeaderAndBodyTextEventSerializer)."""

from __future__ import annotations

from typing import ClassVar

from agent.config.fields import Config as AnyConfig
from agent.config.fields import key
from agent.event import Batch, Event
from agent.serializer import Serializer


class HeaderAndTextConfig(AnyConfig):
    appendNewline: bool = key("appendNewline", True, doc="end each event with a newline")


class HeaderAndTextSerializer(Serializer):
    """Headers as Java prints a map, a blank, the body, a newline."""

    Config: ClassVar[type[AnyConfig]] = HeaderAndTextConfig
    config: HeaderAndTextConfig

    def encode(self, batch: Batch) -> bytes:
        end = b"\n" if self.config.appendNewline else b""
        return end.join([*map(_line, batch.events), b""])


def _line(event: Event) -> bytes:
    headers = ", ".join(f"{name}={value}" for name, value in event.headers.items())
    return b"{%s} %s" % (headers.encode(), event.body)
