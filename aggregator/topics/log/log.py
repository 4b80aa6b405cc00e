"""The log: topics of partitions of record batches, kept in one SQLite file, with one writer and group commit.

**An answer means that the transaction is on the device.** Whatever changes the log is handed to the writer's thread
and answered when its commit has returned; what comes while a commit is under way shares the next one. What the loop
sees of the log (`topics`, `committed`) changes after the commit and before the answer, so that who was answered also
sees it. Reading never waits for a writer: newest batches are in memory, the rest is read by a thread of its own.

Files of the folder: topics.db (with -wal and -shm), topics.lock, topics.reserve (agent/store/space.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from agent.errors import ChannelError
from agent.store.coverage import Coverage
from agent.store.creation import make_folder
from agent.store.lock import StoreLock
from agent.store.streams import Runs, Transit
from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.log import settings
from aggregator.topics.log.batches import Append
from aggregator.topics.log.commit import Call, Job, Outcome
from aggregator.topics.log.compaction import Compaction
from aggregator.topics.log.database import Database
from aggregator.topics.log.keyed import Keyed
from aggregator.topics.log.reader import Reader, Turns
from aggregator.topics.log.schema import Offset
from aggregator.topics.log.settings import Options
from aggregator.topics.log.states import Tell, Work
from aggregator.topics.log.views import Appended, Partition, Place, Topic, changed
from aggregator.topics.log.writer import Writer

__all__ = ["Append", "Appended", "Database", "Log", "Offset", "Options", "Partition", "Place", "Topic", "Work"]


class Log:
    """Raises TopicsError for what is asked wrongly or finds no room, ChannelError when the log can't go on."""

    def __init__(self, folder: Path, options: Options | None = None) -> None:
        self.folder, self.options = folder, options or Options()
        self.failed: ChannelError | None = None
        self._defaults = settings.defaults(self.options)
        self._waiting: set[asyncio.Future[Any]] = set()
        self._keyed = Keyed()

    # ---- life

    async def open(self) -> None:
        """Make the folder, or go on with what it holds. ChannelError."""
        make_folder(self.folder)
        self._lock = StoreLock(self.folder / "topics.lock")
        path = self.folder / "topics.db"
        turns = Turns()
        self._writer = Writer(path, self.options, self, asyncio.get_running_loop(), turns)
        self._reader = Reader(path, turns)
        try:
            await asyncio.to_thread(self._writer.open)
            self._views = await asyncio.to_thread(self._writer.db.views)
            await self._reader.open()
        except BaseException:
            self._lock.release()
            raise
        self.cluster_id = self._writer.db.cluster_id
        self._writer.start()
        self.compaction = Compaction(self, self._reader)
        self._compacting = asyncio.create_task(self.compaction.run(), name=f"compaction {self.folder.name}")

    async def close(self) -> None:
        """Do what was asked for, take nothing more, and let go of the folder."""
        self.failed = self.failed or ChannelError(f"the topics' log {self.folder} is closed")
        self._compacting.cancel()
        await asyncio.wait([self._compacting])
        await self._reader.close()
        await asyncio.to_thread(self._writer.join)
        await asyncio.sleep(0)  # what the thread told last
        self.fail(self.failed)
        self._lock.release()

    # ---- what the writer tells

    def done(self, outcome: Outcome, tells: list[Tell]) -> None:
        """A commit has returned: see it, then answer."""
        for tell in tells:
            tell(self._views)
        for job, result in outcome:
            if job.future is None or job.future.done():
                continue
            if isinstance(result, BaseException):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)

    def fail(self, error: ChannelError) -> None:
        """Nothing is done any more."""
        self.failed = error
        for future in [future for future in self._waiting if not future.done()]:
            future.set_exception(error)
        for partition in self._views.parts.values():
            partition.wake()

    async def run(self, call: Call, *, size: int = 0, whole: bool = False) -> Any:
        """Have `call(db, work)` done in the writer's next transaction, and its result; an exception of it takes back
        what it did and nothing else. `size`: bytes that it appends, refused when the disk is full. `whole`: it has
        changed nothing whenever it raises a TopicsError."""
        return await self._hand(call, size, whole)

    def _hand(self, call: Call, size: int = 0, whole: bool = False) -> asyncio.Future[Any]:
        """As `run`: what is handed in first is done first."""
        if self.failed:
            raise self.failed
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)
        self._writer.jobs.put(Job(call, future, size, whole))
        return future

    # ---- topics

    @property
    def topics(self) -> Mapping[str, Topic]:
        return self._views.topics

    def partition(self, topic: str, index: int) -> Partition:
        """TopicsError UNKNOWN_TOPIC_OR_PARTITION"""
        found = self._views.topics.get(topic)
        if found is None or not 0 <= index < len(found.partitions):
            raise TopicsError(Code.UNKNOWN_TOPIC_OR_PARTITION, f"there is no partition {index} of topic {topic[:250]}")
        return found.partitions[index]

    def settings(self, topic: Topic) -> dict[str, str]:
        """Every key of a topic with what it is, defaults included (`settings.KEYS` has their types)."""
        return self._defaults | topic.config

    async def create(self, name: str, partitions: int, config: Mapping[str, str] | None = None) -> None:
        """TopicsError: INVALID_TOPIC_EXCEPTION, TOPIC_ALREADY_EXISTS, INVALID_PARTITIONS, INVALID_CONFIG."""
        await self.run(lambda db, work: db.catalog.create(work, name, partitions, config or {}) and None)

    async def delete(self, name: str) -> None:
        """With its batches and what groups have committed of it. TopicsError: UNKNOWN_TOPIC_OR_PARTITION."""
        await self.run(lambda db, work: db.catalog.delete(work, name))

    async def add_partitions(self, name: str, count: int) -> None:
        """Let the topic have `count` in all. TopicsError: UNKNOWN_TOPIC_OR_PARTITION, INVALID_PARTITIONS."""
        await self.run(lambda db, work: db.catalog.add_partitions(work, name, count))

    async def configure(self, name: str, changes: Mapping[str, str | None]) -> None:
        """Set keys; None takes one back. TopicsError: UNKNOWN_TOPIC_OR_PARTITION, INVALID_CONFIG."""
        await self.run(lambda db, work: db.catalog.configure(work, name, changes))

    async def trim(self, partition: Partition, offset: int) -> int:
        """Drop what is below an offset (-1: all): the new log start offset. TopicsError: OFFSET_OUT_OF_RANGE."""
        topic, index = partition.topic, partition.index
        return int(await self.run(lambda db, work: db.trim(work, topic, index, offset)))

    # ---- batches

    async def append(self, appends: Sequence[Append], received: Transit | None = None) -> list[Appended | TopicsError]:
        """Append each by itself; a result for each.

        With `received`, what a sink takes from a file channel: all of it or nothing, with the stream's numbers in the
        same transaction. `received.numbers` are those whose events are in `appends` (`fresh` says which to take); if
        all have been received before, nothing is stored and the list is empty. TopicsError if one is refused, or if
        some have been received since.
        """
        if received is not None:
            return await self._append_received(appends, received)
        compacted = [self._is_compacted(one.topic) for one in appends]
        if not any(compacted):
            return await _stored(self._store(appends), len(appends))
        plain = [one for one, its in zip(appends, compacted, strict=True) if not its]
        stored = self._store(plain)
        others = await self._append_keyed([one for one, its in zip(appends, compacted, strict=True) if its])
        left = iter(await _stored(stored, len(plain)))
        return [others.pop(0) if its else next(left) for its in compacted]

    def _is_compacted(self, topic: str) -> bool:
        found = self.topics.get(topic)
        return found is not None and "compact" in found.config.get("cleanup.policy", self._defaults["cleanup.policy"])

    async def _append_keyed(self, appends: Sequence[Append]) -> list[Appended | TopicsError]:
        """To compacted topics, to each in the order of the requests."""
        groups: dict[str, list[Append]] = {}
        for one in appends:
            groups.setdefault(one.topic, []).append(one)
        # Tasks begin in the order in which they are made, whatever else their request asks for.
        results = await asyncio.gather(*(self._append_looked_at(*group) for group in groups.items()))
        left = dict(zip(groups, map(iter, results), strict=True))
        return [next(left[one.topic]) for one in appends]

    async def _append_looked_at(self, topic: str, appends: Sequence[Append]) -> list[Appended | TopicsError]:
        async with self._keyed.turn(topic):
            faults = await self._keyed.look(appends)
            good = [one for one, fault in zip(appends, faults, strict=True) if fault is None]
            stored = self._store(good)
        left = iter(await _stored(stored, len(good)))
        return [fault or next(left) for fault in faults]

    async def _append_received(self, appends: Sequence[Append], received: Transit) -> list[Appended | TopicsError]:
        """Its sink waits for it and sends nothing else, so that there is no order to keep."""
        for fault in await self._keyed.look([one for one in appends if self._is_compacted(one.topic)]):
            if fault:
                raise fault
        call = partial(_append_received, appends, received)
        return list(await self.run(call, size=_size(appends)))

    def _store(self, appends: Sequence[Append]) -> asyncio.Future[Any]:
        return self._hand(lambda db, work: db.append(work, appends), _size(appends), whole=True)

    async def fresh(self, transit: Transit) -> Runs:
        """The numbers of a stream that have not been received."""
        stream = self._views.streams.get((transit.origin, transit.channel))
        return (stream.coverage if stream else Coverage()).fresh(transit.numbers, transit.settled)

    async def read(self, partition: Partition, offset: int, max_bytes: int, upto: int) -> list[bytes]:
        """Whole batches from the one that holds `offset` on, which end before `upto` (at most the end): of max_bytes
        together, but always one. TopicsError: OFFSET_OUT_OF_RANGE."""
        self._check(partition, offset)
        upto = min(upto, partition.end)
        if offset >= upto:
            return []
        if offset >= partition.tail.first:
            return partition.tail.read(offset, max_bytes, upto)
        found = await self._reader.read(partition.id, offset, max_bytes, upto)
        self._check(partition, offset)
        return found

    def _check(self, partition: Partition, offset: int) -> None:
        if self.failed:
            raise self.failed
        if partition.deleted:
            raise TopicsError(Code.UNKNOWN_TOPIC_OR_PARTITION, f"topic {partition.topic} has been deleted")
        if not partition.start <= offset <= partition.end:
            raise TopicsError(
                Code.OFFSET_OUT_OF_RANGE,
                f"{partition.topic}-{partition.index} holds {partition.start} to {partition.end}",
            )

    def aborted(self, partition: Partition, first: int, upto: int) -> list[tuple[int, int]]:
        """Aborted transactions with records in [first, upto): producer and first offset of each."""
        return partition.aborted_between(first, upto)

    async def at_time(self, partition: Partition, ms: int) -> tuple[int, int] | None:
        """Offset and time of the first record that is not before `ms`; None if all are."""
        self._check(partition, partition.start)
        return await self._reader.at_time(partition.id, partition.start, partition.end, ms)

    def changed(self, partitions: Iterable[Partition]) -> asyncio.Future[None]:
        """Done when one of them is appended to, decided or deleted; may be cancelled at any time."""
        return changed(partitions)

    # ---- groups and producers

    def committed(self, group: str) -> Mapping[Place, Offset]:
        """A group's offsets by topic and partition."""
        return self._views.offsets.get(group, {})

    @property
    def groups(self) -> Mapping[str, Mapping[Place, Offset]]:
        """All groups that have offsets."""
        return self._views.offsets

    async def commit(self, group: str, offsets: Mapping[Place, Offset], size: int = 0) -> None:
        """Keep a group's offsets; those of a partition that doesn't exist are left out. `size`: as of `run`."""
        await self.run(lambda db, work: db.committed.commit(work, group, offsets), size=size, whole=True)

    async def forget(self, group: str, places: Iterable[Place] | None = None) -> None:
        """Drop offsets of a group; None: all of them."""
        kept = None if places is None else list(places)
        await self.run(lambda db, work: db.committed.forget(work, group, kept), whole=True)

    def pending_offsets(self, group: str) -> Collection[Place]:
        """Partitions for which an open transaction is about to commit an offset of the group (KIP-447)."""
        return frozenset[Place]().union(*self._views.pending.get(group, {}).values())

    async def producer_id(self) -> int:
        """One that no producer has had."""
        return int(await self.run(lambda db, work: db.producer_id(work), whole=True))


def _append_received(appends: Sequence[Append], received: Transit, db: Database, work: Work) -> list[Appended]:
    return db.append_received(work, appends, received)


def _size(appends: Sequence[Append]) -> int:
    """Bytes; something, so that it is refused when there is no room."""
    return sum(len(batch) for one in appends for batch in one.batches) or 1


async def _stored(results: asyncio.Future[Any], count: int) -> list[Appended | TopicsError]:
    """The results of so many appends."""
    try:
        return list(await results)
    except TopicsError as error:  # there is no room
        return [error] * count
