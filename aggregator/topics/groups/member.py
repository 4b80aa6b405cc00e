"""A member of a group, and the request that makes or renews it.

A member waits in at most two places: `joining` until all others have asked to join too, `syncing` until the leader has
assigned. While it waits it need not send heartbeats; otherwise its `timer` runs and removes it.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

Protocols = tuple[tuple[str, bytes], ...]
"""(name of an assignor, the metadata it gets from this member), the most wanted first."""


class Timer(Protocol):
    """What `call_later` returns."""

    def cancel(self) -> None:
        """It won't fire any more."""


CallLater = Callable[..., Timer]
"""(seconds, function, *arguments) -> Timer, as the event loop's."""


class Join(NamedTuple):
    """A JoinGroup request."""

    member_id: str
    instance_id: str | None
    client_id: str
    host: str
    session_ms: int
    rebalance_ms: int
    protocol_type: str
    protocols: Protocols


@dataclass(slots=True, eq=False)
class Member:
    """`new` until its first JoinGroup is answered: it has no id to send heartbeats with (NEW_MEMBER_SECONDS)."""

    id: str
    instance_id: str | None
    client_id: str
    host: str
    session_ms: int
    rebalance_ms: int
    protocols: Protocols
    assignment: bytes = b""
    new: bool = True
    joining: Future[dict[str, Any]] | None = field(default=None, repr=False)
    syncing: Future[dict[str, Any]] | None = field(default=None, repr=False)
    timer: Timer | None = field(default=None, repr=False)

    @classmethod
    def of(cls, member_id: str, join: Join) -> Member:
        """The member that a request makes."""
        return cls(member_id, join.instance_id, join.client_id, join.host, join.session_ms, join.rebalance_ms,
                   join.protocols)  # fmt: skip

    @property
    def waits(self) -> bool:
        """Whether a request of it is unanswered."""
        return self.joining is not None or self.syncing is not None

    @property
    def size(self) -> int:
        """Bytes of what the clients gave."""
        return size_of(self.protocols) + len(self.assignment)

    def metadata(self, protocol: str) -> bytes:
        """What the assignor of this name gets; KeyError if the member doesn't have it."""
        return dict(self.protocols)[protocol]

    def vote(self, candidates: Collection[str]) -> str:
        """The first of its protocols that all can do."""
        return next(name for name, _ in self.protocols if name in candidates)


def size_of(protocols: Protocols) -> int:
    """Bytes of names and metadata."""
    return sum(len(name) + len(metadata) for name, metadata in protocols)


def answer(future: Future[dict[str, Any]] | None, body: dict[str, Any]) -> None:
    """Answer a request that waits; its connection may be gone already."""
    if future is not None and not future.done():
        future.set_result(body)
