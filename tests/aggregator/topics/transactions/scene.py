"""A log with its transactions, producers that say what clients say, and a reader that reads as clients do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aggregator.topics import record_batch
from aggregator.topics.errors import TopicsError
from aggregator.topics.log.log import Append, Appended, Log, Options, Partition
from aggregator.topics.transactions.coordinator import Transactions
from tests.aggregator.topics.groups.scene import Clock


class Producer:
    """One client with a transactional id; it goes on with its numbers until it is initiated again."""

    def __init__(self, scene: Scene, id_: str, timeout_ms: int = 60_000) -> None:
        self.scene, self.id, self.timeout_ms = scene, id_, timeout_ms
        self.producer = self.epoch = -1
        self.sequences: dict[tuple[str, int], int] = {}

    async def init(self, *, goes_on: bool = False) -> None:
        expected = (self.producer, self.epoch) if goes_on else None
        self.producer, self.epoch = await self.scene.transactions.init(self.id, self.timeout_ms, expected)
        self.sequences = {}

    async def add(self, *partitions: int) -> None:
        places = {("t", partition) for partition in partitions}
        await self.scene.transactions.add(self.id, self.producer, self.epoch, partitions=places)

    async def add_group(self, group: str) -> None:
        await self.scene.transactions.add(self.id, self.producer, self.epoch, groups={group})

    async def send(self, partition: int, *values: bytes) -> Appended:
        """One batch."""
        place = ("t", partition)
        sequence = self.sequences.get(place, 0)
        records = [(0, None, value, ()) for value in values]
        batch = record_batch.build(records, producer=(self.producer, self.epoch, sequence), transactional=True)
        (answer,) = await self.scene.log.append(
            [Append("t", partition, record_batch.split(memoryview(batch), 1 << 20), self.id)]
        )
        if isinstance(answer, TopicsError):
            raise answer
        self.sequences[place] = sequence + len(values)
        return answer

    async def end(self, commit: bool) -> None:
        await self.scene.transactions.end(self.id, self.producer, self.epoch, commit)

    async def transaction(self, commit: bool, **values: bytes) -> None:
        """From the first to the last: p0=b"..." for partition 0."""
        places = {int(name[1:]): value for name, value in values.items()}
        await self.add(*places)
        for partition, value in places.items():
            await self.send(partition, value)
        await self.end(commit)


class Scene:
    """Topic t, of two partitions."""

    def __init__(self, log: Log, clock: Clock) -> None:
        self.log, self.clock = log, clock
        self.transactions = Transactions(log, clock.call_later)

    async def wait(self, seconds: float) -> None:
        """Let time pass, and what it led to be done."""
        for alarm in self.clock.due(self.clock.now + seconds):
            alarm.function(*alarm.arguments)
        await asyncio.sleep(0)  # what was begun asks the log
        await self.transactions.all()  # in the writer's order behind it

    def producer(self, id_: str = "x", timeout_ms: int = 60_000) -> Producer:
        return Producer(self, id_, timeout_ms)

    def partition(self, index: int = 0) -> Partition:
        return self.log.partition("t", index)

    async def committed(self, index: int = 0, max_bytes: int = 1 << 20, start: int | None = None) -> list[bytes]:
        """What a read_committed consumer sees of a partition."""
        partition = self.partition(index)
        return await committed(self.log, partition, max_bytes, partition.start if start is None else start)

    async def all(self, index: int = 0) -> list[bytes]:
        """What a read_uncommitted consumer sees."""
        partition = self.partition(index)
        batches = await self.log.read(partition, partition.start, 1 << 30, partition.end)
        return [value for batch in batches if not record_batch.header(batch).is_control for value in values(batch)]


def values(batch: bytes) -> list[bytes]:
    return [record.value or b"" for record in record_batch.records(batch)]


def is_abort(marker: bytes) -> bool:
    """Its key: version and type, 0 for abort (ControlRecordType)."""
    (record,) = record_batch.records(marker)
    return record.key is not None and record.key[2:4] == b"\0\0"


async def committed(log: Log, partition: Partition, max_bytes: int, offset: int) -> list[bytes]:
    """Fetches of so many bytes up to the last stable offset, sorted out as Kafka's consumer does
    (CompletedFetch.fetchRecords, containsAbortMarker, isBatchAborted)."""
    seen: list[bytes] = []
    while batches := await log.read(partition, offset, max_bytes, partition.stable):
        end = record_batch.header(batches[-1]).last_offset + 1
        ahead = sorted(log.aborted(partition, offset, end), key=lambda one: one[1])
        producers: set[int] = set()
        for batch in batches:
            head = record_batch.header(batch)
            while ahead and ahead[0][1] <= head.last_offset:
                producers.add(ahead.pop(0)[0])
            if head.is_control:
                if is_abort(batch):
                    producers.discard(head.producer_id)
            elif not (head.is_transactional and head.producer_id in producers):
                seen += [record.value or b"" for record in record_batch.records(batch) if record.offset >= offset]
        offset = end
    return seen


@asynccontextmanager
async def staged(folder: Path, clock: Clock | None = None) -> AsyncIterator[Scene]:
    """A scene in a folder, which may hold one already."""
    log = Log(folder, Options(synchronous="NORMAL"))
    await log.open()
    scene = Scene(log, clock or Clock())
    if "t" not in log.topics:
        await log.create("t", 2)
    await scene.transactions.open()
    try:
        yield scene
    finally:
        await scene.transactions.close()
        await log.close()
