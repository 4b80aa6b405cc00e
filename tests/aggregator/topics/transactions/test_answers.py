"""Producers and transactions through the protocol: which code in which version, whose rights, what is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.handlers import offsets
from aggregator.topics.log.log import Offset
from aggregator.topics.wire.api import Api
from aggregator.topics.wire.tables.offsets import OFFSET_FETCH
from aggregator.topics.wire.tables.records import PRODUCE
from aggregator.topics.wire.tables.transactions import (
    ADD_OFFSETS_TO_TXN,
    ADD_PARTITIONS_TO_TXN,
    DESCRIBE_TRANSACTIONS,
    END_TXN,
    INIT_PRODUCER_ID,
    LIST_TRANSACTIONS,
    TXN_OFFSET_COMMIT,
)
from tests.aggregator.topics.talking import Body, Client, Scene, batch, fetch, producing, run

FENCED = {INIT_PRODUCER_ID: 4, ADD_PARTITIONS_TO_TXN: 2, ADD_OFFSETS_TO_TXN: 2, END_TXN: 2}
"""From this version on an API says PRODUCER_FENCED (KafkaApis). In InitProducerId one says who it is from 3 on."""


async def begun(scene: Scene, id_: str = "x", topics: tuple[str, ...] = ("t",)) -> tuple[Client, Body]:
    """A client that has initiated a producer; and that producer, as requests name it."""
    for topic in topics:
        if topic not in scene.log.topics:
            await scene.log.create(topic, 2)
    client = await scene.client()
    answer = await client.ask(INIT_PRODUCER_ID, 1, {"transactional_id": id_, "transaction_timeout_ms": 60_000})
    assert answer["error_code"] == 0
    return client, {
        "transactional_id": id_, "producer_id": answer["producer_id"], "producer_epoch": answer["producer_epoch"],
    }  # fmt: skip


async def added(client: Client, one: Body, *places: tuple[str, int], version: int = 2) -> list[Code]:
    topics = [{"name": name, "partitions": [number]} for name, number in places]
    body = await client.ask(ADD_PARTITIONS_TO_TXN, version, one | {"topics": topics})
    assert [(topic["name"], topic["results"][0]["partition_index"]) for topic in body["results"]] == [*places]
    return [Code(topic["results"][0]["error_code"]) for topic in body["results"]]


async def sent(client: Client, one: Body, value: bytes, sequence: int = 0) -> Code:
    producer = (one["producer_id"], one["producer_epoch"], sequence)
    request = producing("t", batch(value, producer=producer, transactional=True))
    body = await client.ask(PRODUCE, 8, request | {"transactional_id": one["transactional_id"]})
    return Code(body["responses"][0]["partition_responses"][0]["error_code"])


async def grouped(client: Client, one: Body, group: str = "g", version: int = 2) -> Code:
    return Code((await client.ask(ADD_OFFSETS_TO_TXN, version, one | {"group_id": group}))["error_code"])


async def pended(client: Client, one: Body, offset: int, *, version: int = 3, topic: str = "t", **more: Any) -> Code:
    partition = {"partition_index": 0, "committed_offset": offset, "committed_metadata": ""}
    topics = [{"name": topic, "partitions": [partition | more.pop("partition", {})]}]
    request = {"group_id": "g", "group_instance_id": None, **one, "topics": topics, **more}
    body = await client.ask(TXN_OFFSET_COMMIT, version, request)
    return Code(body["topics"][0]["partitions"][0]["error_code"])


async def ended(client: Client, one: Body, commit: bool, version: int = 2) -> Code:
    return Code((await client.ask(END_TXN, version, one | {"committed": commit}))["error_code"])


# ---- InitProducerId


@pytest.mark.parametrize("version", range(5))
def test_idempotent_producers_get_numbers_of_their_own(tmp_path: Path, version: int) -> None:
    """InitProducerId without a transactional id gives each asker another producer id, with epoch 0, in any version."""

    async def steps(scene: Scene) -> None:
        client = await scene.client()
        request = {"transactional_id": None, "transaction_timeout_ms": 0}
        answers = [await client.ask(INIT_PRODUCER_ID, version, request) for _ in range(3)]
        assert len({answer["producer_id"] for answer in answers}) == 3
        assert {(answer["error_code"], answer["producer_epoch"]) for answer in answers} == {(0, 0)}

    run(steps, tmp_path)


@pytest.mark.parametrize("version", range(5))
def test_a_transactional_id_in_any_version(tmp_path: Path, version: int) -> None:
    """InitProducerId of an id gives the same producer id each time, and the next epoch."""

    async def steps(scene: Scene) -> None:
        client = await scene.client()
        request = {"transactional_id": "x", "transaction_timeout_ms": 1000}
        answers = [await client.ask(INIT_PRODUCER_ID, version, request) for _ in range(3)]
        assert len({answer["producer_id"] for answer in answers}) == 1
        assert [answer["producer_epoch"] for answer in answers] == [0, 1, 2]

    run(steps, tmp_path)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"transaction_timeout_ms": 900_001}, Code.INVALID_TRANSACTION_TIMEOUT),
        ({"transactional_id": ""}, Code.INVALID_REQUEST),
        ({"producer_id": 3}, Code.INVALID_REQUEST),
        ({"producer_epoch": 3}, Code.INVALID_REQUEST),
    ],
)
def test_what_no_producer_asks(tmp_path: Path, changes: Body, code: Code) -> None:
    """A timeout beyond the bound, an empty id, an id or epoch alone: a code, and no producer."""

    async def steps(scene: Scene) -> None:
        client = await scene.client()
        request = {"transactional_id": "x", "transaction_timeout_ms": 1000, **changes}
        answer = await client.ask(INIT_PRODUCER_ID, 4, request)
        assert (answer["error_code"], answer["producer_id"], answer["producer_epoch"]) == (code, -1, -1)

    run(steps, tmp_path)


# ---- codes


@pytest.mark.parametrize(
    ("api", "version"),
    [(api, version) for api in FENCED for version in range(3 if api is INIT_PRODUCER_ID else 0, api.served.high + 1)],
)
def test_who_is_fenced_hears_it_as_its_version_can(tmp_path: Path, api: Api, version: int) -> None:
    """PRODUCER_FENCED in versions that know it, INVALID_PRODUCER_EPOCH in those before."""

    async def steps(scene: Scene) -> None:
        client, old = await begun(scene)
        await begun(scene)
        request = old | {
            "transaction_timeout_ms": 1000, "group_id": "g", "committed": True,
            "topics": [{"name": "t", "partitions": [0]}],
        }  # fmt: skip
        names = {field.name for field in api.request}
        body = await client.ask(api, version, {name: value for name, value in request.items() if name in names})
        code = body["results"][0]["results"][0]["error_code"] if "results" in body else body["error_code"]
        assert code == (Code.PRODUCER_FENCED if version >= FENCED[api] else Code.INVALID_PRODUCER_EPOCH)

    run(steps, tmp_path)


@pytest.mark.parametrize("version", range(4))
def test_offsets_of_who_is_fenced(tmp_path: Path, version: int) -> None:
    """TxnOffsetCommit of an old epoch is INVALID_PRODUCER_EPOCH in any version, of an unknown id another code."""

    async def steps(scene: Scene) -> None:
        client, old = await begun(scene)
        await begun(scene)
        assert await pended(client, old, 5, version=version) is Code.INVALID_PRODUCER_EPOCH
        stranger = old | {"transactional_id": "nobody"}
        assert await pended(client, stranger, 5, version=version) is Code.INVALID_PRODUCER_ID_MAPPING

    run(steps, tmp_path)


def test_partitions_are_added_all_or_none(tmp_path: Path) -> None:
    """Where one partition doesn't exist it has its code, the others OPERATION_NOT_ATTEMPTED, and nothing has begun."""

    async def steps(scene: Scene) -> None:
        client, one = await begun(scene)
        codes = await added(client, one, ("t", 0), ("t", 2), ("none", 0))
        unknown = Code.UNKNOWN_TOPIC_OR_PARTITION
        assert codes == [Code.OPERATION_NOT_ATTEMPTED, unknown, unknown]
        assert await sent(client, one, b"v") is Code.INVALID_TXN_STATE

    run(steps, tmp_path)


