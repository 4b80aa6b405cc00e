"""Produce: what is kept, what is refused, and that each partition stands for itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from aggregator.topics.errors import Code
from aggregator.topics.wire.tables.records import PRODUCE
from tests.aggregator.topics.batches import ROWS, by_aiokafka
from tests.aggregator.topics.talking import TIME, Body, Scene, batch, fetch, produce, producing, run, values


@pytest.mark.parametrize("version", range(3, 9))
def test_batches_get_their_offsets(tmp_path: Path, version: int) -> None:
    """In every version; and -1 as the time, since records keep theirs."""

    async def steps(scene: Scene) -> None:
        await scene.log.create("t", 1)
        client = await scene.client()
        for want in (0, 3):
            answer = await produce(client, "t", batch(b"a", b"b", b"c"), version=version)
            assert (answer["error_code"], answer["base_offset"], answer["log_append_time_ms"]) == (0, want, -1)
        assert values((await fetch(client, ("t", 0, 0)))[0]["records"]) == [b"a", b"b", b"c"] * 2

    run(steps, tmp_path)


def test_another_clients_batch_is_kept_byte_by_byte(tmp_path: Path) -> None:
    """But for the offset and the leader's epoch, which only the log knows."""

    async def steps(scene: Scene) -> None:
        await scene.log.create("t", 1)
        client, sent = await scene.client(), by_aiokafka(ROWS, 1)
        await produce(client, "t", batch(b"first"))
        await produce(client, "t", sent)
        found = bytes((await fetch(client, ("t", 0, 1)))[0]["records"])
        assert found[:8] == (1).to_bytes(8, "big")
        assert found[16:] == sent[16:]

    run(steps, tmp_path)


def test_the_time_of_appending(tmp_path: Path) -> None:
    """Where a topic wants it, it is answered and stands in the batch."""

    async def steps(scene: Scene) -> None:
        await scene.log.create("t", 1, {"message.timestamp.type": "LogAppendTime"})
        answer = await produce(await scene.client(), "t", batch(b"a"))
        assert answer["log_append_time_ms"] > 0
        assert answer["log_append_time_ms"] != TIME

    run(steps, tmp_path)


DAMAGED = batch(b"a")[:-1] + b"?"
LARGE = batch(b"x" * 2000)


@pytest.mark.parametrize(
    ("topic", "partition", "records", "code"),
    [
        ("unknown", 0, batch(b"a"), Code.UNKNOWN_TOPIC_OR_PARTITION),
        ("t", 1, batch(b"a"), Code.UNKNOWN_TOPIC_OR_PARTITION),
        ("t", -1, batch(b"a"), Code.UNKNOWN_TOPIC_OR_PARTITION),
        ("t", 0, DAMAGED, Code.CORRUPT_MESSAGE),
        ("t", 0, batch(b"a")[:-1], Code.CORRUPT_MESSAGE),
        ("t", 0, b"", Code.INVALID_RECORD),
        ("t", 0, None, Code.INVALID_RECORD),
        ("t", 0, 2 * batch(b"a"), Code.INVALID_RECORD),
        ("small", 0, LARGE, Code.MESSAGE_TOO_LARGE),
        ("compacted", 0, batch(b"a"), Code.INVALID_RECORD),
        ("secret", 0, batch(b"a"), Code.TOPIC_AUTHORIZATION_FAILED),
        ("nothing", 0, batch(b"a"), Code.TOPIC_AUTHORIZATION_FAILED),
    ],
    ids=["topic", "partition", "negative", "crc", "cut", "empty", "null", "two", "large", "keyless", "right", "hidden"],
)
def test_what_is_refused_leaves_the_rest(
    tmp_path: Path, topic: str, partition: int, records: bytes | None, code: Code
) -> None:
    """A partition's code and text say why; the other partition of the request is kept."""

    async def steps(scene: Scene) -> None:
        for name, config in TOPICS.items():
            await scene.log.create(name, 1, config)
        body = producing("t", batch(b"good"))
        body["topic_data"].append({"name": topic, "partition_data": [{"index": partition, "records": records}]})
        client = await scene.client()
        answers = (await client.ask(PRODUCE, 8, body))["responses"]
        good, bad = (one["partition_responses"][0] for one in answers)
        assert (good["error_code"], good["base_offset"]) == (0, 0)
        assert (bad["error_code"], bad["base_offset"], bad["index"]) == (code, -1, partition)
        assert bad["error_message"]
        assert sum(part.end for one in scene.log.topics.values() for part in one.partitions) == 1

    rights = "write:t, write:unknown, write:small, write:compacted"
    run(steps, tmp_path, acl__anonymous=rights)


TOPICS: dict[str, dict[str, str]] = {
    "t": {},
    "small": {"max.message.bytes": "1000"},
    "compacted": {"cleanup.policy": "compact"},
    "secret": {},
}


def test_keys_make_a_compacted_topics_records(tmp_path: Path) -> None:
    """A record with a key is taken there, also compressed, and one without a key isn't."""

    async def steps(scene: Scene) -> None:
        await scene.log.create("t", 1, {"cleanup.policy": "delete,compact"})
        client = await scene.client()
        assert (await produce(client, "t", batch(b"a", None, key=b"k")))["error_code"] == 0
        keyed = [row for row in ROWS if row[1] is not None]
        assert (await produce(client, "t", by_aiokafka(keyed, 1)))["error_code"] == 0
        assert (await produce(client, "t", by_aiokafka(ROWS, 1)))["error_code"] == Code.INVALID_RECORD

    run(steps, tmp_path)


@pytest.mark.parametrize("acks", [2, -2])
def test_there_are_three_kinds_of_acks(tmp_path: Path, acks: int) -> None:
    """Anything but -1, 0 and 1 is refused."""

    async def steps(scene: Scene) -> None:
        await scene.log.create("t", 1)
        body = await (await scene.client()).ask(PRODUCE, 8, producing("t", batch(b"a"), acks=acks))
        assert body["responses"][0]["partition_responses"][0]["error_code"] == Code.INVALID_REQUIRED_ACKS

    run(steps, tmp_path)


def test_a_repeated_batch_is_answered_with_its_first_offset(tmp_path: Path) -> None:
    """An idempotent producer's second try changes nothing; a gap in its numbers is refused."""

    async def steps(scene: Scene) -> None:
        await scene.log.create("t", 1)
        client = await scene.client()
        await produce(client, "t", batch(b"x"))
        offsets = [await produce(client, "t", batch(b"a", producer=(7, 0, 0))) for _ in range(2)]
        assert [(one["error_code"], one["base_offset"]) for one in offsets] == [(0, 1)] * 2
        gap = await produce(client, "t", batch(b"c", producer=(7, 0, 5)))
        assert gap["error_code"] == Code.OUT_OF_ORDER_SEQUENCE_NUMBER
        assert scene.log.partition("t", 0).end == 2

    run(steps, tmp_path)


def test_where_there_is_no_room_every_partition_says_so(tmp_path: Path) -> None:
    """KAFKA_STORAGE_ERROR, at which producers wait and try again; what is there is served."""

    async def steps(scene: Scene) -> None:
        await scene.log.create("t", 1)
        client = await scene.client()
        answer: Body = {"error_code": 0}
        for _ in range(200):
            answer = await produce(client, "t", batch(b"x" * 100_000))
            if answer["error_code"]:
                break
        assert answer["error_code"] == Code.KAFKA_STORAGE_ERROR
        assert values((await fetch(client, ("t", 0, 0)))[0]["records"])[0] == b"x" * 100_000

    run(steps, tmp_path, maxBytes="4MiB")
