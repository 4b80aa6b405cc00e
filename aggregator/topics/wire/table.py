"""An API of the protocol: its key, the versions served, and its two tables."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from aggregator.topics.wire.fields import Field, Node, Versions, field, parse, versions
from aggregator.topics.wire.primitives import Codec
from aggregator.topics.wire.structs import struct


@dataclass(frozen=True, eq=False)
class Api:
    """One kind of request and its response."""

    key: int
    name: str
    served: Versions
    advertised: Versions
    """As `served`, but where a client draws a wrong conclusion from it."""
    flexible: int
    """The first version with compact types and tagged fields; beyond those served, if none of them has."""
    request: tuple[Field, ...]
    response: tuple[Field, ...]

    def is_flexible(self, version: int) -> bool:
        return version >= self.flexible

    def __str__(self) -> str:
        return f"{self.name} ({self.key})"


def apis(text: str) -> tuple[Api, ...]:
    """APIs by their tables (see `fields` for a field's line):

    Name  key=1  serves=4-11  flexible=12  [advertises=0-11]
      request
        ...
      response
        ...
    """
    return tuple(map(_api, parse(text)))


def _api(node: Node) -> Api:
    name, *settings = node.line.split()
    given = dict(setting.split("=") for setting in settings)
    request, response = ([*map(field, part.under)] for part in node.under)
    return Api(
        int(given["key"]),
        name,
        versions(given["serves"]),
        versions(given.get("advertises", given["serves"])),
        int(given["flexible"]),
        tuple(request),
        tuple(response),
    )


@cache
def request_codec(api: Api, version: int) -> Codec:
    """The codec of a request's body."""
    return struct(api.request, version, api.is_flexible(version))


@cache
def response_codec(api: Api, version: int) -> Codec:
    """The codec of a response's body."""
    return struct(api.response, version, api.is_flexible(version))
