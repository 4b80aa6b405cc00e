"""The writer's memory of the file, and how it stays equal to it.

Whatever changes memory inside a transaction goes through a `Work`, which notes how to take it back: a request that is
refused half-way and a commit that fails leave memory as the file is. What the event loop is to know stands in the
`Work` as well and is told once the commit has returned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from aggregator.topics.log.views import Views

K = TypeVar("K")
V = TypeVar("V")


class Producer(NamedTuple):
    """What a partition knows of a producer (Kafka's ProducerStateEntry)."""

    epoch: int
    batches: tuple[tuple[int, int, int], ...] = ()
    """Of this epoch, the newest last, five at most: first and last sequence number, first offset."""
    time_ms: int = 0
    """Of its last append."""

    @property
    def last_sequence(self) -> int:
        """-1 if this epoch has sent nothing."""
        return self.batches[-1][1] if self.batches else -1


@dataclass(slots=True, eq=False)
class PartState:
    """A partition; offsets, and bytes as in schema.py."""

    id: int
    topic: TopicState
    number: int
    start: int = 0
    end: int = 0
    total: int = 0
    dropped: int = 0
    """`total` before the first batch that is still kept."""
    time: int = -1
    producers: dict[int, Producer] = field(default_factory=dict)
    open: dict[int, int] = field(default_factory=dict)
    """Producer -> first offset of its transaction that has not ended."""
    snapped: int = 0
    """Up to this offset (exclusive) the snapshot of producers holds."""
    unsnapped: int = 0
    """Batches since."""

    @property
    def stable(self) -> int:
        """The last stable offset: nothing below it is undecided."""
        return max(self.start, min(self.open.values())) if self.open else self.end

    @property
    def size(self) -> int:
        return self.total - self.dropped


@dataclass(slots=True, eq=False)
class TopicState:
    """A topic; `config` holds what is set for it, `settings` every key."""

    id: int
    name: str
    uuid: bytes
    config: dict[str, str]
    settings: dict[str, str]
    parts: list[PartState] = field(default_factory=list)


Tell = Callable[["Views"], None]


class Work:
    """What one commit has changed so far."""

    def __init__(self) -> None:
        self.tells: list[Tell] = []
        """Called on the loop, in order, once the commit has returned."""
        self._undo: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []

    def set(self, thing: object, name: str, value: object) -> None:
        """thing.name = value"""
        self._undo.append((setattr, (thing, name, getattr(thing, name))))
        setattr(thing, name, value)

    def put(self, table: dict[K, V], key: K, value: V) -> None:
        """table[key] = value"""
        if key in table:
            self._undo.append((table.__setitem__, (key, table[key])))
        else:
            self._undo.append((table.pop, (key,)))
        table[key] = value

    def drop(self, table: dict[K, V], key: K) -> None:
        """del table[key]"""
        self._undo.append((table.__setitem__, (key, table.pop(key))))

    def tell(self, call: Tell) -> None:
        """Let the loop know after the commit."""
        self.tells.append(call)

    @property
    def mark(self) -> tuple[int, int]:
        """A point to go back to."""
        return len(self._undo), len(self.tells)

    def back(self, mark: tuple[int, int] = (0, 0)) -> None:
        """Take everything back that came after a mark."""
        while len(self._undo) > mark[0]:
            call, args = self._undo.pop()
            call(*args)
        del self.tells[mark[1] :]
