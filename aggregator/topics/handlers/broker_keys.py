"""The broker's settings by Kafka's names, as clients and tools look for them: they are shown, and set in the agent's
file by its own keys.
"""

from __future__ import annotations

from typing import NamedTuple

from aggregator.topics.broker import NODE, Broker
from aggregator.topics.expiry import KEEP_MS
from aggregator.topics.handlers.offsets import METADATA_LENGTH
from aggregator.topics.log import settings

NAMES = {
    "cleanup.policy": "log.cleanup.policy",
    "compression.type": "compression.type",
    "delete.retention.ms": "log.cleaner.delete.retention.ms",
    "file.delete.delay.ms": "log.segment.delete.delay.ms",
    "flush.messages": "log.flush.interval.messages",
    "flush.ms": "log.flush.interval.ms",
    "index.interval.bytes": "log.index.interval.bytes",
    "max.compaction.lag.ms": "log.cleaner.max.compaction.lag.ms",
    "max.message.bytes": "message.max.bytes",
    "message.timestamp.after.max.ms": "log.message.timestamp.after.max.ms",
    "message.timestamp.before.max.ms": "log.message.timestamp.before.max.ms",
    "message.timestamp.type": "log.message.timestamp.type",
    "min.cleanable.dirty.ratio": "log.cleaner.min.cleanable.ratio",
    "min.compaction.lag.ms": "log.cleaner.min.compaction.lag.ms",
    "min.insync.replicas": "min.insync.replicas",
    "preallocate": "log.preallocate",
    "retention.bytes": "log.retention.bytes",
    "retention.ms": "log.retention.ms",
    "segment.bytes": "log.segment.bytes",
    "segment.index.bytes": "log.index.size.max.bytes",
    "segment.jitter.ms": "log.roll.jitter.ms",
    "segment.ms": "log.roll.ms",
    "unclean.leader.election.enable": "unclean.leader.election.enable",
}
"""A topic's key: the broker's, from which it takes its default (Kafka's ServerTopicConfigSynonyms)."""


class BrokerKey(NamedTuple):
    """Its type as in log/settings.py, what it is, and Kafka's default where there is one."""

    kind: str
    value: str
    default: str | None


def keys(broker: Broker) -> dict[str, BrokerKey]:
    """By name."""
    ours = settings.defaults(broker.log.options)
    of_topics = {NAMES[name]: BrokerKey(key.kind, ours[name], key.default) for name, key in settings.KEYS.items()}
    return dict(sorted((of_topics | _own(broker)).items()))


def _own(broker: Broker) -> dict[str, BrokerKey]:
    said, limits = broker.settings, broker.coordinator.limits
    low, high = (str(int(seconds * 1000)) for seconds in limits.session_seconds)
    return {
        "auto.create.topics.enable": BrokerKey("boolean", str(said.auto_create).lower(), "true"),
        "broker.id": BrokerKey("int", str(NODE), None),
        "default.replication.factor": BrokerKey("int", "1", "1"),
        "delete.topic.enable": BrokerKey("boolean", "true", "true"),
        "group.initial.rebalance.delay.ms": BrokerKey("int", str(int(limits.initial_delay * 1000)), "3000"),
        "group.max.session.timeout.ms": BrokerKey("int", high, "1800000"),
        "group.max.size": BrokerKey("int", str(limits.members), "2147483647"),
        "group.min.session.timeout.ms": BrokerKey("int", low, "6000"),
        "log.dirs": BrokerKey("string", str(broker.log.folder), None),
        "node.id": BrokerKey("int", str(NODE), None),
        "num.partitions": BrokerKey("int", str(said.partitions), "1"),
        "offset.metadata.max.bytes": BrokerKey("int", str(METADATA_LENGTH), "4096"),
        "offsets.retention.minutes": BrokerKey("int", str(KEEP_MS // 60_000), "10080"),
    }
