"""The handshake that opens an Avro connection (Avro 1.11 specification, "Handshake"; Responder.java, Requestor.java).

    HandshakeRequest   clientHash 16 bytes | clientProtocol 00 or 02 + text | serverHash 16 bytes | meta 00 or 02 + map
    HandshakeResponse  match 00 BOTH 02 CLIENT 04 NONE | serverProtocol | serverHash (each 00 or 02 + value) | meta

It rides in front of the first call, and of its answer, on each connection:

    client's protocol known, server's hash right    BOTH     nothing more to say; the call is answered
    known, but the client has another server hash   CLIENT   the server's text and hash; the call is answered
    the client's protocol is not known              NONE     text and hash; the call is not run, send it again with text

A Java client's first try names its protocol by its MD5 alone. Flume's MD5 is known here from the start, so that client
has BOTH in one round trip; anybody else's text is kept under its MD5 once it was seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

from agent.avro import schema
from agent.avro.record import length, read_varint, varint
from agent.errors import RemoteProtocolError

BOTH, CLIENT, NONE = 0, 1, 2
MAX_META = 64
"""Entries of a metadata map."""
MAX_KNOWN = 64
"""Protocols of clients that are remembered."""


def md5(text: bytes) -> bytes:
    """A protocol's name on the wire."""
    return hashlib.md5(text, usedforsecurity=False).digest()


OUR_HASH = md5(schema.PROTOCOL)
FLUME_HASH = bytes.fromhex("86aadae2c45474c0fe93ffd0f2350a65")
"""Of Flume's own text, whose doc is its licence; as a live Flume 1.11 sends it."""


class Request(NamedTuple):
    """HandshakeRequest; `protocol` is the text, if it was sent."""

    client_hash: bytes
    protocol: bytes | None
    server_hash: bytes
    meta: dict[str, bytes]


class Response(NamedTuple):
    """HandshakeResponse; `match` is BOTH, CLIENT or NONE."""

    match: int
    protocol: bytes | None
    server_hash: bytes | None
    meta: dict[str, bytes]


class Protocols:
    """Hashes of client protocols that are Flume's; one for all connections of a source."""

    def __init__(self) -> None:
        self._known = {OUR_HASH: None, FLUME_HASH: None}

    def answer(self, request: Request, meta: Mapping[str, bytes]) -> tuple[bool, bytes]:
        """(whether the call may be run, HandshakeResponse bytes). RemoteProtocolError if the client's isn't Flume's."""
        if request.protocol is not None:
            schema.check_protocol(request.protocol)
            if md5(request.protocol) == request.client_hash and len(self._known) < MAX_KNOWN:
                self._known[request.client_hash] = None
        elif request.client_hash not in self._known:
            return False, write_response(Response(NONE, schema.PROTOCOL, OUR_HASH, dict(meta)))
        if request.server_hash in (OUR_HASH, FLUME_HASH):
            return True, write_response(Response(BOTH, None, None, dict(meta)))
        return True, write_response(Response(CLIENT, schema.PROTOCOL, OUR_HASH, dict(meta)))


def write_request(request: Request) -> bytes:
    """HandshakeRequest -> bytes."""
    parts = [request.client_hash, _optional(request.protocol), request.server_hash]
    return b"".join(parts) + b"\2" + write_map(request.meta)


def read_request(data: bytes, pos: int = 0) -> tuple[Request, int]:
    """(HandshakeRequest, position after it); RemoteProtocolError if malformed."""
    client_hash, pos = _fixed(data, pos)
    protocol, pos = _read_optional(data, pos)
    server_hash, pos = _fixed(data, pos)
    meta, pos = _read_meta(data, pos)
    return Request(client_hash, protocol, server_hash, meta), pos


def write_response(response: Response) -> bytes:
    """HandshakeResponse -> bytes."""
    server_hash = b"\0" if response.server_hash is None else b"\2" + response.server_hash
    meta = b"\2" + write_map(response.meta) if response.meta else b"\0"
    return varint(response.match) + _optional(response.protocol) + server_hash + meta


def read_response(data: bytes, pos: int = 0) -> tuple[Response, int]:
    """(HandshakeResponse, position after it); RemoteProtocolError if malformed."""
    match, pos = read_varint(data, pos)
    if match not in (BOTH, CLIENT, NONE):
        raise RemoteProtocolError(f"a handshake answers {match}, which is none of BOTH, CLIENT, NONE")
    protocol, pos = _read_optional(data, pos)
    there, pos = _branch(data, pos)
    server_hash, pos = _fixed(data, pos) if there else (None, pos)
    meta, pos = _read_meta(data, pos)
    return Response(match, protocol, server_hash, meta), pos


def write_map(entries: Mapping[str, bytes]) -> bytes:
    """map<bytes>, as in call metadata."""
    if not entries:
        return b"\0"
    out = [length(len(entries))]
    for name, value in entries.items():
        raw = name.encode()
        out += length(len(raw)), raw, length(len(value)), value
    out.append(b"\0")
    return b"".join(out)


def read_map(data: bytes, pos: int, limit: int = MAX_META) -> tuple[dict[str, bytes], int]:
    """(map<bytes>, position after it). RemoteProtocolError if malformed or above `limit` entries."""
    out: dict[str, bytes] = {}
    while True:
        count, pos = read_varint(data, pos)
        if count == 0:
            return out, pos
        if count < 0:
            count = -count
            _, pos = read_varint(data, pos)
        if count + len(out) > limit:
            raise RemoteProtocolError(f"a metadata map claims {count} entries; {limit} are taken")
        for _ in range(count):
            name, pos = read_bytes(data, pos)
            out[name.decode("utf-8", "replace")], pos = read_bytes(data, pos)


def read_bytes(data: bytes, pos: int) -> tuple[bytes, int]:
    """(bytes or string, position after it); RemoteProtocolError if it runs past the end."""
    length, pos = read_varint(data, pos)
    end = pos + length
    if length < 0 or end > len(data):
        raise RemoteProtocolError("a string runs past the end of its message")
    return data[pos:end], end


def _optional(text: bytes | None) -> bytes:
    return b"\0" if text is None else b"\2" + varint(len(text)) + text


def _branch(data: bytes, pos: int) -> tuple[bool, int]:
    """Which branch of a union with null."""
    branch, pos = read_varint(data, pos)
    if branch not in (0, 1):
        raise RemoteProtocolError(f"a handshake has union branch {branch}")
    return branch == 1, pos


def _read_optional(data: bytes, pos: int) -> tuple[bytes | None, int]:
    there, pos = _branch(data, pos)
    return read_bytes(data, pos) if there else (None, pos)


def _read_meta(data: bytes, pos: int) -> tuple[dict[str, bytes], int]:
    there, pos = _branch(data, pos)
    return read_map(data, pos) if there else ({}, pos)


def _fixed(data: bytes, pos: int) -> tuple[bytes, int]:
    if pos + 16 > len(data):
        raise RemoteProtocolError("a handshake ends inside a hash")
    return data[pos : pos + 16], pos + 16
