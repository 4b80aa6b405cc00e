"""Fetch: whole batches, bounds, waiting, and what readers of committed records see."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from aggregator.topics import record_batch
from aggregator.topics.errors import Code
from aggregator.topics.handlers import fetch as module
from aggregator.topics.wire.tables.records import FETCH, PRODUCE
from aggregator.topics.wire.tables.transactions import ADD_PARTITIONS_TO_TXN, END_TXN, INIT_PRODUCER_ID
from tests.aggregator.topics.talking import (
    Body,
    Client,
    Scene,
    batch,
    fetch,
    fetching,
    produce,
    producing,
    run,
    until,
    values,
)

HOUR_MS = 3_600_000


async def filled(scene: Scene, *batches: bytes, topic: str = "t") -> Client:
    """A topic with these batches."""
    await scene.log.create(topic, 1)
    client = await scene.client()
    for one in batches:
        await produce(client, topic, one)
    return client


@pytest.mark.parametrize("version", range(4, 12))
def test_records_come_back(tmp_path: Path, version: int) -> None:
    """In every version, with where the log begins and ends."""

    async def steps(scene: Scene) -> None:
        client = await filled(scene, batch(b"a", b"b"), batch(b"c"))
        (found,) = await fetch(client, ("t", 0, 0), version=version)
        assert values(found["records"]) == [b"a", b"b", b"c"]
        assert (found["error_code"], found["high_watermark"], found["last_stable_offset"]) == (0, 3, 3)
        assert found["log_start_offset"] == (0 if version >= 5 else -1)

    run(steps, tmp_path)


def test_an_offset_inside_a_batch_gives_all_of_it(tmp_path: Path) -> None:
    """The client leaves out what comes before."""

    async def steps(scene: Scene) -> None:
        client = await filled(scene, batch(b"a"), batch(b"b", b"c", b"d"))
        (found,) = await fetch(client, ("t", 0, 2))
        assert values(found["records"]) == [b"b", b"c", b"d"]

    run(steps, tmp_path)


@pytest.mark.parametrize("version", [4, 11])
def test_nothing_new_is_no_bytes(tmp_path: Path, version: int) -> None:
    """Zero bytes and not null, which librdkafka refuses."""

    async def steps(scene: Scene) -> None:
        client = await filled(scene, batch(b"a"))
        (found,) = await fetch(client, ("t", 0, 1), version=version)
        assert found["records"] is not None
        assert (found["error_code"], found["records"]) == (0, b"")

    run(steps, tmp_path)


def test_the_first_batch_comes_whatever_its_size(tmp_path: Path) -> None:
    """And no second one beyond the bound, be it of the partition or of the answer."""

    async def steps(scene: Scene) -> None:
        client = await filled(scene, batch(b"x" * 5000), batch(b"y"))
        (found,) = await fetch(client, ("t", 0, 0), most=10)
        assert values(found["records"]) == [b"x" * 5000]

    run(steps, tmp_path)


def test_other_partitions_get_what_is_left(tmp_path: Path) -> None:
    """A batch that has no room behind others' waits for the next answer; one that has is there."""

    async def steps(scene: Scene) -> None:
        client = await filled(scene, batch(b"x" * 5000))
        await filled(scene, batch(b"y" * 5000), topic="u")
        await filled(scene, batch(b"z"), topic="v")
        found = await fetch(client, ("t", 0, 0), ("u", 0, 0), ("v", 0, 0), most=6000)
        assert [values(one["records"]) for one in found] == [[b"x" * 5000], [], [b"z"]]
        assert [one["error_code"] for one in found] == [0, 0, 0]

    run(steps, tmp_path)


