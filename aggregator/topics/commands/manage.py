"""`topics create` and `topics delete`."""

from __future__ import annotations

import argparse
import sys

from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]  # its public place

from agent.errors import ConfigError
from agent.options import FATAL, OK
from aggregator.topics.commands.cluster import SECONDS, Cluster


def create(given: argparse.Namespace) -> int:
    """Create a topic."""
    settings = dict(_pair(text) for text in given.settings)
    cluster = Cluster.named(given.server, given.config)
    make(cluster, given.topic, given.partitions, given.replication_factor, settings)
    print(f"created {given.topic} with {len(cluster.places(given.topic))} partitions")
    return OK


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise ConfigError(f"-c {text}: it takes KEY=VALUE, such as retention.ms=-1")
    return name.strip(), value.strip()


def make(cluster: Cluster, topic: str, partitions: int, replication: int, settings: dict[str, str]) -> None:
    """-1 for a figure: as the server has it. DeliveryError."""
    new = NewTopic(topic, partitions, replication, config=settings)
    with cluster.asked(f"topic {topic}"):
        cluster.admin.create_topics([new], operation_timeout=SECONDS)[topic].result()


def delete(given: argparse.Namespace) -> int:
    """Delete a topic, if whoever is asked wants it."""
    cluster = Cluster.named(given.server, given.config)
    places = cluster.places(given.topic)
    if not given.yes and not _sure(cluster, given.topic, len(places)):
        print("nothing was deleted")
        return FATAL
    with cluster.asked(f"topic {given.topic}"):
        cluster.admin.delete_topics([given.topic], operation_timeout=SECONDS)[given.topic].result()
    print(f"deleted {given.topic}")
    return OK


def _sure(cluster: Cluster, topic: str, partitions: int) -> bool:
    """Ask at the terminal. ConfigError where there is none."""
    if not sys.stdin.isatty():
        raise ConfigError("delete asks, and there is no terminal: --yes answers for you")
    starts, ends = cluster.starts(cluster.places(topic)), cluster.ends(cluster.places(topic))
    records = sum(ends[place] - starts[place] for place in ends)
    answer = input(f"Delete {topic} ({partitions} partitions, {records:,} records) at {cluster.servers}? [y/N] ")
    return answer.strip().lower() in ("y", "yes")
