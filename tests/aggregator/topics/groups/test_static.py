"""Static members (KIP-345): a name that outlives the program."""

from __future__ import annotations

from itertools import islice

import pytest

from aggregator.topics.errors import Code
from tests.aggregator.topics.groups.scene import Client, code, rejoin, scene, stable
from tests.aggregator.topics.groups.test_sync import joined


def test_no_id_is_required() -> None:
    """A static member is let in with its first request; its id begins with its name."""
    with scene() as s:
        a = Client(s, "a", static=True)
        stable(s, a)
        assert a.id.startswith("a-")


@pytest.mark.parametrize("who", [0, 1], ids=["leader", "follower"])
def test_it_comes_back(who: int) -> None:
    """Started again within its session it has its assignment, and nobody else notices."""
    with scene() as s:
        clients = Client(s, "a", static=True), Client(s, "b", static=True)
        stable(s, *clients)
        old, other = clients[who], clients[1 - who]
        new = old.again()
        new.ask()
        body = new.joined()
        assert body["generation_id"] == 1
        assert new.id != old.id
        new.sync()
        assert new.synced() == old.assignment
        assert s.state == "Stable"
        assert other.beat() is Code.NONE
        assert s.ids == {new.id, other.id}


def test_a_leader_that_comes_back_does_not_assign() -> None:
    """It is told the leader of before, its old id, and no members; later changes are still led by it."""
    with scene() as s:
        a, b = Client(s, "a", static=True), Client(s, "b")
        stable(s, a, b)
        new = a.again()
        new.ask()
        body = new.joined()
        assert body["leader"] == a.id
        assert body["members"] == []
        b.topics = ("u",)
        b.ask()
        new.ask()
        assert new.joined()["leader"] == new.id


def test_the_old_one_is_fenced() -> None:
    """Whatever the one before asks is FENCED_INSTANCE_ID."""
    with scene() as s:
        old = Client(s, "a", static=True)
        stable(s, old)
        new = old.again()
        new.ask()
        new.joined()
        assert old.beat() is Code.FENCED_INSTANCE_ID
        assert old.commit() is Code.FENCED_INSTANCE_ID
        assert old.commit(transactional=True) is Code.FENCED_INSTANCE_ID
        assert old.leave() is Code.FENCED_INSTANCE_ID
        assert code(old.sync()) is Code.FENCED_INSTANCE_ID
        assert code(old.ask()) is Code.FENCED_INSTANCE_ID
        assert new.beat() is Code.NONE


def test_a_join_that_waits_is_fenced() -> None:
    """A JoinGroup of the one before is answered when the new one comes, with its own id."""
    with scene() as s:
        old = Client(s, "a", static=True)
        waiting = old.ask()
        new = old.again()
        new.ask()
        assert code(waiting) is Code.FENCED_INSTANCE_ID
        s.wait(1)
        new.joined()
        assert s.ids == {new.id}


def test_a_sync_that_waits_is_fenced() -> None:
    """A SyncGroup of the one before, too; since the leader knows the old id only, all have to join again."""
    with scene() as s:
        a, old = Client(s, "a"), Client(s, "b", static=True)
        joined(s, a, old)
        waiting = old.sync()
        new = old.again()
        new.ask()
        assert code(waiting) is Code.FENCED_INSTANCE_ID
        assert code(a.sync()) is Code.REBALANCE_IN_PROGRESS
        a.ask()
        rejoin(a, new)


def test_it_comes_back_with_other_topics() -> None:
    """Other topics make a rebalance."""
    with scene() as s:
        a, b = Client(s, "a"), Client(s, "b", static=True)
        stable(s, a, b)
        new = b.again()
        new.topics = ("u",)
        new.ask()
        assert a.beat() is Code.REBALANCE_IN_PROGRESS
        a.ask()
        rejoin(a, new)
        assert s.ids == {a.id, new.id}


def test_it_comes_back_with_another_protocol() -> None:
    """So does a protocol that would change the group's."""
    with scene() as s:
        a, b = Client(s, "a", protocols=("range", "sticky")), Client(s, "b", static=True, protocols=("range", "sticky"))
        stable(s, a, b)
        new = b.again()
        new.protocols = ("sticky",)
        new.ask()
        a.ask()
        assert a.joined()["protocol_name"] == "sticky"


def test_what_an_assignor_adds_is_no_change() -> None:
    """The partitions that a sticky assignor remembered are gone with the program: no rebalance for that."""
    with scene() as s:
        a, b = Client(s, "a"), Client(s, "b", static=True)
        b.extra = b"\0\0\0\x04ABCD"
        stable(s, a, b)
        new = b.again()
        new.ask()
        new.joined()
        assert a.beat() is Code.NONE