def test_an_answer_is_bounded_whatever_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By our own bound, with at least one batch."""
    monkeypatch.setattr(module, "MOST", 12_000)

    async def steps(scene: Scene) -> None:
        client = await filled(scene, *[batch(b"x" * 5000)] * 5)
        (found,) = await fetch(client, ("t", 0, 0), most=(1 << 31) - 1)
        assert len(values(found["records"])) == 2

    run(steps, tmp_path)


@pytest.mark.parametrize(
    ("place", "more", "code"),
    [
        (("t", 0, 4), {}, Code.OFFSET_OUT_OF_RANGE),
        (("t", 0, -1), {}, Code.OFFSET_OUT_OF_RANGE),
        (("t", 0, 0), {}, Code.OFFSET_OUT_OF_RANGE),
        (("t", 1, 1), {}, Code.UNKNOWN_TOPIC_OR_PARTITION),
        (("read.none", 0, 0), {}, Code.UNKNOWN_TOPIC_OR_PARTITION),
        (("secret", 0, 0), {}, Code.TOPIC_AUTHORIZATION_FAILED),
        (("t", 0, 1), {"current_leader_epoch": 3}, Code.UNKNOWN_LEADER_EPOCH),
    ],
    ids=["beyond", "negative", "trimmed", "partition", "topic", "right", "epoch"],
)
def test_what_is_wrong_with_a_partition_is_said_at_once(
    tmp_path: Path, place: tuple[str, int, int], more: Body, code: Code
) -> None:
    """Although the client would wait, and although another partition has no records; that one is answered, too."""

    async def steps(scene: Scene) -> None:
        client = await filled(scene, batch(b"a"), batch(b"b"), batch(b"c"))
        await scene.log.create("secret", 1)
        await scene.log.trim(scene.log.partition("t", 0), 1)
        await scene.log.create("u", 1)
        body = fetching(("u", 0, 0), place, wait=HOUR_MS)
        body["topics"][1]["partitions"][0] |= more
        good, bad = (one["partitions"][0] for one in (await client.ask(FETCH, 11, body))["responses"])
        assert (good["error_code"], good["high_watermark"]) == (0, 0)
        assert (bad["error_code"], bad["high_watermark"], bad["records"]) == (code, -1, b"")

    run(steps, tmp_path, acl__anonymous="read:t, read:u, write:t, read:read.*")


def test_a_reader_that_has_all_waits_for_more(tmp_path: Path) -> None:
    """An append to any of its partitions wakes it."""

    async def steps(scene: Scene) -> None:
        client = await filled(scene)
        other = await filled(scene, topic="u")
        client.send(FETCH, 11, fetching(("t", 0, 0), ("u", 0, 0), wait=HOUR_MS))
        await until(lambda: scene.log.partition("u", 0).waiting)
        await produce(other, "u", batch(b"a"))
        _, body = await client.answer(FETCH, 11)
        assert [values(one["partitions"][0]["records"]) for one in body["responses"]] == [[], [b"a"]]
        assert not scene.log.partition("t", 0).waiting

    run(steps, tmp_path)


def test_a_reader_may_want_more_than_the_first_that_comes(tmp_path: Path) -> None:
    """With min_bytes it waits until there are as many, over several appends."""

    async def steps(scene: Scene) -> None:
        client = await filled(scene)
        client.send(FETCH, 11, fetching(("t", 0, 0), wait=HOUR_MS, least=len(batch(b"a")) + 1))
        partition = scene.log.partition("t", 0)
        await until(lambda: partition.waiting)
        other = await scene.client()
        await produce(other, "t", batch(b"a"))
        await until(lambda: partition.waiting)
        await produce(other, "t", batch(b"b"))
        _, body = await client.answer(FETCH, 11)
        assert values(body["responses"][0]["partitions"][0]["records"]) == [b"a", b"b"]
        assert scene.service.broker.room.used == 0

    run(steps, tmp_path)


def test_a_wait_ends(tmp_path: Path) -> None:
    """After max_wait_ms, with what there is, although it is less than min_bytes."""

    async def steps(scene: Scene) -> None:
        client = await filled(scene, batch(b"a"))
        (found,) = await fetch(client, ("t", 0, 0), wait=20, least=1 << 20)
        assert values(found["records"]) == [b"a"]

    run(steps, tmp_path)


@pytest.mark.parametrize("topics", [("t",), ("t", "u")])
def test_who_lags_behind_does_not_wait(tmp_path: Path, topics: tuple[str, ...]) -> None:
    """However much it wants at least: what comes while it waits would not be in an answer that its bounds have cut, be
    it in a partition or between two."""

    async def steps(scene: Scene) -> None:
        for name in topics:
            client = await filled(scene, *[batch(b"x" * 5000)] * (3 - len(topics)), topic=name)
        found = await fetch(client, *((name, 0, 0) for name in topics), wait=HOUR_MS, least=1 << 20, most=6000)
        assert [values(one["records"]) for one in found] == [[b"x" * 5000], []][: len(topics)]

    run(steps, tmp_path)


def test_a_wait_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a client asks for."""
    monkeypatch.setattr(module, "MOST_WAIT", 0.02)

    async def steps(scene: Scene) -> None:
        client = await filled(scene, batch(b"a"))
        (found,) = await fetch(client, ("t", 0, 1), wait=HOUR_MS)
        assert (found["error_code"], found["records"]) == (0, b"")

    run(steps, tmp_path)


