"""SyncGroup: the leader assigns, the others wait for it, not for ever."""

from __future__ import annotations

import pytest

from aggregator.topics.errors import Code
from tests.aggregator.topics.groups.scene import Client, Scene, code, scene, stable


def joined(scene: Scene, *clients: Client) -> None:
    """All are in a new generation and haven't synced."""
    for client in clients:
        client.ask()
    scene.wait(1)
    for client in clients:
        client.joined()


def test_all_get_what_the_leader_assigned() -> None:
    """Followers wait for the leader; each gets its own assignment, with the group's protocol."""
    with scene() as s:
        a, b = Client(s, "a"), Client(s, "b")
        joined(s, a, b)
        waiting = b.sync()
        assert not waiting.done()
        assert s.state == "CompletingRebalance"
        a.sync()
        assert a.synced() == f"1:{a.id}".encode()
        assert waiting.result() == {
            "throttle_time_ms": 0, "error_code": 0, "protocol_type": "consumer", "protocol_name": "range",
            "assignment": f"1:{b.id}".encode(),
        }  # fmt: skip
        assert s.state == "Stable"


def test_whom_the_leader_forgot_has_nothing() -> None:
    """A member without an assignment gets an empty one."""
    with scene() as s:
        a, b = Client(s, "a"), Client(s, "b")
        joined(s, a, b)
        a.peers = [a.id]
        a.sync()
        b.sync()
        assert b.synced() == b""


def test_an_assignment_is_given_again() -> None:
    """In a stable group a SyncGroup is answered at once."""
    with scene() as s:
        a, b = Client(s, "a"), Client(s, "b")
        stable(s, a, b)
        b.sync()
        assert b.synced() == f"1:{b.id}".encode()


def test_a_second_opinion_of_the_leader_is_not_taken() -> None:
    """In a stable group the leader's assignments change nothing."""
    with scene() as s:
        a = Client(s, "a")
        stable(s, a)
        a.sync(**{a.id: b"other"})
        assert a.synced() == f"1:{a.id}".encode()


def test_who_may_sync() -> None:
    """An unknown member, another generation, another protocol (version 5) are told apart."""
    with scene() as s:
        a = Client(s, "a")
        joined(s, a)
        sync = s.coordinator.sync
        assert code(s.do(sync, "g", 1, "nobody", None, {})) is Code.UNKNOWN_MEMBER_ID
        assert code(s.do(sync, "other", 1, a.id, None, {})) is Code.UNKNOWN_MEMBER_ID
        assert code(s.do(sync, "g", 0, a.id, None, {})) is Code.ILLEGAL_GENERATION
        assert code(s.do(sync, "g", 2, a.id, None, {})) is Code.ILLEGAL_GENERATION
        assert code(s.do(sync, "g", 1, a.id, None, {}, "connect", "range")) is Code.INCONSISTENT_GROUP_PROTOCOL
        assert code(s.do(sync, "g", 1, a.id, None, {}, "consumer", "sticky")) is Code.INCONSISTENT_GROUP_PROTOCOL
        assert code(s.do(sync, "g", 1, a.id, None, {}, "consumer", "range")) is Code.NONE


def test_a_sync_during_a_rebalance() -> None:
    """A SyncGroup that comes after the next rebalance began is REBALANCE_IN_PROGRESS."""
    with scene() as s:
        a, b = Client(s, "a"), Client(s, "b")
        joined(s, a)
        b.ask()
        assert code(a.sync()) is Code.REBALANCE_IN_PROGRESS


def test_a_leader_that_never_assigns() -> None:
    """Who hasn't synced when the rebalance timeout is over is out, whatever its heartbeats; the rest goes on."""
    with scene() as s:
        a, b = Client(s, "a", rebalance=20), Client(s, "b", rebalance=20)
        joined(s, a, b)
        waiting = b.sync()
        for _ in range(3):
            s.wait(5)
            assert a.beat() is Code.NONE
        assert not waiting.done()
        s.wait(5)
        assert code(waiting) is Code.REBALANCE_IN_PROGRESS
        assert a.beat() is Code.UNKNOWN_MEMBER_ID
        b.ask()
        assert b.joined()["leader"] == b.id


