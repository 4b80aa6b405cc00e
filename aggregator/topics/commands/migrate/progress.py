"""How far it is: a line that is written over where somebody looks, else a line every ten seconds."""

from __future__ import annotations

import sys
import time
from collections import deque

SECONDS = 10.0
WIDTH = 110
MARKS = 10
"""Transactions over which the rate is taken."""


class Progress:
    """On stderr; `sys.stdout` is for what remains true."""

    def __init__(self) -> None:
        self.copied = 0
        self._said = time.monotonic()
        self._marks = deque([(self._said, 0)], maxlen=MARKS)
        """When so many were copied."""
        self._written_over = sys.stderr.isatty()

    def add(self, count: int, left: int) -> None:
        """So many records more were copied; so many offsets are left."""
        self.copied += count
        now, (then, before) = time.monotonic(), self._marks[0]
        self._marks.append((now, self.copied))
        rate = (self.copied - before) / max(0.001, now - then)
        self.say(f"{self.copied:,} records copied, {rate:,.0f} a second, {left:,} left")

    def say(self, text: str) -> None:
        """Once in a while, as it may be called at any rate."""
        now = time.monotonic()
        if self._written_over:
            print(f"\r\033[K{text[:WIDTH]}", end="", file=sys.stderr, flush=True)
        elif now - self._said >= SECONDS:
            self._said = now
            print(text, file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """What stays to be read."""
        self.clear()
        print(text, file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Nothing is written over any more."""
        if self._written_over:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
