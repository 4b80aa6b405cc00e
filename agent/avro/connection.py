"""Both ends of Flume's Avro connection, without sockets: bytes in, calls or answers out (and bytes to send).

    handshake of the first pack, then on every pack:
    request    metadata map<bytes> | name of the message | its one parameter: an event, or an array of events
    answer     metadata map<bytes> | 00 and the Status: 00 OK, 02 FAILED, 04 UNKNOWN   or   01, 00 and the error's text

The handshake belongs to a connection, not to a call: before the server's first answer a client sends nothing more, and
afterwards no pack has one. Answers carry the serial of their request and may come in any order.

A call's events stay bytes. An array is usually one block of items, `count, items, 00`, and its items are then the
batch's block; each is walked once, here, and never trusted further on.

Whoever reads from a socket asks for calls one by one (`receive`, then `next_call` until None), so that it can stop at
its own limit: what wasn't asked for stays undecoded, also behind deflate, where 1 byte can stand for 1,000.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

from agent.avro import frame, handshake, record, schema
from agent.avro.handshake import BOTH, CLIENT, FLUME_HASH, NONE, OUR_HASH, read_bytes, read_map, write_map
from agent.avro.record import read_varint, varint
from agent.errors import LocalProtocolError, RemoteProtocolError

OK, FAILED, UNKNOWN = 0, 1, 2
"""Status, by its index in Flume's enum."""
CHUNK = 1 << 16
"""Bytes that are inflated at a time."""
APPEND_BATCH = b"\x16appendBatch"
MAX_REPLIES = 64
"""Messages without a call that a client may send in a row."""
SHORT = 300
"""Bytes of an answer that is remembered."""
DONE = b"\0"
"""No more blocks in an array."""


@dataclass(slots=True)
class Call:
    """append (`single`) or appendBatch: `count` events back to back in `block`, walked.

    `opening` is the handshake's answer, if this call came with one; `answer` and `error` want it back.
    """

    serial: int
    single: bool
    metadata: dict[str, bytes]
    block: bytes
    count: int
    opening: bytes = b""


class Answer(NamedTuple):
    """A server's answer: `status`, or the text of an `error` (then the status is UNKNOWN)."""

    serial: int
    status: int
    metadata: dict[str, bytes]
    error: str | None = None


