"""What memory holds of the file's small tables, as committed, and what one commit changes of it.

Nothing in memory moves before the commit has succeeded: until then the changes stand in a `Work`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from agent.store.coverage import Coverage
from agent.store.requests import Part
from agent.store.schema import Row


class CursorState(NamedTuple):
    """A channel's place: everything up to `cursor` is finished, and the closed ranges of positions above it."""

    cursor: int
    finished: tuple[tuple[int, int], ...]
    done_events: int
    done_bytes: int


@dataclass(slots=True)
class ChannelState:
    """A row of `channel`, as committed."""

    id: int
    name: str
    place: CursorState
    put_events: int
    put_bytes: int

    @property
    def inside(self) -> int:
        """Events that it has yet to deliver (those finished above the cursor count too)."""
        return self.put_events - self.place.done_events

    @property
    def inside_bytes(self) -> int:
        """Their bytes."""
        return self.put_bytes - self.place.done_bytes


@dataclass(slots=True)
class StreamState:
    """A row of `stream`: what was received of it."""

    id: int
    coverage: Coverage
    touched_ms: int


@dataclass(slots=True)
class Work:
    """What one commit has changed so far."""

    position: int
    version: int
    rows: list[Row] = field(default_factory=list)
    streams: dict[tuple[bytes, str], StreamState] = field(default_factory=dict)
    puts: dict[int, list[int]] = field(default_factory=dict)
    """Channel -> events and bytes that were put into it."""
    letter_bytes: int = 0
    joined: list[Part] = field(default_factory=list)
    """Small parts that become one row."""
    buried: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
