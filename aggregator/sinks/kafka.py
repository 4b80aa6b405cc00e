"""`type = kafka` (org.apache.flume.sink.kafka.KafkaSink): each event is a record of a Kafka topic.

    take -> records (in the sink's thread) -> produce -> flush -> every record was accepted -> commit

The default is an idempotent producer with acks = all, where Flume's is acks = 1: with that the leader's death loses
what it has acknowledged. `kafka.producer.acks = 1` gives Flume's back.

    transactional = false   at least once: what had no answer is sent again
    transactional = true    exactly once for read_committed consumers: records and position in one transaction
                            (aggregator/kafka/sender.py)

The position is kept in the topic `kafka.topic` (`positionTopic` where that depends on the event), partition 0, of the
group that is named as the transactional.id.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar

from confluent_kafka import Producer

from agent.avro import record
from agent.config.fields import Config as AnyConfig
from agent.config.fields import Seconds, key
from agent.errors import DeliveryError, Rejected
from agent.escape import TAG, Escape
from agent.event import Batch, Event
from agent.sink import Held, Sink, SinkConfig
from aggregator.kafka import client, identity
from aggregator.kafka.member import Daemon
from aggregator.kafka.sender import Records, Sender
from aggregator.kafka.stored import stored
from aggregator.topics.names import is_legal

GRACE = 10.0
"""Seconds beyond callTimeout after which the thread is given up."""
LAST_WORDS = 5.0
"""Seconds for that at close; a stop must not wait for a broker that is away."""
MACHINE = Path("/etc/machine-id")


class KafkaConfig(SinkConfig):
    """Flume's keys, and ours."""

    IGNORED: ClassVar[dict[str, str]] = {
        "key.serializer.class": "a key is the header `key` as UTF-8",
        "serializer.class": "a value is the event's body",
    }
    REFUSED: ClassVar[dict[str, str]] = {
        "zookeeperConnect": "Kafka has no ZooKeeper any more: name brokers in kafka.bootstrap.servers",
    }
    servers: str = key(
        "kafka.bootstrap.servers", also=("brokerList",), doc="brokers to begin with: host:port, separated by commas"
    )
    topic: str = key(
        "kafka.topic", "default-flume-topic", also=("topic", "defaultTopic"), doc="the topic; may hold %{header}"
    )
    batchSize: int = key("flumeBatchSize", 100, low=1, also=("batchSize",), doc="most events of one batch")
    acks: str = key(
        "kafka.producer.acks", "all", choices=("all", "-1", "0", "1"), also=("requiredAcks",),
        doc="who must have a record: all replicas in sync, the leader (1), nobody (0)",
    )  # fmt: skip
    useFlumeEventFormat: bool = key(
        "useFlumeEventFormat", False, doc="a record's value is an event of Flume's in Avro, headers included"
    )
    defaultPartitionId: int = key("defaultPartitionId", -1, low=-1, doc="partition to write to; -1: by the key, or any")
    partitionIdHeader: str = key("partitionIdHeader", "", doc="the event header that names the partition to write to")
    allowTopicOverride: bool = key("allowTopicOverride", True, doc="whether an event's topicHeader names its topic")
    topicHeader: str = key("topicHeader", "topic", doc="the event header that names a topic")
    keyHeader: str = key("keyHeader", "key", doc="the event header that is the record's key")
    timestampHeader: str = key("timestampHeader", "", doc="the event header with the record's time, ms since the epoch")
    headers: dict[str, str] = key("header.*", {}, doc="`header.NAME = R`: record header R takes event header NAME")
    producer: dict[str, str] = key(
        "kafka.producer.*", {}, secrets=client.SECRETS, doc="settings of the producer, as Kafka names them"
    )
    transactional: bool = key("transactional", False, doc="a batch and the sink's position are one transaction")
    transactionalId: str = key(
        "transactional.id", "", doc="its name, one for each sink; by default made of agent, sink and channel's store"
    )
    positionTopic: str = key("positionTopic", "", doc="the topic under which the position is kept; default kafka.topic")
    identity: bool = key("identity", False, doc="add record headers headrace.origin and headrace.number")
    callTimeout: Seconds = key(
        "callTimeout", Seconds(30.0), unit="ms", low=0.1, doc="longest wait for the broker's answer to a batch"
    )

    def problems(self) -> list[tuple[str, str]]:
        return [*self._topics(), *client.problems("kafka.producer.", self.settings(), Producer)]

    @property
    def transacts(self) -> bool:
        """A transactional.id of the producer says so too, as in Flume."""
        return self.transactional or "transactional.id" in self.producer

    def _topics(self) -> Iterator[tuple[str, str]]:
        try:
            fixed = Escape(self.topic).fixed
        except ValueError as error:
            yield "kafka.topic", str(error)
            return
        if fixed is not None and not is_legal(fixed):
            yield "kafka.topic", f"{fixed!r} is no topic: it takes letters, digits and . _ -"
        if self.positionTopic and not is_legal(self.positionTopic):
            yield "positionTopic", f"{self.positionTopic!r} is no topic: it takes letters, digits and . _ -"
        if self.transactionalId and not self.transacts:
            yield "transactional.id", "has no effect without transactional = true"
        if self.transacts and fixed is None and not self.positionTopic:
            yield "positionTopic", "is missing: kafka.topic depends on the event, so name a topic that exists"

    def settings(self) -> dict[str, str]:
        """Of the producer, as Kafka names them."""
        bound = str(int(self.callTimeout * 1000))
        given = {**self.producer, "acks": self.acks}
        if "message.timeout.ms" not in given:
            given.setdefault("delivery.timeout.ms", bound)
        given.setdefault("queue.buffering.max.messages", str(max(100_000, 2 * self.batchSize)))
        if self.transacts:
            given.setdefault("transactional.id", self.transactionalId or "to be made")
            given.setdefault("transaction.timeout.ms", str(max(60_000, int(bound))))
        return given


