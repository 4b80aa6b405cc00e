"""ApiVersions: what a client asks before all else, also before it says who it is."""

from __future__ import annotations

from collections.abc import Collection

from aggregator.topics.broker import Handler, Session
from aggregator.topics.errors import Code
from aggregator.topics.wire.api import APIS, Body, Request, versions
from aggregator.topics.wire.tables.connection import API_VERSIONS


def handlers(served: Collection[int]) -> dict[int, Handler]:
    """ApiVersions among the APIs of these keys."""
    keys = {*served, API_VERSIONS.key} & APIS.keys()
    listed = [one for one in versions() if one["api_key"] in keys]

    async def api_versions(request: Request, session: Session) -> Body:
        return {"error_code": Code.NONE, "api_keys": listed}

    return {API_VERSIONS.key: api_versions}


def unsupported() -> Body:
    """For a version that we don't know: in version 0, which every client reads (KIP-511), without a list. It then asks
    again in a version it has known for long."""
    return {
        "error_code": Code.UNSUPPORTED_VERSION,
        "api_keys": [one for one in versions() if one["api_key"] == API_VERSIONS.key],
    }
