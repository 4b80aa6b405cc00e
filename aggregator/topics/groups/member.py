"""A member of a group, and the request that makes or renews it.

A member waits in at most two places: `joining` until all others have asked to join too, `syncing` until the leader has
assigned. While it waits it need not send heartbeats; otherwise its `timer` runs and removes it.
"""

from __future__ import annotations

import uuid
from asyncio import Future
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

Protocols = tuple[tuple[str, bytes], ...]
"""(name of an assignor, the metadata it gets from this member), the most wanted first."""
MEMBER_BYTES, PROTOCOL_BYTES = 500, 100
"""What a member, or an id given out, and each protocol take beside what the client says."""


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

    @property
    def size(self) -> int:
        """Bytes that will be kept of it."""
        return _size(self, self.member_id or self.new_id())

    def new_id(self) -> str:
        """Kafka's form: the static name, or the client id, and something random."""
        return f"{self.instance_id if self.instance_id is not None else self.client_id}-{uuid.uuid4()}"


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
        """Bytes that are kept of it, without the assignment."""
        return _size(self, self.id)

    def metadata(self, protocol: str) -> bytes:
        """What the assignor of this name gets; KeyError if the member doesn't have it."""
        return dict(self.protocols)[protocol]

    def vote(self, candidates: Collection[str]) -> str:
        """The first of its protocols that all can do."""
        return next(name for name, _ in self.protocols if name in candidates)


def _size(of: Join | Member, member_id: str) -> int:
    names = len(member_id) + len(of.client_id) + len(of.instance_id or "")
    return MEMBER_BYTES + names + sum(PROTOCOL_BYTES + len(name) + len(metadata) for name, metadata in of.protocols)


def answer(future: Future[dict[str, Any]] | None, body: dict[str, Any]) -> None:
    """Answer a request that waits; its connection may be gone already."""
    if future is not None and not future.done():
        future.set_result(body)
