"""What the event loop knows of the log: the state of the last commit that was told, never older than an answer.

Only `Views` changes these, in the order of the commits (log/writer.py).
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from agent.store.received import Key
from agent.store.states import StreamState
from aggregator.topics.log.schema import Offset
from aggregator.topics.log.tail import Cache, Tail

Place = tuple[str, int]
"""Topic and partition."""


class Appended(NamedTuple):
    """Where an append stands: the offset of its first record; the time it was given, or -1 if records keep theirs."""

    base_offset: int
    time_ms: int
    start: int
    """The partition's log start offset."""


class Partition:
    """`start` <= `stable` <= `end`: log start offset, last stable offset, high watermark; `size` in bytes."""

    __slots__ = ("aborted", "deleted", "end", "id", "index", "size", "stable", "start", "tail", "topic", "waiting")

    def __init__(self, id_: int, topic: str, index: int, start: int = 0, end: int = 0) -> None:
        self.id, self.topic, self.index = id_, topic, index
        self.start = start
        self.end = self.stable = end
        self.size = 0
        self.deleted = False
        self.tail = Tail(end)
        self.aborted: list[tuple[int, int, int]] = []
        """Ascending: offset of the marker, producer, first offset of the aborted transaction."""
        self.waiting: set[asyncio.Future[None]] = set()

    def __repr__(self) -> str:
        return f"<{self.topic}-{self.index} {self.start}..{self.stable}..{self.end}>"

    def aborted_between(self, first: int, upto: int) -> list[tuple[int, int]]:
        """Aborted transactions with records in [first, upto): producer and first offset of each."""
        at = bisect_left(self.aborted, (first,))
        return [(producer, began) for _, producer, began in self.aborted[at:] if began < upto]

    def wake(self) -> None:
        for future in list(self.waiting):
            if not future.done():
                future.set_result(None)


class Topic:
    """`config` holds what is set for it alone, `partitions` in their order."""

    __slots__ = ("config", "id", "name", "partitions")

    def __init__(self, name: str, id_: bytes, config: dict[str, str]) -> None:
        self.name, self.id, self.config = name, id_, config
        self.partitions: list[Partition] = []


def changed(partitions: Iterable[Partition]) -> asyncio.Future[None]:
    """Done when one of them is appended to, decided or deleted; may be cancelled at any time."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    watched = [partition.waiting for partition in partitions]
    for waiting in watched:
        waiting.add(future)

    def over(_: asyncio.Future[None]) -> None:
        for waiting in watched:
            waiting.discard(future)

    future.add_done_callback(over)
    return future


class Views:
    """All of it; each method is one thing that a commit changed."""

    def __init__(self, cache_bytes: int) -> None:
        self.topics: dict[str, Topic] = {}
        self.parts: dict[int, Partition] = {}
        self.offsets: dict[str, dict[Place, Offset]] = {}
        self.pending: dict[str, dict[str, frozenset[Place]]] = {}
        """Group -> transactional id -> partitions whose offsets wait for its transaction."""
        self.streams: dict[Key, StreamState] = {}
        self.cache = Cache(cache_bytes)

    def created(self, name: str, id_: bytes, config: dict[str, str], ids: Iterable[int]) -> None:
        self.topics[name] = Topic(name, id_, config)
        self.grown(name, ids)

    def grown(self, name: str, ids: Iterable[int]) -> None:
        topic = self.topics[name]
        for id_ in ids:
            self.parts[id_] = Partition(id_, name, len(topic.partitions))
            topic.partitions.append(self.parts[id_])

    def configured(self, name: str, config: dict[str, str]) -> None:
        self.topics[name].config = config

    def deleted(self, name: str) -> None:
        for partition in self.topics.pop(name).partitions:
            partition.deleted = True
            del self.parts[partition.id]
            partition.wake()
        for places in self.offsets.values():
            for place in [place for place in places if place[0] == name]:
                del places[place]
        for group in [group for group, places in self.offsets.items() if not places]:
            del self.offsets[group]

    def moved(
        self, id_: int, start: int, end: int, stable: int, size: int, stored: Iterable[tuple[int, bytes]] = ()
    ) -> None:
        """A partition stands elsewhere; `stored`: last offset and bytes of each new batch."""
        partition = self.parts.get(id_)
        if partition is None:
            return
        risen = end > partition.end or stable > partition.stable
        if start > partition.start:
            del partition.aborted[: bisect_left(partition.aborted, (start,))]
        partition.start, partition.end, partition.stable, partition.size = start, end, stable, size
        for last, batch in stored:
            self.cache.add(partition.tail, last, batch)
        if risen:
            partition.wake()

    def aborted(self, id_: int, last: int, producer: int, first: int) -> None:
        if partition := self.parts.get(id_):
            partition.aborted.append((last, producer, first))

    def compacted(self, id_: int, upto: int) -> None:
        """What memory holds of a partition below `upto` may not be what the file holds."""
        if partition := self.parts.get(id_):
            self.cache.forget(partition.tail, upto)

    def forgot_aborted(self, id_: int, markers: frozenset[int]) -> None:
        """Of the transactions that ended at these offsets nothing is left."""
        if partition := self.parts.get(id_):
            partition.aborted = [one for one in partition.aborted if one[0] not in markers]

    def committed(self, group: str, offsets: Mapping[Place, Offset]) -> None:
        self.offsets.setdefault(group, {}).update(offsets)

    def forgotten(self, group: str, places: Iterable[Place] | None) -> None:
        """None: all of the group's."""
        kept = self.offsets.get(group, {})
        for place in list(kept) if places is None else places:
            kept.pop(place, None)
        if not kept:
            self.offsets.pop(group, None)

    def pends(self, group: str, id_: str, places: frozenset[Place]) -> None:
        """Offsets wait for the end of a transaction."""
        waiting = self.pending.setdefault(group, {})
        waiting[id_] = waiting.get(id_, frozenset()) | places

    def settled(self, id_: str) -> None:
        """The transaction has ended."""
        for group, waiting in list(self.pending.items()):
            waiting.pop(id_, None)
            if not waiting:
                del self.pending[group]

    def received(self, key: Key, stream: StreamState) -> None:
        self.streams[key] = stream
