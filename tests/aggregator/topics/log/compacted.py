"""Compacted topics for tests: keyed batches, rounds of compaction, and consumers as Kafka's Java client is one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from aggregator.topics import compression, record_batch
from aggregator.topics.errors import TopicsError
from aggregator.topics.log.log import Append, Appended, Log, Options, Partition
from aggregator.topics.record_batch import Record
from tests.aggregator.topics.batches import sealed

NOW = 1_900_000_000_000
EVERYTHING = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0", "delete.retention.ms": "0"}
"""Compacted whenever there is anything to compact; tombstones go in the second round."""
Pair = tuple[bytes, bytes | None]


def keyed(
    *pairs: Pair, producer: tuple[int, int, int] = (-1, -1, -1), transactional: bool = False, packed: int = 0,
    time: int = NOW,
) -> bytes:  # fmt: skip
    """A batch of keys and values; `packed`: its compression."""
    records = [(time + at, key, value, ()) for at, (key, value) in enumerate(pairs)]
    plain = record_batch.build(records, producer=producer, transactional=transactional)
    if not packed:
        return plain
    attributes = record_batch.header(plain).attributes | packed
    return sealed(plain, compression.compress(packed, plain[record_batch.SIZE :]), attributes)


class Topic:
    """Partition `index` of topic `t` in an open log."""

    def __init__(self, log: Log) -> None:
        self.log, self.index = log, 0

    @classmethod
    async def open(cls, folder: Path, config: dict[str, str] | None = None, **options: Any) -> Topic:
        """A log that compacts when a test says so, with the topic."""
        log = Log(folder, Options(**{"synchronous": "OFF", "check_seconds": 1e9, **options}))
        await log.open()
        if "t" not in log.topics:
            await log.create("t", 1, EVERYTHING if config is None else config)
        return cls(log)

    @property
    def partition(self) -> Partition:
        return self.log.partition("t", self.index)

    async def append(self, *batches: bytes) -> int:
        (answer,) = await self.log.append([Append("t", self.index, batches)])
        if isinstance(answer, TopicsError):
            raise answer
        assert isinstance(answer, Appended)
        return answer.base_offset

    async def marker(self, producer: int, commit: bool, epoch: int = 0) -> int:
        place = "t", self.index
        return int(
            await self.log.run(
                lambda db, work: db.batches.marker(work, db.catalog.part(*place), producer, epoch, commit)
            )
        )

    async def trim(self, offset: int) -> None:
        """Also in the file."""
        await self.log.trim(self.partition, offset)
        while self.log._writer.db.janitor.due:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await self.log.run(lambda db, work: None)  # all has been told

    async def compact(self) -> None:
        await self.log.compaction.round()

    async def batches(self) -> list[bytes]:
        """All there are in the file."""
        part = self.partition.id
        return await self.log._reader.ask(
            lambda conn: [
                head + body
                for head, body in conn.execute("SELECT head, body FROM batch WHERE id>>44=? ORDER BY id", (part,))
            ]
        )

    async def records(self) -> list[tuple[int, bytes | None, bytes | None]]:
        """Offset, key and value of all there are in the file, but for markers."""
        return [
            (record.offset, record.key, record.value)
            for batch in await self.batches()
            if not record_batch.header(batch).is_control
            for record in record_batch.records(batch)
        ]

    async def consume(self, position: int, *, committed: bool = True, most: int = 1) -> list[Record]:
        """What a consumer gets that is at `position`, by fetches of `most` bytes each, until it has come to the end."""
        out: list[Record] = []
        end = self.partition.stable if committed else self.partition.end
        while position < end:
            batches = await self.log.read(self.partition, position, most, end)
            assert batches, f"a consumer at {position} never comes to {end}"
            after = record_batch.header(batches[-1]).last_offset + 1
            aborted = self.log.aborted(self.partition, position, after) if committed else []
            out += [record for record in _seen(batches, aborted) if record.offset >= position]
            assert after > position
            position = after
        return out


def _seen(batches: Sequence[bytes], aborted: Iterable[tuple[int, int]]) -> list[Record]:
    """Records of a fetch's answer, as org.apache.kafka.clients.consumer.internals.CompletedFetch gives them."""
    queue, producers = sorted(aborted, key=lambda one: one[1]), set[int]()
    out: list[Record] = []
    for batch in batches:
        head = record_batch.header(batch)
        while queue and queue[0][1] <= head.last_offset:
            producers.add(queue.pop(0)[0])
        if head.is_control:
            if next(record_batch.records(batch)).key == b"\0\0\0\0":  # ABORT
                producers.discard(head.producer_id)
        elif not (head.is_transactional and head.producer_id in producers):
            out += record_batch.records(batch)
    return out


def folded(records: Iterable[Record]) -> dict[bytes | None, bytes]:
    """What a reader ends with that keeps the newest value of each key."""
    state: dict[bytes | None, bytes] = {}
    for record in records:
        if record.value is None:
            state.pop(record.key, None)
        else:
            state[record.key] = record.value
    return state
