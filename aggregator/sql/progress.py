"""How far an import is, how fast, and how long it will take: one line every few seconds. Pure."""

from __future__ import annotations

EVERY = 5.0
"""Seconds between two lines."""


class Progress:
    """`total` is how many rows there are (0: not known), `about` whether that is an estimate; `done` were read before
    `now` (seconds of a clock that only goes forward).
    """

    def __init__(self, table: str, total: int, about: bool, done: int, now: float) -> None:
        self.table, self.total, self.about = table, total, about
        self.done = self.before = done
        self.began = self.said = now
        self.said_done = done

    def add(self, rows: int, now: float) -> str | None:
        """Count rows; a line if it is time for one."""
        self.done += rows
        if now - self.said < EVERY:
            return None
        rate = (self.done - self.said_done) / (now - self.said)
        self.said, self.said_done = now, self.done
        return f"{self.table}: {self.done:,} {self._of()}rows, {rate:,.0f} rows/s{self._left(now)}"

    def finished(self, now: float) -> str:
        """The line at the end."""
        new, seconds = self.done - self.before, now - self.began
        rate = f", {new / seconds:,.0f} rows/s" if new and seconds > 1 else ""
        return f"{self.table}: import finished, {self.done:,} rows, {new:,} of them in the last {span(seconds)}{rate}"

    def _of(self) -> str:
        return f"of {'about ' if self.about else ''}{max(self.total, self.done):,} " if self.total else ""

    def _left(self, now: float) -> str:
        """By the rate since the start, which a pause doesn't throw about."""
        rate = (self.done - self.before) / (now - self.began)
        return f", {span((self.total - self.done) / rate)} left" if rate and self.total > self.done else ""


def span(seconds: float) -> str:
    """`45 s`, `12 min`, `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
