"""Avro object container files of Flume's events (Flume's FlumeEventAvroEventSerializer); any Avro tool reads them.

A batch is one container block with a sync marker behind it, so a file cut after any batch is whole. The events are
written as they came: nothing is decoded. With `identity` each event also says who kept it first, in two headers. They
are slipped in as one more block of its Avro map (Avro 1.11 specification, "Maps": a map is a series of blocks), which
costs a walk and no decoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from agent.avro import container, record
from agent.avro.record import varint
from agent.config.fields import Config as AnyConfig
from agent.config.fields import key
from agent.event import Batch, Event
from agent.serializer import Serializer
from agent.store.streams import Identity

PIECE = 1 << 20
"""Bytes of a file that are read at once."""
ORIGIN, NUMBER = "headrace.origin", "headrace.number"


class AvroEventConfig(AnyConfig):
    IGNORED: ClassVar[dict[str, str]] = {"syncIntervalBytes": "each batch is a block of its own"}
    compressionCodec: str = key("compressionCodec", "null", choices=container.CODECS, doc="codec of the blocks")
    identity: bool = key("identity", False, doc="add headrace.origin and headrace.number, the event's identity")


class AvroEventSerializer(Serializer):
    """All files of one serializer share its sync marker; a file is never continued by another serializer."""

    Config: ClassVar[type[AnyConfig]] = AvroEventConfig
    config: AvroEventConfig

    def __init__(self, name: str, config: AnyConfig) -> None:
        super().__init__(name, config)
        self.sync = container.new_sync()

    def header(self) -> bytes:
        return container.write_header(self.sync, codec=self.config.compressionCodec)

    def encode(self, batch: Batch) -> bytes:
        identities = batch.identities if self.config.identity else None
        block = with_identity(batch, identities) if identities else batch.block
        return container.write_block(batch.count, block, self.sync, self.config.compressionCodec)

    def identities(self, path: Path) -> Iterator[Identity]:
        if not self.config.identity:
            yield from super().identities(path)
        reader = container.ContainerReader()
        with path.open("rb") as file:
            while piece := file.read(PIECE):
                reader.feed(piece)
                while (block := reader.next()) is not None:
                    yield from _named(record.decode(block.data, block.count))


def _named(events: list[tuple[dict[str, str], bytes]]) -> Iterator[Identity]:
    for headers, _ in events:
        if ORIGIN in headers and headers.get(NUMBER, "").isdigit():
            yield Identity(bytes.fromhex(headers[ORIGIN]), int(headers[NUMBER]), 1)


def with_identity(batch: Batch, identities: tuple[Identity, ...]) -> bytes:
    """The batch's block with the identity of each event in its headers, in place of what it may say there itself."""
    block = batch.block
    if ORIGIN.encode() in block or NUMBER.encode() in block:
        block = record.encode([_without(event) for event in batch.events])
    out: list[bytes] = []
    at, ends = 0, iter(record.offsets(block, batch.count))
    for run in identities:
        origin = b"\x04" + _string(ORIGIN) + _string(run.origin.hex()) + _string(NUMBER)
        for number in range(run.first, run.first + run.count):
            end = next(ends)
            out += (origin, _string(str(number)), block[at:end])
            at = end
    return b"".join(out)


def _without(event: Event) -> Event:
    headers = {name: value for name, value in event.headers.items() if name not in (ORIGIN, NUMBER)}
    return Event(headers, event.body)


def _string(text: str) -> bytes:
    raw = text.encode()
    return varint(len(raw)) + raw
