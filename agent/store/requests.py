"""What is handed to the store's writer, and what it answers.

Requests that have come together since the last commit share the next one. Each is all or nothing by itself: one that
is refused for a cause of its own leaves the others as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from agent.store.streams import Identity, Transit


class Part(NamedTuple):
    """Events for the channels of a mask; `block` holds `events` events."""

    channels: int
    block: bytes
    events: int
    transit: Transit | None
    identity: tuple[Identity, ...] | None


@dataclass(slots=True)
class PutRequest:
    """Parts of one batch and the marks of its source, all or nothing."""

    parts: list[Part]
    source: str = ""
    marks: Mapping[str, bytes] | None = None


class Letter(NamedTuple):
    """A dead letter: one event as a block of one, or raw bytes that never were an event (then as its body)."""

    channel: str
    source: str
    origin: bytes | None
    number: int
    wall_ms: int
    reason: str
    block: bytes


@dataclass(slots=True)
class BuryRequest:
    """Dead letters, with the cursor that steps over them or the marks that go with them."""

    letters: list[Letter]
    source: str = ""
    marks: Mapping[str, bytes] | None = None
    over: tuple[int, list[tuple[int, int]]] | None = None
    """A channel and the closed ranges of positions that it steps over with them."""


class Kept(NamedTuple):
    stored: int
    repeats: int


Request = PutRequest | BuryRequest
Result = Kept | Exception


def size_of(request: Request) -> int:
    """Bytes of block that a put brings."""
    return sum(len(part.block) for part in request.parts) if isinstance(request, PutRequest) else 0
