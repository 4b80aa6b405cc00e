"""Client's and server's ends of a connection, against each other and against Java's bytes."""

from __future__ import annotations

import struct
import zlib

import pytest

from agent.avro import record
from agent.avro.connection import FAILED, OK, UNKNOWN, Answer, Call, ClientConnection, ServerConnection
from agent.avro.handshake import FLUME_HASH, OUR_HASH, Protocols, write_map
from agent.errors import LocalProtocolError, RemoteProtocolError

EVENTS = [({"h": "v"}, b"hi"), ({}, b""), ({"a": "ä", "b": ""}, b"\0" * 300)]
Raw = tuple[dict[str, str], bytes]
BLOCK = record.encode(EVENTS)
OPENING = FLUME_HASH + b"\0" + FLUME_HASH + b"\2\0"
"""What a Java client puts in front of its first call."""
LIMITS = {"headrace.inFlight": b"8"}


def pack(serial: int, body: bytes) -> bytes:
    return struct.pack(">iii", serial, 1, len(body)) + body


def server(deflate: bool = False, **more: int) -> ServerConnection:
    return ServerConnection(Protocols(), LIMITS, deflate=deflate, **more)


def opened() -> ServerConnection:
    """A server whose client has shaken hands."""
    one = server()
    one.receive(pack(1, OPENING + b"\0\0"))
    assert one.next_call() is None
    assert one.replies()
    return one


def linked(level: int | None = None) -> tuple[ClientConnection, ServerConnection]:
    """Both ends, after their handshake."""
    client, one = ClientConnection(level=level), server(level is not None)
    one.receive(b"".join(client.hello()))
    assert one.next_call() is None
    assert client.receive(b"".join(one.replies())) == []
    assert client.is_open
    return client, one


def calls(one: ServerConnection) -> list[Call]:
    return list(iter(one.next_call, None))


APPENDS = [
    ("append", b"\0\x0cappend\2\2h\2v\0\4hi", True, EVENTS[:1], {}),
    ("appendBatch", b"\0\x16appendBatch\6" + BLOCK + b"\0", False, EVENTS, {}),
    ("an empty batch", b"\0\x16appendBatch\0", False, [], {}),
    ("a block with its size", b"\0\x16appendBatch\5\xff\xff\1" + BLOCK + b"\0", False, EVENTS, {}),
    (
        "several blocks",
        b"\0\x16appendBatch\2" + record.encode(EVENTS[:1]) + b"\3\0" + record.encode(EVENTS[1:]) + b"\0",
        False,
        EVENTS,
        {},
    ),
    ("metadata", b"\2\2k\2v\0\x16appendBatch\2" + record.encode(EVENTS[:1]) + b"\0", False, EVENTS[:1], {"k": b"v"}),
]


@pytest.mark.parametrize(("what", "body", "single", "events", "metadata"), APPENDS, ids=[one[0] for one in APPENDS])
def test_calls(what: str, body: bytes, single: bool, events: list[Raw], metadata: dict[str, bytes]) -> None:
    """Each way to write a call gives its events back to back."""
    one = opened()
    one.receive(pack(7, body))
    (call,) = calls(one)
    assert (call.serial, call.single, call.count, call.metadata) == (7, single, len(events), metadata)
    assert record.decode(call.block, call.count) == events


@pytest.mark.parametrize(("what", "body", "single", "events", "metadata"), APPENDS, ids=[one[0] for one in APPENDS])
def test_calls_cut_off(what: str, body: bytes, single: bool, events: list[object], metadata: dict[str, bytes]) -> None:
    """A call whose body ends early anywhere is the peer's fault, never an event less."""
    for end in range(len(body)):
        one = opened()
        one.receive(pack(7, body[:end]))
        with pytest.raises(RemoteProtocolError):
            one.next_call()


@pytest.mark.parametrize("tail", [b"\0", b"x", BLOCK])
def test_bytes_too_many(tail: bytes) -> None:
    """A call with bytes after its parameter is refused."""
    one = opened()
    one.receive(pack(7, APPENDS[1][1] + tail))
    with pytest.raises(RemoteProtocolError):
        one.next_call()


def test_java_opens_with_its_call() -> None:
    """A Java client's first pack holds handshake and call; both are answered in one pack."""
    one = server()
    one.receive(pack(1, OPENING + APPENDS[0][1]))
    (call,) = calls(one)
    assert b"".join(one.answer(call, OK)) == pack(1, b"\0\0\0\2" + write_map(LIMITS) + b"\0\0\0")


def test_unknown_client_sends_again() -> None:
    """After NONE the same connection takes the call again, with text and a new serial."""
    one = server()
    one.receive(pack(1, b"x" * 16 + b"\0" + b"x" * 16 + b"\0" + APPENDS[0][1]))
    assert calls(one) == []
    (reply,) = one.replies()
    assert reply.startswith(struct.pack(">i", 1))
    assert reply[12:13] == b"\4"
    text = b"\2\xfa\7" + ClientConnection().hello()[0][12 + 16 + 3 : 12 + 16 + 3 + 509]
    one.receive(pack(2, b"x" * 16 + text + OUR_HASH + b"\0" + APPENDS[0][1]))
    assert [call.serial for call in calls(one)] == [2]


