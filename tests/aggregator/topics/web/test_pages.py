"""The list of topics, the last records of one, and who may see them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.http import Page, Request
from aggregator.topics import compression, record_batch
from aggregator.topics.log.log import Offset
from aggregator.topics.web import newest as module
from tests.aggregator.topics.batches import ZSTD, sealed
from tests.aggregator.topics.talking import make
from tests.aggregator.topics.web.browsing import TIME, Site, run

BROWSER = "text/html,application/xhtml+xml,*/*;q=0.8"


# -- the list


def test_the_topics(tmp_path: Path) -> None:
    """Each with its partitions' offsets and bytes, and its groups with what they have yet to read."""

    async def steps(site: Site) -> None:
        await site.topics.broker.create("plant.b", 2)
        await site.put("plant.b", b"1", b"2", b"3", partition=1)
        await site.put("a", b"x")
        await site.log.commit("g", {("plant.b", 1): Offset(1), ("plant.b", 0): Offset(0), ("a", 0): Offset(1)})
        first, second = (await site.get("/topics")).json
        size = site.log.partition("plant.b", 1).size
        assert first["name"] == "a" and first["groups"][0]["lag"] == 0
        assert second == {
            "name": "plant.b",
            "bytes": size,
            "partitions": [
                {"partition": 0, "start": 0, "stable": 0, "end": 0, "bytes": 0},
                {"partition": 1, "start": 0, "stable": 3, "end": 3, "bytes": size},
            ],
            "groups": [
                {"group": "g", "lag": 2, "partitions": {"0": {"offset": 0, "lag": 0}, "1": {"offset": 1, "lag": 2}}}
            ],
        }

    run(steps, tmp_path)


def test_lag_after_retention(tmp_path: Path) -> None:
    """What is gone is nothing that a group has yet to read."""

    async def steps(site: Site) -> None:
        for value in (b"1", b"2", b"3"):
            await site.put("a", value)
        await site.log.commit("g", {("a", 0): Offset(0)})
        await site.log.trim(site.log.partition("a", 0), 2)
        [topic] = (await site.get("/topics")).json
        assert topic["groups"][0]["lag"] == 1

    run(steps, tmp_path)


def test_for_a_browser(tmp_path: Path) -> None:
    """Tables with links, and what came from outside is text in them."""

    async def steps(site: Site) -> None:
        evil = "<script>alert('&')</script>"
        await site.put("a", evil.encode(), key=evil.encode(), headers=((evil, evil.encode()),))
        await site.log.commit(evil, {("a", 0): Offset(0)})
        topics = await site.get("/topics", Accept=BROWSER)
        assert '<a href="/topics/a">a</a>' in topics.body and ": 1</td>" in topics.body
        records = await site.get("/topics/a", Accept=BROWSER)
        assert 'href="/topics/a/stream"' in records.body
        for page, times in ((topics, 1), (records, 4)):
            assert "Content-Type: text/html" in page.headers and "default-src 'none'" in page.headers
            assert "<script" not in page.body
            assert page.body.count("&lt;script&gt;alert(&#x27;&amp;&#x27;)&lt;/script&gt;") == times

    run(steps, tmp_path)


def test_the_index(tmp_path: Path) -> None:
    """The metrics service's first page and its 404 lead here."""

    async def steps(site: Site) -> None:
        assert '"./topics"' in (await site.get("/")).body
        assert ", /topics\n" in (await site.get("/x")).body

    run(steps, tmp_path)


def test_two_services(tmp_path: Path) -> None:
    """`service` says which; without it, it is the first. Links keep it."""

    async def steps(site: Site) -> None:
        other = make(tmp_path / "other")
        other.name = "other"
        async with other:
            both = Site(site.topics, other)
            await both.put("first", b"1")
            await other.broker.create("second")
            async with both.web:
                names = [(await both.get(path)).json[0]["name"] for path in ("/topics", "/topics?service=other")]
                assert names == ["first", "second"]
                assert (await both.get("/topics?service=third")).status == 404
                page = await both.get("/topics?service=other", Accept=BROWSER)
                assert 'href="/topics/second?service=other"' in page.body

    run(steps, tmp_path)


# -- the last records


async def bodies(site: Site, path: str) -> list[Any]:
    return [one["body"] for one in (await site.get(path)).json]


def test_the_last(tmp_path: Path) -> None:
    """`last` records, 20 if it isn't said, oldest first, from however many batches."""

    async def steps(site: Site) -> None:
        for at in range(0, 500, 50):
            await site.put("a", *(b"%d" % (at + i) for i in range(50)), time=TIME + at)
        assert await bodies(site, "/topics/a?last=7") == list(range(493, 500))
        assert await bodies(site, "/topics/a") == list(range(480, 500))
        assert await bodies(site, "/topics/a?last=1000") == list(range(500))

    run(steps, tmp_path)


def test_nothing_is_there(tmp_path: Path) -> None:
    """A topic without records is an empty list."""

    async def steps(site: Site) -> None:
        await site.topics.broker.create("a")
        assert await bodies(site, "/topics/a") == []

    run(steps, tmp_path)


