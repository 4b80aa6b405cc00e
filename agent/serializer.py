"""Serializer: events to the bytes of a file. Pure."""

from __future__ import annotations

from agent.component import Component
from agent.event import Batch


class Serializer(Component):
    """`header` opens a file, `encode` gives a unit that can stand alone: cutting a file after it never breaks it."""

    def header(self) -> bytes:
        """Bytes at the start of each file."""
        return b""

    def encode(self, batch: Batch) -> bytes:
        """The batch's bytes, to be appended."""
        raise NotImplementedError
