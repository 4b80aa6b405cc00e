"""JoinGroup: who is let in, when a generation begins, who leads it."""

from __future__ import annotations

from typing import Any

import pytest

from aggregator.topics.errors import Code
from tests.aggregator.topics.groups.scene import Client, code, rejoin, scene, stable


def test_an_id_is_required() -> None:
    """A dynamic member without an id gets one that begins with its client id, and is no member yet (KIP-394)."""
    with scene() as s:
        body = Client(s, "a")._join().result()
        assert body["error_code"] == Code.MEMBER_ID_REQUIRED
        assert body["member_id"].startswith("a-")
        assert not s.ids


def test_the_first_generation() -> None:
    """The first member leads generation 1; it alone gets the members and their metadata."""
    with scene() as s:
        a, b = Client(s, "a", topics=("x",)), Client(s, "b", topics=("y",))
        a.ask()
        b.ask()
        s.wait(1)
        first, second = a.joined(), b.joined()
        assert (first["generation_id"], second["generation_id"]) == (1, 1)
        assert first["leader"] == second["leader"] == a.id
        assert [(m["member_id"], m["metadata"][8:9]) for m in first["members"]] == [(a.id, b"x"), (b.id, b"y")]
        assert second["members"] == []
        assert (first["protocol_type"], first["protocol_name"]) == ("consumer", "range")


def test_the_initial_delay() -> None:
    """The first member of an empty group is answered after 0.2 s, not before."""
    with scene() as s:
        a = Client(s, "a")
        a.ask()
        s.wait(0.19)
        assert a.waiting and not a.waiting.done()
        s.wait(0.01)
        a.joined()


def test_the_initial_delay_is_repeated_for_newcomers() -> None:
    """Who joins during the delay prolongs it, up to the rebalance timeout (KIP-134)."""
    with scene() as s:
        a, b, c = (Client(s, name, rebalance=0.5) for name in "abc")
        a.ask()
        s.wait(0.15)
        b.ask()
        s.wait(0.15)
        c.ask()
        assert a.waiting and not a.waiting.done()
        s.wait(0.2)
        assert {client.joined()["generation_id"] for client in (a, b, c)} == {1}
        assert s.clock.now == pytest.approx(0.5)


@pytest.mark.parametrize("two_steps", [True, False])
def test_an_unknown_id_is_refused(two_steps: bool) -> None:
    """An id that this coordinator didn't give is UNKNOWN_MEMBER_ID, and makes no group."""
    with scene() as s:
        a = Client(s, "a", two_steps=two_steps)
        a.id = "a-1"
        assert code(a.ask()) is Code.UNKNOWN_MEMBER_ID
        assert s.state == "Dead"


def test_below_version_4_no_id_is_required() -> None:
    """An older client is let in with its first request."""
    with scene() as s:
        a = Client(s, "a", two_steps=False)
        stable(s, a)
        assert s.ids == {a.id}


def test_an_id_that_is_not_used_expires() -> None:
    """Who doesn't come back with its new id within its session has to ask for another."""
    with scene() as s:
        a = Client(s, "a", session=6)
        a.id = a._join().result()["member_id"]
        s.wait(6.1)
        assert code(a.ask()) is Code.UNKNOWN_MEMBER_ID


def test_an_id_that_is_to_come_is_waited_for() -> None:
    """A rebalance doesn't end before those come who were told their id, or their time is over."""
    with scene() as s:
        a, b = Client(s, "a"), Client(s, "b", session=6)
        stable(s, a)
        b.id = b._join().result()["member_id"]
        a.ask()
        s.wait(5)
        assert a.waiting and not a.waiting.done()
        s.wait(2)
        a.joined()


