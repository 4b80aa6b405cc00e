"""Records as server-sent events: from where, exactly what, until when."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from aggregator.topics import record_batch
from aggregator.topics.web import stream as module
from aggregator.topics.web.stream import Stream
from tests.aggregator.topics.talking import make, until
from tests.aggregator.topics.web.browsing import TIME, Event, Events, Site, run
from tests.needs import need

S = "/topics/a/stream"


def test_what_is_there_and_what_comes(tmp_path: Path) -> None:
    """From the earliest on: what is there, then each batch when it comes."""

    async def steps(site: Site) -> None:
        await site.put("a", b"1", b"2", key=b"k")
        events = await site.stream(f"{S}?from=earliest")
        assert await events.next() == Event("0:0", "", None)
        first = await events.next()
        assert first.id == "0:1"
        assert first.data == (await site.get("/topics/a?last=2")).json[0]
        assert await events.bodies(1) == [2]
        for body in (b"3", b"4"):
            await site.put("a", body)
            assert await events.bodies(1) == [int(body)]

    run(steps, tmp_path)


@pytest.mark.parametrize(
    ("begin", "first"),
    [
        ("", 4),
        ("?from=latest", 4),
        ("?from=earliest", 0),
        ("?from=2", 2),
        ("?from=0", 0),
        ("?from=4", 4),
        ("?from=999999999999", 4),
        (f"?from={TIME}", 0),
        (f"?from={TIME + 2}", 2),
        (f"?from={TIME + 3_600_000}", 4),
        ("?from=1000000000000", 0),
        ("?from=2026-09-21T14:13:20.003Z", 3),
        ("?from=2026-09-21T15:13:20.003%2B01:00", 3),
        ("?from=2026-09-21T15:13:20.003+01:00", 3),
        ("?from=2026-09-21T14:13:20.003", 3),
        ("?from=2026-09-21", 0),
        ("?from=0001-01-01", 0),
    ],
)
def test_where_it_begins(begin: str, first: int, tmp_path: Path) -> None:
    """earliest, latest (the default), an offset within what there is, a time in ms or as ISO 8601, UTC by default."""

    async def steps(site: Site) -> None:
        await site.put("a", *(b"%d" % at for at in range(4)))
        events = await site.stream(S + begin)
        await events.next()
        await site.put("a", b"4")
        assert await events.bodies(5 - first) == list(range(first, 5))

    run(steps, tmp_path)


def test_it_resumes_exactly(tmp_path: Path) -> None:
    """After any number of events, from each event's id on comes what has not come, once, of both partitions."""

    async def steps(site: Site) -> None:
        await site.topics.broker.create("a", 2)
        for at in range(3):
            await site.put("a", *(b"%d" % (10 * at + i) for i in range(3)))
            await site.put("a", *(b"%d" % (100 + 10 * at + i) for i in range(3)), partition=1)
        events = await site.stream(f"{S}?from=earliest")
        seen = [await events.next() for _ in range(19)]
        for count in range(1, 20):
            rest = await site.stream(S, Last_Event_ID=seen[count - 1].id)
            assert (await rest.next()).id == seen[count - 1].id
            before = [event.data["body"] for event in seen[1:count]]
            assert sorted(before + await rest.bodies(19 - count)) == sorted(event.data["body"] for event in seen[1:])
            rest.close()

    run(steps, tmp_path)


def test_nothing_is_missed_before_the_first_record(tmp_path: Path) -> None:
    """The first event has an id and no data: who is cut off after it goes on there, and not at what is latest then."""

    async def steps(site: Site) -> None:
        await site.put("a", b"1")
        events = await site.stream(S)
        begun = (await events.next()).id
        events.close()
        await site.put("a", b"2")
        events = await site.stream(S, Last_Event_ID=begun)
        assert await events.bodies(1) == [2]

    run(steps, tmp_path)


def test_one_partition(tmp_path: Path) -> None:
    """With `partition` nothing comes of the others, and the id has this one alone."""

    async def steps(site: Site) -> None:
        await site.topics.broker.create("a", 2)
        await site.put("a", b"1")
        await site.put("a", b"2", partition=1)
        events = await site.stream(f"{S}?partition=1&from=earliest")
        assert (await events.next()).id == "1:0"
        assert (await events.next()).data["body"] == 2
        await site.put("a", b"3")
        await site.put("a", b"4", partition=1)
        assert await events.bodies(1) == [4]

    run(steps, tmp_path)


