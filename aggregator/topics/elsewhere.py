"""The topics sink on a Kafka cluster: the kafka sink with transactions, and records mapped as for the embedded log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from agent.event import Batch
from aggregator.kafka.sender import Records
from aggregator.sinks.kafka import KafkaConfig, KafkaSink
from aggregator.topics.mapping import Mapper

if TYPE_CHECKING:
    from aggregator.sinks.topics import TopicsConfig


def config_of(config: TopicsConfig) -> KafkaConfig:
    """The kafka sink's configuration that says the same."""
    producer = {"partitioner": "murmur2_random", **config.producer}  # a key stays in its partition after a move
    return KafkaConfig(  # type: ignore[call-arg]
        channel=config.channel, servers=config.servers, topic=config.topic, batchSize=config.batchSize,
        producer=producer, transactional=True, transactionalId=config.transactional_id,
        positionTopic=config.positionTopic, allowTopicOverride=False, callTimeout=config.callTimeout,
        backoff=config.backoff, maxBackoff=config.maxBackoff,
    )  # fmt: skip


class Elsewhere(KafkaSink):
    """Exactly once for read_committed consumers."""

    def __init__(self, name: str, config: KafkaConfig, mapper: Mapper) -> None:
        super().__init__(name, config)
        self.mapper = mapper

    def _groups(self, batch: Batch) -> Iterator[Records]:
        topic, records = "", list[dict[str, Any]]()
        for its, time, key, value, headers in self.mapper.records(batch):
            if its != topic:
                if records:
                    yield Records(topic, records, False)
                topic, records = its, []
            records.append({"value": value, "key": key, "timestamp": time, "headers": headers})
        yield Records(topic, records, False)
