"""Topics made, changed and deleted by administrators, and how large they are.

To create takes `create` of the name, all else `admin` (access/acl.py). What one request asks for is done in one commit
as far as it can be; each topic has its own answer.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, TypeVar

from aggregator.topics.broker import NODE, Handler, Session
from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.log.log import Database, Topic, Work
from aggregator.topics.wire.api import Body, Request
from aggregator.topics.wire.tables.admin import CREATE_PARTITIONS, CREATE_TOPICS, DELETE_TOPICS, DESCRIBE_LOG_DIRS
from aggregator.topics.wire.tables.records import DELETE_RECORDS

MOST_PARTS = 1000
"""Topics, or partitions, that one request may change: each change writes."""
Part = TypeVar("Part")


async def each(parts: Sequence[Part], change: Callable[[Part], Awaitable[Any]]) -> list[Body]:
    """The answers of what one request asks for. POLICY_VIOLATION, all of them, if that is too much."""
    if len(parts) > MOST_PARTS:
        refused = {"error_code": Code.POLICY_VIOLATION, "error_message": f"a request may change {MOST_PARTS} at most"}
        return [refused] * len(parts)
    return await asyncio.gather(*(answer(change(part)) for part in parts))


async def answer(work: Awaitable[Any]) -> Body:
    """What one part of a request comes to, as Kafka's pair of code and message."""
    try:
        await work
    except TopicsError as error:
        return {"error_code": error.code, "error_message": error.text if error.code else None}
    return {"error_code": Code.NONE, "error_message": None}


def tried_only(validate_only: bool) -> None:
    """Called at the end of a change in the writer: one that is only tried is taken back."""
    if validate_only:
        raise TopicsError(Code.NONE, "it would be done")


def ruled(session: Session, name: str) -> Topic:
    """A topic that this client may delete and set. TopicsError."""
    if not session.may("admin"):
        raise TopicsError(Code.TOPIC_AUTHORIZATION_FAILED, f"{session.principal} isn't an admin")
    return session.broker.topic(name)


# ---- CreateTopics


async def create(request: Request, session: Session) -> Body:
    """CreateTopics: a name that comes twice is created by neither."""
    topics, tried = request.body["topics"], request.body["validate_only"]
    names = Counter(topic["name"] for topic in topics)
    answers = await each(topics, lambda topic: _create(session, topic, names[topic["name"]] > 1, tried))
    return {"topics": [{"name": topic["name"], **one} for topic, one in zip(topics, answers, strict=True)]}


async def _create(session: Session, asked: Body, twice: bool, tried: bool) -> None:
    name, broker = asked["name"], session.broker
    session.require("create", name)
    if twice:
        raise TopicsError(Code.INVALID_REQUEST, f"topic {name[:249]} is named twice")
    partitions = _partitions(asked)
    config = _config(asked["configs"])
    if not tried:
        await broker.create(name, partitions, config)
        return
    number = broker.settings.partitions if partitions == -1 else partitions
    config = {**broker.settings.topics.get(name, {}), **config}

    def create(db: Database, work: Work) -> None:
        db.catalog.create(work, name, number, config)
        tried_only(True)

    await broker.log.run(create)


def _partitions(asked: Body) -> int:
    """How many, -1: as configured. There is one broker, so replicas and their places leave no choice."""
    number, factor, places = asked["num_partitions"], asked["replication_factor"], asked["assignments"]
    if places:
        if (number, factor) != (-1, -1):
            raise TopicsError(Code.INVALID_REQUEST, "with assignments, partitions and replication factor are both -1")
        if sorted(place["partition_index"] for place in places) != [*range(len(places))]:
            raise TopicsError(Code.INVALID_REPLICA_ASSIGNMENT, "partitions are numbered 0, 1, 2 ...")
        _check_places(places)
        return len(places)
    if factor not in (-1, 1):
        raise TopicsError(Code.INVALID_REPLICATION_FACTOR, f"there is one broker: 1 replica (or -1), not {factor}")
    if number != -1 and number < 1:
        raise TopicsError(Code.INVALID_PARTITIONS, f"a topic has 1 partition at least (-1: the default), not {number}")
    return int(number)


def _check_places(places: Collection[Body]) -> None:
    if any(list(place["broker_ids"]) != [NODE] for place in places):
        raise TopicsError(Code.INVALID_REPLICA_ASSIGNMENT, f"each partition's one replica is on broker {NODE}")


