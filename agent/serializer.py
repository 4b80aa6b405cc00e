"""Serializer: events to the bytes of a file. Pure, but for `identities`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from agent.component import Component
from agent.errors import DeliveryError
from agent.event import Batch
from agent.store.streams import Identity


class Serializer(Component):
    """`header` opens a file, `encode` gives a unit that can stand alone: cutting a file after it never breaks it."""

    def header(self) -> bytes:
        """Bytes at the start of each file."""
        return b""

    def encode(self, batch: Batch) -> bytes:
        """The batch's bytes, to be appended."""
        raise NotImplementedError

    def identities(self, path: Path) -> Iterator[Identity]:
        """For an audit: those of a file's events, as far as it is whole. DeliveryError: such a file doesn't say."""
        key = "sink.serializer"
        raise DeliveryError(f"its files carry no identity: set {key} = avro_event and {key}.identity = true")
