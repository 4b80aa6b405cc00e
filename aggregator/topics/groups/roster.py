"""Who is in a group: members in order of arrival, their leader, static names, ids given out, and the common protocol.

Data only; when it changes is the business of `group`. (Kafka: GroupMetadata, later ClassicGroup.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from aggregator.topics.groups.member import MEMBER_BYTES, Join, Member, Timer


class Roster:
    """`pending`: ids given out with MEMBER_ID_REQUIRED, whose second JoinGroup is to come. `bytes`: of all."""

    def __init__(self) -> None:
        self.members: dict[str, Member] = {}
        self.static: dict[str, str] = {}
        self.pending: dict[str, Timer] = {}
        self.leader = ""
        self.protocol_type = ""
        self.bytes = 0
        self._supported: Counter[str] = Counter()

    def add(self, member: Member, protocol_type: str) -> None:
        """The first one leads and sets the protocol type."""
        if not self.members:
            self.protocol_type = protocol_type
            self.leader = member.id
        self.members[member.id] = member
        if member.instance_id is not None:
            self.static[member.instance_id] = member.id
        self._count(member, 1)

    def remove(self, member: Member) -> None:
        """The leader's heir is the longest there."""
        del self.members[member.id]
        if member.instance_id is not None:
            self.static.pop(member.instance_id, None)
        if self.leader == member.id:
            self.leader = next(iter(self.members), "")
        self._count(member, -1)

    def give(self, member_id: str, timer: Timer) -> None:
        """An id whose JoinGroup is to come before the timer's end."""
        self.pending[member_id] = timer
        self.bytes += _reserved(member_id)

    def take(self, member_id: str) -> None:
        """It has come, or isn't waited for any more."""
        self.pending.pop(member_id).cancel()
        self.bytes -= _reserved(member_id)

    def rename(self, member: Member, member_id: str) -> None:
        """A static member came back: its place, and the lead if it had it, pass to a new id."""
        leads = self.leader == member.id
        self.remove(member)
        member.id = member_id
        self.add(member, self.protocol_type)
        if leads:
            self.leader = member_id

    def update(self, member: Member, join: Join) -> None:
        """What a later JoinGroup says."""
        self._count(member, -1)
        member.protocols = join.protocols
        member.session_ms, member.rebalance_ms = join.session_ms, join.rebalance_ms
        member.client_id, member.host = join.client_id, join.host
        self._count(member, 1)

    def assign(self, assignments: Mapping[str, bytes]) -> None:
        """One assignment a member; whom the leader forgot has nothing to read."""
        for member in self.members.values():
            self.bytes -= len(member.assignment)
            member.assignment = assignments.get(member.id, b"")
            self.bytes += len(member.assignment)

    def _count(self, member: Member, sign: int) -> None:
        self.bytes += sign * (member.size + len(member.assignment))
        for name, _ in member.protocols:
            self._supported[name] += sign
            if not self._supported[name]:
                del self._supported[name]

    def whose(self, join: Join) -> str:
        """The id of the member that asks, "" of a new one; a static one that starts again knows its name only."""
        if join.member_id or join.instance_id is None:
            return join.member_id
        return self.static.get(join.instance_id, "")

    def growth(self, join: Join) -> int:
        """By how many bytes this request would make the group heavier."""
        member_id = self.whose(join)
        if member_id in self.pending:
            return join.size - _reserved(member_id)
        return join.size - (self.members[member_id].size if member_id in self.members else 0)

    def supports(self, join: Join) -> bool:
        """Whether the group has, and with this member would keep, a protocol that all can do."""
        if not self.members:
            return bool(join.protocol_type and join.protocols)
        return join.protocol_type == self.protocol_type and any(
            self._supported[name] == len(self.members) for name, _ in join.protocols
        )

    def selected(self) -> str:
        """The protocol with the most votes among those that all can do."""
        candidates = {name for name, count in self._supported.items() if count == len(self.members)}
        votes = Counter(member.vote(candidates) for member in self.members.values())
        return votes.most_common(1)[0][0]

    @property
    def awaited(self) -> list[Member]:
        """Those whose JoinGroup is still to come."""
        return [member for member in self.members.values() if member.joining is None]

    @property
    def complete(self) -> bool:
        """Whether all who are known, by member or pending id, have asked to join."""
        return not self.pending and not self.awaited

    @property
    def rebalance_seconds(self) -> float:
        """The patience of the most patient member."""
        return max((member.rebalance_ms for member in self.members.values()), default=0) / 1000

    def elect(self) -> bool:
        """See to a leader that is there; False if nobody has come back."""
        leader = self.members.get(self.leader)
        if leader is None or leader.joining is None:
            present = [member.id for member in self.members.values() if member.joining is not None]
            if not present:
                return False
            self.leader = present[0]
        return True


def _reserved(member_id: str) -> int:
    return MEMBER_BYTES + len(member_id)
