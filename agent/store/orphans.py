"""Channels that have left the configuration with events inside: they are kept, and named, until they are forgotten."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

log = logging.getLogger(__name__)

WAIT_SECONDS = 5.0
"""So long after the store was opened, or one of its channels was closed: those that stay register one by one."""


class Orphans:
    """Names each once in the log. `find` says which there are, with the events that they have yet to deliver."""

    def __init__(self, folder: Path, find: Callable[[], Mapping[str, int]]) -> None:
        self.folder, self.find = folder, find
        self.timer: asyncio.TimerHandle | None = None
        self._named: set[str] = set()

    def watch(self) -> None:
        """Look for them soon."""
        self.cancel()
        self.timer = asyncio.get_running_loop().call_later(WAIT_SECONDS, self.name)

    def cancel(self) -> None:
        if self.timer:
            self.timer.cancel()

    def name(self) -> None:
        found = self.find()
        self._named &= found.keys()
        for name, events in found.items():
            if name not in self._named:
                self._named.add(name)
                log.warning(
                    "channel %s is no longer configured, and the store %s keeps %d events for it: configure it to "
                    "deliver them, or give them up: headrace store forget %s %s",
                    name, self.folder, events, name, self.folder,
                )  # fmt: skip
