"""ListOffsets and OffsetForLeaderEpoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aggregator.topics.errors import Code
from aggregator.topics.wire.tables.records import LIST_OFFSETS, OFFSET_FOR_LEADER_EPOCH
from tests.aggregator.topics.talking import TIME, Body, Client, Scene, batch, produce, run


async def ask(client: Client, time: int, topic: str = "t", version: int = 5, level: int = 0, **more: Any) -> Body:
    body = {
        "isolation_level": level,
        "topics": [{"name": topic, "partitions": [{"partition_index": 0, "timestamp": time, **more}]}],
    }
    answer: Body = (await client.ask(LIST_OFFSETS, version, body))["topics"][0]["partitions"][0]
    return answer


async def filled(scene: Scene) -> Client:
    """Offsets 0 to 3 in two batches, of which the first is trimmed in part."""
    await scene.log.create("t", 1)
    client = await scene.client()
    await produce(client, "t", batch(b"a", b"b", time=TIME))
    await produce(client, "t", batch(b"c", b"d", time=TIME + 1000))
    await scene.log.trim(scene.log.partition("t", 0), 1)
    return client


@pytest.mark.parametrize("version", range(1, 6))
@pytest.mark.parametrize(
    ("time", "offset", "found"),
    [
        (-1, 4, -1),
        (-2, 1, -1),
        (0, 1, TIME),
        (TIME, 1, TIME),
        (TIME + 1, 2, TIME + 1000),
        (TIME + 1000, 2, TIME + 1000),
        (TIME + 1001, -1, -1),
    ],
)
def test_places_in_the_log(tmp_path: Path, version: int, time: int, offset: int, found: int) -> None:
    """The end, the beginning, the first record that is not before a time; -1 if there is none."""

    async def steps(scene: Scene) -> None:
        answer = await ask(await filled(scene), time, version=version)
        assert (answer["error_code"], answer["offset"], answer["timestamp"]) == (0, offset, found)
        assert answer["leader_epoch"] == (0 if version >= 4 and offset >= 0 else -1)

    run(steps, tmp_path)


def test_for_readers_of_committed_records_the_log_ends_earlier(tmp_path: Path) -> None:
    """At the last stable offset, also when a time is looked for."""

    async def steps(scene: Scene) -> None:
        client = await filled(scene)
        scene.log.partition("t", 0).stable = 2
        assert [(await ask(client, -1, level=level))["offset"] for level in (0, 1)] == [4, 2]
        assert [(await ask(client, TIME + 1, level=level))["offset"] for level in (0, 1)] == [2, -1]

    run(steps, tmp_path)


@pytest.mark.parametrize(
    ("topic", "time", "more", "code"),
    [
        ("read.none", -1, {}, Code.UNKNOWN_TOPIC_OR_PARTITION),
        ("t", -1, {"partition_index": 1}, Code.UNKNOWN_TOPIC_OR_PARTITION),
        ("secret", -1, {}, Code.TOPIC_AUTHORIZATION_FAILED),
        ("t", -3, {}, Code.UNSUPPORTED_VERSION),
        ("t", -1, {"current_leader_epoch": 1}, Code.UNKNOWN_LEADER_EPOCH),
    ],
)
def test_what_has_no_offset(tmp_path: Path, topic: str, time: int, more: Body, code: Code) -> None:
    """A code, and -1."""

    async def steps(scene: Scene) -> None:
        answer = await ask(await filled(scene), time, topic, **more)
        assert (answer["error_code"], answer["offset"]) == (code, -1)

    run(steps, tmp_path, acl__anonymous="read:t, write:t, read:read.*")


@pytest.mark.parametrize(
    ("epoch", "current", "code", "end"),
    [(0, -1, 0, (0, 4)), (0, 0, 0, (0, 4)), (3, -1, 0, (-1, -1)), (0, 3, Code.UNKNOWN_LEADER_EPOCH, (-1, -1))],
)
def test_the_one_epoch_ends_where_the_log_does(
    tmp_path: Path, epoch: int, current: int, code: int, end: tuple[int, int]
) -> None:
    """Nothing is known of an epoch that a client brings from another cluster."""

    async def steps(scene: Scene) -> None:
        partition = {"partition": 0, "current_leader_epoch": current, "leader_epoch": epoch}
        asked = {"replica_id": -1, "topics": [{"topic": "t", "partitions": [partition]}]}
        body = await (await filled(scene)).ask(OFFSET_FOR_LEADER_EPOCH, 3, asked)
        answer = body["topics"][0]["partitions"][0]
        assert (answer["error_code"], (answer["leader_epoch"], answer["end_offset"])) == (code, end)

    run(steps, tmp_path)
