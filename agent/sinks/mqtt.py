"""MQTT sink: one message an event for subscribers, or the forward leg: one message a batch (agent/mqtt/leg.py).

A broker's acknowledgement is no delivery: without a subscriber mosquitto acknowledges and drops. So a forwarded batch
is done when its *receiver* says on the reply topic that it has it (`confirm = receiver`), which makes the leg exactly
once between file channels. `confirm = broker`, the only way for single events, is at least once at best.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from typing import ClassVar

from agent.config.fields import Config as AnyConfig
from agent.config.fields import Seconds, key
from agent.errors import DeliveryError, ProtocolError, Rejected, RemoteProtocolError
from agent.escape import Escape
from agent.event import Batch, Event
from agent.mqtt import leg, packet, properties
from agent.mqtt.connection import Connection
from agent.mqtt.packet import Publish
from agent.mqtt.publisher import Publisher
from agent.mqtt.settings import MqttKeys, client_id, tls_context
from agent.ports import reason, spelled
from agent.sink import Held, Sink, SinkConfig

LONGEST_REPEAT = 600.0
"""Seconds at most until a batch goes to a 3.1.1 broker once more."""
MOST_KNOWN = 1_000


class MqttConfig(SinkConfig, MqttKeys):
    """Keys of the MQTT sink."""

    topic: str = key("topic", doc="where to; for payload = event with escapes, such as plant/%{topic}")
    payload: str = key(
        "payload", "event", choices=("event", "batch"), doc="a message for each event, or for each batch"
    )
    confirm: str = key(
        "confirm",
        "",
        choices=("receiver", "broker"),
        doc="default: receiver (payload = batch), broker (event)",
    )
    replyTopic: str = key("replyTopic", "", doc="where receivers confirm; default: headrace/replies/<clientId>")
    confirmTimeout: Seconds = key("confirmTimeout", Seconds(30.0), unit="ms", low=0.01, doc="wait for the confirmation")
    batchSize: int = key("batchSize", 100, low=1, doc="events a batch")
    inFlight: int = key("inFlight", 8, low=1, high=1000, doc="batches that wait for confirmation at once")
    retain: bool = key("retain", False, doc="ask the broker to keep the last message of each topic")

    def problems(self) -> list[tuple[str, str]]:
        found = super().problems()
        try:
            fixed = Escape(self.topic).fixed
        except ValueError as error:
            return [*found, ("topic", str(error))]
        if fixed is not None and (fault := topic_fault(fixed)):
            found.append(("topic", fault))
        if self.payload == "batch" and fixed is None:
            found.append(("topic", "payload = batch takes a topic without escapes"))
        if self.payload == "event" and self.confirm == "receiver":
            found.append(("confirm", "receiver needs payload = batch: a subscriber of single events confirms nothing"))
        if self.replyTopic and (fault := topic_fault(self.replyTopic)):
            found.append(("replyTopic", fault))
        return found


def topic_fault(topic: str) -> str:
    """Why a message can't be published there; empty if it can."""
    if not topic or len(topic.encode("utf-8", "replace")) > 65_535:
        return "a topic has 1 to 65,535 bytes"
    return f"{topic!r}: a topic to publish to has no +, # or NUL" if any(bad in topic for bad in "+#\0") else ""


