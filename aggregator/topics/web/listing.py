"""The topics and how far their groups are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aggregator.topics.log.log import Log, Partition, Topic

Listed = dict[str, Any]
"""As JSON has it: name, bytes, partitions [{partition, start, stable, end, bytes}], groups [{group, lag, partitions
{"0": {offset, lag}}}]."""


def listed(log: Log, topics: Iterable[Topic], may_see: Callable[[str], bool]) -> list[Listed]:
    """These topics by name, with the groups that may be seen. `lag` is what a group has not committed, over the
    partitions in which it has committed anything."""
    by_topic: dict[str, dict[str, dict[int, int]]] = {}
    for group, offsets in log.groups.items():
        for (topic, index), offset in offsets.items() if may_see(group) else ():
            by_topic.setdefault(topic, {}).setdefault(group, {})[index] = offset.offset
    return [_topic(topic, by_topic.get(topic.name, {})) for topic in sorted(topics, key=lambda one: one.name)]


def _topic(topic: Topic, groups: Mapping[str, Mapping[int, int]]) -> Listed:
    return {
        "name": topic.name,
        "bytes": sum(one.size for one in topic.partitions),
        "partitions": [_partition(one) for one in topic.partitions],
        "groups": [_group(name, groups[name], topic) for name in sorted(groups)],
    }


def _partition(one: Partition) -> Listed:
    return {"partition": one.index, "start": one.start, "stable": one.stable, "end": one.end, "bytes": one.size}


def _group(name: str, offsets: Mapping[int, int], topic: Topic) -> Listed:
    places = {
        str(index): {"offset": offsets[index], "lag": _behind(topic.partitions[index], offsets[index])}
        for index in sorted(offsets)
    }
    return {"group": name, "lag": sum(place["lag"] for place in places.values()), "partitions": places}


def _behind(partition: Partition, offset: int) -> int:
    """Offsets from a group's to the end, as far as they are still there."""
    return max(0, partition.end - max(offset, partition.start))
