"""Is a member still there: the timer of its session, and the requests of it that wait.

Two promises are added to Kafka's. Every request that waits is answered, also if its member is removed or replaced or
asks again. And a member whose connection is lost while it waits counts as one that has yet to come back: the others
don't wait for a leader that is gone, and don't count it among those who joined.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from aggregator.topics.errors import Code
from aggregator.topics.groups.bodies import Body, join_refused, sync_refused
from aggregator.topics.groups.member import CallLater, Member, answer

NEW_MEMBER_SECONDS = 300.0
"""How long the first JoinGroup of a member may wait: without an id it can't have sent heartbeats."""


class Sessions:
    """`expired` is called with a member that gave no sign of life for its session, unless a request of it waits."""

    def __init__(self, call_later: CallLater, expired: Callable[[Member], None]) -> None:
        self._later = call_later
        self._expired = expired

    def begin(self, member: Member) -> None:
        """It has sent its first JoinGroup, and can't send more before that is answered."""
        self._watch(member, NEW_MEMBER_SECONDS)

    def alive(self, member: Member) -> None:
        """A sign of life: the session begins anew."""
        self._watch(member, member.session_ms / 1000)

    def _watch(self, member: Member, seconds: float) -> None:
        if member.timer is not None:
            member.timer.cancel()
        member.timer = self._later(seconds, self._over, member)

    def _over(self, member: Member) -> None:
        member.timer = None
        if member.new or not member.waits:
            self._expired(member)

    def end(self, member: Member, code: Code) -> None:
        """It is no member, or not under this id: answer what waits, stop the timer."""
        joining, syncing, timer = member.joining, member.syncing, member.timer
        member.joining = member.syncing = member.timer = None
        answer(joining, join_refused(code, member.id if code is Code.FENCED_INSTANCE_ID else ""))
        answer(syncing, sync_refused(code))
        if timer is not None:
            timer.cancel()

    def wait_join(self, member: Member) -> asyncio.Future[Body]:
        """It asks to be in the next generation; an older request of it is told to come again."""
        answer(member.joining, join_refused(Code.REBALANCE_IN_PROGRESS, member.id))
        member.joining = self._waiting(member)
        return member.joining

    def wait_sync(self, member: Member) -> asyncio.Future[Body]:
        """It asks for its assignment; an older request of it is told to join again."""
        answer(member.syncing, sync_refused(Code.REBALANCE_IN_PROGRESS))
        member.syncing = self._waiting(member)
        return member.syncing

    def _waiting(self, member: Member) -> asyncio.Future[Body]:
        waiting: asyncio.Future[Body] = asyncio.get_running_loop().create_future()
        waiting.add_done_callback(partial(self._done, member))
        return waiting

    def _done(self, member: Member, waiting: asyncio.Future[Body]) -> None:
        """Answered, or cancelled since the connection was lost: then it has its session to come back."""
        if not waiting.cancelled() or waiting not in (member.joining, member.syncing):
            return
        if member.joining is waiting:
            member.joining = None
        else:
            member.syncing = None
        self.alive(member)
