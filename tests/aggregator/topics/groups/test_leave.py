"""LeaveGroup, in each phase, and who is told what."""

from __future__ import annotations

from aggregator.topics.errors import Code
from tests.aggregator.topics.groups.scene import Client, code, rejoin, scene, stable
from tests.aggregator.topics.groups.test_sync import joined


def test_the_last_one() -> None:
    """A group whose last member leaves is empty; whoever comes then is in a later generation."""
    with scene() as s:
        a = Client(s, "a")
        stable(s, a)
        assert a.leave() is Code.NONE
        assert s.state == "Empty"
        assert a.beat() is Code.UNKNOWN_MEMBER_ID
        b = Client(s, "b")
        stable(s, b)
        assert b.generation == 3


def test_the_leader_of_a_stable_group() -> None:
    """When the leader leaves, the others join again and the longest there leads."""
    with scene() as s:
        a, b, c = (Client(s, name) for name in "abc")
        stable(s, a, b, c)
        a.leave()
        assert b.beat() is Code.REBALANCE_IN_PROGRESS
        c.ask()
        b.ask()
        rejoin(b, c)
        assert b.peers == [b.id, c.id]


def test_the_leader_while_all_join() -> None:
    """When the leader leaves while others wait to join, they are answered and have another."""
    with scene() as s:
        a, b = Client(s, "a"), Client(s, "b")
        stable(s, a, b)
        b.topics = ("u",)
        b.ask()
        a.leave()
        assert b.joined()["leader"] == b.id


def test_the_leader_before_it_assigns() -> None:
    """When the leader leaves while others wait for its assignment, they are told to join again."""
    with scene() as s:
        a, b = Client(s, "a"), Client(s, "b")
        joined(s, a, b)
        waiting = b.sync()
        a.leave()
        assert code(waiting) is Code.REBALANCE_IN_PROGRESS
        b.ask()
        assert b.joined()["leader"] == b.id


def test_who_leaves_is_not_left_waiting_to_join() -> None:
    """A JoinGroup that waits is answered UNKNOWN_MEMBER_ID when its member leaves (over another connection)."""
    with scene() as s:
        a, b = Client(s, "a"), Client(s, "b")
        stable(s, a)
        b.ask()
        assert b.leave() is Code.NONE
        assert b.waiting
        assert code(b.waiting) is Code.UNKNOWN_MEMBER_ID


def test_who_leaves_is_not_left_waiting_to_sync() -> None:
    """A SyncGroup that waits is answered UNKNOWN_MEMBER_ID when its member leaves."""
    with scene() as s:
        a, b = Client(s, "a"), Client(s, "b")
        joined(s, a, b)
        waiting = b.sync()
        assert b.leave() is Code.NONE
        assert code(waiting) is Code.UNKNOWN_MEMBER_ID


def test_all_during_the_initial_delay() -> None:
    """When the only member leaves before the first generation began, the group is empty at its end."""
    with scene() as s:
        a = Client(s, "a")
        a.ask()
        a.leave()
        s.wait(0.2)
        assert s.state == "Empty"


def test_an_id_that_never_joined() -> None:
    """Who was told its id may leave with it: nobody waits for it any more."""
    with scene() as s:
        a, b = Client(s, "a"), Client(s, "b")
        stable(s, a)
        b.id = b._join().result()["member_id"]
        a.ask()
        assert b.leave() is Code.NONE
        a.joined()


def test_several_at_once() -> None:
    """Version 3: each member has its own code; an administrator names static ones by their instance id."""
    with scene() as s:
        a, b, c = Client(s, "a"), Client(s, "b", static=True), Client(s, "c", static=True)
        stable(s, a, b, c)
        body = s.do(s.coordinator.leave, "g", [
            (a.id, None), ("", "b"), ("old", "c"), ("", "nobody"), ("nobody", None), ("", None),
        ])  # fmt: skip
        assert body["error_code"] == 0
        assert [(m["member_id"], m["group_instance_id"], m["error_code"]) for m in body["members"]] == [
            (a.id, None, Code.NONE),
            ("", "b", Code.NONE),
            ("old", "c", Code.FENCED_INSTANCE_ID),
            ("", "nobody", Code.UNKNOWN_MEMBER_ID),
            ("nobody", None, Code.UNKNOWN_MEMBER_ID),
            ("", None, Code.UNKNOWN_MEMBER_ID),
        ]
        assert s.ids == {c.id}


def test_an_unknown_group() -> None:
    """Nobody can leave a group that isn't there."""
    with scene() as s:
        a = Client(s, "a")
        a.id = "a-1"
        assert a.leave() is Code.UNKNOWN_MEMBER_ID
