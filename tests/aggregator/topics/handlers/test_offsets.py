"""Committed offsets, through the codec."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from aggregator.topics.errors import Code
from aggregator.topics.handlers import offsets
from aggregator.topics.log.log import Offset
from aggregator.topics.wire.tables.groups import JOIN_GROUP
from aggregator.topics.wire.tables.offsets import OFFSET_COMMIT, OFFSET_DELETE, OFFSET_FETCH
from tests.aggregator.topics.handlers.asking import asking
from tests.aggregator.topics.handlers.test_groups import join, synced


def committing(*places: tuple[str, int, int], group: str = "g", **more: Any) -> dict[str, Any]:
    """An OffsetCommit of (topic, partition, offset) each."""
    topics = [
        {"name": name, "partitions": [{"partition_index": index, "committed_offset": offset, "committed_metadata": ""}]}
        for name, index, offset in places
    ]
    return {"group_id": group, "topics": topics, **more}


def fetching(*places: tuple[str, int], group: str = "g", **more: Any) -> dict[str, Any]:
    return {"group_id": group, "topics": [{"name": name, "partition_indexes": [one]} for name, one in places], **more}


def codes(body: dict[str, Any]) -> dict[tuple[str, int], int]:
    """What each partition's answer says."""
    return {
        (topic["name"], one["partition_index"]): one["error_code"]
        for topic in body["topics"]
        for one in topic["partitions"]
    }


def fetched(body: dict[str, Any]) -> dict[tuple[str, int], int]:
    return {
        (topic["name"], one["partition_index"]): one["committed_offset"]
        for topic in body["topics"]
        for one in topic["partitions"]
    }


@pytest.mark.parametrize("version", range(2, 8))
def test_offsets_are_committed_in_every_version(tmp_path: Path, version: int) -> None:
    """OffsetCommit of each version keeps offset and metadata, the leader's epoch where the version has it."""
    with asking(tmp_path) as desk:
        desk.create("t", 2)
        one = {"partition_index": 1, "committed_offset": 5, "committed_leader_epoch": 3, "committed_metadata": "here"}
        body = desk.ask(OFFSET_COMMIT, version, {"group_id": "g", "topics": [{"name": "t", "partitions": [one]}]})
        assert codes(body) == {("t", 1): Code.NONE}
        kept = desk.log.committed("g")["t", 1]
        assert (kept.offset, kept.metadata, kept.leader_epoch) == (5, "here", 3 if version >= 6 else -1)


@pytest.mark.parametrize("version", range(1, 8))
def test_offsets_are_fetched_in_every_version(tmp_path: Path, version: int) -> None:
    """OffsetFetch of each version tells what was committed; without a commit, -1 and no error."""
    with asking(tmp_path) as desk:
        desk.create("t", 2)
        desk.do(desk.log.commit("g", {("t", 0): Offset(7, 2, "here")}))
        body = desk.ask(OFFSET_FETCH, version, fetching(("t", 0), ("t", 1), ("u", 0)))
        assert fetched(body) == {("t", 0): 7, ("t", 1): -1, ("u", 0): -1}
        assert set(codes(body).values()) == {Code.NONE}
        assert body["topics"][0]["partitions"][0]["metadata"] == "here"


@pytest.mark.parametrize("version", [2, 5, 6, 7])
def test_null_fetches_all_offsets_of_a_group(tmp_path: Path, version: int) -> None:
    """Without topics OffsetFetch tells every offset that the group has."""
    with asking(tmp_path) as desk:
        desk.create("t", 2)
        desk.create("u")
        desk.do(desk.log.commit("g", {("t", 1): Offset(7), ("u", 0): Offset(8)}))
        assert fetched(desk.ask(OFFSET_FETCH, version, {"group_id": "g", "topics": None})) == {("t", 1): 7, ("u", 0): 8}


def test_a_partition_is_answered_once(tmp_path: Path) -> None:
    """However often OffsetFetch names it: each answer may have 4 kB of metadata."""
    with asking(tmp_path) as desk:
        desk.create("t")
        body = desk.ask(OFFSET_FETCH, 5, fetching(*[("t", 0)] * 3))
        assert [len(topic["partitions"]) for topic in body["topics"]] == [1]


def test_a_stranger_to_a_live_group_commits_nothing(tmp_path: Path) -> None:
    """While a group has members, a commit by none of them is UNKNOWN_MEMBER_ID, one of an old generation
    ILLEGAL_GENERATION."""
    with asking(tmp_path) as desk:
        desk.create("t")
        me = synced(desk)
        who = {"generation_id": me["generation_id"], "member_id": me["member_id"]}
        said = [
            codes(desk.ask(OFFSET_COMMIT, 7, committing(("t", 0, 1), **one)))["t", 0]
            for one in ({}, who | {"generation_id": 0}, who)
        ]
        assert said == [Code.UNKNOWN_MEMBER_ID, Code.ILLEGAL_GENERATION, Code.NONE]


