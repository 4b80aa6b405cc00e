"""A source and a sink under a test's hand, and flows made of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar

from agent.config.fields import Config, key
from agent.config.flow import Flow, judge
from agent.event import Batch
from agent.sink import Sink, SinkConfig
from agent.source import Source, SourceConfig
from tests.contracts.channel import bodies


class HandConfig(SourceConfig):
    tag: str = key("tag", "", doc="changes nothing")


class HandSource(Source):
    """What the test puts in `inbox` is processed; those that are open stand in `live` by name."""

    Config: ClassVar[type[Config]] = HandConfig
    live: ClassVar[dict[str, HandSource]] = {}
    opens: ClassVar[list[str]] = []
    fail: ClassVar[Callable[[HandSource], None] | None] = None

    async def open(self) -> None:
        self.opens.append(self.name)
        self.inbox: asyncio.Queue[Any] = asyncio.Queue()
        if HandSource.fail:
            HandSource.fail(self)
        self.live[self.name] = self

    async def close(self) -> None:
        self.live.pop(self.name, None)

    async def run(self) -> None:
        while True:
            one = await self.inbox.get()
            if one is None:
                return
            if isinstance(one, BaseException):
                raise one
            await self.process(one)
            self.inbox.task_done()


class ListConfig(SinkConfig):
    tag: str = key("tag", "", doc="changes nothing")


class ListSink(Sink):
    """Appends to `got[name]`; waits for `gate` and raises `error` if they are set."""

    Config: ClassVar[type[Config]] = ListConfig
    got: ClassVar[dict[str, list[str]]] = {}
    opens: ClassVar[list[str]] = []
    closes: ClassVar[list[str]] = []
    gate: ClassVar[asyncio.Event | None] = None
    error: ClassVar[BaseException | None] = None

    async def open(self) -> None:
        self.opens.append(self.name)

    async def close(self) -> None:
        self.closes.append(self.name)

    async def send(self, batch: Batch) -> None:
        if ListSink.gate:
            await ListSink.gate.wait()
        if ListSink.error:
            raise ListSink.error
        self.got.setdefault(self.name, []).extend(bodies(batch))


def reset() -> None:
    """Forget what the parts of another test did."""
    HandSource.live, HandSource.opens, HandSource.fail = {}, [], None
    ListSink.got, ListSink.opens, ListSink.closes, ListSink.gate, ListSink.error = {}, [], [], None, None


def flow(text: str) -> Flow:
    """A flow of agent a from lines without the prefix; `hand` and `list` are the types of this module."""
    lines = []
    for line in text.strip().splitlines():
        line = line.strip().replace("type = hand", f"type = {__name__}:HandSource")
        lines.append(
            ("" if line.startswith("#") else "a.") + line.replace("type = list", f"type = {__name__}:ListSink")
        )
    return judge([("a.conf", "\n".join(lines).encode())])


SIMPLE = """
    sources = r1
    channels = c1
    sinks = k1
    sources.r1.type = hand
    sources.r1.channels = c1
    channels.c1.type = memory
    sinks.k1.type = list
    sinks.k1.channel = c1
    sinks.k1.backoff = 1
    sinks.k1.maxBackoff = 4
    drainTimeout = 5
"""
