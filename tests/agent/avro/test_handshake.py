"""The handshake in front of a connection's first call."""

from __future__ import annotations

import json

import pytest

from agent.avro import handshake, schema
from agent.avro.handshake import BOTH, CLIENT, FLUME_HASH, NONE, OUR_HASH, Protocols, Request, Response
from agent.errors import RemoteProtocolError

OTHER = b"\1" * 16
DOC = schema.PROTOCOL.replace(b'"types"', b'"doc":"licence","types"')

REQUESTS = [
    ("Java's first try", FLUME_HASH + b"\0" + FLUME_HASH + b"\2\0", Request(FLUME_HASH, None, FLUME_HASH, {})),
    (
        "with text",
        OUR_HASH + b"\2\xfa\7" + schema.PROTOCOL + FLUME_HASH + b"\2\2\2k\2v\0",
        Request(OUR_HASH, schema.PROTOCOL, FLUME_HASH, {"k": b"v"}),
    ),
]
RESPONSES = [
    ("both", b"\0\0\0\0", Response(BOTH, None, None, {})),
    ("client", b"\2\2\4{}\2" + OTHER + b"\0", Response(CLIENT, b"{}", OTHER, {})),
    ("none, with meta", b"\4\2\4{}\2" + OTHER + b"\2\2\2k\2v\0", Response(NONE, b"{}", OTHER, {"k": b"v"})),
]


@pytest.mark.parametrize(("what", "wire", "request_"), REQUESTS, ids=[pair[0] for pair in REQUESTS])
def test_request(what: str, wire: bytes, request_: Request) -> None:
    """HandshakeRequest, in both directions."""
    assert handshake.read_request(wire) == (request_, len(wire))
    assert handshake.write_request(request_) == wire


@pytest.mark.parametrize(("what", "wire", "response"), RESPONSES, ids=[pair[0] for pair in RESPONSES])
def test_response(what: str, wire: bytes, response: Response) -> None:
    """HandshakeResponse, in both directions."""
    assert handshake.read_response(wire) == (response, len(wire))
    assert handshake.write_response(response) == wire


@pytest.mark.parametrize(("what", "wire", "request_"), REQUESTS, ids=[pair[0] for pair in REQUESTS])
def test_request_cut_off(what: str, wire: bytes, request_: Request) -> None:
    """A request that ends early anywhere is the peer's fault."""
    for end in range(len(wire)):
        with pytest.raises(RemoteProtocolError):
            handshake.read_request(wire[:end])


def test_null_meta_is_taken() -> None:
    """Python's clients send null for meta where Java sends an empty map."""
    assert handshake.read_request(FLUME_HASH + b"\0" + FLUME_HASH + b"\0")[0].meta == {}


@pytest.mark.parametrize(
    ("client_hash", "text", "server_hash", "run", "match"),
    [
        (FLUME_HASH, None, FLUME_HASH, True, BOTH),
        (OUR_HASH, None, OUR_HASH, True, BOTH),
        (OUR_HASH, schema.PROTOCOL, FLUME_HASH, True, BOTH),
        (FLUME_HASH, None, OTHER, True, CLIENT),
        (OTHER, DOC, OTHER, True, CLIENT),
        (OTHER, None, FLUME_HASH, False, NONE),
        (OTHER, None, OTHER, False, NONE),
    ],
)
def test_answer(client_hash: bytes, text: bytes | None, server_hash: bytes, run: bool, match: int) -> None:
    """A known client with our hash has BOTH, a known one with another CLIENT, an unknown one NONE and no call."""
    runs, wire = Protocols().answer(Request(client_hash, text, server_hash, {}), {})
    response, _ = handshake.read_response(wire)
    assert (runs, response.match) == (run, match)
    told = None if match == BOTH else (schema.PROTOCOL, OUR_HASH)
    assert (response.protocol, response.server_hash) == (told or (None, None))


def test_text_is_remembered_under_its_own_hash() -> None:
    """A text that was seen once is known by its MD5 on later connections."""
    protocols = Protocols()
    name = handshake.md5(DOC)
    protocols.answer(Request(name, DOC, OUR_HASH, {}), {})
    assert protocols.answer(Request(name, None, OUR_HASH, {}), {})[0]


def test_text_under_a_wrong_hash_is_not_remembered() -> None:
    """A client can't plant a protocol under a hash that isn't its own."""
    protocols = Protocols()
    protocols.answer(Request(OTHER, DOC, OUR_HASH, {}), {})
    assert not protocols.answer(Request(OTHER, None, OUR_HASH, {}), {})[0]


def _changed(change: str) -> bytes:
    protocol = json.loads(schema.PROTOCOL)
    event = protocol["types"][1]
    if change == "swapped fields":
        event["fields"].reverse()
    elif change == "body is a string":
        event["fields"][1]["type"] = "string"
    elif change == "headers of bytes":
        event["fields"][0]["type"]["values"] = "bytes"
    elif change == "one field more":
        event["fields"].append({"name": "more", "type": "int", "default": 0})
    elif change == "other messages":
        protocol["messages"] = {"hello": protocol["messages"]["append"]}
    elif change == "two parameters":
        protocol["messages"]["append"]["request"] *= 2
    elif change == "types of numbers":
        protocol["types"] = [1, 2]
    return json.dumps(protocol).encode()


@pytest.mark.parametrize(
    "change",
    ["swapped fields", "body is a string", "headers of bytes", "one field more", "other messages", "two parameters",
     "types of numbers"],
)  # fmt: skip
def test_other_layout_is_refused(change: str) -> None:
    """A protocol whose events are laid out differently is refused, since they are never decoded."""
    with pytest.raises(RemoteProtocolError, match="not Flume's"):
        schema.check_protocol(_changed(change))


@pytest.mark.parametrize("text", [b"", b"[", b"[]", b"{}", b"\xff", b"[" * 60_000, b'"x"', b"1" * 70_000])
def test_no_protocol_at_all(text: bytes) -> None:
    """Whatever isn't a protocol is refused, also deep nesting and length."""
    with pytest.raises(RemoteProtocolError):
        schema.check_protocol(text)


def test_string_with_properties_is_a_string() -> None:
    """Java writes {"type": "string", "avro.java.string": "String"}; it means the same."""
    text = schema.PROTOCOL.replace(b'"values":"string"', b'"values":{"type":"string","avro.java.string":"String"}')
    schema.check_protocol(text)
