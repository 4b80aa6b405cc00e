"""What each request does in each phase of one group (Kafka: GroupCoordinator.doJoinGroup, doSyncGroup ...)."""

from __future__ import annotations

import asyncio

from aggregator.topics.errors import Code
from aggregator.topics.groups import bodies
from aggregator.topics.groups.bodies import Body, join_refused, sync_refused
from aggregator.topics.groups.member import Join, Member
from aggregator.topics.groups.phases import Phases
from aggregator.topics.groups.state import State
from aggregator.topics.groups.subscription import same_subscription

Answer = Body | asyncio.Future[Body]
"""An answer, or one that comes when others have joined or the leader has assigned."""


class Group(Phases):
    """Phases, and the requests that come in them."""

    # -- JoinGroup

    def join(self, join: Join, require_member_id: bool) -> Answer:
        """A member, or who wants to be one, asks to be in the next generation."""
        if not self._has_room(self.roster.whose(join)):
            self._turn_away(join.member_id)
            return join_refused(Code.GROUP_MAX_SIZE_REACHED)
        if not self.roster.supports(join):
            return join_refused(Code.INCONSISTENT_GROUP_PROTOCOL, join.member_id)
        answer = self._join_again(join) if join.member_id else self._join_new(join, require_member_id)
        self.try_join()
        return answer

    def _has_room(self, member_id: str) -> bool:
        """Kafka's acceptJoiningMember: while a rebalance is prepared, those count who have come."""
        members, limit = self.roster.members, self.limits.members
        if self.state is State.PREPARING:
            member = members.get(member_id)
            waiting = len(members) - len(self.roster.awaited)
            return waiting < limit or (member is not None and member.joining is not None)
        return member_id in members or len(members) < limit

    def _turn_away(self, member_id: str) -> None:
        if member_id in self.roster.pending:
            self.release(member_id)
        elif member_id in self.roster.members:
            self.remove(self.roster.members[member_id])

    def _join_new(self, join: Join, require_member_id: bool) -> Answer:
        member_id = join.new_id()
        if join.instance_id in self.roster.static:
            return self._come_back(self.roster.members[self.roster.static[join.instance_id]], member_id, join)
        if join.instance_id is None and require_member_id:
            self.reserve(member_id, min(join.session_ms / 1000, self.limits.pending_seconds))
            return join_refused(Code.MEMBER_ID_REQUIRED, member_id)
        return self.enter(Member.of(member_id, join), join.protocol_type)

    def _come_back(self, member: Member, member_id: str, join: Join) -> Answer:
        """A static member started again (KIP-345): its old self is fenced, its assignment stays with it.

        In a stable group nobody else notices, if the protocol and its topics stay the same. Kafka looks at the
        protocol alone, so that changed topics would wait for the next rebalance. The answer names the leader of before,
        so that a leader which comes back doesn't assign what nobody would get.
        """
        leader, before = self.roster.leader, member.protocols
        self.sessions.end(member, Code.FENCED_INSTANCE_ID)
        self.roster.rename(member, member_id)
        self.roster.update(member, join)
        member.new = False
        self.sessions.alive(member)
        if self.state is State.STABLE and self._same(member, before):
            return bodies.joined(member, self.generation, self.roster.protocol_type, self.protocol, leader)
        waiting = self.sessions.wait_join(member)
        self.rebalance()
        return waiting

    def _same(self, member: Member, before: tuple[tuple[str, bytes], ...]) -> bool:
        return self.roster.selected() == self.protocol and same_subscription(
            dict(before)[self.protocol], member.metadata(self.protocol)
        )

    def _join_again(self, join: Join) -> Answer:
        roster = self.roster
        if join.member_id in roster.pending and join.instance_id is None:
            roster.take(join.member_id)
            return self.enter(Member.of(join.member_id, join), join.protocol_type)
        code = self.known(join.member_id, join.instance_id)
        if code is not Code.NONE:
            return join_refused(code, join.member_id)
        member = roster.members[join.member_id]
        if self._nothing_new(member, join):
            return self.joined(member)
        roster.update(member, join)
        waiting = self.sessions.wait_join(member)
        self.rebalance()
        return waiting

    def _nothing_new(self, member: Member, join: Join) -> bool:
        """Whether this generation will do: its answer was lost, or a follower asks without a change.

        A stable group's leader wants new assignments, for a reason that its metadata needn't show (new partitions).
        """
        if self.state is State.COMPLETING or (self.state is State.STABLE and member.id != self.roster.leader):
            return member.protocols == join.protocols
        return False

    # -- SyncGroup

    def sync(self, member_id: str, instance_id: str | None, generation: int, assignments: dict[str, bytes] | None,
             protocol_type: str | None = None, protocol: str | None = None) -> Answer:  # fmt: skip
        """A member asks for its assignment; the leader brings all of them."""
        code = self.current(member_id, instance_id, generation)
        if code is Code.NONE and not self._agrees(protocol_type, protocol):
            code = Code.INCONSISTENT_GROUP_PROTOCOL
        if code is Code.NONE and self.state is State.PREPARING:
            code = Code.REBALANCE_IN_PROGRESS
        if code is not Code.NONE:
            return sync_refused(code)
        return self._sync(self.roster.members[member_id], assignments)

    def _sync(self, member: Member, assignments: dict[str, bytes] | None) -> Answer:
        self.has_synced(member)
        if self.state is State.STABLE:
            self.sessions.alive(member)
            return self.synced(member)
        waiting = self.sessions.wait_sync(member)
        if member.id == self.roster.leader:
            self.assign(assignments)
        return waiting

    def _agrees(self, protocol_type: str | None, protocol: str | None) -> bool:
        """SyncGroup 5 says what the member believes the group's protocol to be."""
        return protocol_type in (None, self.roster.protocol_type) and protocol in (None, self.protocol)

    # -- Heartbeat, OffsetCommit, LeaveGroup

    def known(self, member_id: str, instance_id: str | None) -> Code:
        """NONE; FENCED_INSTANCE_ID if the static member goes by another id now; UNKNOWN_MEMBER_ID."""
        if instance_id is not None and self.roster.static.get(instance_id, member_id) != member_id:
            return Code.FENCED_INSTANCE_ID
        if member_id not in self.roster.members or (instance_id is not None and instance_id not in self.roster.static):
            return Code.UNKNOWN_MEMBER_ID
        return Code.NONE

    def current(self, member_id: str, instance_id: str | None, generation: int) -> Code:
        """`known`, then ILLEGAL_GENERATION."""
        code = self.known(member_id, instance_id)
        return Code.ILLEGAL_GENERATION if code is Code.NONE and generation != self.generation else code

    def heartbeat(self, member_id: str, instance_id: str | None, generation: int) -> Code:
        """A sign of life; REBALANCE_IN_PROGRESS asks for a JoinGroup."""
        code = self.current(member_id, instance_id, generation)
        if code is not Code.NONE:
            return code
        self.sessions.alive(self.roster.members[member_id])
        return Code.REBALANCE_IN_PROGRESS if self.state is State.PREPARING else Code.NONE

    def check(self, member_id: str, instance_id: str | None, generation: int, transactional: bool) -> Code:
        """Whether offsets may be committed (Kafka's ClassicGroup.validateOffsetCommit); also a sign of life."""
        if generation < 0 and self.state is State.EMPTY:
            return Code.NONE
        if generation < 0 and not member_id and instance_id is None:
            return Code.NONE if transactional else Code.UNKNOWN_MEMBER_ID
        code = self.current(member_id, instance_id, generation)
        if code is Code.NONE and not transactional:
            if self.state is State.COMPLETING:
                return Code.REBALANCE_IN_PROGRESS
            self.sessions.alive(self.roster.members[member_id])
        return code

    def leave(self, member_id: str, instance_id: str | None) -> Code:
        """A member goes; without a member id an administrator removes a static one."""
        if not member_id:
            member_id = "" if instance_id is None else self.roster.static.get(instance_id, "")
        elif member_id in self.roster.pending:
            self.release(member_id)
            return Code.NONE
        code = self.known(member_id, instance_id)
        if code is Code.NONE:
            self.remove(self.roster.members[member_id])
        return code

    # -- what is told of it

    def describe(self) -> Body:
        """For DescribeGroups; the protocol and what it carries only of a stable group."""
        protocol = self.protocol if self.state is State.STABLE else ""
        return bodies.described(
            self.name, self.state, self.roster.protocol_type, protocol, self.roster.members.values()
        )

    def uses(self, topic: str) -> bool:
        """Whether members are subscribed to a topic; True if that can't be said of a consumer group."""
        return self.roster.protocol_type == "consumer" if self.topics is None else topic in self.topics
