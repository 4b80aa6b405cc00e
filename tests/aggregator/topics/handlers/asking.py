"""A broker with a log of its own, and clients that ask it: what they say and hear goes through the codec.

def test_...(tmp_path):
    with asking(tmp_path) as desk:
        desk.create("t", 2)
        body = desk.ask(OFFSET_FETCH, 5, {"group_id": "g", "topics": None})
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from agent import clock
from aggregator.topics import record_batch
from aggregator.topics.access.acl import Rights
from aggregator.topics.broker import Broker, Handler, Session, Settings
from aggregator.topics.groups.coordinator import Coordinator
from aggregator.topics.handlers import admin, configs, groups, offsets
from aggregator.topics.log.log import Append, Log, Options
from aggregator.topics.wire.api import Api, decode_request, decode_response, encode_request, encode_response
from tests.aggregator.topics.groups.scene import Clock

HANDLERS: dict[int, Handler] = {**groups.HANDLERS, **offsets.HANDLERS, **admin.HANDLERS, **configs.HANDLERS}
T = TypeVar("T")


class Desk:
    """`clock` is the coordinator's; `do` runs something on the broker's loop."""

    def __init__(self, folder: Path, acl: Mapping[str, str], options: Options, **settings: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.log = Log(folder, options)
        self.do(self.log.open())
        self.coordinator = Coordinator(self.clock.call_later, self.log.groups)
        said = Settings("127.0.0.1", 9092, **settings)
        self.broker = Broker(self.log, self.coordinator, Rights(acl, [*acl]), None, said)

    def do(self, work: Awaitable[T]) -> T:
        async def run() -> T:
            return await work

        return self.loop.run_until_complete(run())

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call it on the loop, and let the loop turn."""

        async def run() -> Any:
            result = function(*arguments)
            await asyncio.sleep(0)
            return result

        return self.do(run())

    def session(self, principal: str = "anonymous") -> Session:
        session = Session(self.broker, "127.0.0.1:50000", tls=False, loopback=True)
        session.principal = principal
        return session

    def start(self, api: Api, version: int, body: Mapping[str, Any], principal: str = "anonymous") -> asyncio.Task[Any]:
        """Ask, and wait for no answer."""
        frame = b"".join(encode_request(api, version, 1, "tester", dict(body)))
        request = decode_request(memoryview(frame))

        async def run() -> Any:
            answer = await HANDLERS[api.key](request, self.session(principal))
            assert answer is not None
            parts = encode_response(api, version, 1, answer)
            return decode_response(api, version, memoryview(b"".join(parts)))[1]

        return self.call(lambda: self.loop.create_task(run()))

    def ask(self, api: Api, version: int, body: Mapping[str, Any], principal: str = "anonymous") -> dict[str, Any]:
        """Ask; the answer."""
        answer: dict[str, Any] = self.do(self.start(api, version, body, principal))
        return answer

    def wait(self, seconds: float) -> None:
        """Let the coordinator's time pass."""
        for alarm in self.clock.due(self.clock.now + seconds):
            self.call(alarm.function, *alarm.arguments)

    def create(self, name: str, partitions: int = 1, **config: str) -> None:
        self.do(self.log.create(name, partitions, {key.replace("_", "."): value for key, value in config.items()}))

    def append(self, topic: str, partition: int, count: int) -> None:
        """So many records, each a batch of its own."""
        batches = [record_batch.build([(clock.wall_ms(), b"k", b"v", ())]) for _ in range(count)]
        self.do(self.log.append([Append(topic, partition, batches)]))

    def close(self) -> None:
        self.call(self.coordinator.close)
        self.do(self.log.close())
        self.loop.close()


@contextmanager
def asking(folder: Path, acl: Mapping[str, str] | None = None, options: Options | None = None,
           **settings: Any) -> Iterator[Desk]:  # fmt: skip
    """A desk that is closed. `settings` as broker.Settings."""
    desk = Desk(folder, acl or {}, options or Options(synchronous="OFF"), **settings)
    try:
        yield desk
    finally:
        desk.close()