@pytest.mark.parametrize(
    "other",
    [{"kind": "connect"}, {"protocols": ("sticky",)}, {"protocols": ()}],
    ids=["type", "no common one", "none"],
)
def test_protocols_must_agree(other: dict[str, Any]) -> None:
    """Another protocol type, or no protocol that all can do, is INCONSISTENT_GROUP_PROTOCOL; the others go on."""
    with scene() as s:
        a = Client(s, "a")
        stable(s, a)
        assert code(Client(s, "b", **other).ask()) is Code.INCONSISTENT_GROUP_PROTOCOL
        assert a.beat() is Code.NONE


@pytest.mark.parametrize("other", [{"kind": ""}, {"protocols": ()}])
def test_an_empty_group_needs_a_protocol(other: dict[str, Any]) -> None:
    """The first member must have a type and a protocol."""
    with scene() as s:
        assert code(Client(s, "a", **other).ask()) is Code.INCONSISTENT_GROUP_PROTOCOL


def test_members_vote() -> None:
    """Of the protocols that all can do, the one that most want first is taken."""
    with scene() as s:
        a = Client(s, "a", protocols=("old", "range", "sticky"))
        b = Client(s, "b", protocols=("sticky", "range"))
        c = Client(s, "c", protocols=("sticky", "range"))
        for client in (a, b, c):
            client.ask()
        s.wait(1)
        assert {client.joined()["protocol_name"] for client in (a, b, c)} == {"sticky"}


def test_a_newcomer_makes_all_join_again() -> None:
    """A member that comes to a stable group is answered with the others, in the next generation."""
    with scene() as s:
        a, b = Client(s, "a"), Client(s, "b")
        stable(s, a)
        b.ask()
        assert a.beat() is Code.REBALANCE_IN_PROGRESS
        assert b.waiting and not b.waiting.done()
        a.ask()
        rejoin(a, b)
        assert (a.generation, b.generation) == (2, 2)
        assert s.state == "Stable"


def test_a_follower_without_news_is_answered_at_once() -> None:
    """In a stable group a follower's JoinGroup with the same metadata changes nothing."""
    with scene() as s:
        a, b = Client(s, "a"), Client(s, "b")
        stable(s, a, b)
        b.ask()
        assert b.joined()["generation_id"] == 1
        assert s.state == "Stable"


@pytest.mark.parametrize("who", ["leader", "follower"])
def test_news_make_a_rebalance(who: str) -> None:
    """In a stable group the leader's JoinGroup, or a follower's with other metadata, begins a rebalance."""
    with scene() as s:
        a, b = Client(s, "a"), Client(s, "b")
        stable(s, a, b)
        one, other = (a, b) if who == "leader" else (b, a)
        one.topics = ("t",) if who == "leader" else ("u",)
        one.ask()
        assert s.state == "PreparingRebalance"
        assert other.beat() is Code.REBALANCE_IN_PROGRESS
        other.ask()
        rejoin(a, b)
        assert a.generation == 2


def test_a_lost_answer_is_given_again() -> None:
    """While assignments are waited for, a JoinGroup with the same metadata gets this generation's answer again."""
    with scene() as s:
        a = Client(s, "a")
        a.ask()
        s.wait(1)
        first = a.joined()
        a.ask()
        assert a.joined() == first


def test_a_change_while_assignments_are_waited_for() -> None:
    """A member that changes before the leader has assigned begins a rebalance; who waits has to join again."""
    with scene() as s:
        a, b = Client(s, "a"), Client(s, "b")
        for client in (a, b):
            client.ask()
        s.wait(1)
        a.joined()
        b.joined()
        waiting = b.sync()
        a.topics = ("u",)
        a.ask()
        assert code(waiting) is Code.REBALANCE_IN_PROGRESS
        assert s.state == "PreparingRebalance"


def test_who_does_not_join_again_is_out() -> None:
    """At the end of the rebalance timeout those go on who have come, also without the leader."""
    with scene() as s:
        a, b = Client(s, "a", rebalance=20, session=30), Client(s, "b", rebalance=20)
        stable(s, a, b)
        b.topics = ("u",)
        b.ask()
        s.wait(19)
        assert b.waiting and not b.waiting.done()
        s.wait(1.1)
        assert b.joined()["leader"] == b.id
        assert s.ids == {b.id}
        assert a.beat() is Code.UNKNOWN_MEMBER_ID


