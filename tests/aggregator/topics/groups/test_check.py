"""Who may commit offsets (Kafka: ClassicGroup.validateOffsetCommit)."""

from __future__ import annotations

import pytest

from aggregator.topics.errors import Code
from tests.aggregator.topics.groups.scene import Client, scene, stable
from tests.aggregator.topics.groups.test_sync import joined

BOTH = pytest.mark.parametrize("transactional", [False, True])


@BOTH
def test_a_member(transactional: bool) -> None:
    """A member with its generation may, any other generation or member not."""
    with scene() as s:
        a = Client(s, "a")
        stable(s, a)
        check = s.coordinator.check
        assert check("g", 1, a.id, None, transactional) is Code.NONE
        assert check("g", 0, a.id, None, transactional) is Code.ILLEGAL_GENERATION
        assert check("g", 2, a.id, None, transactional) is Code.ILLEGAL_GENERATION
        assert check("g", -1, a.id, None, transactional) is Code.ILLEGAL_GENERATION
        assert check("g", 1, "nobody", None, transactional) is Code.UNKNOWN_MEMBER_ID
        assert check("g", -1, "nobody", None, transactional) is Code.UNKNOWN_MEMBER_ID
        assert check("g", 1, a.id, "static", transactional) is Code.UNKNOWN_MEMBER_ID


@BOTH
def test_nobody_in_a_group_that_is_not_managed(transactional: bool) -> None:
    """Without a generation anybody may while there are no members: unknown groups, and those with offsets only."""
    with scene() as s:
        check = s.coordinator.check
        assert check("new", -1, "", None, transactional) is Code.NONE
        s.kept["old"] = True
        assert check("old", -1, "", None, transactional) is Code.NONE
        assert check("", -1, "", None, transactional) is Code.NONE


@BOTH
def test_an_empty_group(transactional: bool) -> None:
    """Once all members have left, an administrator may."""
    with scene() as s:
        a = Client(s, "a")
        stable(s, a)
        a.leave()
        assert s.coordinator.check("g", -1, "", None, transactional) is Code.NONE
        assert s.coordinator.check("g", 1, a.id, None, transactional) is Code.UNKNOWN_MEMBER_ID


def test_nobody_in_a_group_with_members() -> None:
    """An administrator may not set the offsets of a group that is in use; an old transactional client says no more."""
    with scene() as s:
        stable(s, Client(s, "a"))
        assert s.coordinator.check("g", -1, "", None) is Code.UNKNOWN_MEMBER_ID
        assert s.coordinator.check("g", -1, "", None, True) is Code.NONE


@BOTH
def test_after_a_restart(transactional: bool) -> None:
    """A member of a coordinator that is no more may not: it has to join again."""
    with scene() as s:
        assert s.coordinator.check("g", 3, "a-1", None, transactional) is Code.ILLEGAL_GENERATION
        s.kept["g"] = True
        assert s.coordinator.check("g", 3, "a-1", None, transactional) is Code.UNKNOWN_MEMBER_ID


def test_during_a_rebalance() -> None:
    """While all join, members may still commit what they did: it ends before the next generation."""
    with scene() as s:
        a, b = Client(s, "a"), Client(s, "b")
        stable(s, a)
        b.ask()
        assert a.commit() is Code.NONE


def test_before_the_assignment() -> None:
    """Between JoinGroup and the assignments it is REBALANCE_IN_PROGRESS, but not for transactions."""
    with scene() as s:
        a = Client(s, "a")
        joined(s, a)
        assert a.commit() is Code.REBALANCE_IN_PROGRESS
        assert a.commit(transactional=True) is Code.NONE


def test_a_commit_is_a_sign_of_life() -> None:
    """Who commits needs no heartbeats."""
    with scene() as s:
        a = Client(s, "a", session=6)
        stable(s, a)
        for _ in range(5):
            s.wait(5)
            assert a.commit() is Code.NONE


def test_closed() -> None:
    """Once the service closes, nobody may."""
    with scene() as s:
        s.do(s.coordinator.close)
        assert s.coordinator.check("g", -1, "", None) is Code.COORDINATOR_NOT_AVAILABLE