def test_a_full_disk_is_a_matter_of_time(tmp_path: Path) -> None:
    """Where the log has no room the client is told to look for its coordinator, which it does again and again."""

    async def steps(scene: Scene) -> None:
        client, one = await begun(scene)
        full = TopicsError(Code.KAFKA_STORAGE_ERROR, "no room")
        with mock.patch.object(scene.service.broker.transactions, "end", side_effect=full):
            assert await ended(client, one, True) is Code.COORDINATOR_NOT_AVAILABLE

    run(steps, tmp_path)


# ---- a transaction


def test_a_reader_learns_what_was_aborted(tmp_path: Path) -> None:
    """Fetch with isolation level 1 ends at the last stable offset, and names the producers of aborted records."""

    async def steps(scene: Scene) -> None:
        client, one = await begun(scene)
        assert await added(client, one, ("t", 0)) == [Code.NONE]
        assert await sent(client, one, b"a") is Code.NONE
        (answer,) = await fetch(client, ("t", 0, 0), isolation_level=1)
        assert (answer["last_stable_offset"], answer["high_watermark"], bytes(answer["records"])) == (0, 1, b"")
        assert await ended(client, one, False) is Code.NONE
        (answer,) = await fetch(client, ("t", 0, 0), isolation_level=1)
        assert answer["last_stable_offset"] == answer["high_watermark"] == 2
        assert answer["aborted_transactions"] == [{"producer_id": one["producer_id"], "first_offset": 0}]

    run(steps, tmp_path)