class Inflow:
    """Packs out of the bytes of one direction, inflated if `deflate`: one zlib stream as long as the connection."""

    def __init__(self, max_bytes: int, deflate: bool) -> None:
        self._packs = frame.PackReader(max_bytes)
        self._stream = zlib.decompressobj() if deflate else None
        self._squeezed = b""

    @property
    def held(self) -> int:
        """Bytes received that are in no pack yet."""
        return self._packs.held + len(self._squeezed)

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes from the peer."""
        if self._stream is None:
            self._packs.feed(data)
        else:
            self._squeezed += bytes(data)

    def next(self) -> tuple[int, bytes] | None:
        """The next (serial, body), or None until more bytes come. RemoteProtocolError if the peer breaks the rules."""
        while (pack := self._packs.next()) is None:
            if self._stream is None or not self._inflate(self._stream):
                return None
        return pack

    def _inflate(self, stream: zlib._Decompress) -> bool:
        """Inflate one chunk more; False if there is nothing."""
        try:
            out = stream.decompress(self._squeezed, CHUNK)
        except zlib.error as error:
            raise RemoteProtocolError(
                f"not a zlib stream ({error}); has the peer compression-type = deflate?"
            ) from None
        self._squeezed = stream.unconsumed_tail
        if stream.eof:
            raise RemoteProtocolError("the peer ended its zlib stream")
        self._packs.feed(out)
        return bool(out)


class Outflow:
    """The bytes of the other direction: flushed after each message, so that nothing of it stays in the stream."""

    def __init__(self, level: int | None) -> None:
        self._stream = None if level is None else zlib.compressobj(level)

    def wrap(self, parts: list[bytes]) -> list[bytes]:
        """What goes to the socket for these bytes."""
        if self._stream is None:
            return parts
        out = [self._stream.compress(part) for part in parts]
        out.append(self._stream.flush(zlib.Z_SYNC_FLUSH))
        return out


class ServerConnection:
    """The source's end of one connection. After a RemoteProtocolError close it."""

    def __init__(
        self,
        protocols: handshake.Protocols,
        meta: Mapping[str, bytes],
        *,
        max_bytes: int = frame.MAX_BYTES,
        deflate: bool = False,
    ) -> None:
        self._protocols, self._meta = protocols, meta
        self._inflow = Inflow(max_bytes, deflate)
        self._outflow = Outflow(6 if deflate else None)
        self._open = False
        self._replies: list[bytes] = []

    @property
    def held(self) -> int:
        """Bytes received that are in no call yet."""
        return self._inflow.held

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes from the peer."""
        self._inflow.feed(data)

    def next_call(self) -> Call | None:
        """The next call, or None until more bytes come. RemoteProtocolError: the peer's fault, close.

        Handshakes without a call, and messages that Flume doesn't have, are answered by themselves: `replies`.
        """
        while (pack := self._inflow.next()) is not None:
            call = self._read(*pack)
            if call:
                return call
            if len(self._replies) > MAX_REPLIES:
                raise RemoteProtocolError("the peer asks again and again for what there isn't")
        return None

    def replies(self) -> list[bytes]:
        """Bytes to send that belong to no call; asked for after `next_call`."""
        if not self._replies:
            return []
        out, self._replies = self._replies, []
        return self._outflow.wrap(out)

    def answer(self, call: Call, status: int, metadata: bytes = b"\0") -> list[bytes]:
        """Bytes that answer a call; `metadata` is an encoded map."""
        return self._outflow.wrap([_pack(call.serial, call.opening, metadata, b"\0", varint(status))])

    def error(self, call: Call, text: str) -> list[bytes]:
        """Bytes that answer a call with a system error, which a Java client throws."""
        return self._outflow.wrap([_error(call.serial, call.opening, text)])

    def _read(self, serial: int, body: bytes) -> Call | None:
        pos, opening = 0, b""
        if not self._open:
            request, pos = handshake.read_request(body)
            self._open, opening = self._protocols.answer(request, self._meta)
            if not self._open:
                self._replies.append(_pack(serial, opening))
                return None
        metadata: dict[str, bytes] = {}
        if body[pos : pos + 1] == b"\0":
            pos += 1
        else:
            metadata, pos = read_map(body, pos)
        if body.startswith(APPEND_BATCH, pos):
            count, block = _array(body, pos + len(APPEND_BATCH))
            return Call(serial, False, metadata, block, count, opening)
        name, pos = read_bytes(body, pos)
        if name == b"append":
            block = body[pos:]
            record.check(block, 1)
            return Call(serial, True, metadata, block, 1, opening)
        self._replies.append(_pack(serial, opening) if not name else _error(serial, opening, _unknown(name)))
        return None


def _unknown(name: bytes) -> str:
    return f"there is no message {name[:50].decode('utf-8', 'replace')!r}, only append and appendBatch"


def _array(body: bytes, start: int) -> tuple[int, bytes]:
    """(number of events, events back to back) of an array that fills the rest of a body."""
    count, pos = read_varint(body, start)
    if count > 0 and body[-1] == 0:
        block = body[pos:-1]
        try:
            record.check(block, count)
        except RemoteProtocolError:
            return _blocks(body, start)
        return count, block
    return _blocks(body, start)


def _blocks(body: bytes, pos: int) -> tuple[int, bytes]:
    """The same for an array in several blocks, or in one with a size."""
    total, parts = 0, []
    while True:
        count, pos = read_varint(body, pos)
        if count == 0:
            break
        if count < 0:
            _, pos = read_varint(body, pos)
        start = pos
        for _ in range(abs(count)):
            pos = record.skip(body, pos)
        parts.append(body[start:pos])
        total += abs(count)
    if pos != len(body):
        raise RemoteProtocolError(f"a call has {len(body) - pos} bytes too many")
    return total, b"".join(parts)


def _pack(serial: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return frame.head(serial, len(body)) + body


def _error(serial: int, opening: bytes, text: str) -> bytes:
    raw = text.encode()
    return _pack(serial, opening, b"\0\1\0", varint(len(raw)), raw)


class State(Enum):
    """Of a client's connection."""

    NEW = 1
    ASKED = 2
    TOLD = 3
    """The server didn't know our protocol and was sent everything again."""
    OPEN = 4


