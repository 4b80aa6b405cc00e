"""What is told of groups, and how they end."""

from __future__ import annotations

import pytest

from aggregator.topics.errors import Code, TopicsError
from tests.aggregator.topics.groups.scene import Client, code, scene, stable, subscription
from tests.aggregator.topics.groups.test_sync import joined


def test_a_stable_group_is_described() -> None:
    """With each member's metadata and assignment."""
    with scene() as s:
        a = Client(s, "a", static=True)
        stable(s, a)
        assert s.coordinator.describe("g") == {
            "error_code": 0, "group_id": "g", "group_state": "Stable", "protocol_type": "consumer",
            "protocol_data": "range", "authorized_operations": -(1 << 31),
            "members": [{
                "member_id": a.id, "group_instance_id": "a", "client_id": "a", "client_host": "/127.0.0.1",
                "member_metadata": subscription("t"), "member_assignment": f"1:{a.id}".encode(),
            }],
        }  # fmt: skip


def test_a_group_in_motion_is_described_without_assignments() -> None:
    """The members are told, what they had isn't."""
    with scene() as s:
        a, b = Client(s, "a"), Client(s, "b")
        stable(s, a)
        b.ask()
        body = s.coordinator.describe("g")
        assert (body["group_state"], body["protocol_data"]) == ("PreparingRebalance", "")
        assert [(m["client_id"], m["member_metadata"], m["member_assignment"]) for m in body["members"]] == [
            ("a", b"", b""), ("b", b"", b"")
        ]  # fmt: skip


def test_groups_without_members() -> None:
    """One that has offsets is Empty, one that nobody knows Dead, neither an error."""
    with scene() as s:
        s.kept["old"] = True
        assert s.coordinator.describe("old")["group_state"] == "Empty"
        assert s.coordinator.describe("new")["group_state"] == "Dead"


def test_all_are_listed() -> None:
    """Those with members and those with offsets, once each; by state if asked, in any case."""
    with scene() as s:
        stable(s, Client(s, "a"))
        s.kept |= {"g": True, "old": True}
        listed = s.coordinator.groups()
        assert [(g["group_id"], g["protocol_type"], g["group_state"]) for g in listed] == [
            ("g", "consumer", "Stable"), ("old", "", "Empty")
        ]  # fmt: skip
        assert [g["group_id"] for g in s.coordinator.groups(["stable", "Dead"])] == ["g"]
        assert [g["group_id"] for g in s.coordinator.groups(["Empty"])] == ["old"]


def test_an_empty_group_is_forgotten() -> None:
    """Without members and offsets it is gone after 10 minutes, not before."""
    with scene() as s:
        a = Client(s, "a")
        stable(s, a)
        a.leave()
        s.wait(599)
        assert s.state == "Empty"
        s.wait(2)
        assert s.state == "Dead"
        assert not s.clock.running


def test_an_empty_group_with_offsets_is_remembered() -> None:
    """Its generations go on rising for as long as it has offsets."""
    with scene() as s:
        a = Client(s, "a")
        stable(s, a)
        a.leave()
        s.kept["g"] = True
        s.wait(10_000)
        stable(s, b := Client(s, "b"))
        assert b.generation == 3


def test_a_group_that_nobody_joined_is_forgotten() -> None:
    """A client that asked for an id and never came back leaves nothing."""
    with scene(pending_seconds=1800) as s:
        Client(s, "a", session=1800)._join()
        s.wait(700)
        assert s.state == "Empty"
        s.wait(1800)
        assert s.state == "Dead"
        assert not s.clock.running


def test_delete() -> None:
    """Only groups without members: NON_EMPTY_GROUP; one that nobody knows is GROUP_ID_NOT_FOUND."""
    with scene() as s:
        a = Client(s, "a")
        stable(s, a)
        assert s.coordinator.delete("g") is Code.NON_EMPTY_GROUP
        a.leave()
        assert s.coordinator.delete("g") is Code.NONE
        assert s.coordinator.delete("g") is Code.GROUP_ID_NOT_FOUND
        s.kept["g"] = True
        assert s.coordinator.delete("g") is Code.NONE


