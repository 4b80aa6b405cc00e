"""The newest batches in memory: what consumers that keep up read, without a look at the file."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque

SLACK = 64


class Tail:
    """Of one partition: batches without a gap up to its end. `last` offsets ascend."""

    __slots__ = ("_batches", "_from", "_lasts", "first")

    def __init__(self, end: int) -> None:
        self.first = end
        """Offsets from here on are in memory."""
        self._lasts: list[int] = []
        self._batches: list[bytes] = []
        self._from = 0
        """Entries before this one are gone; the lists are cut when they are half of them."""

    def add(self, last: int, batch: bytes) -> None:
        self._lasts.append(last)
        self._batches.append(batch)

    def pop(self) -> int:
        """Let the oldest go; its bytes."""
        size = len(self._batches[self._from])
        self.first = self._lasts[self._from] + 1
        self._batches[self._from] = b""
        self._from += 1
        if self._from > SLACK and 2 * self._from > len(self._lasts):
            del self._lasts[: self._from], self._batches[: self._from]
            self._from = 0
        return size

    def forget(self, upto: int) -> int:
        """Let all batches go that end before `upto`: how many, however large."""
        at = bisect_left(self._lasts, upto, self._from)
        count = at - self._from
        if count:
            self.first = self._lasts[at - 1] + 1
            del self._lasts[:at], self._batches[:at]
            self._from = 0
        return count

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return sum(map(len, self._batches))

    def read(self, offset: int, max_bytes: int, upto: int) -> list[bytes]:
        """Batches from the one that holds `offset` on, which end before `upto`; the first one whatever its size."""
        out: list[bytes] = []
        at = bisect_left(self._lasts, offset, self._from)
        while at < len(self._lasts) and self._lasts[at] < upto:
            batch = self._batches[at]
            max_bytes -= len(batch)
            if out and max_bytes < 0:
                break
            out.append(batch)
            at += 1
        return out


class Cache:
    """The tails of all partitions: together no more than so many bytes, the oldest batch goes first."""

    def __init__(self, limit: int) -> None:
        self.limit, self.size = limit, 0
        self._order: deque[Tail] = deque()

    def add(self, tail: Tail, last: int, batch: bytes) -> None:
        tail.add(last, batch)
        self._order.append(tail)
        self.size += len(batch)
        while self.size > self.limit:
            self.size -= self._order.popleft().pop()

    def forget(self, tail: Tail, upto: int) -> None:
        """Let batches of a tail go that end before `upto`."""
        size = tail.size
        gone = tail.forget(upto)
        if not gone:
            return
        self.size -= size - tail.size
        kept = deque[Tail]()
        for one in self._order:  # what goes came before what stays of it
            if one is tail and gone:
                gone -= 1
            else:
                kept.append(one)
        self._order = kept