def test_holes(tmp_path: Path) -> None:
    """Markers and what was aborted don't count, however many; what is undecided isn't shown."""

    async def steps(site: Site) -> None:
        await site.put("a", b"1", b"2")
        await site.transaction("a", b"3", commit=True)
        for _ in range(3):
            await site.transaction("a", *(b"0" for _ in range(300)), commit=False)
        await site.put("a", b"4")
        transactions = site.topics.broker.transactions
        producer, epoch = await transactions.init("open", 60_000)
        await transactions.add("open", producer, epoch, {("a", 0)})
        more: dict[str, Any] = {"producer": (producer, epoch, 0), "transactional": True}
        await site.put("a", b"5", transactional_id="open", **more)
        assert await bodies(site, "/topics/a?last=3") == [2, 3, 4]
        assert await bodies(site, "/topics/a?last=1000") == [1, 2, 3, 4]

    run(steps, tmp_path)


def test_several_partitions(tmp_path: Path) -> None:
    """By their times, and each partition in its order, also where a clock went back; one alone by its number."""

    async def steps(site: Site) -> None:
        await site.topics.broker.create("a", 2)
        for at, value in ((10, b"1"), (30, b"3"), (5, b"4"), (50, b"6")):
            await site.put("a", value, time=TIME + at)
        for at, value in ((20, b"2"), (40, b"5")):
            await site.put("a", value, time=TIME + at, partition=1)
        assert await bodies(site, "/topics/a") == [1, 2, 3, 4, 5, 6]
        assert await bodies(site, "/topics/a?last=3") == [4, 5, 6]
        assert await bodies(site, "/topics/a?partition=1") == [2, 5]

    run(steps, tmp_path)


def test_large_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are fewer of them, the newest, and always one."""
    monkeypatch.setattr(module, "MOST_BYTES", 10_000)

    async def steps(site: Site) -> None:
        await site.topics.broker.create("a", 2)
        for at in range(20):
            await site.put("a", b"%02d" % at + b"x" * 3000, time=TIME + at, partition=at % 2)
        assert [one[:2] for one in await bodies(site, "/topics/a?last=1000")] == ["17", "18", "19"]
        await site.put("a", b"y" * 20_000, time=TIME + 100)
        assert await bodies(site, "/topics/a?last=5") == ["y" * 20_000]

    run(steps, tmp_path)


def test_a_batch_that_can_not_be_read(tmp_path: Path) -> None:
    """In its place stands why; what is around it is shown, once."""

    async def steps(site: Site) -> None:
        await site.put("a", b"1")
        good = record_batch.build([(TIME + at, None, b"x", ()) for at in range(300)])
        await site.append("a", good[:-1] + b"\x55")
        await site.put("a", b"2")
        first, broken, last = (await site.get("/topics/a?last=100")).json
        assert (first["body"], last["body"]) == (1, 2)
        assert (broken["offset"], broken["next"]) == (1, 301) and "damaged" in broken["error"]
        assert "damaged" in (await site.get("/topics/a", Accept=BROWSER)).body

    run(steps, tmp_path)


def test_a_batch_that_grows_too_large(tmp_path: Path) -> None:
    """A few kB that are 5 MB decompressed are shown as a batch that can't be read, by the page and by a stream."""
    plain = record_batch.build([(TIME, None, bytes(1_000_000), ())] * 5)
    grown = sealed(plain, compression.compress(ZSTD, plain[61:]), ZSTD)

    async def steps(site: Site) -> None:
        await site.append("a", grown)
        await site.put("a", b"2")
        broken, last = (await site.get("/topics/a?last=100")).json
        assert (broken["offset"], broken["next"], last["body"]) == (0, 5, 2)
        assert "error" in broken
        events = await site.stream("/topics/a/stream?from=earliest")
        await events.next()
        assert (await events.next()).name == "broken"

    run(steps, tmp_path)


