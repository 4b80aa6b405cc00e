"""A partition read in order, as a read_committed consumer does: what is committed, without what was aborted.

Kafka's rule (org.apache.kafka.clients.consumer.internals.CompletedFetch): below the last stable offset every
transaction is decided; a batch is skipped if its producer's transaction is one of the aborted ones, from the first
offset of that on until its marker.
"""

from __future__ import annotations

from collections.abc import Iterator

from aggregator.topics import record_batch
from aggregator.topics.errors import TopicsError
from aggregator.topics.log.log import Log, Partition
from aggregator.topics.record import Record

READ_BYTES = 1 << 20
"""Of batches that are read at once, about."""


class Broken(Exception):
    """The batch from `offset` to before `after` can't be read; `raw` is what it is."""

    def __init__(self, offset: int, after: int, raw: bytes, why: str) -> None:
        super().__init__(why)
        self.offset, self.after, self.raw = offset, after, raw


class Following:
    """From `offset` on, which is where the next record to give is, or one after it."""

    def __init__(self, log: Log, partition: Partition, offset: int) -> None:
        self.log, self.partition, self.offset = log, partition, offset
        self._records: Iterator[Record] = iter(())
        self._broken: Broken | None = None

    @property
    def behind(self) -> bool:
        """Whether there may be more now."""
        return self.offset < self.partition.stable

    async def take(self, count: int) -> list[Record]:
        """Up to so many records, those of one read at most; none only if all there is was looked at. Broken: a batch
        can't be read, and `offset` is behind it. TopicsError: OFFSET_OUT_OF_RANGE, or the topic is gone."""
        while True:
            if self._broken:
                broken, self._broken = self._broken, None
                self.offset = broken.after
                raise broken
            out = self._next(count)
            if out or not (self.behind or self._broken):
                return out
            if not self._broken:
                await self._read()

    def _next(self, count: int) -> list[Record]:
        """Of what was read."""
        out: list[Record] = []
        try:
            for record in self._records:
                out.append(record)
                self.offset = record.offset + 1
                if len(out) == count:
                    break
        except Broken as broken:
            self._broken = broken  # told when what is before it was given
        return out

    async def _read(self) -> None:
        first, upto = self.offset, self.partition.stable
        batches = await self.log.read(self.partition, first, READ_BYTES, upto)
        self._records = self._committed(batches, first)

    def _committed(self, batches: list[bytes], first: int) -> Iterator[Record]:
        aborted = sorted(self.log.aborted(self.partition, first, self.partition.stable), key=lambda one: one[1])
        skipped: set[int] = set()
        for batch in batches:
            head = record_batch.header(batch)
            while aborted and aborted[0][1] <= head.last_offset:
                skipped.add(aborted.pop(0)[0])
            if head.is_control:
                skipped.discard(head.producer_id)
            elif not (head.is_transactional and head.producer_id in skipped):
                yield from self._read_out(batch, head, first)
            self.offset = head.last_offset + 1

    def _read_out(self, batch: bytes, head: record_batch.Header, first: int) -> Iterator[Record]:
        try:
            yield from (record for record in record_batch.records(batch) if record.offset >= first)
        except TopicsError as error:
            raise Broken(head.base_offset, head.last_offset + 1, batch, str(error)) from error
