"""What the group APIs answer, as bodies with Kafka's field names (JoinGroupResponse.json and the others)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aggregator.topics.errors import Code
from aggregator.topics.groups.member import Member

Body = dict[str, Any]
NO_GENERATION = -1
UNASKED_OPERATIONS = -(1 << 31)
"""`authorized_operations` of a group when they weren't asked for."""


def join_refused(code: Code, member_id: str = "") -> Body:
    """JoinGroup with an error; `member_id` is new with MEMBER_ID_REQUIRED, otherwise the one that asked."""
    return {
        "throttle_time_ms": 0,
        "error_code": int(code),
        "generation_id": NO_GENERATION,
        "protocol_type": None,
        "protocol_name": "",
        "leader": "",
        "skip_assignment": False,
        "member_id": member_id,
        "members": [],
    }


def joined(member: Member, generation: int, protocol_type: str, protocol: str, leader: str,
           members: Iterable[Member] = ()) -> Body:  # fmt: skip
    """JoinGroup without an error; `members` is for the leader, who assigns."""
    return join_refused(Code.NONE, member.id) | {
        "generation_id": generation,
        "protocol_type": protocol_type,
        "protocol_name": protocol,
        "leader": leader,
        "members": [
            {"member_id": one.id, "group_instance_id": one.instance_id, "metadata": one.metadata(protocol)}
            for one in members
        ],
    }


def sync_refused(code: Code) -> Body:
    """SyncGroup with an error."""
    return {
        "throttle_time_ms": 0,
        "error_code": int(code),
        "protocol_type": None,
        "protocol_name": None,
        "assignment": b"",
    }


def synced(protocol_type: str, protocol: str, assignment: bytes) -> Body:
    """SyncGroup with what the member has to read."""
    return sync_refused(Code.NONE) | {
        "protocol_type": protocol_type,
        "protocol_name": protocol,
        "assignment": assignment,
    }


def described(group: str, state: str, protocol_type: str = "", protocol: str = "",
              members: Iterable[Member] = ()) -> Body:  # fmt: skip
    """One group of DescribeGroups; metadata and assignments are told only with a `protocol` (a stable group)."""
    return {
        "error_code": int(Code.NONE),
        "group_id": group,
        "group_state": state,
        "protocol_type": protocol_type,
        "protocol_data": protocol,
        "members": [
            {
                "member_id": one.id,
                "group_instance_id": one.instance_id,
                "client_id": one.client_id,
                "client_host": one.host,
                "member_metadata": one.metadata(protocol) if protocol else b"",
                "member_assignment": one.assignment if protocol else b"",
            }
            for one in members
        ],
        "authorized_operations": UNASKED_OPERATIONS,
    }


def left(code: Code, members: Iterable[tuple[str, str | None, Code]] = ()) -> Body:
    """LeaveGroup; up to version 2 the code of the one member is the answer's."""
    return {
        "throttle_time_ms": 0,
        "error_code": int(code),
        "members": [
            {"member_id": member_id, "group_instance_id": instance_id, "error_code": int(code)}
            for member_id, instance_id, code in members
        ],
    }