def test_handshake_without_a_call() -> None:
    """The message without a name is answered by the handshake alone, and tells the limits."""
    client, _ = linked()
    assert client.meta == LIMITS


def test_unknown_message() -> None:
    """A message that Flume doesn't have is a system error; the connection goes on."""
    one = opened()
    one.receive(pack(3, b"\0\x0adelay") + pack(4, APPENDS[0][1]))
    assert [call.serial for call in calls(one)] == [4]
    client = ClientConnection()
    client._state = client._state.OPEN
    (answer,) = client.receive(one.replies()[0])
    assert (answer.serial, answer.status) == (3, UNKNOWN)
    assert answer.error and "delay" in answer.error


def test_only_nonsense_ends_the_connection() -> None:
    """A client that sends nothing but unknown messages can't make answers pile up."""
    one = opened()
    one.receive(pack(3, b"\0\x0adelay") * 1000)
    with pytest.raises(RemoteProtocolError, match="again and again"):
        one.next_call()


@pytest.mark.parametrize("level", [None, 0, 6])
def test_both_ends(level: int | None) -> None:
    """Calls and answers pass between our two ends, plain and deflated, whole and byte by byte, in any order."""
    client, one = linked(level)
    sent = [client.call(BLOCK, 3, {"k": b"%d" % i}) for i in range(3)]
    one.receive(b"".join(part for _, parts in sent for part in parts))
    found = calls(one)
    assert [(call.serial, call.block, call.metadata["k"]) for call in found] == [
        (serial, BLOCK, b"%d" % i) for i, (serial, _) in enumerate(sent)
    ]
    answers = [
        *one.answer(found[2], OK, write_map({"n": b"1"})),
        *one.answer(found[0], FAILED),
        *one.error(found[1], "no"),
    ]
    got: list[Answer] = []
    for byte in b"".join(answers):
        got += client.receive(bytes([byte]))
    assert got == [
        Answer(found[2].serial, OK, {"n": b"1"}),
        Answer(found[0].serial, FAILED, {}),
        Answer(found[1].serial, UNKNOWN, {}, "no"),
    ]


def test_no_call_before_the_handshake() -> None:
    """A client sends nothing but its handshake until that is answered."""
    client = ClientConnection()
    client.hello()
    with pytest.raises(LocalProtocolError):
        client.call(BLOCK, 3, {})


def test_server_that_does_not_know_us_is_told_once() -> None:
    """After NONE the client sends its text again with the server's hash; a second NONE ends the connection."""
    client = ClientConnection()
    client.hello()
    none = b"\4\0\2" + b"s" * 16 + b"\0"
    assert client.receive(pack(1, none)) == []
    (again,) = client.replies()
    assert b"s" * 16 in again
    with pytest.raises(RemoteProtocolError, match="does not accept"):
        client.receive(pack(2, none))


def test_server_that_speaks_first() -> None:
    """Bytes before our first are no Avro server's."""
    with pytest.raises(RemoteProtocolError, match="before it was asked"):
        ClientConnection().receive(pack(1, b"\0\0\0\0"))


@pytest.mark.parametrize(
    "body", [b"", b"\0", b"\0\0", b"\0\0\6", b"\0\0\0\0", b"\0\2\0", b"\0\1\2\2x", b"\0\1\0\4x", b"\1\1"]
)
def test_bad_answers(body: bytes) -> None:
    """An answer that is neither a Status nor an error closes the connection."""
    client, _ = linked()
    with pytest.raises(RemoteProtocolError):
        client.receive(pack(2, body))


def test_java_answer_in_three_buffers() -> None:
    """A Java server's answer has an empty buffer for the handshake it doesn't repeat."""
    client, _ = linked()
    wire = bytes.fromhex("00000002 00000003 00000000 00000001 00 00000002 0000")
    assert client.receive(wire) == [Answer(2, OK, {})]


def test_deflate_bomb_stops_at_the_bound() -> None:
    """A pack that inflates beyond the bound is refused when the bound is reached, not when memory is."""
    one = ServerConnection(Protocols(), LIMITS, max_bytes=1 << 17, deflate=True)
    bomb = zlib.compress(pack(1, bytes(1 << 16)) + struct.pack(">iii", 1, 1, 1 << 26) + bytes(1 << 26))
    one.receive(bomb)
    with pytest.raises(RemoteProtocolError):
        calls(one)
    assert one.held < len(bomb) + (1 << 18)


def test_deflated_calls_wait_deflated() -> None:
    """Calls that nobody asks for stay as few bytes as they came in."""
    one = server(deflate=True)
    squeeze = zlib.compressobj()
    body = b"\0\x16appendBatch\2\0" + record.varint(100_000) + bytes(100_000) + b"\0"
    packs = pack(1, OPENING + b"\0\0") + b"".join(pack(i, body) for i in range(2, 102))
    one.receive(squeeze.compress(packs) + squeeze.flush(zlib.Z_SYNC_FLUSH))
    assert one.next_call() is not None
    assert one.held < 300_000
    assert len(calls(one)) == 99


def test_plain_bytes_to_a_deflating_end() -> None:
    """A peer without compression is told what it may be."""
    one = server(deflate=True)
    one.receive(pack(1, OPENING))
    with pytest.raises(RemoteProtocolError, match="compression-type"):
        one.next_call()
