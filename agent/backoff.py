"""How long to wait before the next try: doubling from a first wait to a bound, back to the start after a success."""

from __future__ import annotations


class Backoff:
    """Seconds to wait. `next()` doubles from `first` to `most`; `reset()` after a success."""

    def __init__(self, first: float = 1.0, most: float = 30.0) -> None:
        self.first, self.most, self.failures = first, most, 0

    def next(self) -> float:
        """The wait that follows one more failure."""
        wait = min(self.most, self.first * 2.0 ** min(self.failures, 30))
        self.failures += 1
        return wait

    def reset(self) -> None:
        """The last try succeeded."""
        self.failures = 0
