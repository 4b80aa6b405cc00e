"""A partition read in order, as a read_committed consumer does: what is committed, without what was aborted.

Kafka's rule (org.apache.kafka.clients.consumer.internals.CompletedFetch): below the last stable offset every
transaction is decided; a batch is skipped if its producer's transaction is one of the aborted ones, from the first
offset of that on until its marker.

A few kB of a compressed batch may stand for tens of MB: it is decompressed in a thread, one for all who follow, and
what is large is not kept between two calls of `take`, however slowly they come.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor

from aggregator.topics import record_batch
from aggregator.topics.errors import TopicsError
from aggregator.topics.log.log import Log, Partition
from aggregator.topics.record import Record
from aggregator.topics.record_batch import Header

READ_BYTES = 1 << 20
"""Of batches that are read at once, of records that are taken at once, and of an open batch that is kept; about."""
_thread = ThreadPoolExecutor(1, "topics batches")


class Broken(Exception):
    """The batch from `offset` to before `after` can't be read; `raw` is what it is."""

    def __init__(self, offset: int, after: int, raw: bytes, why: str) -> None:
        super().__init__(why)
        self.offset, self.after, self.raw = offset, after, raw


class Following:
    """From `offset` on, which is where the next record to give is, or one after it. A batch that takes more than `most`
    bytes decompressed is broken."""

    def __init__(self, log: Log, partition: Partition, offset: int, most: int = record_batch.MOST) -> None:
        self.log, self.partition, self.offset, self.most = log, partition, offset, most
        self._batches: deque[bytes] = deque()
        """Read and not yet given whole."""
        self._aborted: list[tuple[int, int]] = []
        self._skipped: set[int] = set()
        self._payload: bytes | None = None
        """Of the first batch, whose first `_given` records end at `_at`."""
        self._at = self._given = 0

    @property
    def behind(self) -> bool:
        """Whether there may be more now."""
        return self.offset < self.partition.stable

    async def take(self, count: int) -> list[Record]:
        """Up to so many records, those of one read and of READ_BYTES at most, but always one; none only if all there is
        was looked at. Broken: a batch can't be read, and `offset` is behind it. TopicsError: OFFSET_OUT_OF_RANGE, or
        the topic is gone."""
        out: list[Record] = []
        while not out and (self._batches or self.behind):
            if not self._batches:
                await self._read()
            await self._gather(out, count)
        if self._payload and len(self._payload) > READ_BYTES:
            self._payload = None
        return out

    async def _read(self) -> None:
        first, upto = self.offset, self.partition.stable
        self._batches.extend(await self.log.read(self.partition, first, READ_BYTES, upto))
        self._aborted = sorted(self.log.aborted(self.partition, first, self.partition.stable), key=lambda one: one[1])
        self._skipped = set()

    async def _gather(self, out: list[Record], count: int) -> None:
        """Of what was read."""
        room = READ_BYTES
        while self._batches and len(out) < count and room > 0:
            batch = self._batches[0]
            head = record_batch.header(batch)
            try:
                if self._is_shown(head):
                    if self._payload is None:
                        self._payload = await self._opened(batch, head)
                    room = self._give(out, count, room, head, self._payload)
                else:
                    self._pass(head)
            except TopicsError as error:
                if not out:  # else it is told when what is before it was given
                    self._pass(head)
                    raise Broken(head.base_offset, self.offset, batch, str(error)) from error
                return

    def _is_shown(self, head: Header) -> bool:
        """Whether it has records that were committed."""
        while self._aborted and self._aborted[0][1] <= head.last_offset:
            self._skipped.add(self._aborted.pop(0)[0])
        if head.is_control:
            self._skipped.discard(head.producer_id)
        return not head.is_control and not (head.is_transactional and head.producer_id in self._skipped)

    async def _opened(self, batch: bytes, head: Header) -> bytes:
        if not head.compression:
            return record_batch.opened(batch, len(batch))[1]
        loop = asyncio.get_running_loop()
        return (await loop.run_in_executor(_thread, record_batch.opened, batch, self.most))[1]

    def _give(self, out: list[Record], count: int, room: int, head: Header, payload: bytes) -> int:
        """Records of the first batch; the bytes that are left of `room`."""
        for at, record in record_batch.read_on(head, payload, self._at, self._given):
            self._at, self._given = at, self._given + 1
            if record.offset < self.offset:
                continue
            out.append(record)
            self.offset = record.offset + 1
            room -= _size(record)
            if len(out) == count or room <= 0:
                return room
        self._pass(head)
        return room

    def _pass(self, head: Header) -> None:
        """The first batch is done with."""
        self._batches.popleft()
        self._payload = None
        self._at = self._given = 0
        self.offset = head.last_offset + 1


def _size(record: Record) -> int:
    sizes = sum(len(name) + len(value or b"") for name, value in record.headers)
    return len(record.key or b"") + len(record.value or b"") + sizes
