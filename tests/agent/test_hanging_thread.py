"""A sink's thread that never comes back doesn't keep the process from its end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agent.errors import DeliveryError
from agent.event import Batch
from agent.sink import Sink
from tests.peers.harness import Program

CONF = """\
a.sources = r
a.channels = c
a.sinks = k
a.sources.r.type = seq
a.sources.r.totalEvents = 1
a.sources.r.channels = c
a.channels.c.type = file
a.channels.c.path = store
a.sinks.k.type = tests.agent.test_hanging_thread:HangingSink
a.sinks.k.channel = c
"""


class HangingSink(Sink):
    """Its client library hangs, and the call's bound passes."""

    async def send(self, batch: Batch) -> None:
        pool = ThreadPoolExecutor(1)
        turn = asyncio.get_running_loop().run_in_executor(pool, threading.Event().wait)
        try:
            await asyncio.wait_for(asyncio.shield(turn), 0.05)
        except TimeoutError:
            pool.shutdown(wait=False)
            raise DeliveryError("given up") from None


def test_the_process_ends(program: Callable[..., Program], tmp_path: Path) -> None:
    """SIGTERM ends an agent with 0 although a thread of a sink hangs for good."""
    one = program("aggregator", CONF)
    one.wait_log("k waits: given up")
    assert one.stop() == 0
    assert "stopped" in one.log
