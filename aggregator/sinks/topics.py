"""`type = topics`: each event is a record of a topic that the agent's own service `topics` holds (docs/topics.md).

    a1.sinks.t.type = topics
    a1.sinks.t.topic = %{topic}         # plant/line1/temp goes to plant.line1.temp

Behind a file channel each event is stored exactly once: what the log has received of a stream (docs/delivery.md) is in
the transaction that stores the records, so that a repeat changes nothing, however the channel splits it.

With `kafka.bootstrap.servers` the same records go to a Kafka cluster, by the kafka sink with transactions: when the
embedded log is outgrown, that is the change.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from agent.config.fields import Config as AnyConfig
from agent.config.fields import Seconds, key
from agent.errors import ChannelError, DeliveryError, Rejected
from agent.escape import Escape
from agent.event import Batch
from agent.sink import Sink, SinkConfig
from agent.store.streams import Runs, numbers_of
from aggregator.services.topics import service_in
from aggregator.topics import record_batch
from aggregator.topics.broker import Broker
from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.log.log import Append
from aggregator.topics.mapping import Mapper, partition_of
from aggregator.topics.names import LONGEST, is_legal
from aggregator.topics.record import Headers

BATCH_BYTES = 900_000
"""Of the records in one record batch, about: most topics take 1 MiB."""
OVERHEAD = 64
"""Bytes that a record takes beside key and value, about."""
EVENTS_FAULT = (Code.MESSAGE_TOO_LARGE, Code.INVALID_RECORD, Code.INVALID_TIMESTAMP, Code.INVALID_TOPIC_EXCEPTION)
Record = tuple[int, bytes | None, bytes, Headers]
Place = tuple[str, int]


class TopicsConfig(SinkConfig):
    service: str = key("service", "", doc="the service of type topics; needed where there are several")
    servers: str = key("kafka.bootstrap.servers", "", doc="a Kafka cluster to send to instead: host:port, ...")
    topic: str = key("topic", "%{topic}", doc="the topic; what escapes bring is made legal: / becomes a dot")
    recordKey: str = key("key", "", doc="the record's key, as %{topic}; records of one key stay in order")
    headers: bool = key("headers", True, doc="the event's headers go with it as record headers")
    identity: bool = key("identity", False, doc="add record headers headrace.origin and headrace.number")
    batchSize: int = key("batchSize", 1000, low=1, doc="most events of one transaction")
    callTimeout: Seconds = key("callTimeout", Seconds(30.0), unit="ms", low=0.1, doc="longest wait for an answer")
    producer: dict[str, str] = key("kafka.producer.*", {}, doc="with kafka.bootstrap.servers: settings of the client")
    transactional_id: str = key("transactional.id", "", doc="with kafka.bootstrap.servers: as of the kafka sink")
    positionTopic: str = key("positionTopic", "", doc="with kafka.bootstrap.servers: as of the kafka sink")

    def problems(self) -> list[tuple[str, str]]:
        found = []
        for name, pattern in (("topic", self.topic), ("key", self.recordKey)):
            try:
                fixed = Escape(pattern).fixed
            except ValueError as error:
                found.append((name, str(error)))
                continue
            if name == "topic" and fixed is not None and not is_legal(fixed):
                found.append((name, f"{fixed!r} is no topic: it takes 1 to {LONGEST} letters, digits and . _ -"))
        if self.servers:
            from aggregator.topics.elsewhere import config_of

            found += [(one, text) for one, text in config_of(self).problems() if one != "kafka.topic"]
        else:
            only = {"kafka.producer.*": self.producer, "transactional.id": self.transactional_id,
                    "positionTopic": self.positionTopic}  # fmt: skip
            found += [(one, "has no meaning without kafka.bootstrap.servers") for one, value in only.items() if value]
        return found


class TopicsSink(Sink):
    """Exactly once behind a file channel; in order for each key, and for each batch without keys."""

    Config: ClassVar[type[AnyConfig]] = TopicsConfig
    config: TopicsConfig
    elsewhere: Sink | None = None
    broker: Broker

    def __init__(self, name: str, config: AnyConfig) -> None:
        super().__init__(name, config)
        self.batch_size = self.config.batchSize
        self.mapper = Mapper(self.config.topic, self.config.recordKey, self.config.headers, self.config.identity)
        self._turn = 0
        """Which partition takes the next batch of records without keys."""

    async def open(self) -> None:
        """DeliveryError: the service isn't open, or no broker answers."""
        if self.config.servers:
            await self._open_elsewhere()
            return
        self.broker = await service_in(self.services(), self.config.service)
        if not self.durable:
            self.log.info("at least once: it has a memory channel")
        if self.mapper.topic.fixed is not None:
            await self._made(self.mapper.topic.fixed)

    async def _open_elsewhere(self) -> None:
        from aggregator.topics.elsewhere import Elsewhere, config_of

        sink = self.elsewhere = Elsewhere(self.name, config_of(self.config), self.mapper)
        for name in ("agent", "services", "receipt", "durable", "keep", "folder", "counter"):
            setattr(sink, name, getattr(self, name))
        await sink.open()

    async def close(self) -> None:
        if self.elsewhere:
            await self.elsewhere.close()

    async def _made(self, topic: str) -> None:
        """Whoever wants to read it finds it before the first event comes."""
        try:
            await self._partitions(topic)
        except TopicsError as error:
            raise DeliveryError(f"topic {topic} can't be made: {error}") from error

    async def send(self, batch: Batch) -> None:
        if self.elsewhere:
            await self.elsewhere.send(batch)
            return
        self.broker = await service_in(self.services(), self.config.service)  # it may have been opened anew
        try:
            await self._store(batch)
        except TopicsError as error:
            if error.code in EVENTS_FAULT:
                raise Rejected(str(error)) from error
            raise DeliveryError(str(error)) from error
        except ChannelError as error:
            raise DeliveryError(str(error)) from error

    async def _store(self, batch: Batch) -> None:
        log = self.broker.log
        if batch.transit is not None and self.durable:
            new = await log.fresh(batch.transit)
            if new != batch.transit.numbers:
                self.log.info("%d of %d events are stored already", batch.count - _count(new), batch.count)
                if not new:
                    return
                batch = batch.pick(_indexes(batch, new))
        appends = await self._appends(batch)
        if batch.transit is not None and self.durable:
            await log.append(appends, batch.transit)
            return
        for answer in await log.append(appends):
            if isinstance(answer, TopicsError):
                raise answer

    async def _appends(self, batch: Batch) -> list[Append]:
        """Record batches for each partition, in the order of the events."""
        groups: dict[Place, list[Record]] = {}
        counts: dict[str, int] = {}
        turn, self._turn = self._turn, self._turn + 1
        for topic, time, its_key, body, headers in self.mapper.records(batch):
            count = counts.get(topic)
            if count is None:
                count = counts[topic] = await self._partitions(topic)
            number = 0 if count == 1 else turn % count if its_key is None else partition_of(its_key, count)
            groups.setdefault((topic, number), []).append((time, its_key, body, headers))
        return [Append(*place, self._batches(place[0], records)) for place, records in groups.items()]

    async def _partitions(self, topic: str) -> int:
        """How many the topic has; it is made if it isn't there. DeliveryError, TopicsError."""
        found = self.broker.log.topics.get(topic)
        if found is None:
            if not self.broker.settings.auto_create:
                raise DeliveryError(f"there is no topic {topic}, and the service has autoCreate = false: create it")
            found = await self.broker.create(topic)
        return len(found.partitions)

    def _batches(self, topic: str, records: list[Record]) -> list[bytes]:
        """Rejected: a record is above the topic's max.message.bytes."""
        most = int(self.broker.log.settings(self.broker.topic(topic))["max.message.bytes"])
        out, first, size = [], 0, 0
        for at, (_, its_key, body, headers) in enumerate(records):
            own = len(body) + len(its_key or b"") + OVERHEAD + sum(len(n) + len(v or b"") for n, v in headers)
            if size and size + own > min(BATCH_BYTES, most):
                out.append(record_batch.build(records[first:at]))
                first, size = at, 0
            size += own
        out.append(record_batch.build(records[first:]))
        if max(map(len, out)) > most:
            raise Rejected(f"a record for {topic} is larger than its max.message.bytes of {most}")
        return out


def _count(runs: Runs) -> int:
    return sum(count for _, count in runs)


def _indexes(batch: Batch, new: Runs) -> Iterator[int]:
    assert batch.transit is not None
    wanted = set(numbers_of(new))
    return (at for at, number in enumerate(numbers_of(batch.transit.numbers)) if number in wanted)
