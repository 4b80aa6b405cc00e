"""A client of our source for tests: asyncio streams around agent.avro's client end."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from agent.avro import record
from agent.avro.connection import Answer, ClientConnection
from agent.avro.handshake import write_map

Events = Sequence[tuple[dict[str, str], bytes]]


class Client:
    """Calls one after another, or several before their answers are asked for."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, level: int | None) -> None:
        self.reader, self.writer = reader, writer
        self.wire = ClientConnection(level=level)
        self.answers: list[Answer] = []

    async def hello(self) -> None:
        self.writer.writelines(self.wire.hello())
        while not self.wire.is_open:
            self.answers += self.wire.receive(await self._read())

    async def _read(self) -> bytes:
        data = await self.reader.read(1 << 16)
        if not data:
            raise ConnectionError("closed")
        return data

    def post(self, *bodies: str | bytes, labels: dict[str, bytes] | None = None) -> int:
        """Send an appendBatch without waiting; its serial."""
        raw = [body.encode() if isinstance(body, str) else body for body in bodies]
        return self.post_events([({}, body) for body in raw], labels)

    def post_events(
        self, events: Sequence[tuple[dict[str, str], bytes]], labels: dict[str, bytes] | None = None
    ) -> int:
        """The same with headers."""
        serial, parts = self.wire.call(record.encode(events), len(events), labels or {})
        self.writer.writelines(parts)
        return serial

    def post_append(self, body: str) -> int:
        """Send an append without waiting; its serial."""
        serial, _ = self.wire.call(b"", 0, {})
        event = record.encode([({}, body.encode())])
        message = write_map({}) + b"\x0cappend" + event
        self.writer.write(b"".join(n.to_bytes(4, "big") for n in (serial, 1, len(message))) + message)
        return serial

    async def answer(self, serial: int) -> Answer:
        """The answer to a call; ConnectionError if the connection ends first."""
        while True:
            for answer in self.answers:
                if answer.serial == serial:
                    self.answers.remove(answer)
                    return answer
            self.answers += self.wire.receive(await self._read())

    async def call(self, *bodies: str | bytes, labels: dict[str, bytes] | None = None) -> Answer:
        """Send an appendBatch and wait for its answer."""
        return await self.answer(self.post(*bodies, labels=labels))

    async def closed(self) -> None:
        """Return when the other end has closed."""
        try:
            while await self.reader.read(1 << 16):
                pass
        except ConnectionError:
            pass


@asynccontextmanager
async def connected(
    port: int, *, level: int | None = None, context: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[Client]:
    """A client that has shaken hands."""
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    client = Client(reader, writer, level)
    try:
        await client.hello()
        yield client
    finally:
        writer.transport.abort()
