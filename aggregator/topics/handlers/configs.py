"""Settings of topics, to read and to change; and of the broker, to read: what changes those is its configuration file.

A topic's value comes from where it was set last: for this topic (source 1), by this service's configuration (4), or it
is Kafka's default (5). `synonyms` lists all three, as far as there are; below the topic they go by the broker's names.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from enum import IntEnum

from aggregator.topics.broker import NODE, Handler, Session
from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.handlers.admin import answer, ruled, tried_only
from aggregator.topics.handlers.broker_keys import NAMES, keys
from aggregator.topics.log import settings
from aggregator.topics.log.log import Database, Log, Topic, Work
from aggregator.topics.log.states import TopicState
from aggregator.topics.wire.api import Body, Request
from aggregator.topics.wire.tables.admin import ALTER_CONFIGS, DESCRIBE_CONFIGS, INCREMENTAL_ALTER_CONFIGS

Changes = Mapping[str, str | None]
"""Key: what it is set to; None: what isn't set for this topic any more."""


class Resource(IntEnum):
    """ConfigResource.Type"""

    TOPIC = 2
    BROKER = 4


class Source(IntEnum):
    """ConfigEntry.ConfigSource, as it is written in an answer."""

    TOPIC = 1
    FILE = 4
    DEFAULT = 5


class Operation(IntEnum):
    """AlterConfigOp.OpType"""

    SET = 0
    DELETE = 1
    APPEND = 2
    SUBTRACT = 3


TYPES = {"boolean": 1, "string": 2, "int": 3, "long": 5, "double": 6, "list": 7}
"""ConfigEntry.ConfigType by the names of log/settings.py."""


# ---- DescribeConfigs


async def describe(request: Request, session: Session) -> Body:
    """DescribeConfigs: keys that don't exist are left out, as in Kafka; what is named twice is told once."""
    body = request.body
    resources = {_named(one): one for one in body["resources"]}
    return {"results": [_described(session, one, body["include_synonyms"]) for one in resources.values()]}


def _described(session: Session, asked: Body, synonyms: bool) -> Body:
    kind, name, wanted = asked["resource_type"], asked["resource_name"], asked["configuration_keys"]
    named = {"resource_type": kind, "resource_name": name}
    try:
        entries = _entries(session, kind, name)
    except TopicsError as error:
        return named | {"error_code": error.code, "error_message": error.text}
    if not synonyms:
        entries = [entry | {"synonyms": []} for entry in entries]
    return named | {"configs": [entry for entry in entries if wanted is None or entry["name"] in wanted]}


def _entries(session: Session, kind: int, name: str) -> list[Body]:
    if kind == Resource.TOPIC:
        return _of_topic(session.broker.log, session.topic(name, "describe"))
    session.require("admin")
    if kind != Resource.BROKER:
        raise TopicsError(Code.INVALID_REQUEST, f"there are no settings of resources of type {kind}")
    if name not in (str(NODE), ""):
        raise TopicsError(Code.INVALID_REQUEST, f"the one broker is {NODE}, not {name[:249]}")
    return _of_broker(session) if name else []


def _of_topic(log: Log, topic: Topic) -> list[Body]:
    ours = settings.defaults(log.options)
    return [_topic_entry(name, topic.config.get(name), ours[name]) for name in settings.KEYS]


def _topic_entry(name: str, own: str | None, ours: str) -> Body:
    key, of_broker = settings.KEYS[name], NAMES[name]
    places = [(of_broker, key.default, Source.DEFAULT)]
    if ours != key.default:
        places.insert(0, (of_broker, ours, Source.FILE))
    if own is not None:
        places.insert(0, (name, own, Source.TOPIC))
    return _entry(name, key.kind, places)


def _of_broker(session: Session) -> list[Body]:
    return [_broker_entry(name, *key) for name, key in keys(session.broker).items()]


