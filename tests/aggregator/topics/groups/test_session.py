"""Heartbeats: who is alive, and what happens when nothing is heard."""

from __future__ import annotations

from aggregator.topics.errors import Code
from tests.aggregator.topics.groups.scene import Client, rejoin, scene, stable
from tests.aggregator.topics.groups.test_sync import joined


def test_heartbeats_keep_a_member() -> None:
    """With a heartbeat in each session a member stays."""
    with scene() as s:
        a = Client(s, "a", session=6)
        stable(s, a)
        for _ in range(10):
            s.wait(5.9)
            assert a.beat() is Code.NONE


def test_silence_ends_a_session() -> None:
    """Without one it is out; the others are told to join again."""
    with scene() as s:
        a, b = Client(s, "a", session=6), Client(s, "b", session=30)
        stable(s, a, b)
        s.wait(6.1)
        assert s.ids == {b.id}
        assert a.beat() is Code.UNKNOWN_MEMBER_ID
        assert b.beat() is Code.REBALANCE_IN_PROGRESS


def test_the_last_session() -> None:
    """A group whose members all fell silent is empty."""
    with scene() as s:
        stable(s, Client(s, "a"), Client(s, "b"))
        s.wait(11)
        assert s.state == "Empty"


def test_silence_while_all_join() -> None:
    """Who falls silent during a rebalance is out when its session ends, and the others go on."""
    with scene() as s:
        a, b = Client(s, "a", session=6), Client(s, "b")
        stable(s, a, b)
        b.topics = ("u",)
        b.ask()
        s.wait(6.1)
        b.joined()


def test_heartbeats_during_a_rebalance() -> None:
    """A heartbeat that is answered REBALANCE_IN_PROGRESS counts all the same."""
    with scene() as s:
        a, b = Client(s, "a", session=6), Client(s, "b")
        stable(s, a, b)
        b.topics = ("u",)
        b.ask()
        for _ in range(5):
            s.wait(5)
            assert a.beat() is Code.REBALANCE_IN_PROGRESS
        a.ask()
        rejoin(a, b)
        assert a.id in s.ids


def test_who_waits_to_join_needs_no_heartbeats() -> None:
    """A session doesn't end while a JoinGroup waits, and begins anew with the answer."""
    with scene() as s:
        a, b = Client(s, "a", session=6), Client(s, "b", session=30)
        stable(s, a, b)
        a.ask()
        s.wait(20)
        b.ask()
        a.joined()
        s.wait(5.9)
        assert a.beat() is Code.NONE


def test_heartbeats_before_the_assignment() -> None:
    """Between JoinGroup and SyncGroup heartbeats are fine and count."""
    with scene() as s:
        a = Client(s, "a", session=6)
        joined(s, a)
        for _ in range(3):
            s.wait(5)
            assert a.beat() is Code.NONE


def test_who_may_beat() -> None:
    """Another generation, member, or group."""
    with scene() as s:
        a = Client(s, "a")
        stable(s, a)
        beat = s.coordinator.heartbeat
        assert beat("g", 0, a.id, None) is Code.ILLEGAL_GENERATION
        assert beat("g", 1, "nobody", None) is Code.UNKNOWN_MEMBER_ID
        assert beat("other", 1, a.id, None) is Code.UNKNOWN_MEMBER_ID
        assert beat("g", 1, a.id, "static") is Code.UNKNOWN_MEMBER_ID


def test_a_changed_session() -> None:
    """A later JoinGroup may set another session timeout."""
    with scene() as s:
        a = Client(s, "a", session=6)
        stable(s, a)
        a.session = 60
        a.ask()
        rejoin(a)
        s.wait(50)
        assert a.beat() is Code.NONE


def test_a_lost_first_request() -> None:
    """A first JoinGroup whose connection is lost leaves its member the session, not 5 minutes."""
    with scene() as s:
        a, b = Client(s, "a", session=6), Client(s, "b", session=30)
        stable(s, b)
        a.ask()
        a.lose()
        s.wait(5.9)
        assert a.id in s.ids
        s.wait(0.2)
        assert a.id not in s.ids
