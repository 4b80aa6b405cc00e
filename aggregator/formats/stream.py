"""Plain files: what a serializer gives (DataStream), as it is or compressed batch by batch (CompressedStream)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from agent.event import Batch
from agent.serializer import Serializer
from aggregator.formats.codecs import Codec

if TYPE_CHECKING:
    from aggregator.formats.format import Format


class Serialized:
    """A serializer's bytes: lines of text, or whatever a serializer of your own gives."""

    extension = ""

    def __init__(self, serializer: Serializer) -> None:
        self.serializer = serializer

    def header(self, first: Batch | None = None) -> bytes:
        return self.serializer.header()

    def fits(self, batch: Batch) -> bool:
        return True

    def encode(self, batch: Batch) -> Sequence[bytes]:
        return (self.serializer.encode(batch),)


class Compressed:
    """Another format's header and units, each a unit of a codec. So an Avro container may be inside a gzip file, as
    Flume allows it; few readers expect that, a codec of the container itself is the better choice."""

    def __init__(self, inner: Format, codec: Codec) -> None:
        self.inner, self.codec = inner, codec
        self.extension = codec.extension

    def header(self, first: Batch | None = None) -> bytes:
        header = self.inner.header(first)
        return self.codec.compress(header) if header else b""

    def fits(self, batch: Batch) -> bool:
        return self.inner.fits(batch)

    def encode(self, batch: Batch) -> Sequence[bytes]:
        return (self.codec.compress(b"".join(self.inner.encode(batch))),)
