"""Metadata: which topics there are and where; a topic that isn't there may be created by asking for it.

Clients go to the address that stands in the answer, whatever they connected to first.
"""

from __future__ import annotations

from collections.abc import Iterable

from aggregator.topics.broker import NODE, Handler, Session
from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.log.log import Topic
from aggregator.topics.wire.api import Body, Request
from aggregator.topics.wire.tables.connection import METADATA


async def metadata(request: Request, session: Session) -> Body:
    """Null asks for all topics (in version 0 an empty list does): those that this client has a right to. One that is
    named many times is answered once."""
    asked, broker = request.body["topics"], session.broker
    if asked is None or (request.version == 0 and not asked):
        topics = [_topic(topic) for topic in broker.log.topics.values() if session.may("describe", topic.name)]
    else:
        topics = await _named(
            dict.fromkeys(one["name"] for one in asked), request.body["allow_auto_topic_creation"], session
        )
    settings = broker.settings
    return {
        "brokers": [{"node_id": NODE, "host": settings.host, "port": settings.port}],
        "cluster_id": broker.log.cluster_id,
        "controller_id": NODE,
        "topics": topics,
    }


async def _named(names: Iterable[str], create: bool, session: Session) -> list[Body]:
    found = []
    for name in names:
        try:
            found.append(_topic(await _found(name, create and session.broker.settings.auto_create, session)))
        except TopicsError as error:
            found.append({"error_code": error.code, "name": name, "partitions": []})
    return found


async def _found(name: str, create: bool, session: Session) -> Topic:
    """The topic, which is created where it isn't there. TopicsError."""
    session.require("describe", name)
    topics = session.broker.log.topics
    if create and name not in topics:
        session.require("create", name)
        await _create(name, session)
    return session.broker.topic(name)


async def _create(name: str, session: Session) -> None:
    try:
        await session.broker.create(name)
    except TopicsError as error:
        if error.code is not Code.TOPIC_ALREADY_EXISTS:  # another client was quicker
            raise


def _topic(topic: Topic) -> Body:
    return {"name": topic.name, "partitions": [_partition(one.index) for one in topic.partitions]}


def _partition(index: int) -> Body:
    nodes = [NODE]
    return {
        "partition_index": index,
        "leader_id": NODE,
        "leader_epoch": 0,
        "replica_nodes": nodes,
        "isr_nodes": nodes,
        "offline_replicas": (),
    }


HANDLERS: dict[int, Handler] = {METADATA.key: metadata}
