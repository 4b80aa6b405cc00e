"""`topics reset-offsets`: a group goes to another place, once its members are gone."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from agent.errors import ConfigError, DeliveryError
from agent.options import OK
from aggregator.topics.commands.cluster import Cluster, Committed, Place
from aggregator.topics.commands.groups import DEAD, EMPTY, state
from aggregator.topics.commands.shown import ms_of, table

EARLIEST, LATEST = "earliest", "latest"


def run(given: argparse.Namespace) -> int:
    """Show where a group is and where it goes; with --execute send it there."""
    to = target(given.to)
    cluster = Cluster.named(given.server, given.config)
    places = cluster.places(given.topic) if given.topic else _everywhere(cluster)
    now = cluster.committed(given.group, places)
    wanted = sorted(places if given.topic else now)
    if not wanted:
        raise DeliveryError(f"{cluster.servers}: group {given.group} has no offset anywhere; name a --topic")
    then = _places(cluster, wanted, to)
    for line in table(_rows(wanted, now, then), right=(1, 2, 3)):
        print(line)
    _check_empty(cluster, given.group)
    if not given.execute:
        print("nothing was changed; --execute does it")
        return OK
    cluster.commit(given.group, {place: Committed(then[place]) for place in wanted})
    print(f"group {given.group} was moved")
    return OK


def target(text: str) -> str | int | tuple[int]:
    """`earliest`, `latest`, an offset, or (ms,). ConfigError."""
    if text in (EARLIEST, LATEST):
        return text
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        return (ms_of(text),)
    except ValueError:
        taken = "earliest, latest, an offset or a time such as 2026-11-27T06:00"
        raise ConfigError(f"--to {text}: it takes {taken}") from None


def _everywhere(cluster: Cluster) -> list[Place]:
    return [(topic, index) for topic, count in cluster.topics().items() for index in range(count)]


def _check_empty(cluster: Cluster, group: str) -> None:
    """DeliveryError if it has members: they would go on from where they are and overwrite what was set."""
    found = cluster.described([group])[group]
    if state(found) not in (EMPTY, DEAD):
        raise DeliveryError(f"group {group} is active ({len(found.members)} members): stop them first")


def _places(cluster: Cluster, places: Sequence[Place], to: str | int | tuple[int]) -> dict[Place, int]:
    """An offset for each; never one before the first record or behind the last."""
    starts, ends = cluster.starts(places), cluster.ends(places)
    if to == EARLIEST:
        return starts
    if to == LATEST:
        return ends
    if isinstance(to, tuple):
        found = cluster.at_time(places, to[0])
        return {place: ends[place] if offset < 0 else offset for place, (offset, _) in found.items()}
    assert isinstance(to, int)
    return {place: min(max(to, starts[place]), ends[place]) for place in places}


def _rows(places: Sequence[Place], now: Mapping[Place, Committed], then: Mapping[Place, int]) -> list[tuple[str, ...]]:
    head = ("TOPIC", "PARTITION", "OFFSET", "NEW OFFSET")
    before = {place: str(at.offset) for place, at in now.items()}
    return [head, *((topic, str(i), before.get((topic, i), "-"), str(then[topic, i])) for topic, i in places)]
