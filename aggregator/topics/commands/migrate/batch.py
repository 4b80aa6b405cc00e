"""What one transaction of the copy takes, and how far that brings it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from confluent_kafka import Message

from aggregator.topics.commands.cluster import Place
from aggregator.topics.commands.reading import offset_of, place_of

RECORDS, BYTES = 50_000, 16 << 20
"""A batch of so many is full."""
Ends = Mapping[Place, int]
"""An offset of each partition."""


class Batch:
    """What one transaction takes: `sources`, the offsets of its records in order; `reached`, as of a Copier."""

    def __init__(self, reached: Ends) -> None:
        self.sources: defaultdict[Place, list[int]] = defaultdict(list)
        self.reached = dict(reached)
        self.count = self.size = 0

    @property
    def is_full(self) -> bool:
        return self.count >= RECORDS or self.size >= BYTES

    def add(self, record: Message) -> None:
        place, offset = place_of(record), offset_of(record)
        self.sources[place].append(offset)
        self.reached[place] = offset + 1
        self.count += 1
        self.size += len(record)

    def end(self, word: Message) -> None:
        """A partition has no more records before the offset that this says."""
        place = place_of(word)
        self.reached[place] = max(self.reached[place], offset_of(word))


def left(reached: Ends, ends: Ends) -> int:
    """Offsets between."""
    return sum(max(0, end - reached[place]) for place, end in ends.items())
