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
    found, owed = Compared(), set[bytes | None]()
    others = iter(target)
    other = next(others, None)
    for record in source:
        place = runs.copy_of(record.offset)
        if place is None:
            found.source.add(record)
            found.missing += 1
            continue
        while other and other.offset < place:
            _alone(found, owed, other, runs)
            other = next(others, None)
        if other and other.offset == place:
            found.source.add(record)
            found.target.add(other)
            found.differing += record.digest != other.digest
            owed.discard(other.key)
            other = next(others, None)
        elif place < start or compacted:
            found.gone += 1
            if record.is_tombstone:  # which goes at last, and nothing follows it
                owed.discard(record.key)
            elif place >= start:
                owed.add(record.key)
        else:
            found.source.add(record)
            found.missing += 1
    while other:
        _alone(found, owed, other, runs)
        other = next(others, None)
    found.missing += len(owed)
    return found


def _alone(found: Compared, owed: set[bytes | None], other: Seen, runs: Runs) -> None:
    """A record at the target without one at the source."""
    owed.discard(other.key)
    if runs.original_of(other.offset) is not None:
        found.gone += 1
    elif other.offset < runs.end:
        found.foreign += 1


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