def test_what_cannot_be_committed_is_said_beside_what_is(tmp_path: Path) -> None:
    """An unknown topic or partition has its own code; the rest of the request is kept."""
    with asking(tmp_path) as desk:
        desk.create("t")
        body = desk.ask(OFFSET_COMMIT, 3, committing(("none", 0, 1), ("t", 9, 1), ("t", 0, 4)))
        unknown = Code.UNKNOWN_TOPIC_OR_PARTITION
        assert codes(body) == {("none", 0): unknown, ("t", 9): unknown, ("t", 0): Code.NONE}
        assert desk.log.committed("g")["t", 0].offset == 4


def test_metadata_has_a_bound(tmp_path: Path) -> None:
    """4096 bytes are kept, one more is OFFSET_METADATA_TOO_LARGE."""
    with asking(tmp_path) as desk:
        desk.create("t", 2)
        partitions = [
            {"partition_index": index, "committed_offset": 1, "committed_metadata": "ä" * 2047 + "x" * more}
            for index, more in ((0, 2), (1, 3))
        ]
        body = desk.ask(OFFSET_COMMIT, 5, {"group_id": "g", "topics": [{"name": "t", "partitions": partitions}]})
        assert codes(body) == {("t", 0): Code.NONE, ("t", 1): Code.OFFSET_METADATA_TOO_LARGE}


def test_offsets_of_all_groups_have_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond it a new group keeps nothing; one that has its place moves on."""
    monkeypatch.setattr(offsets, "MOST_OFFSETS", 2)
    with asking(tmp_path) as desk:
        desk.create("t", 2)
        first = codes(desk.ask(OFFSET_COMMIT, 3, committing(("t", 0, 1), ("t", 1, 1))))
        other = codes(desk.ask(OFFSET_COMMIT, 3, committing(("t", 0, 1), group="h")))
        again = codes(desk.ask(OFFSET_COMMIT, 3, committing(("t", 0, 2))))
        assert {*first.values(), *again.values()} == {Code.NONE}
        assert other == {("t", 0): Code.POLICY_VIOLATION}
        assert desk.log.committed("g")["t", 0].offset == 2


def test_metadata_of_all_groups_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bytes: beyond it nothing is kept that takes more than what was kept before, and what takes no more is."""
    monkeypatch.setattr(offsets, "MOST_BYTES", 8000)
    with asking(tmp_path) as desk:
        desk.create("t", 3)

        def kept(index: int, length: int) -> int:
            one = {"partition_index": index, "committed_offset": 1, "committed_metadata": "x" * length}
            asked = {"group_id": "g", "topics": [{"name": "t", "partitions": [one]}]}
            return codes(desk.ask(OFFSET_COMMIT, 3, asked))["t", index]

        assert [kept(0, 4000), kept(1, 3000)] == [Code.NONE] * 2
        assert [kept(2, 3000), kept(1, 4000)] == [Code.POLICY_VIOLATION] * 2
        assert [kept(0, 4000), kept(1, 2000)] == [Code.NONE] * 2


def test_a_groups_name_has_a_bound(tmp_path: Path) -> None:
    """255 characters, one more is INVALID_GROUP_ID."""
    with asking(tmp_path) as desk:
        desk.create("t")
        said = [codes(desk.ask(OFFSET_COMMIT, 3, committing(("t", 0, 1), group="g" * length))) for length in (255, 256)]
        assert said == [{("t", 0): Code.NONE}, {("t", 0): Code.INVALID_GROUP_ID}]


def test_a_full_disk_keeps_no_new_offsets(tmp_path: Path) -> None:
    """One that has its place moves on, or its group would read all again."""
    with asking(tmp_path) as desk:
        desk.create("t", 2)
        desk.do(desk.log.commit("g", {("t", 0): Offset(1)}))
        writer = desk.log._writer
        with mock.patch.object(writer, "_rest"), mock.patch.object(writer.space, "full", "no room"):
            said = [codes(desk.ask(OFFSET_COMMIT, 3, committing(("t", index, 2)))) for index in (0, 1)]
        assert said == [{("t", 0): Code.NONE}, {("t", 1): Code.COORDINATOR_NOT_AVAILABLE}]
        assert [*desk.log.committed("g")] == [("t", 0)]


