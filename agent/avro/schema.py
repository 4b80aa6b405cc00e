"""The schemas of Flume's events, and whether another text means the same.

Events are handed on as bytes, so a peer's record must be laid out exactly like ours: names, namespaces, docs and
aliases don't matter, the order and types of the fields do. A different layout is refused, never resolved.
"""

from __future__ import annotations

import json
from typing import Any

from agent.errors import RemoteProtocolError

MAX_TEXT = 1 << 16
"""Characters of a schema or protocol text."""

EVENT = (
    b'{"type":"record","name":"Event","fields":[{"name":"headers","type":{"type":"map","values":"string"}},'
    b'{"name":"body","type":"bytes"}]}'
)
"""What Flume's avro_event serializer writes into its files (FlumeEventAvroEventSerializer)."""

PROTOCOL = (
    b'{"protocol":"AvroSourceProtocol","namespace":"org.apache.flume.source.avro","types":[{"type":"enum","name":'
    b'"Status","symbols":["OK","FAILED","UNKNOWN"]},{"type":"record","name":"AvroFlumeEvent","fields":[{"name":'
    b'"headers","type":{"type":"map","values":"string"}},{"name":"body","type":"bytes"}]}],"messages":{"append":'
    b'{"request":[{"name":"event","type":"AvroFlumeEvent"}],"response":"Status"},"appendBatch":{"request":[{"name":'
    b'"events","type":{"type":"array","items":"AvroFlumeEvent"}}],"response":"Status"}}}'
)
"""Flume's RPC protocol (flume-ng-sdk/src/main/avro/flume.avdl) in Avro's compact form, without its doc text."""


def parse(text: bytes) -> Any:
    """JSON of a schema or protocol from a peer. RemoteProtocolError if it is none or too long."""
    if len(text) > MAX_TEXT:
        raise RemoteProtocolError(f"a schema text has {len(text)} bytes, more than {MAX_TEXT}")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise RemoteProtocolError("a schema text is not JSON") from None


def check_event(text: bytes) -> None:
    """RemoteProtocolError unless this schema text describes Flume's event."""
    if not _is_event(parse(text)):
        raise RemoteProtocolError(f"the records are not Flume events (headers map<string>, body bytes): {text[:200]!r}")


def check_protocol(text: bytes) -> None:
    """RemoteProtocolError unless this protocol's append or appendBatch takes Flume's event and gives its Status."""
    protocol = parse(text)
    if not isinstance(protocol, dict) or not _is_flume(protocol):
        raise RemoteProtocolError(f"the peer's protocol is not Flume's AvroSourceProtocol: {text[:200]!r}")


def _is_flume(protocol: dict[str, Any]) -> bool:
    types = protocol.get("types")
    named = {t["name"]: t for t in types if isinstance(t, dict) and "name" in t} if isinstance(types, list) else {}
    messages = protocol.get("messages")
    known = [messages[m] for m in ("append", "appendBatch") if m in messages] if isinstance(messages, dict) else []
    return bool(known) and all(_takes_events(message, named) for message in known)


def _takes_events(message: Any, named: dict[Any, Any]) -> bool:
    try:
        (parameter,) = message["request"]
        kind = _named(parameter["type"], named)
        if kind.get("type") == "array":
            kind = _named(kind["items"], named)
        symbols = _named(message["response"], named)["symbols"]
    except (KeyError, TypeError, ValueError, AttributeError):
        return False
    return _is_event(kind) and symbols[:2] == ["OK", "FAILED"]


def _named(kind: Any, named: dict[Any, Any]) -> Any:
    """A type, looked up by the last part of its name if it is one."""
    return named.get(kind.rpartition(".")[2], kind) if isinstance(kind, str) else kind


def _is_event(kind: Any) -> bool:
    try:
        headers, body = kind["fields"]
        names = headers["name"], body["name"]
        values = headers["type"]["values"]
        value = values["type"] if isinstance(values, dict) else values
        content = body["type"]["type"] if isinstance(body["type"], dict) else body["type"]
        return kind["type"] == "record" and (*names, headers["type"]["type"], value, content) == (
            "headers", "body", "map", "string", "bytes",
        )  # fmt: skip
    except (KeyError, TypeError, ValueError):
        return False