def test_who_wants_much_does_not_look_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look reads all again: the pauses between them grow, up to a bound, and end with its time."""
    pauses = list[float]()

    async def slept(seconds: float) -> None:
        pauses.append(seconds)
        await asyncio.sleep(0)

    async def steps(scene: Scene) -> None:
        client = await filled(scene, batch(b"a"))
        partition = scene.log.partition("t", 0)
        client.send(FETCH, 11, fetching(("t", 0, 0), wait=HOUR_MS, least=1 << 20))
        other = await scene.client()
        for count in range(10):
            await until(lambda: partition.waiting)
            await produce(other, "t", batch(b"b"))
            await until(lambda count=count: len(pauses) > count)

    monkeypatch.setattr(module, "asyncio", SimpleNamespace(**vars(asyncio) | {"sleep": slept}))
    run(steps, tmp_path)
    assert pauses[:8] == [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 0.64]


def test_a_topic_that_is_deleted_wakes_its_readers(tmp_path: Path) -> None:
    """With the code that says so."""

    async def steps(scene: Scene) -> None:
        client = await filled(scene)
        client.send(FETCH, 11, fetching(("t", 0, 0), wait=HOUR_MS))
        await until(lambda: scene.log.partition("t", 0).waiting)
        await scene.log.delete("t")
        _, body = await client.answer(FETCH, 11)
        assert body["responses"][0]["partitions"][0]["error_code"] == Code.UNKNOWN_TOPIC_OR_PARTITION

    run(steps, tmp_path)


def test_there_are_no_sessions(tmp_path: Path) -> None:
    """A client that asks for one is given none, and one that claims to have one is told that it hasn't."""

    async def steps(scene: Scene) -> None:
        client = await filled(scene, batch(b"a"))
        body = await client.ask(FETCH, 11, fetching(("t", 0, 0), session_id=0, session_epoch=0))
        assert (body["error_code"], body["session_id"]) == (0, 0)
        body = await client.ask(FETCH, 11, fetching(("t", 0, 0), session_id=5, session_epoch=1))
        assert body["error_code"] == Code.FETCH_SESSION_ID_NOT_FOUND

    run(steps, tmp_path)


def test_a_partition_is_named_once(tmp_path: Path) -> None:
    """A request that names it a hundred thousand times would cost as many reads: that connection ends."""

    async def steps(scene: Scene) -> None:
        client = await filled(scene, batch(b"a"))
        client.send(FETCH, 11, fetching(("t", 0, 0), ("t", 0, 0)))
        assert await client.is_closed()

    run(steps, tmp_path)


def test_old_records_are_read_from_the_file(tmp_path: Path) -> None:
    """What the cache of the newest has let go comes back the same."""

    async def steps(scene: Scene) -> None:
        client = await filled(scene, *[batch(b"%d" % number + b"x" * 900_000) for number in range(12)])
        assert scene.log.partition("t", 0).tail.first > 0
        (found,) = await fetch(client, ("t", 0, 0))
        assert values(found["records"]) == [b"0" + b"x" * 900_000]

    run(steps, tmp_path)


# -- transactions