class ClientConnection:
    """The sink's end of one connection: `hello`, feed it until `is_open`, then calls. After an error close it."""

    def __init__(self, *, max_bytes: int = 1 << 20, level: int | None = None) -> None:
        """`level` is that of deflate; None sends plain bytes."""
        self._inflow = Inflow(max_bytes, level is not None)
        self._outflow = Outflow(level)
        self._state = State.NEW
        self._serial = 0
        self._replies: list[bytes] = []
        self.meta: dict[str, bytes] = {}
        """What the server said of itself in the handshake."""

    @property
    def is_open(self) -> bool:
        """Whether calls may be sent."""
        return self._state is State.OPEN

    def hello(self, meta: Mapping[str, bytes] | None = None) -> list[bytes]:
        """Bytes of a handshake that carries no call (the message without a name)."""
        self._state = State.ASKED
        self._hello = handshake.Request(OUR_HASH, schema.PROTOCOL, FLUME_HASH, dict(meta or {}))
        return self._outflow.wrap([self._ping(self._hello)])

    def _ping(self, request: handshake.Request) -> bytes:
        self._serial += 1
        return _pack(self._serial, handshake.write_request(request), b"\0\0")

    def call(self, block: bytes, count: int, metadata: Mapping[str, bytes]) -> tuple[int, list[bytes]]:
        """(serial, bytes) of an appendBatch; the block is not copied, unless it is deflated."""
        if self._state is not State.OPEN:
            raise LocalProtocolError("a call before the handshake was answered")
        self._serial = serial = self._serial % 0x7FFFFFFF + 1
        start = write_map(metadata) + APPEND_BATCH + varint(count) if count else write_map(metadata) + APPEND_BATCH
        size = len(start) + len(block) + 1
        return serial, self._outflow.wrap([frame.head(serial, size) + start, block, DONE])

    def receive(self, data: bytes | bytearray | memoryview) -> list[Answer]:
        """Answers out of the server's bytes; RemoteProtocolError: close. Send `replies` afterwards."""
        self._inflow.feed(data)
        answers = []
        while (pack := self._inflow.next()) is not None:
            if self._state is State.OPEN:
                answers.append(_read_answer(*pack))
            else:
                self._opened(pack[1])
        return answers

    def replies(self) -> list[bytes]:
        """Bytes to send at once."""
        out, self._replies = self._replies, []
        return self._outflow.wrap(out) if out else []

    def _opened(self, body: bytes) -> None:
        if self._state is State.NEW:
            raise RemoteProtocolError("the server speaks before it was asked")
        response, pos = handshake.read_response(body)
        if response.protocol is not None:
            schema.check_protocol(response.protocol)
        if pos != len(body):
            raise RemoteProtocolError("the answer to a handshake has bytes too many")
        if response.match in (BOTH, CLIENT):
            self._state, self.meta = State.OPEN, response.meta
        elif response.match == NONE and self._state is State.ASKED and response.server_hash:
            self._state = State.TOLD
            self._replies.append(self._ping(self._hello._replace(server_hash=response.server_hash)))
        else:
            raise RemoteProtocolError("the server does not accept Flume's protocol")


def _read_answer(serial: int, body: bytes) -> Answer:
    """Answers to batches of one size are alike, so short ones are remembered."""
    status, metadata, error = _short_answer(body) if len(body) <= SHORT else _parse_answer(body)
    return Answer(serial, status, metadata, error)


def _parse_answer(body: bytes) -> tuple[int, dict[str, bytes], str | None]:
    metadata: dict[str, bytes] = {}
    pos = 1
    if body[:1] != b"\0":
        metadata, pos = read_map(body, 0)
    status, after = read_varint(body, pos + 1)
    if body[pos] == 0:
        if status not in (OK, FAILED, UNKNOWN) or after != len(body):
            raise RemoteProtocolError("an answer is no Status of Flume")
        return status, metadata, None
    text, end = read_bytes(body, after)
    if body[pos] != 1 or status != 0 or end != len(body):
        raise RemoteProtocolError("an answer is neither a Status nor an error")
    return UNKNOWN, metadata, text.decode("utf-8", "replace")


_short_answer = lru_cache(128)(_parse_answer)
