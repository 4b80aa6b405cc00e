"""A sink's output that crashes at its n-th step: operations of the file system, and receipts that are kept.

`Crashing` is a LocalFileSystem that stops before, in the middle of, or after an operation; from then on it does
nothing, as the process is dead. `Store` is what the channel has on its device: (receipt, place) of the last `keep`, and
of each later commit, which may or may not have got there. `run` goes on from one of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from aggregator.formats.format import make_format
from aggregator.hdfs.local import LocalFileSystem, LocalWriter
from aggregator.hdfs.output import Names, Output, Rules
from aggregator.hdfs.places import Place
from tests.contracts.channel import batch

BATCHES = ("ab", "cde", "f", "gh")
"""What the channel holds: a letter is an event, and each batch one that the sink gets, unless it begins within it."""
EVENTS = "".join(BATCHES)
LOG = logging.getLogger(__name__)
Answer = TypeVar("Answer")


class Crash(BaseException):
    """The process is gone."""


class State(NamedTuple):
    """What a channel has kept: the sink's receipt, and how many events are done."""

    receipt: bytes | None = None
    done: int = 0


class Steps:
    """Counts steps and ends at the `at`-th. `how`: before it, `half` way through a write, after it; or `lost`: after
    it, and what isn't synced is gone."""

    def __init__(self, at: int = 0, how: str = "before") -> None:
        self.at, self.how, self.count, self.dead = at, how, 0, False
        self.writers: list[Writer] = []

    def step(self, do: Callable[[], Answer], half: Callable[[], object] = lambda: None) -> Answer:
        if self.dead:
            raise Crash
        self.count += 1
        if self.count != self.at:
            return do()
        self.dead = True
        if self.how == "half":
            half()
        elif self.how != "before":
            do()
        for writer in self.writers:
            writer.die(self.how == "lost")
        raise Crash


class Writer:
    def __init__(self, inner: LocalWriter, steps: Steps) -> None:
        self.inner, self.steps, self.synced = inner, steps, 0
        steps.writers.append(self)

    def write(self, data: bytes) -> None:
        self.steps.step(lambda: self.inner.write(data), lambda: self.inner.write(data[: len(data) // 2]))

    def sync(self) -> None:
        self.steps.step(self.inner.sync)
        self.synced = os.stat(self.inner.file).st_size

    def close(self) -> None:
        self.steps.step(self.inner.close)
        self.steps.writers.remove(self)

    def die(self, lose: bool) -> None:
        with contextlib.suppress(OSError):
            if lose:
                os.truncate(self.inner.file, self.synced)
            os.close(self.inner.file)
        self.inner.file = -1


class Crashing(LocalFileSystem):
    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    def create(self, path: str) -> Any:
        return Writer(self.steps.step(lambda: LocalFileSystem.create(self, path)), self.steps)

    def rename(self, path: str, to: str) -> None:
        self.steps.step(lambda: LocalFileSystem.rename(self, path, to))

    def delete(self, path: str) -> None:
        self.steps.step(lambda: LocalFileSystem.delete(self, path))

    def recover(self, path: str) -> int | None:
        return self.steps.step(lambda: LocalFileSystem.recover(self, path))


class Store:
    def __init__(self, state: State, steps: Steps) -> None:
        self.states, self.done, self.steps = [state], state.done, steps

    async def keep(self, receipt: bytes) -> None:
        def kept() -> None:
            self.states = [State(receipt, self.done)]

        self.steps.step(kept)

    def commit(self, receipt: bytes, done: int) -> None:
        self.done = done
        self.states.append(State(receipt, done))


def output(folder: Path, store: Store, steps: Steps, in_suffix: str, rules: Rules) -> Output:
    lines = make_format("DataStream")
    return Output(Crashing(steps), lines, Names("", in_suffix), rules, 10.0, store.keep, None, LOG)


async def _run(folder: Path, state: State, steps: Steps, in_suffix: str, rules: Rules) -> list[State]:
    store = Store(state, steps)
    out = output(folder, store, steps, in_suffix, rules)
    try:
        receipt = await out.open(state.receipt)
        await store.keep(receipt)  # as the runner does
        while store.done < len(EVENTS):
            end = next(end for end in _ends() if end > store.done)
            parts = _parts(folder, EVENTS[store.done : end])
            store.commit(await out.append(parts), end)
            while out.ending:
                await asyncio.sleep(0.001)
                if steps.dead:
                    raise Crash
        await out.close()
        if steps.dead:
            raise Crash
    except Crash:
        if out.timer:
            out.timer.cancel()
            with contextlib.suppress(Crash, asyncio.CancelledError):
                await out.timer
        out.pool.shutdown()
        return store.states
    return []


def _ends() -> list[int]:
    return [len("".join(BATCHES[: count + 1])) for count in range(len(BATCHES))]


def _parts(folder: Path, letters: str) -> list[tuple[Place, Any]]:
    """Vowels go to a folder of their own."""
    kinds = {"v": [one for one in letters if one in "ae"], "c": [one for one in letters if one not in "ae"]}
    return [(Place(f"{folder}/{kind}", "x"), batch(*bodies)) for kind, bodies in kinds.items() if bodies]


def run(folder: Path, state: State, steps: Steps, in_suffix: str, rules: Rules) -> list[State]:
    """Go on from a state; returns those that may be on the device after the crash, none if there was no crash."""
    return asyncio.run(_run(folder, state, steps, in_suffix, rules))


def visible(folder: Path) -> str:
    """Every event in a file with a final name, in alphabetical order."""
    files = (one for one in folder.rglob("x.*") if one.suffix != ".tmp")
    return "".join(sorted(line for one in files for line in one.read_text().splitlines()))


def leftovers(folder: Path) -> list[str]:
    """Files of any other name."""
    return [one.name for one in folder.rglob("*") if one.is_file() and (one.name[0] != "x" or one.suffix == ".tmp")]