def test_retention_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes while it is looked for is not there."""

    async def steps(site: Site) -> None:
        for value in (b"1", b"2", b"3"):
            await site.put("a", value)
        partition = site.log.partition("a", 0)

        async def trimmed(*_: Any) -> Any:
            await site.log.trim(partition, 2)
            monkeypatch.undo()
            return await module.Following.take(followed, 10)

        followed = module.Following(site.log, partition, 0)
        monkeypatch.setattr(module.Following, "take", trimmed)
        assert (await site.get("/topics/a")).status == 200
        assert await bodies(site, "/topics/a") == [3]

    run(steps, tmp_path)


# -- what can't be


@pytest.mark.parametrize(
    ("path", "status", "why"),
    [
        ("/topics/b", 404, "there is no topic 'b'"),
        ("/topics/b/stream", 404, "there is no topic 'b'"),
        ("/topics/a%2Fstream", 404, "there is no topic 'a/stream'"),
        ("/topics/%2561", 404, "there is no topic '%61'"),
        ("/topics/%FF", 400, "UTF-8"),
        ("/topics/%0d%0aX:y", 404, r"'\r\nX:y'"),
        ("/topics//", 200, ""),
        ("/topics/a/stream/x", 404, "there is /topics, /topics/NAME and"),
        ("/Topics", 404, "there is /metrics"),
        ("/topics/a?last=0", 400, "last is a number from 1 to 1000, not '0'"),
        ("/topics/a?last=1001", 400, "last is a number"),
        ("/topics/a?last=-1", 400, "last is a number"),
        ("/topics/a?last=%D9%A3", 400, "last is a number"),
        ("/topics/a?last=", 400, "last is a number"),
        ("/topics/a?partition=1", 400, "partition is a number from 0 to 0"),
        ("/topics/a?lats=1", 400, "there is no 'lats' here; it takes last, partition, service"),
        ("/topics?x", 400, "it takes service"),
        ("/topics/a/stream?last=3", 400, "it takes from, partition, service"),
        ("/topics/a/stream?from=yesterday", 400, "from is earliest, latest, an offset, or a time"),
        ("/topics/a/stream?from=-1", 400, "from is earliest"),
        ("/topics/a/stream?from=9999999999999999999", 400, "from is earliest"),
        ("/topics/a/stream?partition=7", 400, "partition is a number from 0 to 0"),
    ],
)
def test_asked_wrongly(path: str, status: int, why: str, tmp_path: Path) -> None:
    """The answer says what would be right; a name is decoded once."""

    async def steps(site: Site) -> None:
        await site.topics.broker.create("a")
        answer = await site.get(path)
        assert answer.status == status and why in answer.body

    run(steps, tmp_path)


def test_a_service_that_is_closed(tmp_path: Path) -> None:
    """503, as for everything that will be back."""

    async def steps(site: Site) -> None:
        site.topics.opened.clear()
        assert (await site.get("/topics")).status == 503

    run(steps, tmp_path)


# -- rights


def asked(path: str, local: bool = True, **headers: str) -> Request:
    return Request("GET", path, tuple(path.split("/")[1:]), {}, headers, local)


def pages(folder: Path, *requests: Request, users: str = "", **keys: str) -> list[Page]:
    """What a service with these keys, and topics `a` and `secret`, answers."""
    if users:
        (folder / "users").write_text(users)
        (folder / "users").chmod(0o600)
        keys["sasl__users"] = str(folder / "users")

    async def steps() -> list[Page]:
        async with make(folder, **keys) as service:
            for name in ("a", "secret"):
                await service.broker.create(name)
                await service.broker.log.commit(f"of-{name}", {(name, 0): Offset(0)})
            found = [await service.page(request) for request in requests]
            return [one for one in found if one]

    return asyncio.run(steps())


USERS = "alice = " + "p" * 12 + "\n"
ALL = [asked("/topics"), asked("/topics/a"), asked("/topics/nothing"), asked("/topics/a/stream")]


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"users": USERS}, "has users"),
        ({"users": USERS, "acl__*": "read:*"}, "has users"),
        ({"users": USERS, "acl__alice": "admin"}, "has users"),
        ({"users": USERS, "allowInsecure": "true"}, "has users"),
        ({"acl__*": "write:*"}, "acl.anonymous gives no right to read"),
        ({"acl__anonymous": "write:*"}, "acl.anonymous gives no right to read"),
    ],
)
def test_refused(keys: Mapping[str, str], why: str, tmp_path: Path) -> None:
    """Where there are users or rights, and none for who doesn't say who it is, each page is 403, with the reason, and
    doesn't tell what exists."""
    found = pages(tmp_path, *ALL, **keys)
    assert [page.status for page in found] == [403] * 4
    assert all(why in str(page.body) for page in found)


@pytest.mark.parametrize("users", ["", USERS])
def test_rights_of_anonymous(users: str, tmp_path: Path) -> None:
    """What acl.anonymous lets be read is shown, also to other machines; the rest isn't there."""
    requests = [asked("/topics", local=False), asked("/topics/a", host="pi.example"), asked("/topics/secret")]
    listed, shown, refused = pages(tmp_path, *requests, users=users, acl__anonymous="read:a, group:of-a")
    assert [listed.status, shown.status, refused.status] == [200, 200, 403]
    assert '"a"' in str(listed.body) and '"of-a"' in str(listed.body) and "secret" not in str(listed.body)


@pytest.mark.parametrize(
    "request_", [asked("/topics", local=False), asked("/topics", host="evil.example"), asked("/topics/a", local=False)]
)
def test_other_machines(request_: Request, tmp_path: Path) -> None:
    """A port that others reach shows them no topics, nor a browser that a foreign name led here, unless it is said in
    words."""
    [page] = pages(tmp_path / "1", request_)
    assert page.status == 403 and "on this machine only" in str(page.body)
    [page] = pages(tmp_path / "2", request_, allowInsecure="true")
    assert page.status == 200


def test_certificates() -> None:
    """Where clients prove by a certificate who they are, nobody comes in without."""
    from aggregator.topics.web.pages import Face

    face = Face(None, in_words=True, certificates=True)  # type: ignore[arg-type]
    for request in ALL:
        page = asyncio.run(face.page(request))
        assert page.status == 403 and "certificate" in str(page.body)