class KafkaSink(Sink):
    """At least once, or exactly once with transactions behind a file channel; in order for each partition."""

    Config: ClassVar[type[AnyConfig]] = KafkaConfig
    config: KafkaConfig
    sender: Sender | None = None
    warned = False

    def __init__(self, name: str, config: AnyConfig) -> None:
        super().__init__(name, config)
        self.batch_size = self.config.batchSize
        self.pattern = Escape(self.config.topic)
        self.fixed = self.pattern.fixed

    async def open(self) -> None:
        """DeliveryError if it is transactional and no broker answers."""
        config = self.config
        given = config.settings()
        if config.transacts:
            given["transactional.id"] = config.producer.get("transactional.id") or self._id()
        if not (config.transacts and self.durable):
            why = "it has a memory channel" if config.transacts else "transactional = false"
            self.log.info("at least once: %s", why)
        group = given["transactional.id"] if config.transacts else ""
        settings = client.producer_settings(config.servers, given)
        place = config.positionTopic or self.fixed or ""
        self.sender = Sender(settings, config.callTimeout, self.log, group, place)
        self.thread = Daemon(self.name)
        await self._call(self.sender.open)

    def held(self) -> Iterator[Held]:
        config = self.config
        if not config.identity:
            raise DeliveryError("its records carry no identity: set identity = true")
        topics = re.compile(".*".join(map(re.escape, _texts(config.topic))))
        for one in stored(config.servers, config.settings(), topics, config.callTimeout):
            yield Held((one,))
        if config.allowTopicOverride:
            why = f"an event's header {config.topicHeader} may have named another topic"
            raise DeliveryError(f"only {config.topic} was read; {why}: allowTopicOverride = false rules that out")

    def _id(self) -> str:
        """One that stays as long as the store does, and that no other sink has."""
        if self.config.transactionalId:
            return self.config.transactionalId
        machine = MACHINE.read_text("ascii") if MACHINE.exists() else ""
        place = blake2b(f"{machine.strip()} {self.folder or ''}".encode(), digest_size=6).hexdigest()
        return f"headrace-{self.agent}-{self.name}-{place}"

    async def close(self) -> None:
        if self.sender:
            try:
                async with asyncio.timeout(LAST_WORDS):
                    await self.thread.call(self.sender.close)
            except TimeoutError:
                self.log.warning("kafka doesn't answer; closed without a word")
            self.thread.end()

    async def send(self, batch: Batch) -> None:
        assert self.sender
        if self.sender.position.crowded:
            await self.keep(b"kafka")  # the channel's own cursor now stands for all of them
            self.sender.position.clear()
        await self._call(self._send, self.sender, batch)

    async def _call(self, function: Any, *arguments: Any) -> None:
        """In the thread, which is given up with its client if it hangs."""
        bound = 4 * self.config.callTimeout + GRACE  # init, delivery, position, commit
        try:
            async with asyncio.timeout(bound):
                await self.thread.call(function, *arguments)
        except TimeoutError:
            old = self.sender
            assert old
            self.sender = Sender(old.settings, old.seconds, self.log, old.group, old.place)
            self.thread.end()
            self.thread = Daemon(self.name)
            raise DeliveryError(f"kafka: a call didn't end in {bound:g} s") from None

    def _send(self, sender: Sender, batch: Batch) -> None:
        left = sender.missing(batch.transit)
        if left is not None:
            self.log.info("%d of %d events are in Kafka already", batch.count - len(left), batch.count)
            if not left:
                return
        part = batch if left is None else batch.pick(left)
        sender.send(list(self._groups(part)), batch.transit)

    # -- events to records

    def _groups(self, batch: Batch) -> Iterator[Records]:
        """Neighbours of one topic together. Rejected for a topic that can't be."""
        config, fixed = self.config, self.fixed
        plain = not (config.headers or config.identity or self._is_placed())
        named = config.topicHeader if config.allowTopicOverride else ""
        if fixed and plain and self._is_bare(batch, named):
            yield Records(fixed, [{"value": body} for body in batch.bodies], plain)
            return
        topic, records = "", list[dict[str, Any]]()
        for event, made in zip(batch.events, self._plain(batch) if plain else self._records(batch), strict=True):
            its = (named and event.headers.get(named)) or fixed or self.pattern.expand(event.headers)
            if its != topic or not its:
                if records:
                    yield Records(topic, records, plain)
                topic, records = _legal(its), []
            records.append(made)
        yield Records(topic, records, plain)

    def _is_bare(self, batch: Batch, *names: str) -> bool:
        """Whether bodies are all that it takes: no event has a key, or a header of these names. A name that the block
        holds elsewhere costs time only."""
        if self.config.useFlumeEventFormat:
            return False
        return not any(name.encode() in batch.block for name in (self.config.keyHeader, *names) if name)

    def _plain(self, batch: Batch) -> Iterator[dict[str, Any]]:
        """Keyword arguments of `produce`: a value, and a key where there is one."""
        header, avro = self.config.keyHeader, self.config.useFlumeEventFormat
        for event in batch.events:
            headers, body = event
            value = record.encode([event]) if avro else body
            yield {"value": value, "key": headers[header]} if header in headers else {"value": value}

    def _records(self, batch: Batch) -> Iterator[dict[str, Any]]:
        """The same with partition, time and record headers."""
        config = self.config
        placed = self._is_placed()
        runs = batch.identities or () if config.identity else ()
        names = ((run.origin, run.first + i) for run in runs for i in range(run.count))
        for event, out in zip(batch.events, self._plain(batch), strict=True):
            if placed:
                self._place(event, out)
            given = ((name, event.headers.get(ours)) for ours, name in config.headers.items())
            out["headers"] = [(name, text.encode()) for name, text in given if text is not None]
            for name in names:
                out["headers"] += identity.record_headers(name)
                break
            yield out

    def _is_placed(self) -> bool:
        return bool(self.config.partitionIdHeader or self.config.timestampHeader or self.config.defaultPartitionId >= 0)

    def _place(self, event: Event, out: dict[str, Any]) -> None:
        """Partition and time."""
        config = self.config
        partition = event.headers.get(config.partitionIdHeader) if config.partitionIdHeader else None
        if partition is not None:
            out["partition"] = _number(config.partitionIdHeader, partition, 2**31)
        elif config.defaultPartitionId >= 0:
            out["partition"] = config.defaultPartitionId
        when = event.headers.get(config.timestampHeader) if config.timestampHeader else None
        if when is not None:
            self._set_time(when, out)

    def _set_time(self, text: str, out: dict[str, Any]) -> None:
        """As Flume does, without one where the header holds none."""
        if _is_number(text, 2**63):
            out["timestamp"] = int(text)
        elif not self.warned:
            self.warned = True
            self.log.warning("a record gets its time from the client: header %s is %r", self.config.timestampHeader,
                             text[:40])  # fmt: skip


def _texts(pattern: str) -> list[str]:
    """What stands between its escapes."""
    at, out = 0, []
    for match in TAG.finditer(pattern):
        out.append(pattern[at : match.start()])
        at = match.end()
    return [*out, pattern[at:]]


def _legal(topic: str) -> str:
    if not is_legal(topic):
        raise Rejected(f"kafka: {topic[:80]!r} is no topic: it takes letters, digits and . _ -")
    return topic


def _number(header: str, text: str, limit: int) -> int:
    if not _is_number(text, limit):
        raise Rejected(f"kafka: header {header} is {text[:40]!r}, not a number")
    return int(text)


def _is_number(text: str, limit: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20 and int(text) < limit