def _broker_entry(name: str, kind: str, value: str, default: str | None) -> Body:
    places = [] if default is None else [(name, default, Source.DEFAULT)]
    if value != default:
        places.insert(0, (name, value, Source.FILE))
    return _entry(name, kind, places) | {"read_only": True}


def _entry(name: str, kind: str, places: list[tuple[str, str, Source]]) -> Body:
    _, value, source = places[0]
    return {
        "name": name,
        "value": value,
        "config_source": source,
        "config_type": TYPES[kind],
        "synonyms": [{"name": where, "value": there, "source": why} for where, there, why in places],
    }


# ---- AlterConfigs, IncrementalAlterConfigs


async def alter(request: Request, session: Session) -> Body:
    """AlterConfigs: what isn't named is set no more."""
    return await _altered(request, session, _replacing)


async def alter_incrementally(request: Request, session: Session) -> Body:
    """IncrementalAlterConfigs: what isn't named stays."""
    return await _altered(request, session, _changing)


Changer = Callable[[TopicState, list[Body]], Changes]


async def _altered(request: Request, session: Session, changer: Changer) -> Body:
    resources, tried = request.body["resources"], request.body["validate_only"]
    count = Counter(map(_named, resources))
    work = [answer(_alter(session, one, count[_named(one)] > 1, changer, tried)) for one in resources]
    answers = zip(resources, await asyncio.gather(*work), strict=True)
    return {
        "responses": [
            {"resource_type": one["resource_type"], "resource_name": one["resource_name"], **said}
            for one, said in answers
        ]
    }


def _named(resource: Body) -> tuple[int, str]:
    return resource["resource_type"], resource["resource_name"]


async def _alter(session: Session, asked: Body, twice: bool, changer: Changer, tried: bool) -> None:
    name, pairs = asked["resource_name"], asked["configs"]
    if asked["resource_type"] != Resource.TOPIC:
        raise TopicsError(Code.INVALID_REQUEST, "only topics are set; the broker's settings stand in its file")
    ruled(session, name)
    if twice or len({one["name"] for one in pairs}) < len(pairs):
        raise TopicsError(Code.INVALID_REQUEST, f"of topic {name}, something is named twice")

    def change(db: Database, work: Work) -> None:
        db.catalog.configure(work, name, changer(db.catalog.topic(name), pairs))
        tried_only(tried)

    await session.broker.log.run(change)


def _replacing(topic: TopicState, pairs: list[Body]) -> Changes:
    return dict.fromkeys(topic.config) | {one["name"]: _value(one) for one in pairs}


def _changing(topic: TopicState, pairs: list[Body]) -> Changes:
    return {one["name"]: _changed(topic, one) for one in pairs}


def _changed(topic: TopicState, asked: Body) -> str | None:
    """What one key is after an operation on it. TopicsError."""
    name, operation = asked["name"], asked["config_operation"]
    if name not in settings.KEYS:
        raise TopicsError(Code.INVALID_CONFIG, f"a topic has no key {name[:249]}")
    if operation == Operation.DELETE:
        return None
    value = _value(asked)
    if operation == Operation.SET:
        return value
    if operation not in (Operation.APPEND, Operation.SUBTRACT) or settings.KEYS[name].kind != "list":
        raise TopicsError(Code.INVALID_CONFIG, f"{name} is no list: it takes SET (0) and DELETE (1), not {operation}")
    now, given = _items(topic.settings[name]), _items(value)
    if operation == Operation.APPEND:
        return ",".join(dict.fromkeys([*now, *given]))
    return ",".join(item for item in now if item not in given)


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",")]


def _value(asked: Body) -> str:
    if asked["value"] is None:
        raise TopicsError(Code.INVALID_REQUEST, f"{asked['name'][:249]}: null is no value")
    return str(asked["value"])


HANDLERS: dict[int, Handler] = {
    DESCRIBE_CONFIGS.key: describe,
    ALTER_CONFIGS.key: alter,
    INCREMENTAL_ALTER_CONFIGS.key: alter_incrementally,
}