def test_offsets_that_are_not_stable_yet(tmp_path: Path) -> None:
    """OffsetFetch that requires stable offsets is told to ask again while one is pending; else it gets the last one."""

    async def offset(client: Client, stable: bool) -> tuple[int, int]:
        topics = [{"name": "t", "partition_indexes": [0, 1]}]
        body = await client.ask(OFFSET_FETCH, 7, {"group_id": "g", "topics": topics, "require_stable": stable})
        first, second = body["topics"][0]["partitions"]
        assert (second["error_code"], second["committed_offset"]) == (0, -1)
        return first["error_code"], first["committed_offset"]

    async def steps(scene: Scene) -> None:
        client, one = await begun(scene)
        await scene.log.commit("g", {("t", 0): Offset(1)})
        assert await grouped(client, one) is Code.NONE
        assert await pended(client, one, 5) is Code.NONE
        assert await offset(client, True) == (Code.UNSTABLE_OFFSET_COMMIT, -1)
        assert await offset(client, False) == (Code.NONE, 1)
        assert await ended(client, one, True) is Code.NONE
        assert await offset(client, True) == (Code.NONE, 5)

    run(steps, tmp_path)


@pytest.mark.parametrize("version", range(4))
def test_offsets_without_a_group_of_members(tmp_path: Path, version: int) -> None:
    """TxnOffsetCommit of a client that manages its partitions itself is taken in every version."""

    async def steps(scene: Scene) -> None:
        client, one = await begun(scene)
        assert await grouped(client, one) is Code.NONE
        assert await pended(client, one, 5, version=version) is Code.NONE
        assert await ended(client, one, True) is Code.NONE
        assert scene.log.committed("g")["t", 0].offset == 5

    run(steps, tmp_path)


def test_offsets_of_who_is_no_member(tmp_path: Path) -> None:
    """TxnOffsetCommit with a generation that isn't (KIP-447), or of a partition that isn't, keeps nothing."""

    async def steps(scene: Scene) -> None:
        client, one = await begun(scene)
        assert await grouped(client, one) is Code.NONE
        groups = scene.service.broker.coordinator
        with mock.patch.object(groups, "check", return_value=Code.ILLEGAL_GENERATION) as check:
            assert await pended(client, one, 5, generation_id=7, member_id="m") is Code.ILLEGAL_GENERATION
        assert check.mock_calls == [mock.call("g", 7, "m", None, transactional=True)]
        assert await pended(client, one, 5, topic="none") is Code.UNKNOWN_TOPIC_OR_PARTITION
        long = {"committed_metadata": "x" * 4097}
        assert await pended(client, one, 5, partition=long) is Code.OFFSET_METADATA_TOO_LARGE
        assert not scene.log.pending_offsets("g")

    run(steps, tmp_path)


