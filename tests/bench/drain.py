"""After an outage: opening a store of a million events, and draining it."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

from agent.store.store import Store
from agent.store.writer import Options
from tests.bench.chain import AVRO_OUT, NULL, WAIT_SECONDS, Load, agent_text, headrace, taken
from tests.bench.figure import Figure, Say, Target, middle
from tests.peers.harness import free_port, wait_until

EVENTS = 1_000_000


def measure(folder: Path, runs: int, flume: bool, say: Say) -> list[Figure]:
    """A store filled by one connection in batches of 100; drained by a null sink from the start of the process on."""
    full = folder / "full"
    _fill(full, say)
    rates, opening = [], []
    for turn in range(runs):
        home = folder / f"drain-{turn}"
        shutil.copytree(full / "data", home / "data")
        opening.append(asyncio.run(_open(home / "data")))
        rates.append(_drain(home))
        say(f"drain: opened in {opening[-1]:.3f} s, {rates[-1]:,.0f} events/s")
        shutil.rmtree(home)
    return [
        Figure("drain of 1,000,000 stored events to a null sink", "events/s", middle(rates), None, Target(100_000)),
        Figure("opening of that store", "s", middle(opening), None, Target(0.5, False)),
    ]


def _text(port: int, folder: Path, sink: str) -> str:
    text = agent_text(port, "file", folder, sink)
    return text.replace("capacity = 1000000", f"capacity = {2 * EVENTS}")


def _fill(folder: Path, say: Say) -> None:
    """Nobody listens where its sink sends."""
    port = free_port()
    conf = _text(port, folder, AVRO_OUT.format(port=free_port(), batch=100))
    with headrace("edge", conf, folder):
        sent = Load(EVENTS)(port)
        say(f"drain: a store of {EVENTS:,} events filled in {sent['seconds']:.0f} s")


async def _open(folder: Path) -> float:
    """Seconds until a channel could take from it."""
    began = time.monotonic()
    store = await Store.acquire(folder, Options())
    queue = await store.queue("c")
    seconds = time.monotonic() - began
    assert queue.depth == EVENTS, f"the store holds {queue.depth} events"
    await store.release()
    return seconds


def _drain(folder: Path) -> float:
    server = headrace("edge", _text(free_port(), folder, NULL.format(batch=100)), folder)
    began = time.monotonic()
    with server:
        wait_until(lambda: taken(server) >= EVENTS, WAIT_SECONDS, "the store is empty")
        return EVENTS / (time.monotonic() - began)
