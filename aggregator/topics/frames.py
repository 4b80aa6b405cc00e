"""A connection's bytes, cut into frames and made of them: int32 size, then so many bytes. No I/O.

Bytes come into a buffer that all connections share, as each read is used up before the next. A frame that isn't whole
then gets a buffer of its own, which grows with the bytes that come (a size alone costs nothing), and the rest of the
frame is read straight into it. On the way out large parts stay as they are, down to the transport's chunks.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence

from agent.errors import RemoteProtocolError

SIZE = struct.Struct(">i")
FIRST = 64 << 10
"""Bytes of a buffer at first; each next one is `GROWTH` times the last."""
GROWTH = 4
CHUNK = 1 << 18
"""Bytes that are handed to the transport at once."""

Data = bytes | memoryview


class Frames:
    """`buffer`, then `received`, then `next` until there is none; `most` is the largest size that is taken."""

    def __init__(self, shared: memoryview, most: int) -> None:
        self.most = most
        self._shared = shared
        self._data = b""
        """Received and not cut yet, from `_at` on."""
        self._at = 0
        self._begun: bytearray | None = None
        self._size = self._have = 0
        """Of the frame that has begun."""

    @property
    def held(self) -> int:
        """Bytes that wait for the rest of their frame, or the buffer that was made for them."""
        return len(self._begun) if self._begun is not None else len(self._data) - self._at

    def buffer(self, room: int) -> memoryview:
        """Where the next bytes go, `room` at most."""
        if self._begun is None:
            return self._shared[:room]
        if self._have == len(self._begun):
            self._grow()
        return memoryview(self._begun)[self._have : self._have + room]

    def _grow(self) -> None:
        assert self._begun is not None
        larger = bytearray(min(self._size, GROWTH * len(self._begun)))
        larger[: self._have] = self._begun
        self._begun = larger

    def received(self, count: int) -> None:
        """So many bytes came into `buffer`."""
        if self._begun is None:
            self._data = self._data[self._at :] + bytes(self._shared[:count])
            self._at = 0
        else:
            self._have += count

    def next(self) -> memoryview | None:
        """A whole frame without its size, or None. RemoteProtocolError: a size that isn't taken."""
        if self._begun is not None:
            return self._finished(self._begun)
        begin = self._at + SIZE.size
        if len(self._data) < begin:
            return None
        (size,) = SIZE.unpack_from(self._data, self._at)
        if not 0 <= size <= self.most:
            raise RemoteProtocolError(self._refusal(size))
        if len(self._data) - begin < size:
            self._begin(size, begin)
            return None
        frame = memoryview(self._data)[begin : begin + size]
        self._at = begin + size
        if self._at == len(self._data):
            self._data, self._at = b"", 0
        return frame

    def _begin(self, size: int, begin: int) -> None:
        self._size, self._have = size, len(self._data) - begin
        self._begun = bytearray(min(size, max(FIRST, self._have)))
        self._begun[: self._have] = memoryview(self._data)[begin:]
        self._data, self._at = b"", 0

    def _finished(self, begun: bytearray) -> memoryview | None:
        if self._have < self._size:
            return None
        self._begun = None
        return memoryview(begun)

    def _refusal(self, size: int) -> str:
        start = self._data[self._at : self._at + 4]
        hint = "; does it speak HTTP?" if start in (b"GET ", b"POST", b"PUT ", b"HEAD") else ""
        hint = "; does it speak TLS?" if start[:2] == b"\x16\x03" else hint
        return f"a frame of {size} bytes, {self.most} are allowed{hint}"


class Outbox:
    """Frames that have yet to go out."""

    def __init__(self) -> None:
        self._parts: deque[Data] = deque()

    def __bool__(self) -> bool:
        return bool(self._parts)

    def put(self, parts: Sequence[Data]) -> None:
        """A frame's parts, without its size."""
        self._parts.append(SIZE.pack(sum(map(len, parts))))
        self._parts.extend(parts)

    def clear(self) -> None:
        self._parts.clear()

    def chunk(self) -> Data:
        """The next bytes, `CHUNK` at most: small parts joined, large ones cut."""
        first = self._parts.popleft()
        if len(first) > CHUNK:
            self._parts.appendleft(memoryview(first)[CHUNK:])
            return memoryview(first)[:CHUNK]
        parts, size = [first], len(first)
        while self._parts and size + len(self._parts[0]) <= CHUNK:
            parts.append(self._parts.popleft())
            size += len(parts[-1])
        return first if len(parts) == 1 else b"".join(parts)
