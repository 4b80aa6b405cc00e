"""`topics tail`: a topic's last records, a line each: key, time, value, with tabs between.

Without a group it looks at every partition and leaves no trace. As a member of a group it reads what the group was to
read next, and commits once it is printed: those records are then read for the whole group.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from confluent_kafka import Consumer, Message, TopicPartition

from agent.options import OK
from aggregator.topics.commands.cluster import Cluster, Place
from aggregator.topics.commands.reading import MANY, key_of, newest, parted, place_of, value_of
from aggregator.topics.commands.shown import shown, time_of

COUNT = 10
WAIT = 0.2


def run(given: argparse.Namespace) -> int:
    """Print records; with -f until Ctrl-C."""
    cluster = Cluster.named(given.server, given.config)
    places = cluster.places(given.topic)
    try:
        if given.group:
            _as_member(cluster, given)
        else:
            _look(cluster, places, given.count or COUNT, given.follow)
    except KeyboardInterrupt:
        pass
    return OK


def line(message: Message) -> str:
    """A record as it is printed."""
    return f"{shown(key_of(message))}\t{time_of(message.timestamp()[1])}\t{shown(value_of(message))}"


def _print(messages: Sequence[Message]) -> None:
    for message in messages:
        print(line(message))
    if messages:
        sys.stdout.flush()


def _look(cluster: Cluster, places: Sequence[Place], count: int, follow: bool) -> None:
    starts, ends = cluster.starts(places), cluster.ends(places, committed=True)
    last = newest(cluster, starts, ends, count)
    found = sorted((one for messages in last.values() for one in messages), key=lambda one: one.timestamp()[1])
    _print(found[-count:])
    if not follow:
        return
    consumer = cluster.reader()
    consumer.assign([TopicPartition(*place, end) for place, end in ends.items()])
    while True:
        with cluster.asked():
            _print(parted(consumer.consume(MANY, WAIT))[0])


def _as_member(cluster: Cluster, given: argparse.Namespace) -> None:
    consumer = cluster.consumer(given.group, enable_partition_eof=True, auto_offset_reset="earliest")
    try:
        _read(cluster, consumer, given)
    finally:
        consumer.close()


def _read(cluster: Cluster, consumer: Consumer, given: argparse.Namespace) -> None:
    """Until so many are printed, or (without -f) there are no more in the partitions that the group gave us."""
    left: set[Place] | None = None

    def assigned(_: Consumer, partitions: list[TopicPartition]) -> None:
        nonlocal left
        left = {(one.topic, one.partition) for one in partitions}

    consumer.subscribe([given.topic], on_assign=assigned)
    wanted = given.count or sys.maxsize
    while wanted and (given.follow or left is None or left):
        with cluster.asked(f"group {given.group}"):
            records, ended = parted(consumer.consume(min(MANY, wanted), WAIT), group=True)
            _print(records)
            if records:
                consumer.commit(asynchronous=False)
        wanted -= len(records)
        left = left and left - {place_of(one) for one in ended}