def test_only_what_is_committed(tmp_path: Path) -> None:
    """What was aborted never comes, what is undecided waits."""

    async def steps(site: Site) -> None:
        await site.put("a", b"1")
        events = await site.stream(f"{S}?from=earliest")
        await site.transaction("a", b"0", commit=False)
        await site.transaction("a", b"2", commit=True)
        await site.put("a", b"3")
        assert await events.bodies(3) == [1, 2, 3]

    run(steps, tmp_path)


def test_keep_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing comes there is a comment in a while, also when all that happens is aborted."""
    monkeypatch.setattr(module, "KEEP_ALIVE", 0.02)

    async def steps(site: Site) -> None:
        await site.topics.broker.create("a")
        events = await site.stream(S)
        await events.next()
        assert await events.next() == Event("", "", None, comment=True)

        async def disturb() -> None:
            while True:
                await site.transaction("a", b"0", commit=False)

        disturbing = asyncio.create_task(disturb())
        for _ in range(3):
            assert (await events.next()).comment
        disturbing.cancel()
        await asyncio.wait([disturbing])

    run(steps, tmp_path)


def test_a_partition_that_is_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it comes, to who is there and to who comes back with an id that doesn't know it."""
    monkeypatch.setattr(module, "KEEP_ALIVE", 0.05)

    async def steps(site: Site) -> None:
        await site.put("a", b"1")
        events = await site.stream(S)
        begun = (await events.next()).id
        assert begun == "0:1"
        await site.log.add_partitions("a", 2)
        await site.put("a", b"2", b"3", partition=1)
        assert await events.bodies(2) == [2, 3]
        again = await site.stream(S, Last_Event_ID=begun)
        assert await again.bodies(2) == [2, 3]

    run(steps, tmp_path)


@pytest.mark.parametrize(("id_", "expected"), [("0:1", (1, 2)), ("0:99", (99, 2)), ("0:99,7:1", (99, 2))])
def test_an_id_of_what_is_gone(id_: str, expected: tuple[int, int], tmp_path: Path) -> None:
    """Retention took it, or the topic is another one by now: an event says from where to where, then all there is."""

    async def steps(site: Site) -> None:
        for body in (b"0", b"1", b"2"):
            await site.put("a", body)
        await site.log.trim(site.log.partition("a", 0), 2)
        events = await site.stream(S, Last_Event_ID=id_)
        await events.next()
        moved = await events.next()
        assert (moved.id, moved.name) == ("0:2", "moved")
        assert (moved.data["from"], moved.data["to"]) == expected
        assert await events.bodies(1) == [2]

    run(steps, tmp_path)


def test_retention_in_between(tmp_path: Path) -> None:
    """A client that is slower than retention is told, too."""

    async def steps(site: Site) -> None:
        await site.put("a", b"0")
        partition = site.log.partition("a", 0)
        chunks = Stream(site.log, site.log.topics["a"], {0: 0}, True).chunks()
        assert await anext(chunks) == "retry: 2000\nid: 0:0\n\n"
        await site.put("a", b"1")
        await site.log.trim(partition, 1)
        assert await anext(chunks) == 'id: 0:1\nevent: moved\ndata: {"partition": 0, "from": 0, "to": 1}\n\n'
        assert json.loads((await anext(chunks)).split("data: ")[1])["body"] == 1
        await chunks.aclose()

    run(steps, tmp_path)


def test_a_batch_that_can_not_be_read(tmp_path: Path) -> None:
    """An event says so, with an id behind it, and what follows comes."""

    async def steps(site: Site) -> None:
        await site.put("a", b"1")
        good = record_batch.build([(TIME, None, b"x", ())])
        await site.append("a", good[:-1] + b"\x55")
        await site.put("a", b"2")
        events = await site.stream(f"{S}?from=earliest")
        assert await events.bodies(1) == [1]
        broken = await events.next()
        assert (broken.id, broken.name) == ("0:2", "broken")
        assert (broken.data["offset"], broken.data["next"]) == (1, 2)
        assert await events.bodies(1) == [2]

    run(steps, tmp_path)


