"""The MQTT source and sink keep what every source and sink keeps; the broker is a few lines of ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from agent.broker import free_port
from agent.mqtt import leg, packet
from agent.mqtt.packet import Publish, Reader, publish
from agent.sinks.mqtt import MqttConfig as SinkConfig
from agent.sinks.mqtt import MqttSink
from agent.source import Source
from agent.sources.mqtt import MqttConfig, MqttSource
from tests.contracts.sink import FarSide, SinkContract
from tests.contracts.source import SourceContract


class Broker:
    """Takes one client after the other, speaks MQTT 5, acknowledges what is published and answers forwarded batches."""

    def __init__(self, port: int = 0) -> None:
        self.port = port or free_port()
        self.published: list[bytes] = []
        self.subscribed = asyncio.Event()
        self.acknowledged: dict[bytes, asyncio.Future[bool]] = {}
        self.writer: asyncio.StreamWriter | None = None
        self.server: asyncio.Server | None = None
        self._number = 0

    async def listen(self) -> None:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def leave(self) -> None:
        if self.server:
            self.server.close()
            self.server = None
        if self.writer:
            self.writer.close()

    async def send(self, body: str) -> bool:
        """Publish to the client; True once it acknowledges."""
        await self.subscribed.wait()
        self._number += 1
        identifier = self._number.to_bytes(2, "big")
        self.acknowledged[identifier] = asyncio.get_running_loop().create_future()
        assert self.writer
        self.writer.write(publish(b"s/a", self._number, body.encode(), b""))
        return await self.acknowledged[identifier]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer, packets = writer, Reader(5, 1 << 24)
        while data := await reader.read(65_536):
            published, others = packets.feed(data)
            for message in published:
                self._take(writer, message)
            for first, body in others:
                self._other(writer, first, body)
        writer.close()

    def _take(self, writer: asyncio.StreamWriter, message: Publish) -> None:
        _, identifier, _, _, payload = message
        forwarded = leg.unpack(payload) if payload.startswith(leg.MAGIC) else None
        self.published += [event.body for event in forwarded.batch.events] if forwarded else [payload]
        writer.write(packet.pubacks([identifier]))
        if forwarded:
            writer.write(publish(forwarded.reply.encode(), 0, leg.answer(forwarded.token, "kept"), b"", flags=0))

    def _other(self, writer: asyncio.StreamWriter, first: int, body: bytes) -> None:
        match first & 0xF0:
            case 0x10:
                writer.write(b"\x20\x03\0\0\0")
            case 0x80:
                writer.write(b"\x90\x04" + body[:2] + b"\0\1")
                self.subscribed.set()
            case packet.PUBACK:
                self.acknowledged[body[:2]].set_result(True)
            case 0xC0:
                writer.write(b"\xd0\0")


class TestSource(SourceContract):
    """The contract of every source."""

    repeats_by_itself = True

    def make(self) -> Source:
        self.port = free_port()
        keys: dict[str, Any] = {"channels": ["c1"], "topics": ["s/#"], "batchDuration": 0.01}
        return MqttSource("r1", MqttConfig(url=f"mqtt://127.0.0.1:{self.port}", **keys))

    def peer(self, source: Source) -> AbstractAsyncContextManager[Callable[[str], Coroutine[Any, Any, bool]]]:
        @asynccontextmanager
        async def serving() -> AsyncIterator[Callable[[str], Coroutine[Any, Any, bool]]]:
            broker = Broker(self.port)
            await broker.listen()
            yield broker.send
            await broker.leave()
            for waiting in broker.acknowledged.values():
                waiting.cancel()

        return serving()


class Far:
    """A sink and the broker it sends to."""

    def __init__(self, payload: str) -> None:
        self.broker = Broker()
        keys: dict[str, Any] = {"channel": "c1", "topic": "t", "payload": payload}
        self.sink = MqttSink("k1", SinkConfig(url=f"mqtt://127.0.0.1:{self.broker.port}", **keys))

    async def arrived(self) -> list[str]:
        return [body.decode() for body in self.broker.published]

    async def go_away(self) -> None:
        await self.broker.leave()

    async def come_back(self) -> None:
        await self.broker.listen()


class TestEventSink(SinkContract):
    """The contract of every sink, with one message an event."""

    payload = "event"

    def far_side(self) -> AbstractAsyncContextManager[FarSide]:
        @asynccontextmanager
        async def serving() -> AsyncIterator[FarSide]:
            far = Far(self.payload)
            await far.broker.listen()
            yield far
            await far.broker.leave()

        return serving()


class TestBatchSink(TestEventSink):
    """The contract of every sink, with one message a batch and a receiver that confirms."""

    payload = "batch"
