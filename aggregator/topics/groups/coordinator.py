"""All consumer groups of this broker: Kafka's GroupCoordinator for classic groups, as a state machine without I/O.

Time comes from outside (`call_later`), so does the knowledge which groups have committed offsets (`kept`); answers that
have to wait are futures, and every one of them gets an answer: when the others have come, when the member is removed,
when its own time is over, when the service closes. If the caller's connection is gone, it cancels the future.

Membership lives in memory. After a restart a member is told UNKNOWN_MEMBER_ID and joins again; offsets are in the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.groups.bodies import Body, described, join_refused, left, sync_refused
from aggregator.topics.groups.group import Answer, Group
from aggregator.topics.groups.member import CallLater, Join
from aggregator.topics.groups.state import Limits, State

log = logging.getLogger(__name__)


class Coordinator:
    """`call_later` as the event loop's; `kept`: names of the groups that have committed offsets, as of now."""

    def __init__(self, call_later: CallLater, kept: Collection[str] = (), limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._later = call_later
        self._kept = kept
        self._groups: dict[str, Group] = {}
        self._closed = False

    # -- members

    def join(self, group: str, member_id: str, instance_id: str | None, client_id: str, host: str, session_ms: int,
             rebalance_ms: int, protocol_type: str, protocols: Iterable[tuple[str, bytes]],
             require_member_id: bool) -> asyncio.Future[Body]:  # fmt: skip
        """JoinGroup; the answer waits for the other members.

        rebalance_ms: of version 0, -1 (the session's). protocols: (name, metadata), the most wanted first.
        require_member_id: from version 4 on (KIP-394).
        """
        copied = tuple({name: bytes(metadata) for name, metadata in protocols}.items())
        join = Join(member_id, instance_id, client_id, host, session_ms,
                    rebalance_ms if rebalance_ms >= 0 else session_ms, protocol_type, copied)  # fmt: skip
        code = self._refusal(group) or self._bad_session(session_ms) or self._too_much(group, join)
        if code:
            return _future(join_refused(code, member_id))
        found = self._groups.get(group) or (None if member_id else self._create(group))
        if found is None:
            code = Code.UNKNOWN_MEMBER_ID if member_id else Code.COORDINATOR_NOT_AVAILABLE
            return _future(join_refused(code, member_id))
        return _future(found.join(join, require_member_id))

    def sync(self, group: str, generation: int, member_id: str, instance_id: str | None,
             assignments: Mapping[str, bytes], protocol_type: str | None = None,
             protocol_name: str | None = None) -> asyncio.Future[Body]:  # fmt: skip
        """SyncGroup; the answer waits for the leader, whose `assignments` (member id -> bytes) are for all."""
        found = self._groups.get(group)
        code = self._refusal(group)
        if code or found is None:
            return _future(sync_refused(code or Code.UNKNOWN_MEMBER_ID))
        size = sum(map(len, assignments.values()))
        fits = size + found.roster.bytes <= self.limits.group_bytes and size + self._bytes <= self.limits.bytes
        copied = {member: bytes(assignment) for member, assignment in assignments.items()} if fits else None
        return _future(found.sync(member_id, instance_id, generation, copied, protocol_type, protocol_name))

    def heartbeat(self, group: str, generation: int, member_id: str, instance_id: str | None) -> Code:
        """Heartbeat: NONE, REBALANCE_IN_PROGRESS (join again), or why this isn't a member."""
        found = self._groups.get(group)
        code = self._refusal(group)
        if code or found is None:
            return code or Code.UNKNOWN_MEMBER_ID
        return found.heartbeat(member_id, instance_id, generation)

    def leave(self, group: str, members: Iterable[tuple[str, str | None]]) -> Body:
        """LeaveGroup of version 3: (member id, or "" for whoever has the instance id; instance id), each with its code.

        Up to version 2 there is one member, and its code is the answer's.
        """
        code = self._refusal(group)
        if code:
            return left(code)
        found = self._groups.get(group)
        return left(Code.NONE, [
            (member_id, instance_id, found.leave(member_id, instance_id) if found else Code.UNKNOWN_MEMBER_ID)
            for member_id, instance_id in members
        ])  # fmt: skip

    def check(self, group: str, generation: int, member_id: str, instance_id: str | None,
              transactional: bool = False) -> Code:  # fmt: skip
        """Whether this may commit offsets for the group (OffsetCommit, TxnOffsetCommit); also a sign of life.

        Generation -1 is a consumer that isn't managed here, or an administrator: allowed while the group has no
        members. Older transactional clients say no generation at all and are always allowed.
        """
        found = self._groups.get(group)
        if self._closed:
            return Code.COORDINATOR_NOT_AVAILABLE
        if found is not None:
            return found.check(member_id, instance_id, generation, transactional)
        if generation < 0:
            return Code.NONE
        return Code.UNKNOWN_MEMBER_ID if group in self._kept else Code.ILLEGAL_GENERATION

    # -- groups

    def describe(self, group: str) -> Body:
        """One group of DescribeGroups; one that nobody knows is `Dead`, as up to version 5."""
        found = self._groups.get(group)
        if found is not None:
            return found.describe()
        return described(group, str(State.EMPTY if group in self._kept else State.DEAD))

    def groups(self, states: Collection[str] = ()) -> list[dict[str, Any]]:
        """ListGroups: group_id, protocol_type, group_state; those in one of `states`, any case, or all."""
        wanted = {state.lower() for state in states}
        found = [(name, group.roster.protocol_type, group.state) for name, group in self._groups.items()]
        found += [(name, "", State.EMPTY) for name in self._kept if name not in self._groups]
        return [
            {"group_id": name, "protocol_type": protocol_type, "group_state": str(state), "group_type": "classic"}
            for name, protocol_type, state in found
            if not wanted or state.lower() in wanted
        ]

    def is_empty(self, group: str) -> bool:
        """Whether it has no members: nobody would miss its offsets."""
        found = self._groups.get(group)
        return found is None or found.state is State.EMPTY

    def delete(self, group: str) -> Code:
        """DeleteGroups: NONE (forget its offsets too), NON_EMPTY_GROUP, GROUP_ID_NOT_FOUND."""
        if not self.is_empty(group):
            return Code.NON_EMPTY_GROUP
        found = self._groups.pop(group, None)
        if found is not None:
            found.die(Code.UNKNOWN_MEMBER_ID)
        return Code.NONE if found is not None or group in self._kept else Code.GROUP_ID_NOT_FOUND

    def unused(self, group: str, topics: Iterable[str]) -> dict[str, Code]:
        """OffsetDelete: NONE for each topic whose offsets may go, GROUP_SUBSCRIBED_TO_TOPIC for the others.

        TopicsError GROUP_ID_NOT_FOUND, or NON_EMPTY_GROUP of a group whose members aren't consumers.
        """
        found = self._groups.get(group)
        if found is None and group not in self._kept:
            raise TopicsError(Code.GROUP_ID_NOT_FOUND, f"there is no group {group}")
        if found is None or found.state is State.EMPTY:
            return dict.fromkeys(topics, Code.NONE)
        if found.roster.protocol_type != "consumer":
            raise TopicsError(Code.NON_EMPTY_GROUP, f"group {group} has members; stop them first")
        return {topic: Code.GROUP_SUBSCRIBED_TO_TOPIC if found.uses(topic) else Code.NONE for topic in topics}

    def close(self) -> None:
        """Answer all who wait, and refuse what comes."""
        self._closed = True
        for group in self._groups.values():
            group.die(Code.NOT_COORDINATOR)
        self._groups.clear()

    # -- bounds

    def _refusal(self, group: str) -> Code | None:
        if not group:
            return Code.INVALID_GROUP_ID
        return Code.COORDINATOR_NOT_AVAILABLE if self._closed else None

    def _bad_session(self, session_ms: int) -> Code | None:
        low, high = self.limits.session_seconds
        return None if low * 1000 <= session_ms <= high * 1000 else Code.INVALID_SESSION_TIMEOUT

    def _too_much(self, group: str, join: Join) -> Code | None:
        """Kafka's answer to metadata that it can't write down."""
        found, limits = self._groups.get(group), self.limits
        growth = found.roster.growth(join) if found else join.size
        if growth + (found.roster.bytes if found else 0) > limits.group_bytes:
            log.warning("group %r: client %r would bring it above %d bytes of metadata and assignments",
                        group, join.client_id, limits.group_bytes)  # fmt: skip
            return Code.UNKNOWN_SERVER_ERROR
        if growth + self._bytes > limits.bytes:
            log.warning("group %r: all groups together would have more than %d bytes", group, limits.bytes)
            return Code.COORDINATOR_NOT_AVAILABLE
        return None

    @property
    def _bytes(self) -> int:
        return sum(group.roster.bytes for group in self._groups.values())

    def _rested(self, name: str) -> None:
        """Kafka's cleanupGroupMetadata: without members and offsets, a group is forgotten."""
        group = self._groups[name]
        if group.idle and name not in self._kept:
            del self._groups[name]
        else:
            group.rest()

    def _create(self, name: str) -> Group | None:
        """A new group; where there are too many, those without members are forgotten, or the client has to wait."""
        if len(self._groups) >= self.limits.groups:
            self._make_room()
        if len(self._groups) >= self.limits.groups:
            log.warning("group %r: there are %d groups with members already", name, self.limits.groups)
            return None
        self._groups[name] = group = Group(name, self._later, self.limits, self._rested)
        group.rest()
        return group

    def _make_room(self) -> None:
        """Forget the idle groups; without any, the oldest that has given out ids and no more: who was given one, and
        comes too late, asks for another."""
        empty = [group for group in self._groups.values() if group.state is State.EMPTY]
        for group in [group for group in empty if group.idle] or empty[:1]:
            self._groups.pop(group.name).die(Code.UNKNOWN_MEMBER_ID)


def _future(answer: Answer) -> asyncio.Future[Body]:
    if isinstance(answer, asyncio.Future):
        return answer
    future: asyncio.Future[Body] = asyncio.get_running_loop().create_future()
    future.set_result(answer)
    return future