def test_pending_offsets_have_a_bound(tmp_path: Path) -> None:
    """Beyond the bound of all groups' offsets there is no room for further ones; one that has its place moves on."""

    async def steps(scene: Scene) -> None:
        client, one = await begun(scene)
        assert await grouped(client, one) is Code.NONE
        with mock.patch.object(offsets, "MOST_OFFSETS", 0):
            assert await pended(client, one, 5) is Code.POLICY_VIOLATION
            await scene.log.commit("g", {("t", 0): Offset(4)})
            assert await pended(client, one, 5) is Code.NONE

    run(steps, tmp_path)


def test_a_full_disk_takes_no_pending_offsets(tmp_path: Path) -> None:
    """As it takes no records of the transaction."""

    async def steps(scene: Scene) -> None:
        client, one = await begun(scene)
        assert await grouped(client, one) is Code.NONE
        writer = scene.log._writer
        with mock.patch.object(writer, "_rest"), mock.patch.object(writer.space, "full", "no room"):
            assert await pended(client, one, 5) is Code.COORDINATOR_NOT_AVAILABLE
        assert not scene.log.pending_offsets("g")

    run(steps, tmp_path)


# ---- rights


def test_without_a_right_to_write_there_is_no_producer(tmp_path: Path) -> None:
    """Who may write nothing gets no producer id, and no part in any transaction."""

    async def steps(scene: Scene) -> None:
        client = await scene.client()
        denied = Code.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
        one = {"transactional_id": "x", "producer_id": 0, "producer_epoch": 0}
        for id_, code in ((None, Code.CLUSTER_AUTHORIZATION_FAILED), ("x", denied)):
            request = {"transactional_id": id_, "transaction_timeout_ms": 1000}
            assert (await client.ask(INIT_PRODUCER_ID, 4, request))["error_code"] == code
        assert await added(client, one, ("t", 0)) == [denied]
        assert await grouped(client, one) is denied
        assert await pended(client, one, 5) is denied
        assert await ended(client, one, True) is denied
        described = await client.ask(DESCRIBE_TRANSACTIONS, 0, {"transactional_ids": ["x"]})
        assert described["transaction_states"][0]["error_code"] == denied
        await scene.service.broker.transactions.init("x", 1000)
        assert (await client.ask(LIST_TRANSACTIONS, 0, {}))["transaction_states"] == []

    run(steps, tmp_path, acl__anonymous="read:*")


def test_partitions_and_groups_take_their_own_rights(tmp_path: Path) -> None:
    """A topic that the client can't write and a group that it can't use stay out of its transaction."""

    async def steps(scene: Scene) -> None:
        client, one = await begun(scene, topics=("t", "u"))
        codes = await added(client, one, ("t", 0), ("u", 0), ("none", 0))
        assert codes == [Code.OPERATION_NOT_ATTEMPTED, *[Code.TOPIC_AUTHORIZATION_FAILED] * 2]
        assert await grouped(client, one, "h") is Code.GROUP_AUTHORIZATION_FAILED
        assert await grouped(client, one, "g") is Code.NONE
        assert await pended(client, one, 5) is Code.TOPIC_AUTHORIZATION_FAILED

    run(steps, tmp_path, acl__anonymous="write:t, group:g")