def test_delete_with_an_id_given_out() -> None:
    """An id that was given out dies with the group; its owner asks for another."""
    with scene() as s:
        a = Client(s, "a")
        a.id = a._join().result()["member_id"]
        assert s.coordinator.delete("g") is Code.NONE
        assert not s.clock.running
        assert code(a.ask()) is Code.UNKNOWN_MEMBER_ID


def test_is_empty() -> None:
    """Unknown groups are, those with a member aren't, in no phase."""
    with scene() as s:
        assert s.coordinator.is_empty("g")
        a = Client(s, "a")
        a.ask()
        assert not s.coordinator.is_empty("g")
        s.wait(1)
        assert not s.coordinator.is_empty("g")


def test_offsets_of_topics_in_use() -> None:
    """Those of topics that a member is subscribed to may not be deleted."""
    with scene() as s:
        stable(s, Client(s, "a", topics=("t",)), Client(s, "b", topics=("u",)))
        assert s.coordinator.unused("g", ["t", "u", "v"]) == {
            "t": Code.GROUP_SUBSCRIBED_TO_TOPIC, "u": Code.GROUP_SUBSCRIBED_TO_TOPIC, "v": Code.NONE
        }  # fmt: skip


def test_offsets_before_the_topics_are_known() -> None:
    """Before the first generation, and of metadata that is no subscription, all topics count as in use."""
    with scene() as s:
        a = Client(s, "a")
        a.ask()
        assert s.coordinator.unused("g", ["v"]) == {"v": Code.GROUP_SUBSCRIBED_TO_TOPIC}
        s.wait(1)
        a.joined()
        assert s.coordinator.unused("g", ["v"]) == {"v": Code.NONE}


def test_offsets_of_a_group_without_members() -> None:
    """All may go, whether it had members or never."""
    with scene() as s:
        s.kept["old"] = True
        assert s.coordinator.unused("old", ["t"]) == {"t": Code.NONE}
        a = Client(s, "a")
        stable(s, a)
        a.leave()
        assert s.coordinator.unused("g", ["t"]) == {"t": Code.NONE}


@pytest.mark.parametrize(("group", "expected"), [("g", Code.NON_EMPTY_GROUP), ("new", Code.GROUP_ID_NOT_FOUND)])
def test_offsets_that_cannot_be_judged(group: str, expected: Code) -> None:
    """A group with members that aren't consumers, and one that nobody knows, are errors as a whole."""
    with scene() as s:
        stable(s, Client(s, "a", kind="connect"))
        with pytest.raises(TopicsError) as raised:
            s.coordinator.unused(group, ["t"])
        assert raised.value.code is expected


def test_close() -> None:
    """Who waits is told that this isn't its coordinator; who comes, that there is none; no timer stays."""
    with scene() as s:
        a, b = Client(s, "a"), Client(s, "b")
        joined(s, a, b)
        syncing = b.sync()
        s.do(s.coordinator.close)
        assert code(syncing) is Code.NOT_COORDINATOR
        assert a.beat() is Code.COORDINATOR_NOT_AVAILABLE
        assert code(a.sync()) is Code.COORDINATOR_NOT_AVAILABLE
        assert code(a.ask()) is Code.COORDINATOR_NOT_AVAILABLE
        assert s.coordinator.leave("g", [(a.id, None)])["error_code"] == Code.COORDINATOR_NOT_AVAILABLE
        assert not s.clock.running


def test_close_while_all_join() -> None:
    """A JoinGroup that waits is answered, too."""
    with scene() as s:
        joining = Client(s, "a").ask()
        s.do(s.coordinator.close)
        assert code(joining) is Code.NOT_COORDINATOR
