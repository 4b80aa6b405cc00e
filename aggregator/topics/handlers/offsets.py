"""What groups remember: how far they have come in each partition.

To commit or fetch takes the right to the group and `read` of the topic; what isn't allowed, isn't there or is too long
has its code in its own place, and the rest is kept, in one transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from sys import getsizeof
from typing import Any

from aggregator.topics.broker import Handler, Session
from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.log.log import Log
from aggregator.topics.log.schema import Offset
from aggregator.topics.log.views import Place
from aggregator.topics.wire.api import Body, Request
from aggregator.topics.wire.tables.offsets import OFFSET_COMMIT, OFFSET_DELETE, OFFSET_FETCH

METADATA_LENGTH = 4096
"""Bytes that a consumer may keep with an offset (Kafka's offset.metadata.max.bytes)."""
GROUP_LENGTH = 255
"""Characters of a group's name."""
MOST_OFFSETS, MOST_BYTES = 200_000, 64 << 20
"""Of all groups together, and of the names and metadata with them; memory holds them."""


async def commit(request: Request, session: Session) -> Body:
    """OffsetCommit, by a member in its generation, or by anybody while the group has no members."""
    body, group = request.body, request.body["group_id"]
    codes = {place: fault(session, group, place, one["committed_metadata"]) for place, one in _places(body["topics"])}
    offsets = {
        place: Offset(one["committed_offset"], one["committed_leader_epoch"], one["committed_metadata"] or "")
        for place, one in _places(body["topics"])
        if codes[place] is Code.NONE
    }
    if offsets:
        code = session.broker.coordinator.check(
            group, body["generation_id"], body["member_id"], body["group_instance_id"]
        )
        codes |= dict.fromkeys(offsets, code or await _kept(session, group, offsets))
    return {"topics": _answers(codes)}


def fault(session: Session, group: str, place: Place, metadata: str | None) -> Code:
    """Why this client can't commit an offset of this partition for the group; NONE if it can."""
    try:
        session.require("group", group)
        session.partition(*place, "read")
    except TopicsError as error:
        return error.code
    if len(group) > GROUP_LENGTH:
        return Code.INVALID_GROUP_ID
    return Code.OFFSET_METADATA_TOO_LARGE if len((metadata or "").encode()) > METADATA_LENGTH else Code.NONE


async def _kept(session: Session, group: str, offsets: dict[Place, Offset]) -> Code:
    log = session.broker.log
    more = growth(log, group, offsets)
    if more is None:
        return Code.POLICY_VIOLATION
    try:
        await log.commit(group, offsets, more)
    except TopicsError:  # no room: a client looks for its coordinator and tries again
        return Code.COORDINATOR_NOT_AVAILABLE
    return Code.NONE


def growth(log: Log, group: str, offsets: Mapping[Place, Offset]) -> int | None:
    """Bytes more of names and metadata that are kept with these; None: that is more than may be kept."""
    known = log.committed(group)
    new = len(offsets.keys() - known.keys())
    more = _size(offsets) - _size({place: known[place] for place in offsets if place in known})
    if new and new + sum(map(len, log.groups.values())) > MOST_OFFSETS:
        return None
    if more > 0 and more + sum(getsizeof(name) + _size(kept) for name, kept in log.groups.items()) > MOST_BYTES:
        return None
    return max(0, more)


def _size(offsets: Mapping[Place, Offset]) -> int:
    """In memory."""
    return sum(getsizeof(topic) + getsizeof(one.metadata) for (topic, _), one in offsets.items())


async def fetch(request: Request, session: Session) -> Body:
    """OffsetFetch: of the partitions named, or (from version 2 on) of all that the group has committed.

    `require_stable` (KIP-447): where an open transaction is about to commit an offset, the client shall ask again.
    """
    body, group = request.body, request.body["group_id"]
    refused = Code.NONE if session.may("group", group) else Code.GROUP_AUTHORIZATION_FAILED
    if refused and request.version >= 2:
        return {"error_code": refused, "topics": []}
    committed = session.broker.log.committed(group)
    places = [*committed] if body["topics"] is None else _named(body["topics"])
    if body["topics"] is None:
        places = [place for place in places if session.may("read", place[0])]
    unstable = session.broker.log.pending_offsets(group) if body["require_stable"] else ()
    return {
        "topics": _grouped(
            (place, _fetched(refused or _readable(session, place, unstable), committed.get(place))) for place in places
        )
    }


def _named(topics: list[Body]) -> list[Place]:
    """Each once."""
    return [*dict.fromkeys((topic["name"], index) for topic in topics for index in topic["partition_indexes"])]


def _readable(session: Session, place: Place, unstable: Collection[Place]) -> Code:
    if not session.may("read", place[0]):
        return Code.TOPIC_AUTHORIZATION_FAILED
    return Code.UNSTABLE_OFFSET_COMMIT if place in unstable else Code.NONE


def _fetched(code: Code, offset: Offset | None) -> Body:
    """Without an offset, -1: the client then begins as its reset policy says."""
    if code is not Code.NONE or offset is None:
        return {"error_code": code, "committed_offset": -1}
    return {
        "committed_offset": offset.offset,
        "committed_leader_epoch": offset.leader_epoch,
        "metadata": offset.metadata,
    }


async def delete(request: Request, session: Session) -> Body:
    """OffsetDelete: of topics that no member of the group is subscribed to."""
    body, group = request.body, request.body["group_id"]
    names = [topic["name"] for topic in body["topics"]]
    try:
        session.require("group", group)
        unused = session.broker.coordinator.unused(group, names)
    except TopicsError as error:
        return {"error_code": error.code}
    codes = {place: fault(session, group, place, None) or unused[place[0]] for place, _ in _places(body["topics"])}
    places = [place for place, code in codes.items() if code is Code.NONE]
    try:
        await session.broker.log.forget(group, places)
    except TopicsError:
        codes |= dict.fromkeys(places, Code.COORDINATOR_NOT_AVAILABLE)
    return {"topics": _answers(codes)}


def _places(topics: list[Body]) -> Iterator[tuple[Place, Body]]:
    for topic in topics:
        for one in topic["partitions"]:
            yield (topic["name"], one["partition_index"]), one


def _answers(codes: dict[Place, Code]) -> list[Body]:
    return _grouped((place, {"error_code": code}) for place, code in codes.items())


def _grouped(answers: Iterable[tuple[Place, dict[str, Any]]]) -> list[Body]:
    """Answers of partitions under their topics."""
    topics: dict[str, list[Body]] = {}
    for (name, index), answer in answers:
        topics.setdefault(name, []).append({"partition_index": index, **answer})
    return [{"name": name, "partitions": partitions} for name, partitions in topics.items()]


HANDLERS: dict[int, Handler] = {OFFSET_COMMIT.key: commit, OFFSET_FETCH.key: fetch, OFFSET_DELETE.key: delete}
