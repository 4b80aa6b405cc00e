"""Appends for ever, from several tasks at once, and prints each answer: `partition producer sequence offset`.

python -m tests.aggregator.topics.log.appender FOLDER
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aggregator.topics.log.log import Append, Appended, Log, Offset, Options
from tests.aggregator.topics.log.parts import batch


async def produce(log: Log, producer: int) -> None:
    sequence = 0
    while True:
        index = producer % 2
        sent = batch(3, producer=(producer, 0, sequence), value=b"%d/%d" % (producer, sequence))
        (answer,) = await log.append([Append("t", index, [sent])])
        assert isinstance(answer, Appended)
        await log.commit(f"g{producer}", {("t", index): Offset(answer.base_offset)})
        print(index, producer, sequence, answer.base_offset, flush=True)
        sequence += 3


async def main() -> None:
    log = Log(Path(sys.argv[1]), Options(synchronous="NORMAL", retention_ms=-1))
    await log.open()
    if "t" not in log.topics:
        await log.create("t", 2)
    await asyncio.gather(*(produce(log, 10 * int(sys.argv[2]) + n) for n in range(8)))


if __name__ == "__main__":
    asyncio.run(main())