def test_a_leader_that_dies_before_it_assigns() -> None:
    """Without heartbeats the leader is out when its session ends; who waits for it has to join again."""
    with scene() as s:
        a, b = Client(s, "a", session=6), Client(s, "b")
        joined(s, a, b)
        waiting = b.sync()
        s.wait(6.1)
        assert code(waiting) is Code.REBALANCE_IN_PROGRESS
        assert s.ids == {b.id}


def test_a_follower_that_never_syncs() -> None:
    """A follower that doesn't ask for its assignment is out when the rebalance timeout is over (KAFKA-9752)."""
    with scene() as s:
        a, b = Client(s, "a", rebalance=20), Client(s, "b", rebalance=20)
        joined(s, a, b)
        a.sync()
        for _ in range(5):
            s.wait(4)
            a.beat()
            b.beat()
        assert s.ids == {a.id}
        assert a.beat() is Code.REBALANCE_IN_PROGRESS


def test_all_have_synced_in_time() -> None:
    """Once all have synced, the rebalance timeout means nothing."""
    with scene() as s:
        a, b = Client(s, "a", rebalance=20), Client(s, "b", rebalance=20)
        stable(s, a, b)
        for _ in range(10):
            s.wait(5)
            assert (a.beat(), b.beat()) == (Code.NONE, Code.NONE)


def test_who_waits_needs_no_heartbeats() -> None:
    """A session doesn't end while its SyncGroup waits, and begins anew with the answer."""
    with scene() as s:
        a, b = Client(s, "a", session=30), Client(s, "b", session=6)
        joined(s, a, b)
        b.sync()
        s.wait(20)
        a.sync()
        b.synced()
        s.wait(5.9)
        assert b.beat() is Code.NONE


def test_asked_twice() -> None:
    """Of two SyncGroups of one member the older is told to join again, the newer gets the assignment."""
    with scene() as s:
        a, b = Client(s, "a"), Client(s, "b")
        joined(s, a, b)
        older = b.sync()
        b.sync()
        assert code(older) is Code.REBALANCE_IN_PROGRESS
        a.sync()
        assert b.synced()


def test_a_connection_lost_while_it_waits() -> None:
    """Whose connection is gone has its session to come back, then it is out."""
    with scene() as s:
        a, b = Client(s, "a", session=30), Client(s, "b", session=6)
        joined(s, a, b)
        b.sync()
        s.wait(20)
        b.lose()
        s.wait(5.9)
        assert b.id in s.ids
        s.wait(0.2)
        assert b.id not in s.ids


@pytest.mark.parametrize("limits", [{"group_bytes": 5000}, {"bytes": 5000}])
def test_too_much_assigned(limits: dict[str, int]) -> None:
    """Assignments that the bounds don't allow are UNKNOWN_SERVER_ERROR for all who wait; they have to join again."""
    with scene(**limits) as s:
        a, b = Client(s, "a"), Client(s, "b")
        joined(s, a, b)
        b.sync()
        assert code(a.sync(**{a.id: bytes(4000)})) is Code.UNKNOWN_SERVER_ERROR
        assert b.waiting
        assert code(b.waiting) is Code.UNKNOWN_SERVER_ERROR
        assert a.beat() is Code.REBALANCE_IN_PROGRESS


def test_old_assignments_do_not_count() -> None:
    """What the last generation had assigned is gone before the next is weighed."""
    with scene(group_bytes=6000) as s:
        a = Client(s, "a")
        for _ in range(2):
            joined(s, a)
            a.sync(**{a.id: bytes(4000)})
            assert a.synced() == bytes(4000)
