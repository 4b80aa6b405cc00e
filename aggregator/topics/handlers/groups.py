"""Groups of consumers: their members' requests, and what administrators ask of groups.

A member needs the right to its group; to see one takes no more. To delete a group takes `admin` (access/acl.py).
JoinGroup and SyncGroup wait in the coordinator; when the connection is lost the server cancels the handler, and with
it the wait.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

from aggregator.topics.broker import Handler, Session
from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.groups.bodies import described
from aggregator.topics.wire.api import Api, Body, Request
from aggregator.topics.wire.tables.groups import (
    DELETE_GROUPS,
    DESCRIBE_GROUPS,
    HEARTBEAT,
    JOIN_GROUP,
    LEAVE_GROUP,
    LIST_GROUPS,
    SYNC_GROUP,
)

READ, DELETE, DESCRIBE = (1 << bit for bit in (3, 6, 8))
"""Bits of `authorized_operations` (KIP-430, AclOperation)."""


def _member(handler: Handler) -> Handler:
    """A request of a member, or of who wants to be one: without the right to the group it isn't looked at."""

    @wraps(handler)
    async def checked(request: Request, session: Session) -> Body | None:
        if not session.may("group", request.body["group_id"]):
            return {"error_code": Code.GROUP_AUTHORIZATION_FAILED}
        return await handler(request, session)

    return checked


@_member
async def join(request: Request, session: Session) -> Body:
    """JoinGroup; answered when the others have come, too."""
    body = request.body
    answer = session.broker.coordinator.join(
        body["group_id"],
        body["member_id"],
        body["group_instance_id"],
        request.client_id or "",
        _host(session.address),
        body["session_timeout_ms"],
        body["rebalance_timeout_ms"],
        body["protocol_type"],
        [(one["name"], one["metadata"]) for one in body["protocols"]],
        require_member_id=request.version >= 4,
    )
    return _served(JOIN_GROUP, await answer)


def _host(address: str) -> str:
    """As Java prints an address, without a name and a port: tools show it so."""
    return "/" + address.rpartition(":")[0].strip("[]")


@_member
async def sync(request: Request, session: Session) -> Body:
    """SyncGroup; answered when the leader has assigned."""
    body = request.body
    assignments = {one["member_id"]: one["assignment"] for one in body["assignments"]}
    answer = session.broker.coordinator.sync(
        body["group_id"], body["generation_id"], body["member_id"], body["group_instance_id"], assignments
    )
    return _served(SYNC_GROUP, await answer)


@_member
async def heartbeat(request: Request, session: Session) -> Body:
    """Heartbeat"""
    body = request.body
    code = session.broker.coordinator.heartbeat(
        body["group_id"], body["generation_id"], body["member_id"], body["group_instance_id"]
    )
    return {"error_code": code}


@_member
async def leave(request: Request, session: Session) -> Body:
    """LeaveGroup: of one member; from version 3 on of several, each with its code."""
    body = request.body
    several = request.version >= 3
    members = body["members"] if several else [{"member_id": body["member_id"], "group_instance_id": None}]
    answer = session.broker.coordinator.leave(
        body["group_id"], [(one["member_id"], one["group_instance_id"]) for one in members]
    )
    if not several and answer["members"]:
        return {"error_code": answer["members"][0]["error_code"]}
    return answer


async def describe(request: Request, session: Session) -> Body:
    """DescribeGroups: state, members and what each has been assigned; a group that is named twice is told once."""
    asked = request.body["include_authorized_operations"]
    return {"groups": [_described(session, group, asked) for group in dict.fromkeys(request.body["groups"])]}


def _described(session: Session, group: str, operations: bool) -> Body:
    if not session.may("group", group):
        return described(group, "") | {"error_code": Code.GROUP_AUTHORIZATION_FAILED}
    allowed = READ | DESCRIBE | (DELETE if session.may("admin") else 0)
    return session.broker.coordinator.describe(group) | ({"authorized_operations": allowed} if operations else {})


async def list_groups(request: Request, session: Session) -> Body:
    """ListGroups: those that this client may use."""
    fields = ("group_id", "protocol_type", "group_state")
    found = session.broker.coordinator.groups(request.body["states_filter"])
    shown = [one for one in found if session.may("group", one["group_id"])]
    return {"groups": [{name: one[name] for name in fields} for one in shown]}


async def delete(request: Request, session: Session) -> Body:
    """DeleteGroups: those without members, with their offsets."""
    return {
        "results": [
            {"group_id": group, "error_code": await _deleted(session, group)} for group in request.body["groups_names"]
        ]
    }


async def _deleted(session: Session, group: str) -> Code:
    if not session.may("admin"):
        return Code.GROUP_AUTHORIZATION_FAILED
    code = session.broker.coordinator.delete(group)
    if code is Code.NONE:
        try:
            await session.broker.log.forget(group)
        except TopicsError:
            return Code.COORDINATOR_NOT_AVAILABLE
    return code


def _served(api: Api, body: dict[str, Any]) -> Body:
    """Of a coordinator's answer what the versions served have."""
    return {field.name: body[field.name] for field in api.response}


HANDLERS: dict[int, Handler] = {
    JOIN_GROUP.key: join,
    SYNC_GROUP.key: sync,
    HEARTBEAT.key: heartbeat,
    LEAVE_GROUP.key: leave,
    DESCRIBE_GROUPS.key: describe,
    LIST_GROUPS.key: list_groups,
    DELETE_GROUPS.key: delete,
}
