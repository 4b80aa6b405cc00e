"""MQTT source: readings from a broker, acknowledged after they are kept.

    PUBLISH -> waiting -> (linger) -> process(batch, marks) -> PUBACKs in arrival order, PINGREQ

Whatever breaks, the way on is to keep what waits and to connect again. What was kept and not acknowledged comes again
when the session resumes, and is recognised (agent/mqtt/window.py). Batches that an `mqtt` sink forwarded are taken as
they are, and their sender gets its confirmation (agent/mqtt/leg.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import ClassVar, TypeVar

from agent import clock
from agent.backoff import Backoff
from agent.config.fields import Bytes, Seconds, key
from agent.config.fields import Config as AnyConfig
from agent.errors import ChannelFull, ProtocolError, RemoteProtocolError
from agent.event import Batch
from agent.mqtt import filters, leg, packet, reading
from agent.mqtt.connection import Closed, Connection, Refused
from agent.mqtt.inbox import AGAIN, BATCH, POISON, READING, Inbox, Item, Limits
from agent.mqtt.packet import Publish
from agent.mqtt.reasons import TAKEN_OVER
from agent.mqtt.session import Session
from agent.mqtt.settings import MqttKeys, address, client_id, tls_context
from agent.ports import reason, spelled
from agent.source import DeadLetter, Marks, Source, SourceConfig

RECEIVE_MAXIMUM = 10_000
"""Messages that we let an MQTT 5 broker have in flight, where the configuration leaves it open."""
STEADY = 10.0
"""Seconds that a connection lasts if nothing is wrong with it."""
LETTER = 64 << 10
"""Bytes of a message that a dead letter keeps."""
QUIET = 10.0
"""Seconds between two signs of life to the sender of a batch that waits for room."""

Result = TypeVar("Result")


class MqttConfig(SourceConfig, MqttKeys):
    """Keys of the MQTT source."""

    topics: list[str] = key("topics", doc="topic filters, such as plant/+/temperature; they must not overlap")
    batchSize: int = key("batchSize", 500, low=1, doc="readings a commit")
    batchDuration: Seconds = key("batchDuration", Seconds(0.5), unit="ms", low=0.0, doc="longest wait for a full batch")
    receiveMaximum: int = key(
        "receiveMaximum",
        0,
        low=0,
        high=65535,
        doc="messages the broker has in flight to us; 0: as observed",
    )
    maxEventBytes: Bytes = key("maxEventBytes", Bytes(1 << 20), low=1, doc="longest payload; longer: dead letter")
    sessionExpiry: Seconds = key(
        "sessionExpiry", Seconds(30 * 86400.0), unit="s", low=1.0, doc="how long an MQTT 5 broker keeps our session"
    )

    def problems(self) -> list[tuple[str, str]]:
        found = super().problems()
        found += [("topics", fault) for topic in self.topics if (fault := filters.fault(topic))]
        found += [
            ("topics", f"{one} and {other} overlap: a message that both match would come twice")
            for one, other in filters.overlapping(self.topics)
        ]
        return found


class MqttSource(Source):
    """At least once where the channel keeps no marks, or the broker reuses identifiers quickly (it is said then)."""

    Config: ClassVar[type[AnyConfig]] = MqttConfig
    config: MqttConfig

    async def open(self) -> None:
        self.ready = False
        self._tls = tls_context(self.config)
        self._address = address(self.config.url)
        self._client_id = client_id(self.config, "source", self.name)
        self._session = Session.read(self.marks.get("session", b""))
        if self.config.version:
            self._session.version = 5 if self.config.version == "5" else 3
        self._heads = reading.Heads()
        self._quick = 0
        self.log.info("session %s at %s", self._client_id, spelled(*self._address[:2]))

    async def run(self) -> None:
        """Connect and take in, again and again."""
        backoff, loop = Backoff(0.5, 30.0), asyncio.get_running_loop()
        while True:
            started = loop.time()
            try:
                await self._connected()
            except Refused as error:
                if error.bad_version and not self.config.version and self._session.version == 5:
                    self.log.warning("the broker refuses MQTT 5; going on with 3.1.1")
                    self._session.version = 3
                    continue
                self._failed(error, loop.time() - started)
            except (OSError, ProtocolError) as error:
                self._failed(error, loop.time() - started)
            if loop.time() - started > STEADY:
                backoff.reset()
            await asyncio.sleep(backoff.next())

    # -- one connection

    async def _connected(self) -> None:
        """Connect, subscribe, take in until the connection ends; raises what ended it."""
        connection, inbox = self._make()
        async with connection:
            connection.lost.add_done_callback(lambda _: inbox.wake())
            await self._subscribe(connection)
            self.ready = True
            self.counter.OpenConnectionCount = 1
            if self.counter.say("running"):
                present = "resumed" if connection.session_present else "new"
                version = "5" if self._session.version == 5 else "3.1.1"
                self.log.info("connected, MQTT %s, session %s", version, present)
            try:
                while True:
                    await inbox.gather(connection.lost)
                    items = inbox.next()
                    await self._settle(connection, items)
                    inbox.settled(items)
                    if inbox.roomy:
                        connection.resume()
            finally:
                self.counter.OpenConnectionCount = 0
                inbox.close()

    def _make(self) -> tuple[Connection, Inbox]:
        config, session = self.config, self._session
        connection = Connection(
            self._address,
            self._client_id,
            version=session.version,
            tls=self._tls,
            login=(config.username, config.password) if config.username else None,
            expiry=config.sessionExpiry,
            receive_maximum=config.receiveMaximum or RECEIVE_MAXIMUM,
            keep_alive=config.keepAlive,
            timeout=config.connectTimeout,
            fallback=not config.version,
            limit=max(config.maxEventBytes + packet.KEEP, leg.LIMIT),
        )
        limits = Limits(config.batchSize, config.batchDuration, config.maxEventBytes, config.receiveMaximum)
        inbox = Inbox(limits, session.window, self._heads)

        def receive(published: list[Publish]) -> None:
            self.counter.EventReceivedCount += len(published)
            inbox.receive(published)
            if inbox.crowded and self._subscribed:  # before that it would hold back SUBACK too
                connection.pause()

        self._subscribed = False
        connection.on_publish = receive
        connection.on_pong = session.window.answered
        connection.on_connected = lambda: session.window.connected(connection.session_present)
        return connection, inbox

    async def _subscribe(self, connection: Connection) -> None:
        """Subscribe what is new to this session, unsubscribe what is gone.

        MQTT 5 subscribes to all of them each time (Retain Handling 1 leaves out retained messages for old ones).
        """
        wanted = list(self.config.topics)
        had = self._session.filters if connection.session_present else []
        if gone := [topic for topic in had if topic not in wanted]:
            await connection.unsubscribe(gone)
        if fresh := [topic for topic in wanted if self._session.version == 5 or topic not in had]:
            await connection.subscribe(fresh)
        self._session.filters, self._subscribed = wanted, True

    def _failed(self, error: Exception, lived: float) -> None:
        """Say it once for each cause; a broker that cuts us off again and again has a second client of our name."""
        text = (reason(error) if isinstance(error, OSError) else str(error)) or type(error).__name__
        code = error.code if isinstance(error, Closed) else 0
        cut_off = "the broker closed the connection" in text and lived < STEADY
        self._quick = self._quick + 1 if cut_off else 0
        if code == TAKEN_OVER or self._quick >= 3:
            text += f"; do two collectors share the clientId {self._client_id}?"
        if self.counter.say(f"waiting: {text}"):
            self.log.warning("broker %s: %s; trying again", spelled(*self._address[:2]), text)

    # -- what is kept

    async def _settle(self, connection: Connection, items: list[Item]) -> None:
        """Keep what is one commit, then acknowledge it, in order."""
        window = self._session.window
        if window.reused([item[2] for item in items if item[2] and not item[1]]):
            self.log.warning("this broker reuses packet identifiers quickly: at least once after a broken connection")
        entries = b"".join([item[2] + item[3] for item in items if item[2]])
        marks = self._session.mark(entries)
        kind = items[0][0]
        before = b""
        if kind == AGAIN:
            before = self._confirm_again(items[0])
        elif kind == BATCH:
            before = await self._keep_batch(connection, items[0], marks)
        elif kind == POISON:
            await self._bury(connection, items[0], f"longer than maxEventBytes, {self.config.maxEventBytes}", marks)
        else:
            await self._keep_readings(connection, items, marks)
        # Acknowledged in the next line after it is kept.
        acks = before + packet.pubacks([item[2] for item in items if item[2]])
        window.acknowledged(entries, connection.ping(acks))

    async def _keep_readings(self, connection: Connection, items: list[Item], marks: Marks) -> None:
        pieces = [item[4] for item in items if item[0] == READING]
        if pieces:
            batch = Batch(None, b"".join(pieces), len(pieces))
            await self._when_room(connection, lambda: self.process(batch, marks))
        self.counter.repeats += len(items) - len(pieces)
        self.counter.EventAcceptedCount += len(pieces)
        self.counter.AppendBatchAcceptedCount += 1

    async def _keep_batch(self, connection: Connection, item: Item, marks: Marks) -> bytes:
        """Keep a forwarded batch; the PUBLISH that confirms it to its sender."""
        try:
            forwarded = leg.unpack(item[4])
        except RemoteProtocolError as error:
            await self._bury(connection, item, str(error), marks)
            return b""
        if forwarded is None:
            # Somebody's Avro file: a reading like any other.
            head, stamped, _ = self._heads(item[5], b"")
            piece = (head + reading.stamp(clock.wall_ms()) if stamped else head) + reading.body(item[4])
            if len(item[4]) > self.config.maxEventBytes:
                await self._bury(connection, item, f"longer than maxEventBytes, {self.config.maxEventBytes}", marks)
            else:
                await self._keep_readings(connection, [(READING, *item[1:4], piece, item[5])], marks)
            return b""
        self.counter.AppendBatchReceivedCount += 1
        held = self._answer(forwarded, "waiting")
        kept = await self._when_room(connection, lambda: self.process(forwarded.batch, marks), held)
        self.counter.EventReceivedCount += forwarded.batch.count - 1
        self.counter.EventAcceptedCount += kept.stored
        self.counter.repeats += kept.repeats
        self.counter.AppendBatchAcceptedCount += 1
        return self._answer(forwarded, "kept")

    def _confirm_again(self, item: Item) -> bytes:
        """We were cut off between the commit of this batch and its confirmation."""
        self.counter.repeats += 1
        try:
            forwarded = leg.unpack(item[4])
        except RemoteProtocolError:
            return b""
        return self._answer(forwarded, "kept") if forwarded else b""

    def _answer(self, forwarded: leg.Forwarded, answer: str) -> bytes:
        """QoS 0: when it is lost, the sender sends the batch again, and that repeat is confirmed in its turn."""
        if not forwarded.reply:
            return b""
        properties = b"" if self._session.version == 5 else None
        return packet.publish(forwarded.reply.encode(), 0, leg.answer(forwarded.token, answer), properties, flags=0)

    async def _bury(self, connection: Connection, item: Item, why: str, marks: Marks) -> None:
        letter = DeadLetter(reading.headers_of(item[5], b""), item[4][:LETTER], why)
        self.log.error("a message on %s goes to the dead letters: %s", letter.headers["topic"], why)
        self.counter.EventReadFail += 1
        await self._when_room(connection, lambda: self.bury([letter], marks))

    async def _when_room(
        self, connection: Connection, keep: Callable[[], Awaitable[Result]], sign: bytes = b""
    ) -> Result:
        """Try until the channel has room; meanwhile the socket is paused and the session kept alive."""
        backoff, said = Backoff(0.05, 1.0), -QUIET
        while True:
            try:
                kept = await keep()
            except ChannelFull as full:
                connection.pause()
                self.counter.ChannelWriteFail += 1
                if self.counter.say(f"waiting: {full or 'the channel is full'}"):
                    self.log.warning("holding the broker back: %s", full or "the channel is full")
                now = asyncio.get_running_loop().time()
                if sign and now - said >= QUIET:
                    connection.write(sign)
                    said = now
                await asyncio.sleep(backoff.next())
                continue
            if backoff.failures and self.counter.say("running"):
                self.log.info("there is room again")
            return kept
