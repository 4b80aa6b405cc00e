"""Which records of a compacted partition stay: Kafka's LogCleaner, without its files (KIP-58, KIP-98, KIP-534).

Of each key the newest record stays, older ones go, and so does whatever an aborted transaction wrote. A null value (a
tombstone) stays as the newest of its key until everybody had the time to see it: those below `ripe` go. The marker of
a transaction goes, in the same time, when none of the transaction's batches is left. Offsets never change.

A batch that can't be read stays as it is, and from there on tombstones stay, too: it may hold what they delete.

Nothing here waits or stores; it runs in a thread.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple

from aggregator.topics import record_batch
from aggregator.topics.errors import TopicsError
from aggregator.topics.record_batch import SIZE, Header, Record

MOST_KEYS = 440_000
"""Of one pass: 64 MiB of memory at most."""
DIGEST = 16
MOST_ENDED = 10_000
"""Markers of one pass that go last; the rest is for the next."""


class Keys:
    """The last offset of each key, of so many keys. A key as short as its digest is kept itself."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._last: dict[bytes, int] = {}

    def put(self, key: bytes, offset: int) -> bool:
        """False if there is no room for one more. Offsets rise."""
        name = _name(key)
        if len(self._last) >= self.most and name not in self._last:
            return False
        self._last[name] = offset
        return True

    def last(self, key: bytes) -> int:
        """-1 if it isn't known."""
        return self._last.get(_name(key), -1)


def _name(key: bytes) -> bytes:
    return key if len(key) < DIGEST else blake2b(key, digest_size=DIGEST).digest()


class Aborted:
    """Aborted transactions of a partition, as views.Partition has them: (offset of the marker, producer, first offset)
    each, ascending. A producer's transactions follow each other."""

    def __init__(self, aborted: Iterable[tuple[int, int, int]]) -> None:
        self._spans: dict[int, list[tuple[int, int]]] = {}
        for last, producer, first in aborted:
            self._spans.setdefault(producer, []).append((first, last))

    def __contains__(self, head: Header) -> bool:
        """Whether a batch belongs to one of them; its marker does."""
        spans = self._spans.get(head.producer_id, ()) if head.is_transactional else ()
        at = bisect_right(spans, (head.base_offset, 1 << 62))
        return at > 0 and head.base_offset <= spans[at - 1][1]


def learn(keys: Keys, batches: Sequence[bytes], aborted: Aborted, first: int) -> tuple[int, int] | None:
    """Note the keys of the records from offset `first` on. If there is no room: the offset of the record that found
    none, and the offset behind its batch."""
    for batch in batches:
        head = record_batch.header(batch)
        if head.is_control or head in aborted:
            continue
        try:
            for record in record_batch.records(batch):
                if record.offset >= first and record.key is not None and not keys.put(record.key, record.offset):
                    return record.offset, head.last_offset + 1
        except TopicsError:
            pass  # told when it is swept
    return None


class Change(NamedTuple):
    """A batch that has this header becomes `new`; None: it goes."""

    head: bytes
    new: bytes | None

    @property
    def last(self) -> int:
        """Its last offset."""
        return record_batch.header(self.head).last_offset


class Sweep:
    """Over the batches of a partition in their order, from the first one on."""

    def __init__(self, keys: Keys, aborted: Aborted, ripe: int) -> None:
        self.keys, self.aborted, self.ripe = keys, aborted, ripe
        self.unreadable: list[tuple[int, str]] = []
        """Offset of the first batch that can't be read, and why."""
        self.ended: list[Change] = []
        """Markers of aborted transactions that have no batch left: they go once nobody is told of these any more."""
        self._left: set[int] = set()
        """Producers of whose transaction, the one that the next marker ends, a batch is left."""

    def over(self, batches: Sequence[bytes]) -> list[Change]:
        """What is to change of these."""
        return list(self._changes(batches))

    def _changes(self, batches: Sequence[bytes]) -> Iterator[Change]:
        for batch in batches:
            head = record_batch.header(batch)
            new = self._marker(batch, head) if head.is_control else self._records(batch, head)
            if new is not batch:
                yield Change(batch[:SIZE], new)

    def _marker(self, batch: bytes, head: Header) -> bytes | None:
        needed = head.producer_id in self._left
        self._left.discard(head.producer_id)
        if needed or head.last_offset >= self.ripe:
            return batch
        if head not in self.aborted:
            return None
        if len(self.ended) < MOST_ENDED:
            self.ended.append(Change(batch[:SIZE], None))
        return batch

    def _records(self, batch: bytes, head: Header) -> bytes | None:
        if head in self.aborted:
            return None
        try:
            new = record_batch.rewritten(batch, self._stays)
        except TopicsError as error:
            new = batch
            if not self.unreadable:
                self.unreadable.append((head.base_offset, str(error)))
        if new is not None and head.is_transactional:
            self._left.add(head.producer_id)
        return new

    def _stays(self, record: Record) -> bool:
        if record.key is None or record.offset < self.keys.last(record.key):
            return False
        return record.value is not None or record.offset >= self.ripe or bool(self.unreadable)
