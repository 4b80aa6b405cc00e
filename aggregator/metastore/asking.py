"""Asking: the metastore's client in a thread of its own, each call bounded.

A call that doesn't come back is left alone with its thread and its connection; the next one gets new ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from urllib.parse import urlsplit

from agent.errors import DeliveryError
from aggregator.metastore.client import Metastore

Answer = TypeVar("Answer")
PORT = 9083
"""Where a metastore listens by default."""


class Asking:
    """`timeout` is of a connection and of each answer."""

    def __init__(self, name: str, addresses: Sequence[tuple[str, int]], timeout: float) -> None:
        self.name, self.addresses, self.timeout = name, list(addresses), timeout
        self.bound = 3 * timeout * len(self.addresses)
        """Seconds of a question: a few calls, each at every address."""
        self._begin()

    def _begin(self) -> None:
        self.client = Metastore(self.addresses, self.timeout)
        self.pool = ThreadPoolExecutor(1, thread_name_prefix=f"{self.name}-metastore")

    async def __call__(self, question: Callable[[Metastore], Answer]) -> Answer:
        """The answer. DeliveryError if there is none in time, or the metastore says no."""
        work = asyncio.get_running_loop().run_in_executor(self.pool, question, self.client)
        try:
            async with asyncio.timeout(self.bound):  # wait_for of Python 3.11 may swallow a cancellation
                return await asyncio.shield(work)
        except TimeoutError:
            work.add_done_callback(lambda done: done.cancelled() or done.exception())
            self.close()
            self._begin()
            raise DeliveryError(f"the metastore didn't answer in {self.bound:g} s") from None

    def close(self) -> None:
        """Drop the connection; whoever still waits for it gets an error there."""
        self.client.close()
        self.pool.shutdown(wait=False, cancel_futures=True)


def address(url: str) -> tuple[str, int] | None:
    """Host and port of thrift://host:port; None if it is none."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port or PORT
    except ValueError:
        return None
    return (parts.hostname, port) if parts.scheme == "thrift" and parts.hostname else None
