"""A topics service and the metrics service that shows it, in this process, and a client with a socket.

def test_...(tmp_path):
    async def steps(site):
        await site.put("t", b"21.5")
        assert (await site.get("/topics/t")).json[0]["body"] == 21.5

    run(steps, tmp_path)
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

from agent.component import Component
from agent.metrics import Metrics
from agent.services.metrics import MetricsConfig, MetricsService
from aggregator.services.topics import TopicsService
from aggregator.topics import record_batch
from aggregator.topics.log.log import Append, Log
from aggregator.topics.record import Headers
from tests.aggregator.topics.talking import make

TIME = 1_790_000_000_000


class Answer(NamedTuple):
    status: int
    headers: str
    body: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Event(NamedTuple):
    """One of a stream; `comment` if it is nothing else."""

    id: str
    name: str
    data: Any
    comment: bool = False


class Events:
    """A stream, as it comes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def next(self) -> Event:
        """EOFError: the stream has ended."""
        fields, comment = dict[str, str](), False
        while line := (await self.reader.readline()).decode():
            if line == "\n":
                data = json.loads(fields["data"]) if "data" in fields else None
                return Event(fields.get("id", ""), fields.get("event", ""), data, comment)
            name, _, value = line.removesuffix("\n").partition(":")
            fields[name] = value.removeprefix(" ")
            comment |= not name
        raise EOFError

    async def bodies(self, count: int) -> list[Any]:
        """Of so many records."""
        found: list[Any] = []
        while len(found) < count:
            event = await self.next()
            if event.data:
                assert not event.name, event
                found.append(event.data["body"])
        return found

    async def last(self) -> Event:
        """Before the end of the stream."""
        event = await self.next()
        with contextlib.suppress(EOFError):
            while True:
                event = await self.next()
        return event

    def close(self) -> None:
        self.writer.close()


class Site:
    def __init__(self, topics: TopicsService, *more: TopicsService) -> None:
        self.topics = topics
        self.web = MetricsService("web", MetricsConfig(bind="127.0.0.1", port=0))
        self.web.metrics, self.web.ready = Metrics(), lambda: True
        services: list[Component] = [self.web, topics, *more]
        self.web.services = lambda: {one.name: one for one in services}

    @property
    def log(self) -> Log:
        return self.topics.broker.log

    async def put(
        self, topic: str, *values: bytes | None, partition: int = 0, time: int = TIME, key: bytes | None = None,
        headers: Headers = (), **more: Any,
    ) -> None:  # fmt: skip
        """One batch; the topic is made if it isn't there. The n-th value's time is n ms after the first."""
        id_ = more.pop("transactional_id", None)
        built = record_batch.build([(time + at, key, one, headers) for at, one in enumerate(values)], **more)
        await self.append(topic, built, partition, id_)

    async def append(self, topic: str, batch: bytes, partition: int = 0, transactional_id: str | None = None) -> None:
        if topic not in self.log.topics:
            await self.topics.broker.create(topic)
        [answer] = await self.log.append([Append(topic, partition, [batch], transactional_id)])
        assert not isinstance(answer, Exception), answer

    async def transaction(self, topic: str, *values: bytes, commit: bool) -> None:
        """These values, and a marker."""
        transactions = self.topics.broker.transactions
        producer, epoch = await transactions.init("x", 60_000)
        await transactions.add("x", producer, epoch, {(topic, 0)})
        await self.put(topic, *values, transactional_id="x", producer=(producer, epoch, 0), transactional=True)
        await transactions.end("x", producer, epoch, commit)

    async def _ask(self, path: str, headers: dict[str, str]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.web.port, limit=2 << 20)
        lines = [f"GET {path} HTTP/1.1", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        return reader, writer

    async def get(self, path: str, **headers: str) -> Answer:
        reader, writer = await self._ask(path, headers)
        head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
        writer.close()
        return Answer(int(head.split(" ")[1]), head, body)

    async def stream(self, path: str, **headers: str) -> Events:
        """A stream that has begun: its first event, which has an id alone, is still to come."""
        reader, writer = await self._ask(path, headers)
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert head.startswith("HTTP/1.1 200 ") and "Content-Type: text/event-stream\r\n" in head
        return Events(reader, writer)


def run(steps: Callable[[Site], Awaitable[None]], folder: Path, **keys: str) -> None:
    """Run both services and take these steps, within a bound."""

    async def bounded() -> None:
        async with asyncio.timeout(60), make(folder, **keys) as topics:
            site = Site(topics)
            async with site.web:
                await steps(site)

    asyncio.run(bounded())
