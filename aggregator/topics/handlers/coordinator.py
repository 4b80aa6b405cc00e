"""FindCoordinator: of groups and of transactions, this broker is it."""

from __future__ import annotations

from aggregator.topics.access.acl import Operation
from aggregator.topics.broker import NODE, Handler, Session
from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.wire.api import Body, Request
from aggregator.topics.wire.tables.connection import FIND_COORDINATOR

KINDS: dict[int, Operation] = {0: "group", 1: "transaction"}
"""key_type: the right that using such a key takes."""


async def find_coordinator(request: Request, session: Session) -> Body:
    settings = session.broker.settings
    try:
        _check(request.body["key_type"], request.body["key"], session)
    except TopicsError as error:
        return {"error_code": error.code, "error_message": error.text, "node_id": -1, "host": "", "port": -1}
    return {"node_id": NODE, "host": settings.host, "port": settings.port}


def _check(kind: int, key: str, session: Session) -> None:
    if kind not in KINDS:
        raise TopicsError(Code.INVALID_REQUEST, f"there is no coordinator of type {kind}")
    session.require(KINDS[kind], key)


HANDLERS: dict[int, Handler] = {FIND_COORDINATOR.key: find_coordinator}
