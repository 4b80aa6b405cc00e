"""Frames to requests, responses to frames; and the other way round, for tools and tests.

    request    api key int16, version int16, correlation int32, client id string?, [tags,] body
    response   correlation int32, [tags,] body           tags in flexible versions; never in ApiVersions' response

(KIP-482; clients/src/main/resources/common/message/RequestHeader.json.) The 4 bytes of the frame's size are the
connection's business. Bodies are dicts whose keys are the tables' names (`tables/`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from agent.errors import LocalProtocolError, RemoteProtocolError
from aggregator.topics.wire import primitives
from aggregator.topics.wire.primitives import Codec, Data, Input, Output
from aggregator.topics.wire.table import Api, request_codec, response_codec
from aggregator.topics.wire.tables import APIS

__all__ = ["APIS", "Api", "Request", "Unsupported", "decode_request", "decode_response", "encode_request"]
__all__ += ["encode_response", "versions"]

HEAD = struct.Struct(">hhi")
CORRELATION = struct.Struct(">i")
CLIENT = primitives.string(primitives.SHORT, nullable=True)
API_VERSIONS = 18

Body = dict[str, Any]


class Request(NamedTuple):
    """A decoded request. `records` in its body are slices of the frame."""

    api: Api
    version: int
    correlation: int
    client_id: str | None
    body: Body


class Unsupported(RemoteProtocolError):
    """A request of an API or a version that isn't served: ApiVersions is answered in version 0, others closed."""

    def __init__(self, api_key: int, version: int, correlation: int) -> None:
        name = APIS[api_key].name if api_key in APIS else "an API of key"
        super().__init__(f"{name} {api_key} in version {version} isn't served")
        self.api_key, self.version, self.correlation = api_key, version, correlation


def decode_request(frame: Data) -> Request:
    """A frame, without its size, as a request. Unsupported; RemoteProtocolError if it is malformed.

    Nothing is allocated for what a length claims before that many bytes are seen to be there.
    """
    source = Input(frame)
    with _reading("a request"):
        key, version, correlation = HEAD.unpack_from(frame)
        source.at = HEAD.size
        api = APIS.get(key)
        if api is None or version not in api.served:
            raise Unsupported(key, version, correlation)
        client = CLIENT.read(source)
        if api.is_flexible(version):
            primitives.skip_tags(source)
        return Request(api, version, correlation, client, _body(source, request_codec(api, version)))


def encode_response(api: Api, version: int, correlation: int, body: Body) -> list[Data]:
    """The frame of a response, without its size, in parts: large values are parts of their own, not copied.

    A missing key takes its field's default; keys of other versions are passed over. LocalProtocolError: a key that no
    version has, one that is missing and has no default, a value that doesn't fit its type.
    """
    out = Output()
    out.tail += CORRELATION.pack(correlation)
    if api.is_flexible(version) and api.key != API_VERSIONS:
        out.tail.append(0)
    return _write(out, response_codec(api, version), body, api)


def encode_request(api: Api, version: int, correlation: int, client_id: str | None, body: Body) -> list[Data]:
    """The frame of a request; as `encode_response`."""
    out = Output()
    out.tail += HEAD.pack(api.key, version, correlation)
    CLIENT.write(out, client_id)
    if api.is_flexible(version):
        out.tail.append(0)
    return _write(out, request_codec(api, version), body, api)


def decode_response(api: Api, version: int, frame: Data) -> tuple[int, Body]:
    """(correlation, body); as `decode_request`."""
    source = Input(frame)
    with _reading(f"a response of {api.name}"):
        (correlation,) = CORRELATION.unpack_from(frame)
        source.at = CORRELATION.size
        if api.is_flexible(version) and api.key != API_VERSIONS:
            primitives.skip_tags(source)
        return correlation, _body(source, response_codec(api, version))


def versions() -> list[Body]:
    """What ApiVersions answers as `api_keys`."""
    return [
        {"api_key": api.key, "min_version": api.advertised.low, "max_version": api.advertised.high}
        for _, api in sorted(APIS.items())
    ]


def _body(source: Input, codec: Codec) -> Body:
    body: Body = codec.read(source)
    if source.at != source.end:
        raise RemoteProtocolError(f"{source.end - source.at} bytes too many")
    return body


def _write(out: Output, codec: Codec, body: Body, api: Api) -> list[Data]:
    try:
        codec.write(out, body)
    except (struct.error, KeyError, TypeError, ValueError, AttributeError) as error:
        raise LocalProtocolError(f"{api}: {type(error).__name__}: {error}") from error
    return out.finish()


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Whatever bytes can do to a reader is the peer's fault."""
    try:
        yield
    except (struct.error, IndexError):
        raise RemoteProtocolError(f"{what} ends early") from None
    except UnicodeDecodeError as error:
        raise RemoteProtocolError(f"{what} has a string that is no UTF-8: {error.reason}") from None