@pytest.mark.parametrize("again", [False, True])
def test_the_topic_goes(again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream ends and says why, also when there is another topic of this name at once."""
    monkeypatch.setattr(module, "KEEP_ALIVE", 0.05)

    async def steps(site: Site) -> None:
        await site.put("a", b"1")
        events = await site.stream(S)
        await events.next()
        await site.log.delete("a")
        if again:
            await site.put("a", b"2")
        end = await events.last()
        assert end.name == "end" and "a" in end.data["why"]

    run(steps, tmp_path)


def test_the_service_is_closed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Streams end with it, also one that is reading what lies on the disk, and nothing is said of bugs."""

    async def steps(site: Site) -> None:
        theirs = Site(make(tmp_path / "theirs"))
        async with theirs.web:
            async with theirs.topics:
                for _ in range(20):
                    await theirs.put("a", b"x" * 900_000)
                idle, busy = await theirs.stream(S), await theirs.stream(f"{S}?from=earliest")
                await idle.next()
                await busy.bodies(1)
            assert (await idle.last()).name == (await busy.last()).name == "end"
            await until(lambda: not theirs.web.streams)

    run(steps, tmp_path)
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("id_", ["x", "0:", "0:1,", "0:1;1:2", "0:1,0:2", "-1:0", "0:9999999999999999999", "٣:1"])
def test_an_id_that_is_none(id_: str, tmp_path: Path) -> None:
    """400: a client that lost its place shall not believe that it has it."""

    async def steps(site: Site) -> None:
        await site.topics.broker.create("a")
        answer = await site.get(S, Last_Event_ID=id_)
        assert answer.status == 400 and "0:17,1:4" in answer.body

    run(steps, tmp_path)


def test_too_many_partitions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream of more than an id can name is refused; one of them isn't; one that grows above ends."""
    monkeypatch.setattr(module, "MOST_PARTITIONS", 2)
    monkeypatch.setattr(module, "KEEP_ALIVE", 0.05)

    async def steps(site: Site) -> None:
        await site.topics.broker.create("a", 2)
        events = await site.stream(S)
        await events.next()
        await site.log.add_partitions("a", 3)
        end = await events.last()
        assert end.name == "end" and "2 partitions" in end.data["why"]
        answer = await site.get(S)
        assert answer.status == 400 and "partition=" in answer.body
        await (await site.stream(f"{S}?partition=2")).next()

    run(steps, tmp_path)


def test_chunks_are_small(tmp_path: Path) -> None:
    """However much there is, it is sent in pieces of about 64 KiB, and small records together."""

    async def steps(site: Site) -> None:
        for _ in range(5):
            await site.put("a", *(b"x" * 1000 for _ in range(500)))
        sizes, seen = [], 0
        async for chunk in Stream(site.log, site.log.topics["a"], {0: 0}, True).chunks():
            sizes.append(len(chunk))
            seen += chunk.count("data: ")
            if seen == 2500:
                break
        assert max(sizes) < module.CHUNK + 2000
        assert len(sizes) < 100

    run(steps, tmp_path)


def test_a_client_that_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is dropped, and others go on."""
    monkeypatch.setattr("agent.services.metrics.TIMEOUT", 0.3)

    async def steps(site: Site) -> None:
        for _ in range(20):
            await site.put("a", b"x" * 900_000)
        stuck = await site.stream(f"{S}?from=earliest")
        stuck.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await until(lambda: site.web.streams)
        others = await site.stream(S)
        await others.next()
        await until(lambda: len(site.web.streams) == 1)
        await site.put("a", b"1")
        assert await others.bodies(1) == [1]

    run(steps, tmp_path)


def test_curl(tmp_path: Path) -> None:
    """`curl -N` prints each reading when it comes."""
    need("curl")

    async def steps(site: Site) -> None:
        await site.put("a", b"1")
        url = f"http://127.0.0.1:{site.web.port}{S}?from=earliest"
        curl = await asyncio.create_subprocess_exec("curl", "-sN", url, stdout=subprocess.PIPE)
        assert curl.stdout
        events = Events(curl.stdout, None)  # type: ignore[arg-type]
        seen: list[Any] = await events.bodies(1)
        for body in (b"2", b"3"):
            await site.put("a", body)
            seen += await events.bodies(1)
        assert seen == [1, 2, 3]
        curl.terminate()
        await curl.wait()
        await until(lambda: not site.web.streams)

    run(steps, tmp_path)
