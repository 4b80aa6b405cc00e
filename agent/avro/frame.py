"""Netty pack framing, the envelope of every Avro call (Avro 1.11: NettyTransportCodec.java). Both directions:

    serial   4 bytes  big-endian; a client counts its requests, the answer carries the request's serial
    count    4 bytes  number of buffers, never 0 from us: a Java decoder would wait for one more
    count times:  length 4 bytes, then so many bytes; 0 is legal (a Java server's empty handshake)

The buffers are joined; where one ends means nothing. Java cuts at 8192 bytes, so a call has many. Java bounds neither
a buffer's length nor its sign; here a pack has a bound in bytes and in buffers, and a length is only believed as far as
its bytes have arrived: nothing is allocated for what a header claims.
"""

from __future__ import annotations

from struct import Struct

from agent.errors import RemoteProtocolError

HEAD = Struct(">iii")
PAIR = Struct(">ii")
LENGTH = Struct(">i")
MAX_BUFFERS = 65_536
MAX_BYTES = 16 << 20


def head(serial: int, size: int) -> bytes:
    """The 12 bytes before a body of `size` bytes that is sent as one buffer."""
    return HEAD.pack(serial, 1, size)


class PackReader:
    """Bytes in, packs out. After an error the reader is of no use any more: close the connection."""

    def __init__(self, max_bytes: int = MAX_BYTES, max_buffers: int = MAX_BUFFERS) -> None:
        self.max_bytes, self.max_buffers = max_bytes, max_buffers
        self._held = bytearray()
        self._start()

    def _start(self) -> None:
        self._pos = 0
        """Everything in `_held` before this is understood."""
        self._serial = self._left = self._size = 0
        self._buffers: list[tuple[int, int]] | None = None

    @property
    def held(self) -> int:
        """Bytes received that are in no pack yet."""
        return len(self._held)

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes from the peer."""
        self._held += data

    def next(self) -> tuple[int, bytes] | None:
        """The next whole pack as (serial, body), or None until more bytes come. RemoteProtocolError: see `feed`."""
        held = self._held
        if self._buffers is None:
            if len(held) < 8:
                return None
            self._serial, self._left = PAIR.unpack_from(held)
            if not 0 < self._left <= self.max_buffers:
                raise RemoteProtocolError(f"a pack claims {self._left} buffers; 1 to {self.max_buffers} are taken")
            self._pos, self._buffers = 8, []
        while self._left:
            end = self._pos + 4
            if len(held) < end:
                return None
            (length,) = LENGTH.unpack_from(held, self._pos)
            if length < 0 or self._size + length > self.max_bytes:
                raise RemoteProtocolError(
                    f"a pack claims a buffer of {length} bytes after {self._size}; {self.max_bytes} are taken in all"
                )
            if len(held) < end + length:
                return None
            self._buffers.append((end, end + length))
            self._size += length
            self._pos = end + length
            self._left -= 1
        return self._serial, self._take(self._buffers)

    def _take(self, buffers: list[tuple[int, int]]) -> bytes:
        with memoryview(self._held) as view:
            body = bytes(view[slice(*buffers[0])]) if len(buffers) == 1 else b"".join(view[a:b] for a, b in buffers)
        if self._pos == len(self._held):
            self._held = bytearray()
        else:
            del self._held[: self._pos]
        self._start()
        return body
