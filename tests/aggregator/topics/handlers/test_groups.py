"""Members of groups and administrators of groups, through the codec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aggregator.topics.errors import Code
from aggregator.topics.log.log import Offset
from aggregator.topics.wire.tables.groups import (
    DELETE_GROUPS,
    DESCRIBE_GROUPS,
    HEARTBEAT,
    JOIN_GROUP,
    LEAVE_GROUP,
    LIST_GROUPS,
    SYNC_GROUP,
)
from tests.aggregator.topics.groups.scene import subscription
from tests.aggregator.topics.handlers.asking import Desk, asking


def join(member: str = "", group: str = "g", **more: Any) -> dict[str, Any]:
    return {
        "group_id": group,
        "session_timeout_ms": 10_000,
        "rebalance_timeout_ms": 60_000,
        "member_id": member,
        "protocol_type": "consumer",
        "protocols": [{"name": "range", "metadata": subscription("t")}],
        **more,
    }


def joined(desk: Desk, version: int) -> dict[str, Any]:
    """One member alone in group g, stable."""
    answer = desk.start(JOIN_GROUP, version, join())
    if version >= 4:
        answer = desk.start(JOIN_GROUP, version, join(desk.do(answer)["member_id"]))
    desk.wait(1)
    body: dict[str, Any] = desk.do(answer)
    assert body["error_code"] == Code.NONE
    return body


def synced(desk: Desk, version: int = 0, join_version: int = 5) -> dict[str, Any]:
    body = joined(desk, join_version)
    me = {"group_id": "g", "generation_id": body["generation_id"], "member_id": body["member_id"]}
    assignment = [{"member_id": body["member_id"], "assignment": b"all"}]
    answer = desk.ask(SYNC_GROUP, version, me | {"assignments": assignment})
    assert (answer["error_code"], answer["assignment"]) == (Code.NONE, b"all")
    return me


@pytest.mark.parametrize("version", range(6))
def test_the_leader_learns_of_its_members_in_every_version(tmp_path: Path, version: int) -> None:
    """JoinGroup of each version is answered with a generation and, to the leader, the members' metadata."""
    with asking(tmp_path) as desk:
        body = joined(desk, version)
        assert body["leader"] == body["member_id"]
        assert [one["metadata"] for one in body["members"]] == [subscription("t")]
        assert body["generation_id"] == 1 and body["protocol_name"] == "range"


def test_an_id_is_required_from_version_4_on(tmp_path: Path) -> None:
    """The first JoinGroup 4 is answered with MEMBER_ID_REQUIRED and the id (KIP-394)."""
    with asking(tmp_path) as desk:
        body = desk.ask(JOIN_GROUP, 4, join())
        assert body["error_code"] == Code.MEMBER_ID_REQUIRED
        assert body["member_id"].startswith("tester-")


@pytest.mark.parametrize("version", range(4))
def test_a_member_syncs_and_beats_in_every_version(tmp_path: Path, version: int) -> None:
    """SyncGroup and Heartbeat of each version reach the coordinator with the member's generation."""
    with asking(tmp_path) as desk:
        me = synced(desk, version)
        assert desk.ask(HEARTBEAT, version, me)["error_code"] == Code.NONE
        assert desk.ask(HEARTBEAT, version, me | {"generation_id": 7})["error_code"] == Code.ILLEGAL_GENERATION


@pytest.mark.parametrize("version", [0, 2])
def test_one_member_leaves(tmp_path: Path, version: int) -> None:
    """Up to version 2 the member's code is the answer's."""
    with asking(tmp_path) as desk:
        me = synced(desk)
        there = {"group_id": "g", "member_id": me["member_id"]}
        assert desk.ask(LEAVE_GROUP, version, there)["error_code"] == Code.NONE
        assert desk.ask(LEAVE_GROUP, version, there)["error_code"] == Code.UNKNOWN_MEMBER_ID


def test_several_members_leave(tmp_path: Path) -> None:
    """In version 3 each member has its own code."""
    with asking(tmp_path) as desk:
        me = synced(desk)
        members = [{"member_id": me["member_id"]}, {"member_id": "stranger"}]
        body = desk.ask(LEAVE_GROUP, 3, {"group_id": "g", "members": members})
        assert [one["error_code"] for one in body["members"]] == [Code.NONE, Code.UNKNOWN_MEMBER_ID]


@pytest.mark.parametrize("version", range(5))
def test_a_group_is_described(tmp_path: Path, version: int) -> None:
    """DescribeGroups tells state, protocol, and each member with its client and address."""
    with asking(tmp_path) as desk:
        me = synced(desk)
        (body,) = desk.ask(DESCRIBE_GROUPS, version, {"groups": ["g"]})["groups"]
        assert (body["group_state"], body["protocol_type"], body["protocol_data"]) == ("Stable", "consumer", "range")
        (member,) = body["members"]
        assert (member["member_id"], member["client_id"], member["client_host"], member["member_assignment"]) == (
            me["member_id"], "tester", "/127.0.0.1", b"all",
        )  # fmt: skip


