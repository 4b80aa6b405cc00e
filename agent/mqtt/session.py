"""What the MQTT source knows of its session at the broker, and keeps as one mark with each batch.

    u8 version (5 or 3)   u8 flags (1: window off)   u32 size   filters, one a line   window (agent/mqtt/window.py)

So a restart speaks the version that the broker takes, knows which filters it has subscribed to, and recognises what
is stored and was not acknowledged.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from agent.mqtt.window import Window

_HEAD = struct.Struct(">BBI")
OFF = 1


@dataclass(slots=True)
class Session:
    """`version` 5 or 3 (3.1.1); `filters` as last subscribed."""

    version: int = 5
    filters: list[str] = field(default_factory=list)
    window: Window = field(default_factory=Window)

    @classmethod
    def read(cls, mark: bytes) -> Session:
        """From a mark; a new session where there is none."""
        if len(mark) < _HEAD.size:
            return cls()
        version, flags, size = _HEAD.unpack_from(mark)
        text, entries = mark[_HEAD.size : _HEAD.size + size], mark[_HEAD.size + size :]
        return cls(
            3 if version == 3 else 5, text.decode().split("\n") if text else [], Window(entries, bool(flags & OFF))
        )

    def mark(self, entries: bytes) -> dict[str, bytes]:
        """The marks to keep with a batch whose messages are `entries`."""
        text = "\n".join(self.filters).encode()
        head = _HEAD.pack(self.version, OFF if self.window.off else 0, len(text))
        return {"session": head + text + self.window.mark(entries)}
