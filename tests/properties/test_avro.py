"""Every Avro codec, for any input: what goes in comes out, in any pieces; junk is a RemoteProtocolError."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.avro import container, handshake, record
from agent.avro.connection import OK, ClientConnection, ServerConnection
from agent.avro.frame import PackReader
from agent.avro.handshake import Protocols, Request, Response
from agent.errors import RemoteProtocolError

BYTES = st.binary(max_size=200)
META = st.dictionaries(st.text(max_size=10), BYTES, max_size=5)
EVENT = st.tuples(st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=4), BYTES)
EVENTS = st.lists(EVENT, max_size=8)
INT32 = st.integers(-(2**31), 2**31 - 1)
HASH = st.binary(min_size=16, max_size=16)
CUTS = st.lists(st.integers(1, 60), max_size=40)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` cut at these distances; the rest in one."""
    out, at = [], 0
    for cut in cuts:
        out.append(data[at : at + cut])
        at += cut
    return [*out, data[at:]]


@given(st.lists(st.tuples(INT32, st.lists(BYTES, min_size=1, max_size=5)), max_size=5), CUTS)
def test_packs(packs: list[tuple[int, list[bytes]]], cuts: list[int]) -> None:
    """Packs of any buffers come out whole and in order, whatever the pieces."""
    wire = b"".join(
        struct.pack(">ii", serial, len(buffers)) + b"".join(struct.pack(">i", len(b)) + b for b in buffers)
        for serial, buffers in packs
    )
    reader, found = PackReader(), []
    for piece in pieces(wire, cuts):
        reader.feed(piece)
        found += list(iter(reader.next, None))
    assert found == [(serial, b"".join(buffers)) for serial, buffers in packs]
    assert reader.held == 0


@given(st.binary(max_size=400))
def test_pack_reader_on_junk(data: bytes) -> None:
    """Junk is refused or waited for, and never held beyond itself."""
    reader = PackReader(max_bytes=1000)
    reader.feed(data)
    with suppress(RemoteProtocolError):
        list(iter(reader.next, None))
    assert reader.held <= len(data)


@given(HASH, st.none() | BYTES, HASH, META)
def test_handshake_request(client: bytes, text: bytes | None, server: bytes, meta: dict[str, bytes]) -> None:
    """A HandshakeRequest is read as it was written."""
    request = Request(client, text, server, meta)
    wire = handshake.write_request(request)
    assert handshake.read_request(wire) == (request, len(wire))


@given(st.sampled_from((0, 1, 2)), st.none() | BYTES, st.none() | HASH, META)
def test_handshake_response(match: int, text: bytes | None, server: bytes | None, meta: dict[str, bytes]) -> None:
    """A HandshakeResponse is read as it was written."""
    response = Response(match, text, server, meta)
    wire = handshake.write_response(response)
    assert handshake.read_response(wire) == (response, len(wire))


@given(st.lists(st.tuples(EVENTS, META), max_size=4), st.none() | st.integers(0, 9), CUTS, CUTS)
@settings(deadline=None)
def test_connection(
    batches: list[tuple[list[tuple[dict[str, str], bytes]], dict[str, bytes]]],
    level: int | None,
    there: list[int],
    back: list[int],
) -> None:
    """Whatever a client calls arrives as it was, and its answers come back, plain or deflated, in any pieces."""
    client = ClientConnection(level=level)
    server = ServerConnection(Protocols(), {"k": b"v"}, deflate=level is not None)
    server.receive(b"".join(client.hello()))
    assert server.next_call() is None
    client.receive(b"".join(server.replies()))
    sent = [client.call(record.encode(events), len(events), meta) for events, meta in batches]
    calls = []
    for piece in pieces(b"".join(part for _, parts in sent for part in parts), there):
        server.receive(piece)
        calls += list(iter(server.next_call, None))
    assert [(record.decode(call.block, call.count), call.metadata) for call in calls] == batches
    answers = []
    for piece in pieces(b"".join(part for call in calls for part in server.answer(call, OK)), back):
        answers += client.receive(piece)
    assert [answer.serial for answer in answers] == [serial for serial, _ in sent]


@given(st.lists(st.binary(max_size=300), max_size=3), st.booleans(), st.booleans())
@example([handshake.OUR_HASH + b"\0" + handshake.OUR_HASH + b"\0\0\x16appendBatch\xfe\xff\xff\xff\x0f\0"], False, False)
@settings(deadline=None)
def test_server_on_junk(bodies: list[bytes], deflate: bool, shaken: bool) -> None:
    """Junk in whole packs, before or after a handshake, ends in RemoteProtocolError or in a call that was walked."""
    server = ServerConnection(Protocols(), {}, max_bytes=10_000)
    if shaken:
        server.receive(b"".join(ClientConnection().hello()))
    for serial, body in enumerate(bodies):
        server.receive(struct.pack(">iii", serial, 1, len(body)) + body)
    with suppress(RemoteProtocolError):
        for call in iter(server.next_call, None):
            assert len(record.decode(call.block, call.count)) == call.count


@given(st.binary(max_size=300), st.booleans())
def test_client_on_junk(data: bytes, shaken: bool) -> None:
    """A server's junk ends in RemoteProtocolError or in answers."""
    client = ClientConnection()
    client.hello()
    with suppress(RemoteProtocolError):
        if shaken:
            client.receive(struct.pack(">iii", 1, 1, 4) + bytes(4))
        client.receive(data)
        client.receive(struct.pack(">iii", 2, 1, len(data)) + data)


@given(st.lists(EVENTS, max_size=4), META, st.sampled_from(container.CODECS), CUTS)
@settings(deadline=None)
def test_container(
    batches: list[list[tuple[dict[str, str], bytes]]], meta: dict[str, bytes], codec: str, cuts: list[int]
) -> None:
    """A container gives back its events and its metadata, whatever the pieces."""
    sync = container.new_sync()
    data = container.write_header(sync, meta, codec)
    for events in batches:
        data += container.write_block(len(events), record.encode(events), sync, codec)
    reader, found = container.ContainerReader(), []
    for piece in pieces(data, cuts):
        reader.feed(piece)
        while (block := reader.next()) is not None:
            found.append(record.decode(block.data, block.count))
    assert found == batches
    assert reader.held == 0
    assert reader.header and meta.items() <= reader.header.metadata.items()


@given(st.binary(max_size=300), st.booleans())
@settings(deadline=None)
def test_container_on_junk(data: bytes, headed: bool) -> None:
    """Junk, alone or behind a good header, is refused or holds the events it says."""
    sync = bytes(16)
    with suppress(RemoteProtocolError):
        _, blocks = container.read((container.write_header(sync) if headed else b"Obj\1") + data)
        for block in blocks:
            assert len(record.decode(block.data, block.count)) == block.count


@given(st.one_of(EVENTS.map(record.encode), BYTES), st.integers(0, 8))
def test_bodies_are_those_of_the_events(block: bytes, count: int) -> None:
    """Bodies alone are what decoding whole events finds, and what it refuses is refused."""
    try:
        events = record.decode(block, count)
    except RemoteProtocolError:
        with pytest.raises(RemoteProtocolError):
            record.bodies(block, count)
    else:
        assert record.bodies(block, count) == [body for _, body in events]
