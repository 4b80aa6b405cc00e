"""File channels over a store of their own, and what tests ask of them."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from agent.channel import Take
from agent.channels.file import FileChannel, FileChannelConfig
from agent.event import Batch, Event
from agent.metrics import ChannelCounter
from agent.store.streams import Transit

SENDER = b"s" * 16


@asynccontextmanager
async def opened(folder: Path, *names: str, **keys: object) -> AsyncIterator[list[FileChannel]]:
    """Channels of one store."""
    channels = []
    for name in names or ("c1",):
        config = FileChannelConfig(path=str(folder), **keys)  # type: ignore[arg-type]
        channel = FileChannel(name, config)
        channel.counter = ChannelCounter(name)
        await channel.open()
        channels.append(channel)
    try:
        yield channels
    finally:
        for channel in channels:
            await channel.close()


def batch(*bodies: str, first: int = 0, after: int | None = None, settled: int = 0) -> Batch:
    """Events with these bodies; with `first`, as received under the numbers from there on."""
    events = [Event({}, body.encode()) for body in bodies]
    if not first:
        return Batch(events)
    runs = ((first, len(bodies)),)
    return Batch(events, transit=Transit(SENDER, "out", first - 1 if after is None else after, runs, settled))


def bodies(take: Take) -> list[str]:
    return [event.body.decode() for event in take.batch.events]


async def drained(channel: FileChannel) -> list[str]:
    """Everything inside, delivered."""
    out: list[str] = []
    while channel.depth:
        async with await channel.take(100) as take:
            out += bodies(take)
    return out


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))  # type: ignore[arg-type]


def as_killed(folder: Path, to: Path) -> Path:
    """What a SIGKILL now would leave: the files as they are."""
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("*.sock"))
    return to