async def begin(client: Client, producer: Body, topic: str = "t") -> None:
    body = {
        "transactional_id": "x", "producer_id": producer["producer_id"], "producer_epoch": producer["producer_epoch"],
        "topics": [{"name": topic, "partitions": [0]}],
    }  # fmt: skip
    answer = await client.ask(ADD_PARTITIONS_TO_TXN, 0, body)
    assert answer["results"][0]["results"][0]["error_code"] == 0


async def send(client: Client, producer: Body, sequence: int, value: bytes) -> None:
    identity = (producer["producer_id"], producer["producer_epoch"], sequence)
    body = producing("t", batch(value, producer=identity, transactional=True)) | {"transactional_id": "x"}
    answer = await client.ask(PRODUCE, 8, body)
    assert answer["responses"][0]["partition_responses"][0]["error_code"] == 0


async def end(client: Client, producer: Body, commit: bool) -> None:
    identity = {"producer_id": producer["producer_id"], "producer_epoch": producer["producer_epoch"]}
    body = {"transactional_id": "x", "committed": commit, **identity}
    assert (await client.ask(END_TXN, 0, body))["error_code"] == 0


async def initiated(client: Client) -> Body:
    return await client.ask(INIT_PRODUCER_ID, 0, {"transactional_id": "x", "transaction_timeout_ms": 60_000})


def test_readers_of_committed_records_stop_at_an_open_transaction(tmp_path: Path) -> None:
    """Others don't; when it is committed they are woken."""

    async def steps(scene: Scene) -> None:
        client, other = await filled(scene, batch(b"before")), await scene.client()
        producer = await initiated(client)
        await begin(client, producer)
        await send(client, producer, 0, b"inside")
        await produce(client, "t", batch(b"after"))
        (plain,) = await fetch(client, ("t", 0, 0))
        assert values(plain["records"]) == [b"before", b"inside", b"after"]
        (found,) = await fetch(client, ("t", 0, 0), isolation_level=1)
        assert values(found["records"]) == [b"before"]
        assert (found["high_watermark"], found["last_stable_offset"]) == (3, 1)
        other.send(FETCH, 11, fetching(("t", 0, 1), wait=HOUR_MS, isolation_level=1))
        await until(lambda: scene.log.partition("t", 0).waiting)
        await end(client, producer, commit=True)
        _, body = await other.answer(FETCH, 11)
        records = body["responses"][0]["partitions"][0]["records"]
        assert values(records)[:2] == [b"inside", b"after"]

    run(steps, tmp_path)


def test_readers_of_committed_records_learn_what_was_aborted(tmp_path: Path) -> None:
    """Producer and first offset, where the answer's records are concerned, and in no other answer."""

    async def steps(scene: Scene) -> None:
        client = await filled(scene, batch(b"before"))
        producer = await initiated(client)
        await begin(client, producer)
        await send(client, producer, 0, b"inside")
        await end(client, producer, commit=False)
        await produce(client, "t", batch(b"after"))
        (found,) = await fetch(client, ("t", 0, 0), isolation_level=1)
        aborted = [{"producer_id": producer["producer_id"], "first_offset": 1}]
        assert [*found["aborted_transactions"]] == aborted
        assert found["last_stable_offset"] == 4
        heads = bytes(found["records"])
        assert record_batch.header(heads).base_offset == 0
        (later,) = await fetch(client, ("t", 0, 3), isolation_level=1)
        assert [*later["aborted_transactions"]] == []
        (plain,) = await fetch(client, ("t", 0, 0))
        assert plain["aborted_transactions"] is None

    run(steps, tmp_path)


def test_a_hundred_readers_wait_for_one_record(tmp_path: Path) -> None:
    """All of them have it from one append."""

    async def steps(scene: Scene) -> None:
        client = await filled(scene)
        readers = [await scene.client() for _ in range(100)]
        for reader in readers:
            reader.send(FETCH, 11, fetching(("t", 0, 0), wait=HOUR_MS))
        await until(lambda: len(scene.log.partition("t", 0).waiting) == 100)
        await produce(client, "t", batch(b"a"))
        answers = await asyncio.gather(*(reader.answer(FETCH, 11) for reader in readers))
        assert {*(bytes(body["responses"][0]["partitions"][0]["records"]) for _, body in answers)} == {batch(b"a")}

    run(steps, tmp_path)
