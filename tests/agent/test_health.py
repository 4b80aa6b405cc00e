"""Health looks at progress: a commit that stands still is seen while it does."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from agent import exposition
from agent.channels.file import FileChannel, FileChannelConfig
from agent.event import Batch, Event
from agent.metrics import ChannelCounter, Metrics


def test_a_commit_that_stands_still_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the device doesn't take a commit, its channel counts as stalled; afterwards it does not."""
    monkeypatch.setattr(exposition, "STALLED_SECONDS", 0.0)
    entered, released = threading.Event(), threading.Event()

    async def main() -> tuple[list[str], list[str]]:
        metrics = Metrics()
        channel = FileChannel("c1", FileChannelConfig(path=str(tmp_path / "store")))  # type: ignore[call-arg]
        channel.counter = metrics.counter(ChannelCounter, "c1")
        async with channel:
            apply = channel.store.db.apply

            def slow(*work: Any) -> Any:
                entered.set()
                released.wait(60)
                return apply(*work)

            monkeypatch.setattr(channel.store.db, "apply", slow)
            putting = asyncio.create_task(channel.put(Batch([Event({}, b"x")])))
            await asyncio.to_thread(entered.wait, 60)
            during = exposition.stalls(metrics)
            released.set()
            await putting
            monkeypatch.setattr(channel.store.db, "apply", apply)
            await channel.store.inspect()
            return during, exposition.stalls(metrics)

    during, after = asyncio.run(main())
    assert during == ["channel c1: a commit takes 0 s"] and after == []
