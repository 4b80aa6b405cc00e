"""The map's topic at the target: one partition, kept for ever, read whole when a copy begins.

Each record is JSON, written in the transaction of the records that it is about:

    {"topic": "t", "partition": 0, "runs": [[source, target, count], ...]}      these were copied
    {"topic": "t", "begins": true}                    what is said of this topic before is of one that is gone

The second is committed before the first record of a topic is copied. A topic with records that the journal doesn't
know of is somebody else's.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from confluent_kafka import Producer

from agent.errors import DeliveryError
from aggregator.topics.commands.cluster import Cluster, Place
from aggregator.topics.commands.manage import make
from aggregator.topics.commands.migrate.runs import Runs
from aggregator.topics.commands.reading import between

PREFIX = "headrace-migrate-"
SETTINGS = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
MOST_RUNS = 5000
"""Of a record, which then has at most some 200 kB."""

Known = dict[str, defaultdict[int, Runs]]
"""Topics whose copy has begun; of each, the runs of its partitions."""
Report = Callable[[Any, Any], None]


class Journal:
    """Of a source, at a target."""

    def __init__(self, target: Cluster, source_id: str) -> None:
        self.target, self.topic = target, PREFIX + source_id

    def create(self, replication: int) -> None:
        """Unless it is there."""
        if self.topic not in self.target.topics():
            make(self.target, self.topic, 1, replication, SETTINGS)

    def load(self) -> Known:
        """All that was committed. The caller has ended what an earlier copy left open. DeliveryError."""
        places = self.target.places(self.topic)
        starts, ends = self.target.starts(places), self.target.ends(places, committed=True)
        consumer = self.target.reader()
        try:
            return known(m.value() or b"" for m in between(self.target, consumer, starts, ends))
        except ValueError as error:
            raise DeliveryError(f"{self.target.servers}: topic {self.topic} isn't what it was: {error}") from error
        finally:
            consumer.close()

    def write(self, producer: Producer, values: Iterable[bytes], report: Report) -> None:
        """In the transaction that is open."""
        for value in values:
            producer.produce(self.topic, value, partition=0, on_delivery=report)


def begins(topic: str) -> bytes:
    """That what follows is of a new topic."""
    return json.dumps({"topic": topic, "begins": True}).encode()


def copied(place: Place, runs: Runs) -> Iterator[bytes]:
    """That these were copied."""
    every = list(runs)
    for first in range(0, len(every), MOST_RUNS):
        about = {"topic": place[0], "partition": place[1], "runs": every[first : first + MOST_RUNS]}
        yield json.dumps(about, separators=(",", ":")).encode()


def known(values: Iterable[bytes | str]) -> Known:
    """What records of the journal say together. ValueError if they aren't such."""
    found: Known = {}
    for value in values:
        try:
            _learn(found, json.loads(value))
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{value[:80]!r} is none of ours") from error
    return found


def _learn(found: Known, about: dict[str, Any]) -> None:
    if about.get("begins"):
        found[about["topic"]] = defaultdict(Runs)
        return
    runs = found[about["topic"]][int(about["partition"])]
    for source, target, count in about["runs"]:
        runs.add(source, target, count)
