"""The last records of a topic.

Offsets have holes (markers, what was aborted, what compaction dropped), so that N records don't begin N offsets before
the end: it looks back window by window, each four times as wide as the one after it, until it has enough.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from heapq import merge
from typing import NamedTuple

from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.following import Broken, Following
from aggregator.topics.log.log import Log, Partition
from aggregator.topics.web import shown
from aggregator.topics.web.shown import Members

MOST_BYTES = 4 << 20
"""Of all that is shown; beyond, older records are left out."""
LOOK_SECONDS = 5.0
"""So long it looks for older records; then it shows what it has."""
WINDOW, WIDEST = 64, 1 << 16
TAKEN = 100


class Entry(NamedTuple):
    """`time` ranks it among the other partitions'."""

    time: int
    members: Members

    @property
    def size(self) -> int:
        return sum(map(len, self.members.values()))


class Few:
    """The last `count` entries, of MOST_BYTES together, but always one."""

    def __init__(self, count: int, entries: Iterable[Entry] = ()) -> None:
        self.count, self.size = count, 0
        self.entries: deque[Entry] = deque()
        for entry in entries:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.size += entry.size
        while len(self.entries) > self.count or (self.size > MOST_BYTES and len(self.entries) > 1):
            self.size -= self.entries.popleft().size

    @property
    def full(self) -> bool:
        return len(self.entries) >= self.count or self.size >= MOST_BYTES


async def newest(log: Log, partitions: Sequence[Partition], count: int) -> Sequence[Members]:
    """The last `count` records of these partitions together, each partition's in order. TopicsError: the topic is
    gone."""
    until = asyncio.get_running_loop().time() + LOOK_SECONDS
    few = Few(count)
    for partition in partitions:
        found = await _of_one(log, partition, count, until)
        few = Few(count, merge(few.entries, _ranked(found.entries), key=lambda entry: entry.time))
    return [entry.members for entry in few.entries]


def _ranked(entries: Iterable[Entry]) -> list[Entry]:
    """Times that never fall, so that a merge by time keeps the order, whatever clocks had said."""
    out: list[Entry] = []
    for entry in entries:
        out.append(entry._replace(time=max(entry.time, out[-1].time)) if out else entry)
    return out


async def _of_one(log: Log, partition: Partition, count: int, until: float) -> Few:
    few, upper, width = Few(count), partition.stable, min(count, WINDOW)
    while upper > partition.start and not few.full and asyncio.get_running_loop().time() < until:
        lower = max(partition.start, upper - width)
        try:
            found, lower = await _window(Following(log, partition, lower, shown.OPENED_BYTES), upper, count)
        except TopicsError as error:
            if error.code is not Code.OFFSET_OUT_OF_RANGE:
                raise
            break  # retention was faster
        few = Few(count, [*found, *few.entries])
        upper, width = lower, min(4 * width, WIDEST)
    return few


async def _window(followed: Following, upper: int, count: int) -> tuple[Iterable[Entry], int]:
    """What is before `upper`; where the window before it ends."""
    few, lower, index = Few(count), followed.offset, followed.partition.index
    while followed.offset < upper:
        try:
            records = await followed.take(TAKEN)
        except Broken as error:
            if error.offset >= upper:
                break
            few.add(Entry(few.entries[-1].time if few.entries else 0, shown.broken(index, error)))
            lower = min(lower, error.offset)
            continue
        for record in records:
            if record.offset >= upper:
                return few.entries, lower
            few.add(Entry(record.time, shown.members(index, record)))
            await asyncio.sleep(0)
        if not records:
            break
    return few.entries, lower
