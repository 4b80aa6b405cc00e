"""The phases of a group and what moves it from one to the next; the requests are in `group`.

    Empty -> PreparingRebalance     a member joins; the very first ones are waited for (`initial_delay`)
    PreparingRebalance              every member has to join; who doesn't before the longest rebalance timeout is out,
                                    static members are left their session
    -> CompletingRebalance          a new generation: all JoinGroups are answered, the leader gets the members' metadata
    -> Stable                       the leader's SyncGroup brings the assignments: all SyncGroups are answered
    Stable, CompletingRebalance -> PreparingRebalance      a member comes, goes, changes, or doesn't sync in time
    PreparingRebalance -> Empty     nobody is left
    any -> Dead                     deleted, or the service closes

(Kafka: GroupCoordinator.prepareRebalance, onCompleteJoin, onExpirePendingSync, DelayedJoin.)
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from aggregator.topics.errors import Code
from aggregator.topics.groups import bodies
from aggregator.topics.groups.bodies import Body, sync_refused
from aggregator.topics.groups.member import CallLater, Member, Timer, answer
from aggregator.topics.groups.roster import Roster
from aggregator.topics.groups.sessions import Sessions
from aggregator.topics.groups.state import Limits, State
from aggregator.topics.groups.subscription import topics_of

log = logging.getLogger(__name__)

AGAIN_SECONDS = 1.0
"""A rebalance to which nobody came is tried again after so long at least; members may say that they have no time."""


class Phases:
    """One group's state, generation and timers. `protocol` is the assignor of this generation, "" without one.

    `rested` is called with the name each time the group has been empty for a while.
    """

    def __init__(self, name: str, call_later: CallLater, limits: Limits, rested: Callable[[str], None]) -> None:
        self.name = name
        self.limits = limits
        self._rested = rested
        self.state = State.EMPTY
        self.generation = 0
        self.protocol = ""
        self.topics: frozenset[str] | None = None
        self.roster = Roster()
        self.sessions = Sessions(call_later, self._silent)
        self._later = call_later
        self._timer: Timer | None = None
        self._opening = False
        self._grown = False
        self._unsynced: set[Member] = set()

    # -- a member's presence

    def enter(self, member: Member, protocol_type: str) -> asyncio.Future[Body]:
        """A new member; the future is its JoinGroup's answer."""
        self._grown = self._grown or (self.state is State.PREPARING and self.generation == 0)
        self.roster.add(member, protocol_type)
        waiting = self.sessions.wait_join(member)
        self.sessions.begin(member)
        self.rebalance()
        return waiting

    def remove(self, member: Member) -> None:
        """It left, or its session is over."""
        self._drop(member)
        if self.state is State.PREPARING:
            self.try_join()
        else:
            self.rebalance()

    def _silent(self, member: Member) -> None:
        log.info("group %r: nothing was heard of %r for its session; it is out", self.name, member.id)
        self.remove(member)

    def _drop(self, member: Member) -> None:
        self.roster.remove(member)
        self.sessions.end(member, Code.UNKNOWN_MEMBER_ID)

    # -- ids given out, whose second JoinGroup is to come (KIP-394)

    def reserve(self, member_id: str, seconds: float) -> None:
        """Wait for the id's JoinGroup; the oldest id gives way if there are as many as members allowed."""
        if len(self.roster.pending) >= self.limits.members:
            self.release(next(iter(self.roster.pending)))
        self.roster.give(member_id, self._later(seconds, self.release, member_id))

    def release(self, member_id: str) -> None:
        """The id isn't waited for any more."""
        self.roster.take(member_id)
        self.try_join()

    # -- PreparingRebalance

    def rebalance(self) -> None:
        """Begin, unless it has begun. SyncGroups that wait are told to join again."""
        if self.state not in (State.EMPTY, State.COMPLETING, State.STABLE):
            return
        if self.state is State.COMPLETING:
            self._answer_syncs(Code.REBALANCE_IN_PROGRESS)
        self.roster.assign({})
        self._opening, self.state = self.state is State.EMPTY, State.PREPARING
        patience = self.roster.rebalance_seconds
        if self._opening:
            delay = self.limits.initial_delay
            self._arm(delay, self._opened, max(patience - delay, 0))
        else:
            self._arm(patience, self._complete_join)
            self.try_join()

    def _opened(self, left: float) -> None:
        """The first ones were waited for; if more came meanwhile, others may be on their way (KIP-134)."""
        if self._grown and left > 0:
            self._grown = False
            delay = min(self.limits.initial_delay, left)
            self._arm(delay, self._opened, left - delay)
        else:
            self._complete_join()

    def try_join(self) -> None:
        """Go on if nobody is waited for any more."""
        if self.state is State.PREPARING and not self._opening and self.roster.complete:
            self._complete_join()

    def _complete_join(self) -> None:
        """All who will come have come."""
        self._opening = self._grown = False
        for member in self.roster.awaited:
            if member.instance_id is None:
                log.info("group %r: %r did not come to the rebalance; it is out", self.name, member.id)
                self._drop(member)
        if not self.roster.members:
            self._emptied()
        elif self.roster.elect():
            self._next_generation()
        else:
            self._arm(max(self.roster.rebalance_seconds, AGAIN_SECONDS), self._complete_join)

    def _emptied(self) -> None:
        self.generation += 1
        self.state, self.protocol, self.topics = State.EMPTY, "", frozenset()
        self.rest()

    def rest(self) -> None:
        """Nobody is there; say so after a while."""
        if self.state is State.EMPTY:
            self._arm(self.limits.empty_seconds, self._rested, self.name)

    @property
    def idle(self) -> bool:
        """Whether nothing would be missed but the count of generations."""
        return self.state is State.EMPTY and not self.roster.pending

    def _next_generation(self) -> None:
        roster = self.roster
        self.generation += 1
        self.state, self.protocol = State.COMPLETING, roster.selected()
        self.topics = self._subscribed()
        self._unsynced = set(roster.members.values())
        for member in roster.members.values():
            waiting, member.joining, member.new = member.joining, None, False
            answer(waiting, self.joined(member))
            self.sessions.alive(member)
        self._arm(roster.rebalance_seconds, self._sync_late)

    def _subscribed(self) -> frozenset[str] | None:
        """All members' topics; None if that can't be said."""
        if self.roster.protocol_type != "consumer":
            return None
        topics = [topics_of(member.metadata(self.protocol)) for member in self.roster.members.values()]
        return None if None in topics else frozenset().union(*(one for one in topics if one is not None))

    def joined(self, member: Member) -> Body:
        """The JoinGroup answer of this generation."""
        members = self.roster.members.values() if member.id == self.roster.leader else ()
        return bodies.joined(
            member, self.generation, self.roster.protocol_type, self.protocol, self.roster.leader, members
        )

    # -- CompletingRebalance and Stable

    def synced(self, member: Member) -> Body:
        """The SyncGroup answer of this generation."""
        return bodies.synced(self.roster.protocol_type, self.protocol, member.assignment)

    def has_synced(self, member: Member) -> None:
        """Its SyncGroup came; once all have come, nobody can be late."""
        self._unsynced.discard(member)
        if not self._unsynced:
            self._disarm()

    def assign(self, assignments: dict[str, bytes] | None) -> None:
        """The leader's SyncGroup: too much of it (None) is an error for all, as where Kafka can't write it down."""
        if assignments is None:
            self._answer_syncs(Code.UNKNOWN_SERVER_ERROR)
            self.rebalance()
            return
        self.roster.assign(assignments)
        self.state = State.STABLE
        self._answer_syncs(Code.NONE)

    def _answer_syncs(self, code: Code) -> None:
        for member in self.roster.members.values():
            waiting, member.syncing = member.syncing, None
            if waiting is not None:
                answer(waiting, sync_refused(code) if code is not Code.NONE else self.synced(member))
                self.sessions.alive(member)

    def _sync_late(self) -> None:
        """Who joined and never asked for its assignment is out (KAFKA-9752)."""
        for member in list(self._unsynced):
            log.info("group %r: %r joined and did not ask for its assignment; it is out", self.name, member.id)
            self._drop(member)
        self.rebalance()

    # -- ends

    def _arm(self, seconds: float, function: object, *arguments: object) -> None:
        self._disarm()
        self._timer = self._later(seconds, function, *arguments)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def die(self, code: Code) -> None:
        """Deleted or closed: all who wait get `code`, and no timer fires any more."""
        self.state = State.DEAD
        self._disarm()
        for member in self.roster.members.values():
            self.sessions.end(member, code)
        for timer in self.roster.pending.values():
            timer.cancel()
