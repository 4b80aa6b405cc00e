"""Bounds: members, groups, bytes; who is refused and who isn't disturbed."""

from __future__ import annotations

import pytest

from aggregator.topics.errors import Code
from tests.aggregator.topics.groups.scene import Client, Scene, code, rejoin, scene, stable


def ask(scene: Scene, group: str, member_id: str = "", metadata: bytes = b"", two_steps: bool = False) -> Code:
    """A JoinGroup of some group; NONE if it waits."""
    waiting = scene.do(scene.coordinator.join, group, member_id, None, "c", "/h", 10_000, 10_000, "consumer",
                       [("range", metadata)], two_steps)  # fmt: skip
    return code(waiting) if waiting.done() else Code.NONE


def test_a_full_group() -> None:
    """One member too many is GROUP_MAX_SIZE_REACHED, and the group isn't disturbed."""
    with scene(members=2) as s:
        a, b = Client(s, "a"), Client(s, "b")
        stable(s, a, b)
        assert code(Client(s, "c").ask()) is Code.GROUP_MAX_SIZE_REACHED
        assert a.beat() is Code.NONE
        b.ask()
        b.joined()


def test_a_group_that_fills_while_all_join() -> None:
    """While all join, those count who have come: the last ones to come again are out."""
    with scene(members=2) as s:
        a, b, c = (Client(s, name) for name in "abc")
        stable(s, a, b)
        b.leave()
        c.ask()
        d = Client(s, "d")
        d.ask()
        assert code(a.ask()) is Code.GROUP_MAX_SIZE_REACHED
        rejoin(c, d)
        assert s.ids == {c.id, d.id}


def test_who_waits_may_ask_again() -> None:
    """A member that has come is not one too many when it asks again."""
    with scene(members=1) as s:
        a = Client(s, "a")
        a.ask()
        a.ask()
        s.wait(1)
        a.joined()


def test_ids_given_out() -> None:
    """As many ids are waited for as there may be members; the oldest gives way."""
    with scene(members=2) as s:
        clients = [Client(s, str(number)) for number in range(3)]
        for client in clients:
            client.id = client._join().result()["member_id"]
        assert [code(waiting) if (waiting := client.ask()).done() else None for client in clients] == [
            Code.UNKNOWN_MEMBER_ID, None, None
        ]  # fmt: skip


def test_too_many_groups() -> None:
    """One group too many has to wait (COORDINATOR_NOT_AVAILABLE: clients come again); the others aren't disturbed."""
    with scene(groups=2) as s:
        assert [ask(s, name) for name in "xyz"] == [Code.NONE, Code.NONE, Code.COORDINATOR_NOT_AVAILABLE]
        assert s.coordinator.describe("x")["group_state"] == "PreparingRebalance"


def test_idle_groups_give_way() -> None:
    """Groups without members are forgotten for new ones."""
    with scene(groups=1) as s:
        a = Client(s, "a")
        stable(s, a)
        a.leave()
        assert ask(s, "other") is Code.NONE
        assert s.state == "Dead"


def test_ids_that_nobody_uses_give_way() -> None:
    """Where all groups have given out ids and no more, the oldest of them is forgotten for a new one; none with a
    member is."""
    with scene(groups=3) as s:
        ask(s, "members")
        for name in "xyz":
            assert ask(s, name, two_steps=True) is Code.MEMBER_ID_REQUIRED
        states = [s.coordinator.describe(name)["group_state"] for name in ("members", *"xyz")]
        assert states == ["PreparingRebalance", "Dead", "Empty", "Empty"]


def test_an_id_is_not_waited_for_as_long_as_a_session() -> None:
    """A minute, where the session that is asked for is half an hour."""
    with scene() as s:
        a, b = Client(s, "a", session=1800), Client(s, "b", session=1800)
        a.id, b.id = a._join().result()["member_id"], b._join().result()["member_id"]
        s.wait(59)
        assert not a.ask().done()
        s.wait(2)
        assert code(b.ask()) is Code.UNKNOWN_MEMBER_ID


def test_groups_with_offsets_only_do_not_count() -> None:
    """The bound is for groups in memory."""
    with scene(groups=1) as s:
        s.kept |= dict.fromkeys("xyz", True)
        assert ask(s, "g") is Code.NONE


def test_too_much_metadata_in_a_group() -> None:
    """Metadata beyond the group's bound is what Kafka answers where it can't write it down: UNKNOWN_SERVER_ERROR."""
    with scene(group_bytes=10_000) as s:
        assert ask(s, "g", metadata=bytes(10_000)) is Code.UNKNOWN_SERVER_ERROR
        assert ask(s, "g", metadata=bytes(5000)) is Code.NONE
        assert ask(s, "g", metadata=bytes(5000)) is Code.UNKNOWN_SERVER_ERROR
        assert ask(s, "other", metadata=bytes(5000)) is Code.NONE


def test_too_much_metadata_in_all_groups() -> None:
    """Beyond the bound of all, a client has to wait until others are gone."""
    with scene(bytes=10_000) as s:
        assert ask(s, "x", metadata=bytes(6000)) is Code.NONE
        assert ask(s, "y", metadata=bytes(6000)) is Code.COORDINATOR_NOT_AVAILABLE
        s.wait(30)
        assert ask(s, "y", metadata=bytes(6000)) is Code.NONE


@pytest.mark.parametrize("static", [False, True])
def test_a_member_at_the_bound_stays(static: bool) -> None:
    """Who doesn't grow isn't refused, whether it joins again or starts again."""
    with scene() as s:
        a = Client(s, "a", static=static)
        stable(s, a)
        assert a.assignment
        size = s.coordinator._bytes - len(a.assignment)
    with scene(group_bytes=size, bytes=size) as s:
        a = Client(s, "a", static=static)
        a.ask()
        s.wait(1)
        a.joined()
        if static:
            a = a.again()
        a.ask()
        assert a.joined()["generation_id"] in (1, 2)
    with scene(group_bytes=size - 1) as s:
        assert code(Client(s, "a", static=static).ask()) is Code.UNKNOWN_SERVER_ERROR


def test_protocols_named_twice() -> None:
    """A name counts once, as in Kafka's collection of protocols."""
    with scene() as s:
        a = Client(s, "a", protocols=("range", "range"))
        stable(s, a, Client(s, "b"))
        assert s.state == "Stable"


def test_names_and_ids_count() -> None:
    """Not metadata alone is kept: long client ids, given out with ids that nobody uses, are bounded, too."""
    with scene(bytes=50_000, members=100) as s:
        clients = [Client(s, f"{number}" * 1000) for number in range(100)]
        codes = [code(client._join()) for client in clients]
        assert codes.count(Code.MEMBER_ID_REQUIRED) in range(10, 50)
        assert set(codes) == {Code.MEMBER_ID_REQUIRED, Code.COORDINATOR_NOT_AVAILABLE}
