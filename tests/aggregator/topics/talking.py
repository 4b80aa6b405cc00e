"""The topics service on a free port, and a client that says what a test wants it to say.

def test_...(tmp_path):
    async def steps(scene):
        client = await scene.client()
        body = await client.ask(METADATA, 8, {"topics": None})

    run(steps, tmp_path)
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.config.reading import read
from agent.metrics import Metrics
from agent.server import Peer
from aggregator.services.topics import TopicsService
from aggregator.topics import record_batch
from aggregator.topics.configuration import TopicsConfig
from aggregator.topics.log.log import Log
from aggregator.topics.wire.api import Api, decode_response, encode_request
from aggregator.topics.wire.tables.records import FETCH, PRODUCE

Body = dict[str, Any]
TIME = 1_790_000_000_000


def make(folder: Path, **keys: str) -> TopicsService:
    """A service that is not open yet; `__` in a key stands for its dot."""
    raw = {"port": "0", "path": str(folder / "log"), "retention.hours": "-1"}
    raw |= {name.replace("__", "."): value for name, value in keys.items()}
    reading = read(TopicsConfig, raw, "topics")
    assert reading.config, reading.faults
    service = TopicsService("topics", reading.config)
    service.metrics, service.ready = Metrics(), lambda: True
    return service


class Client:
    """One connection; requests are numbered."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer, self.asked = reader, writer, 0

    def send(self, api: Api, version: int, body: Mapping[str, Any]) -> int:
        """Ask, and wait for nothing; the request's number."""
        self.asked += 1
        self.writer.write(framed(b"".join(encode_request(api, version, self.asked, "tester", dict(body)))))
        return self.asked

    async def answer(self, api: Api, version: int) -> tuple[int, Body]:
        """The next answer, and the number of its request."""
        frame = await self.reader.readexactly(int.from_bytes(await self.reader.readexactly(4), "big"))
        return decode_response(api, version, frame)

    async def ask(self, api: Api, version: int, body: Mapping[str, Any]) -> Body:
        """Ask; the answer."""
        asked = self.send(api, version, body)
        number, answer = await self.answer(api, version)
        assert number == asked
        return answer

    async def is_closed(self) -> bool:
        """Wait for it to be closed from over there; False if something else comes."""
        try:
            return await self.reader.read(1) == b""
        except ConnectionError:
            return True

    def close(self) -> None:
        self.writer.close()


class Scene:
    """An open service and its clients."""

    def __init__(self, service: TopicsService) -> None:
        self.service, self.clients = service, list[Client]()

    @property
    def log(self) -> Log:
        return self.service.broker.log

    @property
    def peers(self) -> set[Peer]:
        assert self.service.listener
        return self.service.listener.peers

    async def client(self, tls: ssl.SSLContext | None = None) -> Client:
        assert self.service.listener
        port = self.service.listener.port
        client = Client(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 20, ssl=tls))
        self.clients.append(client)
        return client


def run(steps: Callable[[Scene], Coroutine[Any, Any, None]], folder: Path, **keys: str) -> None:
    """Run a service and take these steps with it, within a bound."""

    async def bounded() -> None:
        service = make(folder, **keys)
        async with asyncio.timeout(60), service:
            running = asyncio.create_task(service.run())
            scene = Scene(service)
            try:
                await steps(scene)
            finally:
                for client in scene.clients:
                    client.close()
                running.cancel()
                await asyncio.wait({running})

    asyncio.run(bounded())


async def until(true: Callable[[], object]) -> None:
    """Return once it is true; the run's bound is the test's."""
    while not true():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def framed(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def batch(*values: bytes | None, time: int = TIME, key: bytes | None = None, **more: Any) -> bytes:
    """A record batch."""
    return record_batch.build([(time, key, value, ()) for value in values], **more)


def producing(topic: str, *batches: bytes, partition: int = 0, acks: int = -1) -> Body:
    """A Produce request."""
    return {
        "transactional_id": None,
        "acks": acks,
        "timeout_ms": 1000,
        "topic_data": [{"name": topic, "partition_data": [{"index": partition, "records": b"".join(batches)}]}],
    }


def fetching(*places: tuple[str, int, int], wait: int = 0, least: int = 1, most: int = 1 << 20, **more: Any) -> Body:
    """A Fetch request of (topic, partition, offset), each a topic of its own."""
    return {
        "max_wait_ms": wait,
        "min_bytes": least,
        "max_bytes": most,
        "topics": [
            {
                "topic": topic,
                "partitions": [{"partition": number, "fetch_offset": offset, "partition_max_bytes": most}],
            }
            for topic, number, offset in places
        ],
        **more,
    }


async def produce(client: Client, topic: str, *batches: bytes, partition: int = 0, version: int = 8) -> Body:
    """Append; the partition's answer."""
    body = await client.ask(PRODUCE, version, producing(topic, *batches, partition=partition))
    answer: Body = body["responses"][0]["partition_responses"][0]
    return answer


async def fetch(client: Client, *places: tuple[str, int, int], version: int = 11, **more: Any) -> list[Body]:
    """The partitions' answers."""
    body = await client.ask(FETCH, version, fetching(*places, **more))
    return [topic["partitions"][0] for topic in body["responses"]]


def values(records: bytes | memoryview | Sequence[bytes]) -> list[bytes | None]:
    """What the records of a fetch hold."""
    data, found, at = memoryview(bytes(records)), list[bytes | None](), 0  # type: ignore[arg-type]
    while at < len(data):
        size = record_batch.header(data, at).size
        found += [record.value for record in record_batch.records(bytes(data[at : at + size]))]
        at += size
    return found