def _config(pairs: list[Body]) -> dict[str, str]:
    if missing := [one["name"] for one in pairs if one["value"] is None]:
        raise TopicsError(Code.INVALID_CONFIG, f"{', '.join(missing)[:249]}: null is no value")
    return {one["name"]: one["value"] for one in pairs}


# ---- the others


async def delete(request: Request, session: Session) -> Body:
    """DeleteTopics: with batches and what groups have committed of it."""
    names = request.body["topic_names"]
    answers = await each(names, lambda name: _delete(session, name))
    return {
        "responses": [{"name": name, "error_code": one["error_code"]} for name, one in zip(names, answers, strict=True)]
    }


async def _delete(session: Session, name: str) -> None:
    await session.broker.log.delete(ruled(session, name).name)


async def create_partitions(request: Request, session: Session) -> Body:
    """CreatePartitions: `count` is what the topic has then."""
    topics, tried = request.body["topics"], request.body["validate_only"]
    answers = await each(topics, lambda topic: _grow(session, topic, tried))
    return {"results": [{"name": topic["name"], **one} for topic, one in zip(topics, answers, strict=True)]}


async def _grow(session: Session, asked: Body, tried: bool) -> None:
    name, count, places = asked["name"], asked["count"], asked["assignments"]
    had = len(ruled(session, name).partitions)
    if places is not None:
        _check_places(places)
        if len(places) != count - had:
            raise TopicsError(Code.INVALID_REPLICA_ASSIGNMENT, f"{count - had} partitions are new, not {len(places)}")

    def grow(db: Database, work: Work) -> None:
        db.catalog.add_partitions(work, name, count)
        tried_only(tried)

    await session.broker.log.run(grow)


async def delete_records(request: Request, session: Session) -> Body:
    """DeleteRecords: what is below an offset; -1: all that is there."""
    asked = [(topic["name"], one) for topic in request.body["topics"] for one in topic["partitions"]]
    refused = Code.POLICY_VIOLATION if len(asked) > MOST_PARTS else Code.NONE
    answers = await asyncio.gather(*(_trimmed(session, name, one, refused) for name, one in asked))
    topics: dict[str, list[Body]] = {}
    for (name, _), one in zip(asked, answers, strict=True):
        topics.setdefault(name, []).append(one)
    return {"topics": [{"name": name, "partitions": partitions} for name, partitions in topics.items()]}


async def _trimmed(session: Session, name: str, asked: Body, refused: Code) -> Body:
    index = asked["partition_index"]
    if refused:
        return {"partition_index": index, "error_code": refused}
    try:
        return {"partition_index": index, "low_watermark": await _trim(session, name, index, asked["offset"])}
    except TopicsError as error:
        return {"partition_index": index, "error_code": error.code}


async def _trim(session: Session, name: str, index: int, offset: int) -> int:
    """The new log start offset. Of a topic that keeps the newest value of each key nothing may be cut off, as in
    Kafka."""
    log = session.broker.log
    if "delete" not in log.settings(ruled(session, name))["cleanup.policy"]:
        raise TopicsError(Code.POLICY_VIOLATION, f"{name} has cleanup.policy=compact")
    return await log.trim(log.partition(name, index), offset)


async def describe_log_dirs(request: Request, session: Session) -> Body:
    """DescribeLogDirs: one folder. Whoever isn't an admin sees none, as in Kafka."""
    if not session.may("admin"):
        return {"results": []}
    log, asked = session.broker.log, request.body["topics"]
    wanted = dict.fromkeys(log.topics) if asked is None else {one["topic"]: one["partitions"] for one in asked}
    topics = [_sizes(log.topics[name], indexes) for name, indexes in wanted.items() if name in log.topics]
    return {"results": [{"log_dir": str(log.folder), "topics": topics}]}


def _sizes(topic: Topic, indexes: Collection[int] | None) -> Body:
    return {
        "name": topic.name,
        "partitions": [
            {"partition_index": one.index, "partition_size": one.size}
            for one in topic.partitions
            if indexes is None or one.index in indexes
        ],
    }


HANDLERS: dict[int, Handler] = {
    CREATE_TOPICS.key: create,
    DELETE_TOPICS.key: delete,
    CREATE_PARTITIONS.key: create_partitions,
    DELETE_RECORDS.key: delete_records,
    DESCRIBE_LOG_DIRS.key: describe_log_dirs,
}
