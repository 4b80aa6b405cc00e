"""Both sides are read again and compared, record by record, as the map pairs them.

What a side has dropped since by retention, and what it has compacted away (a later record of that key is there), is
counted apart and is no difference. A checksum is the sum of its records' digests, so it is the same for the same
records.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple, Self

from confluent_kafka import Consumer, Message

from aggregator.topics.commands.cluster import Cluster, Place
from aggregator.topics.commands.migrate.copier import time_of
from aggregator.topics.commands.migrate.runs import Runs
from aggregator.topics.commands.reading import between, headers_of, key_of, offset_of, value_of
from aggregator.topics.commands.shown import table

FIXED = struct.Struct(">qii")
"""Time (of a header none), size of the key (of a header its name), size of the value; -1 for none."""
MASK = (1 << 64) - 1


class Seen(NamedTuple):
    """A record in short: `digest` of key, value, headers and time."""

    offset: int
    digest: int
    key: bytes | None
    is_tombstone: bool


@dataclass
class Side:
    """What one cluster has of a partition."""

    records: int = 0
    checksum: int = 0

    def add(self, record: Seen) -> None:
        self.records += 1
        self.checksum = (self.checksum + record.digest) & MASK


@dataclass
class Compared:
    """Of one partition."""

    source: Side = field(default_factory=Side)
    target: Side = field(default_factory=Side)
    differing: int = 0
    """Pairs that are not the same."""
    missing: int = 0
    """Records of the source that are not at the target."""
    foreign: int = 0
    """Records at the target, among those that were copied, that are no copies."""
    gone: int = 0
    """Records that one side has dropped since."""

    @property
    def same(self) -> bool:
        return not (self.differing or self.missing or self.foreign) and self.source == self.target


def compare(source: Iterable[Seen], target: Iterable[Seen], runs: Runs, start: int, compacted: bool) -> Compared:
    """Both in order of offsets. `start`: the first offset that the target still has; `compacted`: whether it drops
    records that have a later one of their key."""
    comparison = _Comparison(iter(target), runs, start, compacted)
    for record in source:
        comparison.take(record)
    return comparison.end()


class _Comparison:
    """Walks along the target as the source's records come."""

    def __init__(self, target: Iterator[Seen], runs: Runs, start: int, compacted: bool) -> None:
        self.found, self._runs, self._start, self._compacted = Compared(), runs, start, compacted
        self._target, self._next = target, next(target, None)
        self._owed: set[bytes | None] = set()
        """Keys of records that were compacted away: a later one must come."""

    def take(self, record: Seen) -> None:
        """The next one of the source."""
        place = self._runs.copy_of(record.offset)
        if place is None:
            self._lacks(record)
            return
        while self._next and self._next.offset < place:
            self._alone(self._next)
        if self._next and self._next.offset == place:
            self._pair(record, self._next)
        elif place < self._start:
            self.found.gone += 1
        elif self._compacted:
            self._compacted_away(record)
        else:
            self._lacks(record)

    def end(self) -> Compared:
        """When the source has no more."""
        while self._next:
            self._alone(self._next)
        self.found.missing += len(self._owed)
        return self.found

    def _pair(self, record: Seen, other: Seen) -> None:
        self.found.source.add(record)
        self.found.target.add(other)
        self.found.differing += record.digest != other.digest
        self._pass(other)

    def _lacks(self, record: Seen) -> None:
        self.found.source.add(record)
        self.found.missing += 1

    def _compacted_away(self, record: Seen) -> None:
        self.found.gone += 1
        if record.is_tombstone:  # which goes at last, and nothing follows it
            self._owed.discard(record.key)
        else:
            self._owed.add(record.key)

    def _alone(self, other: Seen) -> None:
        """A record at the target without one at the source."""
        if self._runs.original_of(other.offset) is not None:
            self.found.gone += 1
        elif other.offset < self._runs.end:
            self.found.foreign += 1
        self._pass(other)

    def _pass(self, other: Seen) -> None:
        self._owed.discard(other.key)
        self._next = next(self._target, None)


def seen(message: Message) -> Seen:
    """A record in short."""
    key, value = key_of(message), value_of(message)
    whole = [FIXED.pack(time_of(message), _size(key), _size(value)), key or b"", value or b""]
    for name, content in headers_of(message):
        whole += FIXED.pack(0, len(name), _size(content)), name.encode(), content or b""
    digest = blake2b(b"".join(whole), digest_size=8).digest()
    return Seen(offset_of(message), int.from_bytes(digest, "big"), key, value is None)


def _size(data: bytes | None) -> int:
    return -1 if data is None else len(data)


class Check:
    """Compares partitions, one after the other; `progress` is told where it is."""

    def __init__(self, source: Cluster, target: Cluster, progress: Callable[[str], None]) -> None:
        self.source, self.target, self.progress = source, target, progress

    def __enter__(self) -> Self:
        self._sides = self.source.reader(), self.target.reader()
        return self

    def __exit__(self, *_: object) -> None:
        for consumer in self._sides:
            consumer.close()

    def partition(self, place: Place, runs: Runs, reached: int) -> Compared:
        """What was copied of it, up to where the copy came at the source."""
        self.progress(f"comparing {place[0]}-{place[1]}")
        mine, theirs = self._sides
        compacted = "compact" in str(self.target.config(place[0])["cleanup.policy"].value)
        start, end = self.target.starts([place])[place], self.target.ends([place], committed=True)[place]
        begin = self.source.starts([place])[place]
        source = _records(self.source, mine, {place: begin}, {place: reached})
        target = _records(self.target, theirs, {place: start}, {place: end})
        return compare(source, target, runs, start, compacted)


def _records(
    cluster: Cluster, consumer: Consumer, begins: Mapping[Place, int], ends: Mapping[Place, int]
) -> Iterator[Seen]:
    return map(seen, between(cluster, consumer, begins, ends))


HEAD = ("TOPIC", "PARTITION", "RECORDS", "CHECKSUM", "RECORDS THERE", "CHECKSUM THERE", "")


def lines(found: Mapping[Place, Compared]) -> Iterator[str]:
    """A table, a line a partition."""
    return table([HEAD, *(_row(place, one) for place, one in found.items())], right=(1, 2, 4))


def _row(place: Place, found: Compared) -> tuple[str, ...]:
    counts = {"differ": found.differing, "missing there": found.missing, "others among them": found.foreign,
              "dropped by retention or compaction since": found.gone}  # fmt: skip
    remarks = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    mine, theirs = found.source, found.target
    figures = f"{mine.records:,}", f"{mine.checksum:016x}", f"{theirs.records:,}", f"{theirs.checksum:016x}"
    return place[0], str(place[1]), *figures, remarks or "same"