def test_rights_to_commit_and_fetch(tmp_path: Path) -> None:
    """The group's right comes before the topic's; both are asked of each partition."""
    with asking(tmp_path, {"alice": "read:t, group:g", "root": "admin"}) as desk:
        desk.create("t")
        desk.create("u")
        desk.do(desk.log.commit("g", {("u", 0): Offset(1), ("t", 0): Offset(2)}))
        mine = codes(desk.ask(OFFSET_COMMIT, 3, committing(("t", 0, 3), ("u", 0, 3), ("none", 0, 3)), "alice"))
        refused = Code.TOPIC_AUTHORIZATION_FAILED
        assert mine == {("t", 0): Code.NONE, ("u", 0): refused, ("none", 0): refused}
        others = codes(desk.ask(OFFSET_COMMIT, 3, committing(("t", 0, 3), group="h"), "alice"))
        assert others == {("t", 0): Code.GROUP_AUTHORIZATION_FAILED}
        every = desk.ask(OFFSET_FETCH, 3, {"group_id": "g", "topics": None}, "alice")
        assert fetched(every) == {("t", 0): 3}
        named = codes(desk.ask(OFFSET_FETCH, 3, fetching(("u", 0)), "alice"))
        assert named == {("u", 0): Code.TOPIC_AUTHORIZATION_FAILED}


@pytest.mark.parametrize("version", [1, 2, 7])
def test_offsets_of_another_group_are_refused(tmp_path: Path, version: int) -> None:
    """OffsetFetch 1 says it of each partition, later versions of the answer."""
    with asking(tmp_path, {"alice": "read:t, group:g"}) as desk:
        body = desk.ask(OFFSET_FETCH, version, fetching(("t", 0), group="h"), "alice")
        said = body["error_code"] if version >= 2 else codes(body)["t", 0]
        assert said == Code.GROUP_AUTHORIZATION_FAILED


def test_an_offset_of_an_open_transaction_is_unstable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With require_stable the partition is UNSTABLE_OFFSET_COMMIT, without it the last commit is told."""
    with asking(tmp_path) as desk:
        desk.create("t", 2)
        desk.do(desk.log.commit("g", {("t", 0): Offset(7), ("t", 1): Offset(8)}))
        monkeypatch.setattr(desk.log, "pending_offsets", lambda group: {("t", 0)} if group == "g" else ())
        stable = desk.ask(OFFSET_FETCH, 7, fetching(("t", 0), ("t", 1), require_stable=True))
        assert codes(stable) == {("t", 0): Code.UNSTABLE_OFFSET_COMMIT, ("t", 1): Code.NONE}
        assert fetched(desk.ask(OFFSET_FETCH, 7, fetching(("t", 0), ("t", 1)))) == {("t", 0): 7, ("t", 1): 8}


def deleting(*places: tuple[str, int], group: str = "g") -> dict[str, Any]:
    topics = [{"name": name, "partitions": [{"partition_index": index}]} for name, index in places]
    return {"group_id": group, "topics": topics}


def test_offsets_of_topics_in_use_stay(tmp_path: Path) -> None:
    """OffsetDelete drops those of topics that no member is subscribed to; the others are GROUP_SUBSCRIBED_TO_TOPIC."""
    with asking(tmp_path) as desk:
        desk.create("t")
        desk.create("u")
        synced(desk)
        desk.do(desk.log.commit("g", {("t", 0): Offset(1), ("u", 0): Offset(2)}))
        body = desk.ask(OFFSET_DELETE, 0, deleting(("t", 0), ("u", 0)))
        assert codes(body) == {("t", 0): Code.GROUP_SUBSCRIBED_TO_TOPIC, ("u", 0): Code.NONE}
        assert [*desk.log.committed("g")] == [("t", 0)]


def test_offsets_of_no_group_are_not_deleted(tmp_path: Path) -> None:
    """OffsetDelete of a group that isn't there is GROUP_ID_NOT_FOUND."""
    with asking(tmp_path) as desk:
        desk.create("t")
        assert desk.ask(OFFSET_DELETE, 0, deleting(("t", 0)))["error_code"] == Code.GROUP_ID_NOT_FOUND


def test_nothing_is_committed_before_the_assignment(tmp_path: Path) -> None:
    """Between JoinGroup and SyncGroup a commit is REBALANCE_IN_PROGRESS, and nothing is kept."""
    with asking(tmp_path) as desk:
        desk.create("t")
        waiting = desk.start(JOIN_GROUP, 0, join())
        desk.wait(1)
        me = desk.do(waiting)
        who = {"generation_id": me["generation_id"], "member_id": me["member_id"]}
        said = codes(desk.ask(OFFSET_COMMIT, 3, committing(("t", 0, 1), **who)))
        assert said == {("t", 0): Code.REBALANCE_IN_PROGRESS} and not desk.log.committed("g")