def test_a_group_is_told_once(tmp_path: Path) -> None:
    """However often a request names it: an answer can't be made to grow."""
    with asking(tmp_path) as desk:
        assert len(desk.ask(DESCRIBE_GROUPS, 4, {"groups": ["g", "h", "g", "g"]})["groups"]) == 2


def test_what_may_be_done_with_a_group_is_told_when_asked(tmp_path: Path) -> None:
    """authorized_operations has DELETE (bit 6) for an admin alone."""
    with asking(tmp_path, {"root": "admin", "alice": "group:g"}) as desk:
        asked = {"groups": ["g"], "include_authorized_operations": True}
        told = [
            desk.ask(DESCRIBE_GROUPS, 3, asked, who)["groups"][0]["authorized_operations"] for who in ("root", "alice")
        ]
        assert [operations >> 6 & 1 for operations in told] == [1, 0]


def test_groups_are_listed_by_state(tmp_path: Path) -> None:
    """ListGroups 4 filters by state; a group that has offsets and no members is Empty."""
    with asking(tmp_path) as desk:
        synced(desk)
        desk.create("t")
        desk.do(desk.log.commit("old", {("t", 0): Offset(1)}))
        every = {one["group_id"]: one["group_state"] for one in desk.ask(LIST_GROUPS, 4, {})["groups"]}
        empty = desk.ask(LIST_GROUPS, 4, {"states_filter": ["empty"]})["groups"]
        assert every == {"g": "Stable", "old": "Empty"}
        assert [one["group_id"] for one in empty] == ["old"]


@pytest.mark.parametrize("version", range(5))
def test_groups_are_listed_in_every_version(tmp_path: Path, version: int) -> None:
    """ListGroups of each version names a group and its protocol type."""
    with asking(tmp_path) as desk:
        synced(desk)
        (one,) = desk.ask(LIST_GROUPS, version, {})["groups"]
        assert (one["group_id"], one["protocol_type"]) == ("g", "consumer")


def test_a_group_without_members_is_deleted_with_its_offsets(tmp_path: Path) -> None:
    """DeleteGroups forgets the offsets, too; a group with members stays, one that isn't there is named."""
    with asking(tmp_path) as desk:
        synced(desk)
        desk.create("t")
        desk.do(desk.log.commit("old", {("t", 0): Offset(1)}))
        results = desk.ask(DELETE_GROUPS, 1, {"groups_names": ["old", "g", "none"]})["results"]
        assert [(one["group_id"], one["error_code"]) for one in results] == [
            ("old", Code.NONE), ("g", Code.NON_EMPTY_GROUP), ("none", Code.GROUP_ID_NOT_FOUND),
        ]  # fmt: skip
        assert not desk.log.committed("old")


@pytest.mark.parametrize(
    ("api", "version", "body"),
    [
        (JOIN_GROUP, 5, join(group="other")),
        (SYNC_GROUP, 3, {"group_id": "other", "generation_id": 1, "member_id": "m", "assignments": []}),
        (HEARTBEAT, 3, {"group_id": "other", "generation_id": 1, "member_id": "m"}),
        (LEAVE_GROUP, 3, {"group_id": "other", "members": [{"member_id": "m"}]}),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_group_of_others_is_not_joined(tmp_path: Path, api: Any, version: int, body: dict[str, Any]) -> None:
    """A member's request for a group that it has no right to is GROUP_AUTHORIZATION_FAILED."""
    with asking(tmp_path, {"alice": "read:*, group:hers"}) as desk:
        assert desk.ask(api, version, body, "alice")["error_code"] == Code.GROUP_AUTHORIZATION_FAILED
        assert not desk.coordinator.groups()


def test_groups_of_others_are_not_seen(tmp_path: Path) -> None:
    """Lists leave them out, descriptions refuse them, and without admin none is deleted."""
    with asking(tmp_path, {"alice": "read:*, group:hers", "root": "admin"}) as desk:
        desk.create("t")
        for group in ("hers", "other"):
            desk.do(desk.log.commit(group, {("t", 0): Offset(1)}))
        assert [one["group_id"] for one in desk.ask(LIST_GROUPS, 2, {}, "alice")["groups"]] == ["hers"]
        told = desk.ask(DESCRIBE_GROUPS, 0, {"groups": ["hers", "other"]}, "alice")["groups"]
        assert [one["error_code"] for one in told] == [Code.NONE, Code.GROUP_AUTHORIZATION_FAILED]
        (gone,) = desk.ask(DELETE_GROUPS, 0, {"groups_names": ["hers"]}, "alice")["results"]
        assert gone["error_code"] == Code.GROUP_AUTHORIZATION_FAILED and desk.log.committed("hers")


def test_a_lost_connection_waits_no_more(tmp_path: Path) -> None:
    """When the server calls a waiting JoinGroup off, the member counts as one that has yet to come back."""
    with asking(tmp_path) as desk:
        waiting = desk.start(JOIN_GROUP, 0, join())
        desk.call(waiting.cancel)
        desk.wait(1)
        assert desk.coordinator.is_empty("g")
