"""Compaction of topics whose cleanup.policy has `compact`: of each key the newest record stays (Kafka's LogCleaner).

    look     every partition, once in `check_seconds`: how much of it came since it was last compacted. Where that is
             more than min.cleanable.dirty.ratio, or older than max.compaction.lag.ms, it is compacted
    learn    read what has come since, and note the last offset of each key, for as many keys as memory is given;
             where there are more, there are several passes, each as far as its keys go
    sweep    read the partition from its start to there, and change what has older records (log/cleaning.py)

Nobody waits for it. Rows are read in the reader's turns, looked at in a thread, and changed in transactions of a slice,
which others share; each changes what still is as it was read, and leaves a right log. Only once the sweep is over
it is noted how far the partition is clean, so that after a kill a pass begins again and finds less to do. After each
slice it rests as long as that took.

**The markers of aborted transactions go last.** A reader is told of an aborted transaction as long as it may see a
batch of it, and not without its marker, which ends what the reader leaves out. So first the batches go; when every
read from before that has been answered, the log forgets that the transaction was aborted; and when the loop knows
that, the marker goes. The order of these three is the loop's: this runs there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from agent import clock
from agent.errors import ChannelError
from aggregator.topics import record_batch
from aggregator.topics.errors import TopicsError
from aggregator.topics.log import cleaned
from aggregator.topics.log.cleaned import Dirt, Place
from aggregator.topics.log.cleaning import MOST_KEYS, Aborted, Change, Keys, Sweep, learn
from aggregator.topics.log.database import Database
from aggregator.topics.log.reader import Reader
from aggregator.topics.log.states import Work
from aggregator.topics.log.views import Partition

if TYPE_CHECKING:
    from aggregator.topics.log.log import Log

log = logging.getLogger(__name__)

READ_BYTES = 256 << 10
"""Of batches that are read and looked at together."""
SLICE_ROWS = 256
"""Of them, changed in one transaction."""


class Gone(Exception):
    """The partition was deleted, or isn't to be compacted any more."""


