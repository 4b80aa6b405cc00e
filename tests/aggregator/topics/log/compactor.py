"""Updates a few keys for ever, with and without transactions, and compacts all the time; prints what was answered:
`partition key number`, the number rises.

python -m tests.aggregator.topics.log.compactor FOLDER RUN
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aggregator.topics.errors import TopicsError
from aggregator.topics.log import compaction
from aggregator.topics.log.log import Append, Appended, Log, Options
from tests.aggregator.topics.log.compacted import EVERYTHING, keyed

TASKS = 6


async def update(log: Log, producer: int, count: int) -> None:
    """Of every four batches one is aborted, one committed, and two are outside of transactions."""
    key, index, sequence = b"%d" % (producer % TASKS), producer % 2, 0
    while True:
        for kind in ("abort", "commit", "", ""):
            count += 1
            pairs = [(key, b"%d" % (-count if kind == "abort" else count)), (b"x" + key, None if kind else b"x")]
            batch = keyed(*pairs, producer=(producer, 0, sequence), transactional=bool(kind))
            (answer,) = await log.append([Append("t", index, [batch])])
            assert isinstance(answer, Appended), answer
            sequence += 2
            if kind:
                await log.run(
                    lambda db, work, commit=kind == "commit": db.batches.marker(
                        work, db.catalog.part("t", index), producer, 0, commit
                    )
                )
            if kind != "abort":
                print(index, key.decode(), count, flush=True)


async def compact(log: Log) -> None:
    while True:
        await log.compaction.round()
        await asyncio.sleep(0)


async def main() -> None:
    compaction.SLICE_ROWS, compaction.READ_BYTES = 3, 2000
    folder, run = Path(sys.argv[1]), int(sys.argv[2])
    log = Log(folder, Options(synchronous="NORMAL", check_seconds=1e9))
    await log.open()
    try:
        await log.create("t", 2, EVERYTHING)
    except TopicsError:
        pass  # it is there
    await asyncio.gather(compact(log), *(update(log, run * TASKS + n, run << 32) for n in range(TASKS)))


if __name__ == "__main__":
    asyncio.run(main())
