"""A log that is killed at a statement of SQLite: `python -m tests.aggregator.topics.transactions.crashing FOLDER`.

For each statement that the writer executes while a producer begins, commits and aborts transactions, a process of its
own is forked, runs so far, and kills itself with SIGKILL just before it. What it had been answered by then and what
the log holds afterwards is printed, one line of JSON for each kill; the last one is for a run that nothing kills.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aggregator.topics.log.log import Offset
from tests.aggregator.topics.transactions.scene import Producer, Scene, staged

Say = Callable[[str], None]


async def work(scene: Scene, say: Say) -> None:
    """Two transactions that are committed and one between them that isn't, in two partitions and a group each."""
    one = scene.producer()
    await one.init()
    say("init")
    for number, commit in enumerate((True, False, True)):
        await transaction(one, number, commit, say)
    await one.init(goes_on=True)
    say("bump")


async def transaction(one: Producer, number: int, commit: bool, say: Say) -> None:
    value = b"%d" % number
    await one.add(0, 1)
    await one.send(0, value, value)
    await one.add_group("g")
    offsets = {("t", index): Offset(10 * number + index) for index in (0, 1)}
    await one.scene.transactions.commit_offsets(one.id, one.producer, one.epoch, "g", offsets)
    await one.send(1, value, value)
    say(f"sent {number}")
    await one.end(commit)
    say(f"end {number}")


async def doomed(folder: Path, statement: int, pipe: int) -> None:
    """Work, up to that statement."""
    left = statement

    def count(text: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    async with staged(folder) as scene:
        await scene.log.run(lambda db, _: db.conn.set_trace_callback(count))
        await work(scene, lambda text: os.write(pipe, text.encode() + b"\n") and None)
        await scene.log.run(lambda db, _: db.conn.set_trace_callback(None))


async def seen(folder: Path) -> dict[str, Any]:
    """What a restarted log shows; and what it shows when a new producer has begun and committed something."""
    async with staged(folder) as scene:
        found: dict[str, Any] = {"before": await _shown(scene)}
        again = scene.producer()
        await again.init()
        found["decided"] = [scene.partition(index).stable == scene.partition(index).end for index in (0, 1)]
        found["pending"] = len(scene.log.pending_offsets("g"))
        await again.transaction(True, p0=b"last", p1=b"last")
        found["after"] = await _shown(scene)
        return found


async def _shown(scene: Scene) -> list[Any]:
    committed = scene.log.committed("g")
    return [
        [[value.decode() for value in await scene.committed(index, max_bytes=1)] for index in (0, 1)],
        [committed[place].offset if place in committed else None for place in (("t", 0), ("t", 1))],
    ]


def killed(folder: Path, statement: int) -> tuple[bool, list[str]]:
    """Whether it was, and what had been answered."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        asyncio.run(doomed(folder, statement, into))
        os._exit(0)
    os.close(into)
    with open(out) as lines:
        answered = lines.read().split("\n")[:-1]
    _, status = os.waitpid(child, 0)
    assert (os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0) or os.WTERMSIG(status) == signal.SIGKILL, status
    return os.WIFSIGNALED(status), answered


def main(folder: Path) -> None:
    statement, dies = 0, True
    while dies:
        statement += 1
        place = folder / str(statement)
        dies, answered = killed(place, statement)
        print(json.dumps({"answered": answered, **asyncio.run(seen(place))}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
