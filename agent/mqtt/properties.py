"""The properties of a PUBLISH in MQTT 5 (section 3.3.2.3): what becomes a header, and what a broker may change.

01 byte payload format   02 u32 message expiry   03 text content type   08 text response topic
09 binary correlation    0b varint subscription  23 u16 topic alias      26 text pair user property
"""

from __future__ import annotations

from agent.errors import RemoteProtocolError
from agent.mqtt.packet import read_varint

EXPIRY, CONTENT_TYPE, USER = 0x02, 0x03, 0x26
_FIXED = {0x01: 1, EXPIRY: 4, 0x23: 2}
_TEXT = {CONTENT_TYPE: 1, 0x08: 1, 0x09: 1, USER: 2}


def text(value: str) -> bytes:
    """A UTF-8 string with its 2-byte length."""
    raw = value.encode()
    return len(raw).to_bytes(2, "big") + raw


def encode(content_type: str = "", user: tuple[tuple[str, str], ...] = (), expiry: int = 0) -> bytes:
    """Properties of a PUBLISH of ours; what is empty or 0 is left out."""
    out = b"\x02" + expiry.to_bytes(4, "big") if expiry else b""
    if content_type:
        out += b"\x03" + text(content_type)
    return out + b"".join(b"\x26" + text(name) + text(value) for name, value in user)


def read(data: bytes) -> tuple[dict[str, str], bytes]:
    """(headers: user properties, `contentType`; the properties without the expiry, which a broker counts down).

    RemoteProtocolError if malformed. Of a user property that is there twice the last one wins.
    """
    headers: dict[str, str] = {}
    kept = bytearray()
    pos, end = 0, len(data)
    while pos < end:
        start, kind = pos, data[pos]
        pos += 1
        parts: list[str] = []
        if kind in _FIXED:
            pos += _FIXED[kind]
        elif kind in _TEXT:
            for _ in range(_TEXT[kind]):
                size = int.from_bytes(data[pos : pos + 2], "big")
                parts.append(data[pos + 2 : pos + 2 + size].decode("utf-8", "replace"))
                pos += 2 + size
        elif kind == 0x0B:
            _, pos = read_varint(data, pos, end)
        else:
            raise RemoteProtocolError(f"a PUBLISH with property {kind:#04x}, which it cannot have")
        if pos > end:
            raise RemoteProtocolError("a property runs past the end of its PUBLISH")
        if kind == USER:
            headers[parts[0]] = parts[1]
        elif kind == CONTENT_TYPE:
            headers["contentType"] = parts[0]
        if kind != EXPIRY:
            kept += data[start:pos]
    return headers, bytes(kept)
