"""`topics groups`: who reads, how far, and how much is left to read."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from agent.errors import DeliveryError
from agent.options import OK
from aggregator.topics.commands.cluster import Cluster, Committed, Place
from aggregator.topics.commands.shown import table

EMPTY, DEAD = "EMPTY", "DEAD"
"""States of groups without members; a dead one isn't there at all."""


def run(given: argparse.Namespace) -> int:
    """Print a line a group, or a line a partition of one group."""
    cluster = Cluster.named(given.server, given.config)
    topics = cluster.topics()
    ends = cluster.ends([(topic, index) for topic, count in topics.items() for index in range(count)])
    rows = _one(cluster, given.group, ends) if given.group else _all(cluster, ends)
    for line in table(rows, right=(2, 3, 4) if given.group else (2, 3)):
        print(line)
    return OK


def state(group: Any) -> str:
    """`EMPTY`, `STABLE` ... of a description."""
    return str(group.state.name)


def _all(cluster: Cluster, ends: Mapping[Place, int]) -> list[tuple[str, ...]]:
    names = cluster.groups()
    rows: list[tuple[str, ...]] = [("GROUP", "STATE", "MEMBERS", "LAG")]
    for name, group in cluster.described(names).items():
        lag = sum(left(at, ends[place]) for place, at in cluster.committed(name, ends).items())
        rows.append((name, state(group).capitalize(), str(len(group.members)), f"{lag:,}"))
    return rows


def left(at: Committed, end: int) -> int:
    """Records that a group has yet to read; an offset beyond the end, of a topic that was made anew, is none."""
    return max(0, end - at.offset)


def _one(cluster: Cluster, name: str, ends: Mapping[Place, int]) -> list[tuple[str, ...]]:
    group = cluster.described([name])[name]
    committed = cluster.committed(name, ends)
    owners = {(one.topic, one.partition): f"{member.client_id} at {str(member.host).lstrip('/')}"
              for member in group.members for one in member.assignment.topic_partitions}  # fmt: skip
    if state(group) == DEAD and not committed:
        raise DeliveryError(f"{cluster.servers}: there is no group {name}")
    print(f"{name}: {state(group).capitalize()}, {len(group.members)} members")
    rows: list[tuple[str, ...]] = [("TOPIC", "PARTITION", "OFFSET", "END", "LAG", "MEMBER")]
    for place in sorted(committed.keys() | owners.keys()):
        at, end = committed.get(place), ends.get(place, -1)
        figures = ("-", f"{end}", "-") if at is None else (f"{at.offset}", f"{end}", f"{left(at, end):,}")
        rows.append((place[0], str(place[1]), *figures, owners.get(place, "-")))
    return rows