class Confirmation:
    """A batch that waits for its receiver; each sign of life gives it `seconds` more."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.limit: asyncio.Timeout | None = None
        self.done: asyncio.Future[leg.Answer] = asyncio.get_running_loop().create_future()

    def came(self, answer: leg.Answer) -> None:
        if answer.answer == "waiting":
            if self.limit and not self.limit.expired():
                self.limit.reschedule(asyncio.get_running_loop().time() + self.seconds)
        elif not self.done.done():
            self.done.set_result(answer)


class MqttSink(Sink):
    """`send` returns once the receiver (or, where so configured, the broker) has confirmed all of the batch."""

    Config: ClassVar[type[AnyConfig]] = MqttConfig
    config: MqttConfig

    async def open(self) -> None:
        config = self.config
        self.batch_size, self.in_flight = config.batchSize, config.inFlight
        client = client_id(config, "sink", self.name)
        self._topic = Escape(config.topic)
        self._receiver = config.payload == "batch" and config.confirm != "broker"
        self._reply = (config.replyTopic or f"headrace/replies/{client}") if self._receiver else ""
        self._turn = asyncio.Lock()
        self._publisher = Publisher(
            config, client, tls_context(config), self.counter, self.log, self._reply, self._answers
        )
        self._confirmations: dict[str, Confirmation] = {}
        self._late: set[str] = set()
        """Batches that were confirmed after we gave up waiting; proof all the same."""
        self._handed: dict[str, tuple[float, float]] = {}
        """Batches that a 3.1.1 broker has: (time to publish again, the wait before that)."""
        if self._receiver:
            self.log.info(
                "exactly once between file channels: receivers of %s confirm on %s", config.topic, self._reply
            )
        else:
            self.log.info("at least once, as far as the broker: its acknowledgement is no delivery to a subscriber")

    def held(self) -> Iterator[Held]:
        raise DeliveryError("its receivers keep account of what it sends: give their configurations too")

    async def close(self) -> None:
        if hasattr(self, "_publisher"):  # not if it was never opened
            await self._publisher.close()

    async def send(self, batch: Batch) -> bytes | None:
        try:
            await (self._send_batch(batch) if self.config.payload == "batch" else self._send_events(batch))
        except (OSError, ProtocolError) as error:
            why = reason(error) if isinstance(error, OSError) else error
            raise DeliveryError(f"broker {spelled(*self._publisher.address[:2])}: {why}") from error
        return None

    @property
    def _flags(self) -> int:
        return packet.RETAIN if self.config.retain else 0

    async def _connected(self) -> Connection:
        connection = await self._publisher.connected()
        if connection.max_packet:
            room = connection.max_packet - leg.OVERHEAD - len(self.config.topic.encode())
            self.max_bytes = max(1, min(MqttSink.max_bytes, room))
        return connection

    # -- one message a batch

    async def _send_batch(self, batch: Batch) -> None:
        token = leg.token_of(batch)
        payload = leg.pack(batch, token, self._reply)
        if token in self._late:
            self._late.discard(token)
            return
        publisher, sent = self._publisher, []
        waiting = self._confirmations[token] = Confirmation(self.config.confirmTimeout)
        try:
            async with self._turn:
                connection = await self._connected()
                if not self._broker_has(token):
                    props = self._batch_properties() if publisher.version == 5 else None
                    sent = await publisher.publish(
                        connection, [(self.config.topic.encode(), payload, props)], self._flags
                    )
            if sent:
                await publisher.acknowledged(connection, sent)
                self._handed_over(token)
            if self._receiver:
                await self._confirmed(connection, waiting)
                self._handed.pop(token, None)
        finally:
            self._confirmations.pop(token, None)

    async def _confirmed(self, connection: Connection, waiting: Confirmation) -> None:
        try:
            async with asyncio.timeout(self.config.confirmTimeout) as waiting.limit:
                answer = await self._publisher.unless_lost(connection, waiting.done)
        except TimeoutError:
            seconds = self.config.confirmTimeout
            raise DeliveryError(f"no receiver of {self.config.topic} confirmed within {seconds:g} s") from None
        if answer.answer == "rejected":
            raise Rejected(f"the receiver rejects the batch: {answer.reason}")
        if answer.answer != "kept":
            raise DeliveryError(f"the receiver answers {answer.answer!r}: {answer.reason}")

    def _batch_properties(self) -> bytes | None:
        """MQTT 5: a copy that nobody confirmed in time goes by itself, since it is sent again."""
        if self._publisher.version != 5:
            return None
        seconds = math.ceil(2 * self.config.confirmTimeout) if self._receiver else 0
        return properties.encode("avro/binary", expiry=seconds)

    def _broker_has(self, token: str) -> bool:
        """3.1.1 knows no expiry: publish a batch that waits for its receiver ever more seldom, or copies pile up."""
        found = self._handed.get(token)
        return found is not None and asyncio.get_running_loop().time() < found[0]

    def _handed_over(self, token: str) -> None:
        if self._publisher.version == 5 or not self._receiver:
            return
        wait = min(LONGEST_REPEAT, 2 * self._handed.get(token, (0.0, self.config.confirmTimeout / 2))[1])
        if len(self._handed) >= MOST_KNOWN:
            self._handed.clear()
        self._handed[token] = (asyncio.get_running_loop().time() + wait, wait)

    # -- one message an event

    async def _send_events(self, batch: Batch) -> None:
        async with self._turn:
            connection = await self._connected()  # first, since it says the version
            messages = [self._message(event) for event in batch.events]
            sent = await self._publisher.publish(connection, messages, self._flags)
        await self._publisher.acknowledged(connection, sent)

    def _message(self, event: Event) -> tuple[bytes, bytes, bytes | None]:
        topic = self._topic.expand(event.headers)
        if fault := topic_fault(topic):
            raise Rejected(fault)
        return topic.encode("utf-8", "replace"), event.body, self._event_properties(event.headers)

    def _event_properties(self, headers: dict[str, str]) -> bytes | None:
        if self._publisher.version != 5:
            return None
        user = tuple((name, value) for name, value in headers.items() if name not in ("topic", "contentType"))
        try:
            return properties.encode(headers.get("contentType", ""), user)
        except OverflowError:
            raise Rejected("a header of more than 65,535 bytes does not fit a user property") from None

    # -- what the receivers say

    def _answers(self, published: list[Publish]) -> None:
        acks = [identifier for _, identifier, _, _, _ in published if identifier]
        for _, _, _, _, payload in published:
            try:
                answer = leg.read_answer(payload)
            except RemoteProtocolError as error:
                if self.counter.say(f"running; {error}"):
                    self.log.warning("%s: %s", self._reply, error)
                continue
            self._handed.clear()  # a receiver is there: what it doesn't confirm in time has been lost
            if waiting := self._confirmations.get(answer.token):
                waiting.came(answer)
            elif answer.answer == "kept":
                if len(self._late) >= MOST_KNOWN:
                    self._late.clear()
                self._late.add(answer.token)
        if acks and self._publisher.connection:
            self._publisher.connection.write(packet.pubacks(acks))