class Compaction:
    """Of one log. `run` for ever, or a `round` when it is wanted."""

    def __init__(self, log: Log, reader: Reader) -> None:
        self.log, self.reader = log, reader
        self._left_alone: set[Partition] = set()
        """Partitions in which it has met a bug. (Their numbers may become another topic's.)"""
        self._unreadable: set[Partition] = set()
        """Partitions that hold a batch which can't be read: it is said once."""

    async def run(self) -> None:
        """Until the log can't go on."""
        while not self.log.failed:
            await asyncio.sleep(self.log.options.check_seconds)
            try:
                await self.round()
            except ChannelError:
                return

    async def round(self) -> None:
        """Compact what has become dirty enough, the dirtiest first."""
        due: list[tuple[Partition, Dirt]] = []
        for topic in list(self.log.topics.values()):
            settings = self.log.settings(topic)
            if "compact" in settings["cleanup.policy"]:
                due += [pair for partition in topic.partitions for pair in await self._due(partition, settings)]
        for partition, dirt in sorted(due, key=lambda pair: -pair[1].ratio):
            await self._alone(partition, self._compact(partition, dirt))

    async def _due(self, partition: Partition, settings: Mapping[str, str]) -> list[tuple[Partition, Dirt]]:
        """The partition with its dirt, if it has enough of that."""
        if partition in self._left_alone:
            return []
        now, state = clock.wall_ms(), (partition.id, partition.start, partition.stable, partition.size)
        dirt = None
        try:
            dirt = await self.reader.ask(lambda conn: cleaned.dirt(conn, *state, settings, now))
        except TopicsError as error:
            log.info("%r isn't looked at now: %s", partition, error)
        share, lag = float(settings["min.cleanable.dirty.ratio"]), int(settings["max.compaction.lag.ms"])
        return [(partition, dirt)] if dirt and (dirt.ratio > share or dirt.since_ms < now - lag) else []

    async def _alone(self, partition: Partition, work: Coroutine[None, None, None]) -> None:
        """What fails in one partition doesn't keep others from their turn."""
        try:
            await work
        except Gone:
            pass
        except TopicsError as error:
            log.info("%r isn't compacted now: %s", partition, error)
        except ChannelError:
            raise
        except Exception:
            self._left_alone.add(partition)
            log.exception("%r isn't compacted any more: a bug", partition)

    async def _compact(self, partition: Partition, dirt: Dirt) -> None:
        topic = self.log.topics.get(partition.topic)
        if topic is None:
            raise Gone
        place, aborted = Place(partition.id, topic.id), Aborted(partition.aborted)
        first, size = dirt.first, partition.size
        while first < dirt.upto:
            keys = Keys(MOST_KEYS)
            upto, behind = await self._learn(partition, keys, aborted, first, dirt.upto)
            await self._sweep(partition, place, Sweep(keys, aborted, dirt.ripe), behind)
            await self._run(partial(_note, place, upto, dirt.ripe))
            first = upto
        log.debug("%r is clean up to %d, with %d bytes of %d", partition, dirt.upto, partition.size, size)

    async def _run(self, call: Callable[[Database, Work], bool]) -> None:
        """In the writer's next transaction."""
        if not await self.log.run(call):
            raise Gone

    # ---- learn

    async def _learn(
        self, partition: Partition, keys: Keys, aborted: Aborted, first: int, upto: int
    ) -> tuple[int, int]:
        """How far the keys go, and where the batch ends that holds it."""
        offset = first
        while batches := await self._read(partition, offset, upto):
            began = time.monotonic()
            full = await asyncio.to_thread(learn, keys, batches, aborted, first)
            if full:
                return full
            offset = record_batch.header(batches[-1]).last_offset + 1
            await asyncio.sleep(time.monotonic() - began)
        return upto, upto

    async def _read(self, partition: Partition, offset: int, upto: int) -> list[bytes]:
        if offset >= upto:
            return []
        batches = await self.reader.read(partition.id, offset, READ_BYTES, upto)
        if partition.deleted:
            raise Gone
        return batches

    # ---- sweep

    async def _sweep(self, partition: Partition, place: Place, sweep: Sweep, upto: int) -> None:
        offset = partition.start
        while batches := await self._read(partition, offset, upto):
            began = time.monotonic()
            await self._change(place, await asyncio.to_thread(sweep.over, batches), upto)
            offset = record_batch.header(batches[-1]).last_offset + 1
            await asyncio.sleep(time.monotonic() - began)
        self._say(partition, sweep)
        if sweep.ended:
            await self.reader.ask(lambda _: None)  # reads from before the batches went have been answered
            await self._run(partial(_forget_aborted, place, [marker.last for marker in sweep.ended]))
            await self._change(place, sweep.ended, upto)

    async def _change(self, place: Place, changes: Sequence[Change], upto: int) -> None:
        for at in range(0, len(changes), SLICE_ROWS):
            await self._run(partial(_change, place, changes[at : at + SLICE_ROWS], upto))

    def _say(self, partition: Partition, sweep: Sweep) -> None:
        if sweep.unreadable and partition not in self._unreadable:
            self._unreadable.add(partition)
            offset, why = sweep.unreadable[0]
            log.warning("%r: the batch at %d stays as it is, perhaps others: %s", partition, offset, why)


def _change(place: Place, changes: Sequence[Change], upto: int, db: Database, work: Work) -> bool:
    return db.cleaned.change(work, place, changes, upto)


def _forget_aborted(place: Place, markers: Sequence[int], db: Database, work: Work) -> bool:
    return db.cleaned.forget_aborted(work, place, markers)


def _note(place: Place, upto: int, ripe: int, db: Database, work: Work) -> bool:
    return db.cleaned.note(place, upto, ripe)
