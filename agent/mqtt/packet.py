"""PUBLISH and PUBACK, the two packets of the hot path, and the framing around all of them. No I/O.

    fixed header   type << 4 | flags, remaining length (1 to 4 bytes, 7 bits each, low first)
    PUBLISH        flags DUP 8, QoS 6, RETAIN 1; topic (2-byte length), identifier (2 bytes, only QoS > 0),
                   properties (MQTT 5: varint length), payload up to the end
    PUBACK         identifier [, reason [, properties]] (MQTT 5)

MQTT 3.1.1 and 5.0 (OASIS), sections 2 and 3.3. paho-mqtt takes 13 us (3.1.1) or 23 us (5) to receive and acknowledge
a message; this takes about 2, so paho keeps only the rare packets (CONNECT, SUBSCRIBE ...), see connection.py.
"""

from __future__ import annotations

from agent.errors import RemoteProtocolError

CONNACK, PUBLISH, PUBACK, PINGRESP, DISCONNECT = 0x20, 0x30, 0x40, 0xD0, 0xE0
PINGREQ = b"\xc0\x00"
DUP, QOS, RETAIN = 8, 6, 1
CUT = 0x100
"""Set in the flags of a Publish that was longer than the limit: the payload holds its first bytes only."""

Publish = tuple[int, bytes, bytes, bytes, bytes]
"""(flags, identifier: 2 bytes or b"" at QoS 0, topic, properties without their length, payload)."""

KEEP = 128 << 10
"""Bytes that are kept of a PUBLISH over the limit: the topic fits always, and enough to know the payload by."""


def varint(number: int) -> bytes:
    """A remaining length or property length (section 1.5.5)."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def read_varint(data: bytes, pos: int, end: int) -> tuple[int, int]:
    """(number, position after it); RemoteProtocolError if it is cut off or has more than 4 bytes."""
    value = 0
    for shift in (0, 7, 14, 21):
        if pos >= end:
            break
        byte = data[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, pos
    raise RemoteProtocolError("an MQTT length is cut off or has more than 4 bytes")


def publish(topic: bytes, identifier: int, payload: bytes, properties: bytes | None, flags: int = 2) -> bytes:
    """A PUBLISH, QoS 1 unless `flags` say otherwise; `properties` are None in 3.1.1."""
    head = len(topic).to_bytes(2, "big") + topic + (identifier.to_bytes(2, "big") if flags & QOS else b"")
    if properties is not None:
        head += varint(len(properties)) + properties
    return bytes((PUBLISH | flags,)) + varint(len(head) + len(payload)) + head + payload


def pubacks(identifiers: list[bytes]) -> bytes:
    """Acknowledgements in order, reason 0 (left out in both versions)."""
    return b"".join([b"\x40\x02" + identifier for identifier in identifiers])


class Reader:
    """Bytes in pieces of any size -> PUBLISH as tuples, other packets as (first byte, body)."""

    def __init__(self, version: int, limit: int) -> None:
        self.version5, self.limit = version == 5, limit
        self._chunks: list[bytes] = []
        self._have = self._need = self._skip = 0

    def feed(self, data: bytes) -> tuple[list[Publish], list[tuple[int, bytes]]]:
        """What became complete with `data`. RemoteProtocolError: nothing after it can be read."""
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        if self._chunks:
            self._chunks.append(data)
            self._have += len(data)
            if self._have < self._need:
                return [], []
            data = b"".join(self._chunks)
        published: list[Publish] = []
        others: list[tuple[int, bytes]] = []
        pos = self._split(data, published, others)
        self._chunks = [data[pos:]] if pos < len(data) else []
        self._have = len(data) - pos
        return published, others

    def _split(self, data: bytes, published: list[Publish], others: list[tuple[int, bytes]]) -> int:
        """Take complete packets off `data`; the position of the first incomplete one, whose need is noted."""
        pos, end = 0, len(data)
        while end - pos >= 2:
            first, length, start = data[pos], data[pos + 1], pos + 2
            if length > 0x7F:
                try:
                    length, start = read_varint(data, pos + 1, min(end, pos + 5))
                except RemoteProtocolError:
                    if end - pos >= 5:
                        raise
                    break
            stop = start + length
            if length > self.limit:
                if not self._over(data, first, start, length, published):
                    self._need = start - pos + min(KEEP, length)
                    return pos
                pos = min(stop, end)
                continue
            if stop > end:
                self._need = stop - pos
                return pos
            if first & 0xF0 == PUBLISH:
                published.append(self._publish(data, first, start, stop))
            else:
                others.append((first, data[start:stop]))
            pos = stop
        self._need = end - pos + 1
        return pos

    def _publish(self, data: bytes, flags: int, start: int, stop: int) -> Publish:
        at = start + 2
        if at > stop:
            raise RemoteProtocolError("a PUBLISH without a topic")
        topic = data[at : (at := at + (data[start] << 8 | data[start + 1]))]
        identifier = b""
        if flags & QOS:
            if flags & QOS != 2:
                raise RemoteProtocolError("a PUBLISH with QoS 2 or 3, though at most 1 was subscribed")
            identifier = data[at : (at := at + 2)]
        properties = b""
        if self.version5:
            if at < stop and (size := data[at]) <= 0x7F:
                at += 1
            else:
                size, at = read_varint(data, at, stop)
            if size:
                properties = data[at : (at := at + size)]
        if at > stop:
            raise RemoteProtocolError("a PUBLISH whose parts run past its end")
        return flags & 0x0F, identifier, topic, properties, data[at:stop]

    def _over(self, data: bytes, first: int, start: int, length: int, published: list[Publish]) -> bool:
        """A packet over the limit: once enough of it is here, keep the head and skip the rest."""
        if first & 0xF0 != PUBLISH:
            raise RemoteProtocolError(f"a packet of {length} bytes that is no PUBLISH")
        here = len(data) - start
        if here < min(KEEP, length):
            return False
        at = start + 2 + (data[start] << 8 | data[start + 1])
        identifier = data[at : at + 2] if first & QOS else b""
        topic, rest = data[start + 2 : at], data[at + len(identifier) : start + min(KEEP, length)]
        published.append((first & 0x0F | CUT, identifier, topic, b"", rest))
        self._skip = max(0, length - here)
        return True
