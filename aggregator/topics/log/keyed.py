"""What comes for a compacted topic is looked into first: it keeps the newest record of each key, so that one without a
key has no place in it (Kafka's LogValidator; INVALID_RECORD).

A broker doesn't open batches otherwise, and these may be compressed and large. So what is more than a little is looked
at in a thread, of each topic one after the other, and is handed to the writer in the order in which it came: who sends
the next batch before the last is answered finds them in that order. One topic's bombs keep no other waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from weakref import WeakValueDictionary

from aggregator.topics import record_batch
from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.log.batches import Append, Batch

AT_ONCE = 16 << 10
"""Bytes, not compressed, that are looked at on the loop."""
AT_A_TIME = 2
"""Topics; each may take 64 MiB meanwhile (record_batch.MOST)."""


class Keyed:
    """`async with keyed.turn(topic)`: look, and hand it to the writer."""

    def __init__(self) -> None:
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._large = asyncio.Semaphore(AT_A_TIME)

    def turn(self, topic: str) -> asyncio.Lock:
        """Who waits longest is next."""
        found = self._turns.get(topic)
        if found is None:
            found = self._turns[topic] = asyncio.Lock()
        return found

    async def look(self, appends: Sequence[Append]) -> list[TopicsError | None]:
        """What is wrong with each: INVALID_RECORD, CORRUPT_MESSAGE. Doesn't wait where it is little."""
        batches = [batch for one in appends for batch in one.batches]
        if sum(map(len, batches)) <= AT_ONCE and not any(record_batch.header(one).compression for one in batches):
            return [fault(one.batches) for one in appends]
        async with self._large:
            return await asyncio.to_thread(lambda: [fault(one.batches) for one in appends])


def fault(batches: Sequence[Batch]) -> TopicsError | None:
    """Why these can't be compacted."""
    try:
        for batch in batches:
            if any(record.key is None for record in record_batch.records(batch)):
                return TopicsError(Code.INVALID_RECORD, "a record for a compacted topic needs a key")
    except TopicsError as error:
        return error
    return None
