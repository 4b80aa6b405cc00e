"""The MQTT sink's side of a connection: publish in order at QoS 1, no more in flight than the broker takes."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from agent.errors import DeliveryError, ProtocolError, Rejected
from agent.metrics import SinkCounter
from agent.mqtt import packet
from agent.mqtt.connection import Connection, Refused
from agent.mqtt.packet import Publish
from agent.mqtt.reasons import reason
from agent.mqtt.settings import MqttKeys, address

NO_SUBSCRIBER = 0x10
FIRST_IDENTIFIER = 0x8000
"""Ours are the upper half of the packet identifiers; paho numbers SUBSCRIBE from 1."""
HEAD_BYTES = 1_024
"""Room for the head of a PUBLISH within the broker's largest packet."""

Message = tuple[bytes, bytes, bytes | None]
"""(topic, payload, properties: None in 3.1.1)."""
Result = TypeVar("Result")


class Pending:
    """Messages of one batch that wait for their PUBACK; `code` is the first that was no success."""

    def __init__(self) -> None:
        self.count = self.code = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def acknowledged(self, code: int) -> None:
        self.count -= 1
        self.code = self.code or (code if code >= NO_SUBSCRIBER else 0)
        if not self.count and not self.done.done():
            self.done.set_result(None)


class Publisher:
    """Connects when it is needed. `version` becomes 3 when the broker refuses 5 and `keys` leave it open.

    `on_publish` gets what comes on the topic `replies`, if there is one. Errors of the network are OSError and
    ProtocolError.
    """

    def __init__(
        self,
        keys: MqttKeys,
        client_id: str,
        tls: ssl.SSLContext | None,
        counter: SinkCounter,
        log: logging.Logger,
        replies: str,
        on_publish: Callable[[list[Publish]], None],
    ) -> None:
        self.keys, self.client_id, self.tls, self.counter, self.log = keys, client_id, tls, counter, log
        self.replies, self.on_publish = replies, on_publish
        self.address = address(keys.url)
        self.version = 3 if keys.version == "3.1.1" else 5
        self.connection: Connection | None = None
        self._most = 1
        self._identifier = FIRST_IDENTIFIER
        self._pending: dict[int, Pending] = {}
        self._room = asyncio.Event()

    async def connected(self) -> Connection:
        """The connection there is, or a new one with the reply topic subscribed."""
        if self.connection and not self.connection.lost.done():
            return self.connection
        self.connection = None
        self._pending.clear()
        try:
            connection = await self._connect_either()
        except (OSError, ProtocolError):
            self.counter.ConnectionFailedCount += 1
            raise
        self.counter.ConnectionCreatedCount += 1
        connection.lost.add_done_callback(self._lost)
        self._most = max(1, min(connection.their_receive_maximum, 0x10000 - FIRST_IDENTIFIER))
        self.connection = connection
        return connection

    async def _connect_either(self) -> Connection:
        try:
            return await self._connect()
        except Refused as error:
            if not error.bad_version or self.keys.version or self.version != 5:
                raise
        self.log.warning("the broker refuses MQTT 5; going on with 3.1.1")
        self.version = 3
        return await self._connect()

    async def _connect(self) -> Connection:
        keys = self.keys
        connection = Connection(
            self.address,
            self.client_id,
            version=self.version,
            tls=self.tls,
            login=(keys.username, keys.password) if keys.username else None,
            clean=True,
            keep_alive=keys.keepAlive,
            timeout=keys.connectTimeout,
            fallback=not keys.version,
        )
        connection.on_publish, connection.on_puback = self.on_publish, self._puback
        await connection.__aenter__()
        try:
            if self.replies:
                await connection.subscribe([self.replies], retained=False)
        except BaseException:
            await connection.__aexit__(None, None, None)
            raise
        return connection

    async def close(self) -> None:
        if self.connection:
            await self.connection.__aexit__(None, None, None)
            self.connection = None

    def _lost(self, lost: asyncio.Future[None]) -> None:
        self.counter.ConnectionClosedCount += 1
        self._room.set()

    async def publish(self, connection: Connection, messages: Sequence[Message], flags: int = 0) -> list[Pending]:
        """Write them in order; Rejected if one is above the broker's Maximum Packet Size."""
        most = connection.max_packet - HEAD_BYTES
        for topic, payload, _ in messages:
            if connection.max_packet and len(payload) > most:
                raise Rejected(f"{len(payload):,} bytes for {topic.decode()}; the broker takes {most:,}")
        out, sent = bytearray(), [Pending()]
        for topic, payload, properties in messages:
            while len(self._pending) >= self._most:
                connection.write(bytes(out))
                out.clear()
                await self._wait_for_room(connection)
            if sent[-1].done.done():
                sent.append(Pending())
            sent[-1].count += 1
            self._pending[self._next_identifier()] = sent[-1]
            out += packet.publish(topic, self._identifier, payload, properties, flags | 2)
        connection.write(bytes(out))
        return sent

    async def _wait_for_room(self, connection: Connection) -> None:
        self._room.clear()
        if connection.lost.done():
            connection.lost.result()
        await self._room.wait()

    def _next_identifier(self) -> int:
        while True:
            self._identifier = self._identifier + 1 if self._identifier < 0xFFFF else FIRST_IDENTIFIER
            if self._identifier not in self._pending:
                return self._identifier

    def _puback(self, identifier: int, code: int) -> None:
        if pending := self._pending.pop(identifier, None):
            pending.acknowledged(code)
            self._room.set()

    async def acknowledged(self, connection: Connection, sent: list[Pending]) -> None:
        """Return when the broker has taken all of them. DeliveryError: it took one for nobody, or not at all."""
        for pending in sent:
            await self.unless_lost(connection, pending.done)
            if pending.code == NO_SUBSCRIBER:
                raise DeliveryError("the broker has no subscriber for it")
            if pending.code:
                raise DeliveryError(f"the broker does not take a message: {reason(pending.code)}")

    async def unless_lost(self, connection: Connection, done: asyncio.Future[Result]) -> Result:
        """The result, or what ended the connection."""
        futures: tuple[asyncio.Future[Any], ...] = (done, connection.lost)
        await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            connection.lost.result()
        return done.result()
