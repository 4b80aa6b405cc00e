"""The topics at the target: whether they may be written, made as they are at the source, and set for the copy.

A topic keeps what was set for it at the source, and how long and how large its records may be there whoever set it.
While it is copied it takes whatever time a record says (`COPYING`), then what the source's topic takes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource  # type: ignore[attr-defined]

from agent.errors import DeliveryError
from aggregator.topics.commands.cluster import CALM, SECONDS, Cluster, Place
from aggregator.topics.commands.manage import make
from aggregator.topics.commands.migrate.journal import Known
from aggregator.topics.commands.migrate.runs import Runs

LONG = str((1 << 63) - 1)
COPYING = {
    "message.timestamp.type": "CreateTime",
    "message.timestamp.before.max.ms": LONG,
    "message.timestamp.after.max.ms": LONG,
}
"""Kafka refuses times that lie an hour ahead, unless told."""
KEPT = ("cleanup.policy", "retention.ms", "retention.bytes", "max.message.bytes")
"""Settings that are set over there even if the source has them by default."""
OF_TOPIC = 1
"""ConfigSource.DYNAMIC_TOPIC_CONFIG: it was set for this topic."""


def check_partitions(source: Mapping[str, int], target: Mapping[str, int]) -> None:
    """DeliveryError that names each topic which has other partitions over there."""
    wrong = [
        f"topic {topic} has {target[topic]} partitions at the target and {count} at the source"
        for topic, count in source.items()
        if topic in target and target[topic] != count
    ]
    _refuse(wrong, "add partitions where some lack, or leave the topic out with --topics")


def check_contents(known: Known, ends: Mapping[Place, int], source_ends: Mapping[Place, int]) -> set[str]:
    """The topics that are empty at the target, whatever is known of them. `ends`: of those that are there already.
    DeliveryError that names each topic which isn't what the copy left."""
    topics = dict.fromkeys(topic for topic, _ in ends)
    empty = {topic for topic in topics if not any(end for place, end in ends.items() if place[0] == topic)}
    wrong = []
    for topic in topics:
        its = [place for place in ends if place[0] == topic]
        if topic in empty:
            continue
        if topic not in known:
            wrong.append(f"topic {topic} has records at the target that are not from here")
        elif any(known[topic][index].end > ends[topic, index] for _, index in its):
            wrong.append(f"topic {topic} has lost records at the target that were copied")
        elif any(known[topic][index].reached > source_ends[topic, index] for _, index in its):
            wrong.append(f"topic {topic} at the source is another one than the one that was copied")
    _refuse(wrong, "delete the topic at the target, and it is copied anew; or leave it out with --topics")
    return empty


def _refuse(wrong: list[str], remedy: str) -> None:
    if wrong:
        raise DeliveryError("\n".join(f"{line}: {remedy}" for line in wrong))


class Targets:
    """`notes` is what a person should know of what was done."""

    def __init__(self, source: Cluster, target: Cluster) -> None:
        self.source, self.target = source, target
        self.notes: list[str] = []

    def make(self, topics: Mapping[str, int], replication: int, like: str) -> None:
        """Create them, with these numbers of partitions. `like`: a topic that is there already, whose settings are all
        that the target knows."""
        known = self.target.config(like).keys() if topics else ()
        for topic, partitions in topics.items():
            wanted = self._settings(topic) | COPYING
            settings = {name: value for name, value in wanted.items() if name in known}
            make(self.target, topic, partitions, replication, settings)
            for name in sorted(wanted.keys() - known - COPYING.keys()):
                self.notes.append(f"topic {topic}: the target knows no {name}, so {wanted[name]} was left out")

    def _settings(self, topic: str) -> dict[str, str]:
        entries = self.source.config(topic)
        return {name: str(entry.value) for name, entry in entries.items() if _is_own(entry) or name in KEPT}

    def set_for_the_copy(self, topic: str) -> None:
        """Of a topic that was there before. It holds when this returns."""
        end = time.monotonic() + SECONDS
        self._set(topic, self._lacks(topic))
        while self._lacks(topic) and time.monotonic() < end:
            time.sleep(CALM)

    def _lacks(self, topic: str) -> dict[str, str]:
        now = self.target.config(topic)
        return {name: value for name, value in COPYING.items() if name in now and now[name].value != value}

    def set_as_the_source(self, topic: str) -> None:
        """When it is copied."""
        entries, now = self.source.config(topic), self.target.config(topic)
        own = {name: str(entry.value) for name, entry in entries.items() if _is_own(entry)}
        self._set(topic, {name: own.get(name) for name in COPYING if name in now})

    def _set(self, topic: str, settings: Mapping[str, str | None]) -> None:
        if not settings:
            return
        entries = [
            ConfigEntry(name, value or "", incremental_operation=_operation(value)) for name, value in settings.items()
        ]
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=entries)
        with self.target.asked(f"topic {topic}"):
            self.target.admin.incremental_alter_configs([resource], request_timeout=SECONDS)[resource].result()


def _operation(value: str | None) -> AlterConfigOpType:
    return AlterConfigOpType.DELETE if value is None else AlterConfigOpType.SET


def _is_own(entry: Any) -> bool:
    return int(entry.source) == OF_TOPIC


def runs_by_place(known: Known, topics: Mapping[str, int]) -> dict[Place, Runs]:
    """Of every partition; of what isn't known, none."""
    return {(topic, index): known[topic][index] if topic in known else Runs()
            for topic, count in topics.items() for index in range(count)}  # fmt: skip