@pytest.mark.parametrize("given", ["write:u", "write:t", "write:t, group:h", "write:t, group:g, transaction:y"])
def test_who_could_not_begin_a_transaction_has_no_say_in_it(tmp_path: Path, given: str) -> None:
    """Without the right to each topic and group that it holds, or to its id, nobody ends it, takes it over, sees it."""

    async def steps(scene: Scene) -> None:
        client, one = await begun_by_another(scene)
        assert await ended(client, one, True) is Code.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
        request = {"transactional_id": "x", "transaction_timeout_ms": 1000}
        answer = await client.ask(INIT_PRODUCER_ID, 4, request)
        assert answer["error_code"] == Code.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
        described = await client.ask(DESCRIBE_TRANSACTIONS, 0, {"transactional_ids": ["x"]})
        assert described["transaction_states"][0]["error_code"] == Code.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
        assert (await client.ask(LIST_TRANSACTIONS, 0, {}))["transaction_states"] == []
        (left,) = await scene.service.broker.transactions.all()
        assert left.is_open and left.epoch == one["producer_epoch"]

    run(steps, tmp_path, acl__anonymous=given)


def test_who_could_have_begun_a_transaction_may_end_it(tmp_path: Path) -> None:
    """The rights to its id, topics and groups are enough."""

    async def steps(scene: Scene) -> None:
        client, one = await begun_by_another(scene)
        assert len((await client.ask(LIST_TRANSACTIONS, 0, {}))["transaction_states"]) == 1
        assert await ended(client, one, True) is Code.NONE

    run(steps, tmp_path, acl__anonymous="write:t, group:g, transaction:x*")


async def begun_by_another(scene: Scene) -> tuple[Client, Body]:
    """A client, and the open transaction `x` of somebody else; it holds topic t and group g."""
    await scene.log.create("t", 1)
    transactions = scene.service.broker.transactions
    producer, epoch = await transactions.init("x", 60_000)
    await transactions.add("x", producer, epoch, {("t", 0)}, {"g"})
    return await scene.client(), {"transactional_id": "x", "producer_id": producer, "producer_epoch": epoch}


# ---- administrators


def test_transactions_are_described(tmp_path: Path) -> None:
    """DescribeTransactions tells state, producer, time and partitions of those that there are."""

    async def steps(scene: Scene) -> None:
        client, one = await begun(scene, topics=("t", "u"))
        await added(client, one, ("u", 1), ("t", 1), ("t", 0))
        body = await client.ask(DESCRIBE_TRANSACTIONS, 0, {"transactional_ids": ["x", "nobody"]})
        known, unknown = body["transaction_states"]
        assert unknown["error_code"] == Code.TRANSACTIONAL_ID_NOT_FOUND
        assert known.pop("transaction_start_time_ms") > 0
        assert known == {
            "error_code": 0, **one, "transaction_state": "Ongoing", "transaction_timeout_ms": 60_000,
            "topics": [{"topic": "t", "partitions": [0, 1]}, {"topic": "u", "partitions": [1]}],
        }  # fmt: skip
        await ended(client, one, True)
        body = await client.ask(DESCRIBE_TRANSACTIONS, 0, {"transactional_ids": ["x"]})
        done = body["transaction_states"][0]
        assert (done["transaction_state"], done["topics"], done["transaction_start_time_ms"]) == (
            "CompleteCommit", [], -1,
        )  # fmt: skip

    run(steps, tmp_path)


def test_transactions_are_listed(tmp_path: Path) -> None:
    """ListTransactions tells all, or those of some states or producers, and which states there are none of."""

    async def steps(scene: Scene) -> None:
        client, one = await begun(scene)
        _, other = await begun(scene, "y")
        await added(client, one, ("t", 0))

        async def listed(**filters: Any) -> dict[str, str]:
            body = await client.ask(LIST_TRANSACTIONS, 0, filters)
            assert body["unknown_state_filters"] == [one for one in filters.get("state_filters", ()) if one == "Odd"]
            return {one["transactional_id"]: one["transaction_state"] for one in body["transaction_states"]}

        assert await listed() == {"x": "Ongoing", "y": "Empty"}
        assert await listed(state_filters=["Ongoing", "Odd"]) == {"x": "Ongoing"}
        assert await listed(producer_id_filters=[other["producer_id"]]) == {"y": "Empty"}
        assert await listed(state_filters=["PrepareCommit"]) == {}

    run(steps, tmp_path)
