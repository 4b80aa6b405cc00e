"""Metadata and FindCoordinator: what there is, and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from aggregator.topics.broker import NODE
from aggregator.topics.errors import Code
from aggregator.topics.wire.tables.connection import FIND_COORDINATOR, METADATA
from tests.aggregator.topics.talking import Body, Client, Scene, run


async def ask(client: Client, *names: str, version: int = 8, create: bool = True) -> dict[str, Body]:
    """The topics of an answer by name."""
    asked = {"topics": [{"name": name} for name in names], "allow_auto_topic_creation": create}
    return {one["name"]: one for one in (await client.ask(METADATA, version, asked))["topics"]}


def test_the_broker_is_where_clients_are_told(tmp_path: Path) -> None:
    """advertisedHost and advertisedPort, not what the service listens on; it is the controller, too."""

    async def steps(scene: Scene) -> None:
        body = await (await scene.client()).ask(METADATA, 8, {"topics": []})
        assert body["brokers"] == [{"node_id": NODE, "host": "topics.example", "port": 4711, "rack": None}]
        assert body["controller_id"] == NODE
        assert body["cluster_id"] == scene.log.cluster_id

    run(steps, tmp_path, advertisedHost="topics.example", advertisedPort="4711")


def test_without_other_words_clients_are_told_where_it_listens(tmp_path: Path) -> None:
    """Also with port = 0."""

    async def steps(scene: Scene) -> None:
        assert scene.service.listener
        body = await (await scene.client()).ask(METADATA, 8, {"topics": []})
        assert (body["brokers"][0]["host"], body["brokers"][0]["port"]) == ("127.0.0.1", scene.service.listener.port)

    run(steps, tmp_path)


@pytest.mark.parametrize(("version", "topics"), [(0, []), (1, None), (8, None)])
def test_all_topics(tmp_path: Path, version: int, topics: object) -> None:
    """Null asks for all; in version 0, which has no null, nothing does."""

    async def steps(scene: Scene) -> None:
        await scene.log.create("a", 1)
        await scene.log.create("b", 3)
        body = await (await scene.client()).ask(METADATA, version, {"topics": topics})
        assert {one["name"]: len(one["partitions"]) for one in body["topics"]} == {"a": 1, "b": 3}
        assert [one["leader_id"] for one in body["topics"][1]["partitions"]] == [NODE] * 3

    run(steps, tmp_path)


def test_a_topic_is_answered_once(tmp_path: Path) -> None:
    """However often it is named: each answer has all of its partitions."""

    async def steps(scene: Scene) -> None:
        await scene.log.create("a", 1)
        asked = {"topics": [{"name": "a"}] * 3, "allow_auto_topic_creation": False}
        body = await (await scene.client()).ask(METADATA, 8, asked)
        assert [one["name"] for one in body["topics"]] == ["a"]

    run(steps, tmp_path)


def test_no_topic_may_be_asked_for(tmp_path: Path) -> None:
    """From version 1 on an empty list is that."""

    async def steps(scene: Scene) -> None:
        await scene.log.create("a", 1)
        assert (await (await scene.client()).ask(METADATA, 1, {"topics": []}))["topics"] == []

    run(steps, tmp_path)


def test_a_topic_is_created_by_asking_for_it(tmp_path: Path) -> None:
    """With the configuration's partitions and keys, and it is there at once; asked for twice, once."""

    async def steps(scene: Scene) -> None:
        client = await scene.client()
        found = await ask(client, "plant.line1", "plant.line1")
        assert [one["partition_index"] for one in found["plant.line1"]["partitions"]] == [0, 1, 2]
        assert found["plant.line1"]["error_code"] == 0
        assert scene.log.topics["plant.line1"].config == {"retention.ms": "1000"}

    run(steps, tmp_path, partitions="3", topic__plant__line1__retention__ms="1000")


@pytest.mark.parametrize(
    ("keys", "create", "name", "code"),
    [
        ({"autoCreate": "false"}, True, "t", Code.UNKNOWN_TOPIC_OR_PARTITION),
        ({}, False, "t", Code.UNKNOWN_TOPIC_OR_PARTITION),
        ({}, True, "a/b", Code.INVALID_TOPIC_EXCEPTION),
        ({}, True, "", Code.INVALID_TOPIC_EXCEPTION),
        ({"acl__anonymous": "read:*"}, True, "t", Code.TOPIC_AUTHORIZATION_FAILED),
        ({"acl__anonymous": "create:u"}, True, "t", Code.TOPIC_AUTHORIZATION_FAILED),
    ],
    ids=["autoCreate", "client", "illegal", "empty", "no create", "another"],
)
def test_what_is_not_created(tmp_path: Path, keys: dict[str, str], create: bool, name: str, code: Code) -> None:
    """Where the configuration or the client doesn't want it, the name is none, or the right isn't there."""

    async def steps(scene: Scene) -> None:
        found = await ask(await scene.client(), name, create=create)
        assert (found[name]["error_code"], [*found[name]["partitions"]]) == (code, [])
        assert not scene.log.topics

    run(steps, tmp_path, **keys)


def test_topics_without_a_right_are_hidden(tmp_path: Path) -> None:
    """In the list of all they aren't there; asked for by name they are refused, whether they exist or not."""

    async def steps(scene: Scene) -> None:
        for name in ("public.a", "secret"):
            await scene.log.create(name, 1)
        client = await scene.client()
        body = await client.ask(METADATA, 8, {"topics": None})
        assert [one["name"] for one in body["topics"]] == ["public.a"]
        found = await ask(client, "secret", "nothing")
        assert {one["error_code"] for one in found.values()} == {Code.TOPIC_AUTHORIZATION_FAILED}

    run(steps, tmp_path, acl__anonymous="read:public.*")


@pytest.mark.parametrize("kind", [0, 1], ids=["group", "transaction"])
def test_the_one_broker_coordinates(tmp_path: Path, kind: int) -> None:
    """Every group and every transactional id."""

    async def steps(scene: Scene) -> None:
        body = await (await scene.client()).ask(FIND_COORDINATOR, 2, {"key": "x", "key_type": kind})
        assert (body["error_code"], body["node_id"], body["host"]) == (0, NODE, "127.0.0.1")

    run(steps, tmp_path)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (0, Code.GROUP_AUTHORIZATION_FAILED),
        (1, Code.TRANSACTIONAL_ID_AUTHORIZATION_FAILED),
        (2, Code.INVALID_REQUEST),
    ],
)
def test_coordinators_that_are_not_told(tmp_path: Path, kind: int, code: Code) -> None:
    """Without the right, and of things that have none here (share groups)."""

    async def steps(scene: Scene) -> None:
        body = await (await scene.client()).ask(FIND_COORDINATOR, 2, {"key": "x", "key_type": kind})
        assert (body["error_code"], body["node_id"]) == (code, -1)

    run(steps, tmp_path, acl__anonymous="create:t")
