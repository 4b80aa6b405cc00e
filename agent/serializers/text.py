"""Bodies as lines (Flume's BodyTextEventSerializer)."""

from __future__ import annotations

from typing import ClassVar

from agent.config.fields import Config as AnyConfig
from agent.config.fields import key
from agent.event import Batch
from agent.serializer import Serializer


class TextConfig(AnyConfig):
    appendNewline: bool = key("appendNewline", True, doc="end each body with a newline")


class TextSerializer(Serializer):
    """The body, then a newline; headers are left out."""

    Config: ClassVar[type[AnyConfig]] = TextConfig
    config: TextConfig

    def encode(self, batch: Batch) -> bytes:
        end = b"\n" if self.config.appendNewline else b""
        return end.join([*batch.bodies, b""])