def test_it_is_away_during_a_rebalance() -> None:
    """A rebalance goes on without it, but it stays a member until its session ends."""
    with scene() as s:
        a, b = Client(s, "a", rebalance=10), Client(s, "b", static=True, rebalance=10, session=60)
        stable(s, a, b)
        a.ask()
        s.wait(10.1)
        assert set(a.joined() and a.peers) == {a.id, b.id}


def test_it_is_away_and_led() -> None:
    """If the leader doesn't come to a rebalance, one who has come leads, although the leader stays a member."""
    with scene() as s:
        a, b = Client(s, "a", static=True, rebalance=10, session=60), Client(s, "b", rebalance=10)
        stable(s, a, b)
        b.topics = ("u",)
        b.ask()
        s.wait(10.1)
        assert b.joined()["leader"] == b.id
        assert s.ids == {a.id, b.id}


def test_it_never_comes_back() -> None:
    """When its session ends it is out."""
    with scene() as s:
        a, b = Client(s, "a"), Client(s, "b", static=True, session=30)
        stable(s, a, b)
        for _ in range(6):
            s.wait(5.1)
            a.beat()
        assert s.ids == {a.id}
        assert b.beat() is Code.UNKNOWN_MEMBER_ID


def test_all_are_away() -> None:
    """A rebalance to which only absent static members belong ends with their sessions: the group is empty."""
    with scene() as s:
        a, b = Client(s, "a"), Client(s, "b", static=True, rebalance=10, session=60)
        a.rebalance = 10
        stable(s, a, b)
        a.leave()
        s.wait(30)
        assert s.state == "PreparingRebalance"
        s.wait(30)
        assert s.state == "Empty"


def test_all_but_a_newcomer_are_away() -> None:
    """A newcomer doesn't wait for the sessions of absent static members, only for a rebalance timeout."""
    with scene() as s:
        a, b, c = Client(s, "a"), Client(s, "b", static=True, session=900), Client(s, "c", rebalance=10)
        a.rebalance = b.rebalance = 10
        stable(s, a, b)
        a.leave()
        s.wait(25)
        c.ask()
        s.wait(10)
        assert c.joined()["leader"] == c.id
        assert s.ids == {b.id, c.id}


def test_it_comes_back_before_its_first_generation() -> None:
    """While its JoinGroup waits it needs no heartbeats, as any member that isn't new."""
    with scene() as s:
        a, old = Client(s, "a", session=60), Client(s, "b", static=True, session=6)
        stable(s, a)
        old.ask()
        new = old.again()
        new.ask()
        s.wait(20)
        a.ask()
        rejoin(a, new)


def test_its_session_begins_anew() -> None:
    """Coming back is a sign of life."""
    with scene() as s:
        old = Client(s, "a", static=True, session=6)
        stable(s, old)
        s.wait(5)
        new = old.again()
        new.ask()
        new.joined()
        s.wait(5.9)
        assert new.beat() is Code.NONE


def test_it_did_not_sync_before() -> None:
    """Come back before it ever synced, it has the rest of the rebalance timeout to do so, under its new id."""
    with scene() as s:
        a, b = Client(s, "a", rebalance=20), Client(s, "b", static=True, rebalance=20)
        joined(s, a, b)
        a.sync()
        new = b.again()
        new.ask()
        new.joined()
        new.sync()
        new.synced()
        for _ in range(8):
            s.wait(5)
            assert (a.beat(), new.beat()) == (Code.NONE, Code.NONE)


def test_a_full_group_lets_it_come_back() -> None:
    """Its place is its own, also where there is no other."""
    with scene(members=1) as s:
        a = Client(s, "a", static=True)
        stable(s, a)
        new = a.again()
        new.ask()
        new.joined()


def test_it_moves_to_another_host() -> None:
    """DescribeGroups tells where it is now."""
    with scene() as s:
        a = Client(s, "a", static=True)
        stable(s, a)
        new = a.again()
        new.name = "other"
        new.ask()
        (member,) = s.coordinator.describe("g")["members"]
        assert member["client_id"] == "other"
        assert member["group_instance_id"] == "a"


def test_a_member_without_patience_that_is_gone() -> None:
    """A rebalance timeout of nothing, and nobody there: the rebalance isn't begun anew all the time."""
    with scene() as s:
        a = Client(s, "a", static=True, rebalance=0, session=1800)
        a.ask()
        a.lose()
        rounds = 0
        for alarm in islice(s.clock.due(10), 100):
            s.do(alarm.function, *alarm.arguments)
            rounds += 1
        assert 0 < rounds <= 11