def test_the_longest_rebalance_timeout_counts() -> None:
    """The most patient member sets how long all wait."""
    with scene() as s:
        a, b = Client(s, "a", rebalance=20), Client(s, "b", rebalance=40, session=50)
        stable(s, a, b)
        a.ask()
        s.wait(39)
        assert a.waiting and not a.waiting.done()
        s.wait(2)
        a.joined()


def test_asked_twice() -> None:
    """Of two JoinGroups of one member the older is told to come again, the newer gets the generation."""
    with scene() as s:
        a = Client(s, "a")
        older = a.ask()
        a.ask()
        assert code(older) is Code.REBALANCE_IN_PROGRESS
        s.wait(1)
        a.joined()


def test_a_lost_connection_does_not_join() -> None:
    """Who loses its connection while it waits isn't in the next generation, and doesn't lead it."""
    with scene() as s:
        a, b = Client(s, "a", session=6), Client(s, "b")
        stable(s, a, b)
        a.ask()
        a.lose()
        b.ask()
        s.wait(5)
        assert b.waiting and not b.waiting.done()
        s.wait(2)
        assert b.joined()["leader"] == b.id
        assert s.ids == {b.id}


def test_a_lost_connection_is_followed_by_another() -> None:
    """Who loses its connection while it waits and asks again within its session is in."""
    with scene() as s:
        a, b = Client(s, "a"), Client(s, "b")
        stable(s, a, b)
        a.ask()
        a.lose()
        b.ask()
        a.ask()
        rejoin(a, b)
        assert s.ids == {a.id, b.id}


def test_a_first_join_is_not_waited_for_longer_than_5_minutes() -> None:
    """A first JoinGroup that waits for 5 minutes is answered UNKNOWN_MEMBER_ID: its sender may be gone."""
    with scene() as s:
        a, b = Client(s, "a", rebalance=1000, session=900), Client(s, "b", rebalance=1000)
        stable(s, a)
        b.ask()
        s.wait(299)
        assert b.waiting and not b.waiting.done()
        s.wait(2)
        assert b.waiting
        assert code(b.waiting) is Code.UNKNOWN_MEMBER_ID


@pytest.mark.parametrize("session", [5.9, 1801])
def test_sessions_have_bounds(session: float) -> None:
    """A session of less than 6 s or more than 30 minutes is INVALID_SESSION_TIMEOUT."""
    with scene() as s:
        assert code(Client(s, "a", session=session).ask()) is Code.INVALID_SESSION_TIMEOUT


def test_a_group_has_a_name() -> None:
    """The empty group id is INVALID_GROUP_ID for all but offsets."""
    with scene() as s:
        c = s.coordinator
        joined = s.do(c.join, "", "", None, "a", "/h", 10_000, 10_000, "consumer", [("range", b"")], True)
        assert code(joined) is Code.INVALID_GROUP_ID
        assert code(s.do(c.sync, "", 1, "a", None, {})) is Code.INVALID_GROUP_ID
        assert c.heartbeat("", 1, "a", None) is Code.INVALID_GROUP_ID
        assert c.leave("", [("a", None)]) == {
            "throttle_time_ms": 0, "error_code": Code.INVALID_GROUP_ID, "members": []
        }  # fmt: skip


def test_version_0_has_one_timeout() -> None:
    """A rebalance timeout of -1 is the session's."""
    with scene() as s:
        a, b = Client(s, "a", rebalance=-1, session=10), Client(s, "b", rebalance=-1, session=6)
        stable(s, a, b)
        b.topics = ("u",)
        b.ask()
        for _ in range(3):
            s.wait(3)
            a.beat()
        assert b.waiting and not b.waiting.done()
        s.wait(2)
        b.joined()
