"""`topics ls`: what is there, how much, and from when to when.

Records are counted by offsets: the ends of transactions, and what was aborted or compacted away, count too.
"""

from __future__ import annotations

import argparse

from confluent_kafka import KafkaError, KafkaException

from agent.errors import DeliveryError
from agent.options import OK
from aggregator.topics.commands.cluster import Cluster
from aggregator.topics.commands.reading import newest, place_of
from aggregator.topics.commands.shown import table, time_of
from aggregator.topics.commands.sizes import sizes

HEAD = ("TOPIC", "PARTITIONS", "RECORDS", "BYTES", "FIRST", "LAST")


TRIES = 5
"""A topic may be deleted between two questions."""


def run(given: argparse.Namespace) -> int:
    """Print a line a topic."""
    cluster = Cluster.named(given.server, given.config)
    for left in reversed(range(TRIES)):
        try:
            rows = _rows(cluster)
            break
        except DeliveryError as error:
            if not left or not _is_gone(error):
                raise
    for line in table(rows, right=(1, 2, 3)):
        print(line)
    return OK


def _is_gone(error: DeliveryError) -> bool:
    cause = error.__cause__
    return isinstance(cause, KafkaException) and cause.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART


def _rows(cluster: Cluster) -> list[tuple[str, ...]]:
    topics = cluster.topics()
    places = [(topic, index) for topic, count in topics.items() for index in range(count)]
    starts, ends = cluster.starts(places), cluster.ends(places)
    first, last = _times(cluster, starts, ends)
    bytes_of = sizes(cluster)
    rows: list[tuple[str, ...]] = [HEAD]
    for topic, count in topics.items():
        records = sum(ends[place] - starts[place] for place in places if place[0] == topic)
        size = "-" if bytes_of is None else f"{bytes_of[topic]:,}"
        times = time_of(first.get(topic, -1)), time_of(last.get(topic, -1))
        rows.append((topic, str(count), f"{records:,}", size, *times))
    return rows


Offsets = dict[tuple[str, int], int]
Times = dict[str, int]


def _times(cluster: Cluster, starts: Offsets, ends: Offsets) -> tuple[Times, Times]:
    """Of the first and the last record of each topic, ms: the earliest and the latest of its partitions."""
    first, last = Times(), Times()
    for messages in newest(cluster, starts, ends, 1).values():
        for message in messages:
            topic, time = place_of(message)[0], message.timestamp()[1]
            last[topic] = max(time, last.get(topic, -1))
    for (topic, _), (_, time) in cluster.at_time(starts, 0).items():
        if time >= 0:
            first[topic] = min(time, first.get(topic, time))
    return first, last
