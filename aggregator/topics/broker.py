"""What every handler works with: the broker's parts, and the client that asks.

`Broker` is one for all connections; `Session` is one connection's. A handler takes a request, calls what it needs and
returns the body of the answer:

    async def handle(request: Request, session: Session) -> Body | None

- What fails for a part of a request (a partition, a topic, a group) is a TopicsError whose code goes into that part of
  the answer. A TopicsError that leaves a handler closes the connection: that is for what has no place in the answer.
- A ChannelError that leaves a handler ends the service: the log can't keep what it promised.
- Without an answer (Produce with acks=0) a handler returns None.
- Rights are asked before it is told whether a thing exists.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from aggregator.topics.access.acl import ANONYMOUS, Operation, Rights
from aggregator.topics.access.exchange import Exchange
from aggregator.topics.access.users import Users
from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.groups.coordinator import Coordinator
from aggregator.topics.log.log import Log, Partition, Topic
from aggregator.topics.transactions.coordinator import Transactions
from aggregator.topics.wire.api import Body, Request

NODE = 1
"""The id of the one broker."""
LEAST_SHARE = 64 << 10
HASHED = 2
"""Passwords that are looked at at once."""
_REFUSALS: dict[Operation, Code] = {
    "group": Code.GROUP_AUTHORIZATION_FAILED,
    "transaction": Code.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    "admin": Code.CLUSTER_AUTHORIZATION_FAILED,
}


@dataclass(frozen=True)
class Settings:
    """What the configuration says of all topics and connections."""

    host: str
    """With `port` what clients are told to connect to."""
    port: int
    partitions: int = 1
    """Of a topic that is created without a number."""
    auto_create: bool = True
    topics: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Topic: keys that it gets when it is created."""
    answer_bytes: int = 64 << 20
    """See `Room`."""


class Room:
    """Bytes of records that are read and not yet sent, of all connections together.

    One answer gets a quarter of what is left, so that a client that reads slowly doesn't take it all; where little is
    left it gets one batch, so that clients that don't read keep nobody else from going on. When twice the limit is
    used up it gets nothing. It may be overdrawn by one batch an answer.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0

    def share(self) -> int:
        """What one answer may take now; 1: one batch; 0 if it has to wait."""
        share = (self.limit - self.used) // 4
        return share if share >= LEAST_SHARE else int(self.used < 2 * self.limit)


class Broker:
    """`log`, `coordinator` of groups, `transactions` (to be opened before the first request), `rights`, `users` (None:
    nobody has to say who it is), `settings`, `room`, `hashing` (what holds it may hash a password)."""

    def __init__(self, log: Log, coordinator: Coordinator, rights: Rights, users: Users | None, settings: Settings
                 ) -> None:  # fmt: skip
        self.log, self.coordinator, self.rights, self.users = log, coordinator, rights, users
        self.settings, self.room = settings, Room(settings.answer_bytes)
        self.hashing = asyncio.Semaphore(HASHED)
        self.transactions = Transactions(log)

    async def create(self, name: str, partitions: int = -1, config: Mapping[str, str] | None = None) -> Topic:
        """A new topic with the configuration's number of partitions (-1) and keys for it. TopicsError."""
        number = self.settings.partitions if partitions == -1 else partitions
        await self.log.create(name, number, {**self.settings.topics.get(name, {}), **(config or {})})
        return self.topic(name)

    def topic(self, name: str) -> Topic:
        """TopicsError UNKNOWN_TOPIC_OR_PARTITION if there is none."""
        found: Topic | None = self.log.topics.get(name)
        if found is None:
            raise TopicsError(Code.UNKNOWN_TOPIC_OR_PARTITION, f"there is no topic {name[:249]}")
        return found


class Session:
    """One connection: `principal` is None until it has proved who it is, if it has to."""

    def __init__(self, broker: Broker, address: str, *, tls: bool, loopback: bool) -> None:
        self.broker, self.address, self.tls, self.loopback = broker, address, tls, loopback
        self.principal = ANONYMOUS if broker.rights.lets_anonymous_in else None
        self.exchange: Exchange | None = None
        """Of SASL, between handshake and success."""
        self.over = ""
        """Why the connection ends after this answer, if it does."""
        self.held = 0
        """Bytes that it has taken of the `room`."""

    def hold(self, size: int) -> None:
        """Take bytes of the room, or give them back if `size` is negative. What is left goes back when all that was
        answered has been sent, or when the connection ends."""
        self.held += size
        self.broker.room.used += size

    def may(self, operation: Operation, name: str = "") -> bool:
        """Whether this client may do it to the topic, group or transactional id."""
        return self.principal is not None and self.broker.rights.may(self.principal, operation, name)

    def require(self, operation: Operation, name: str = "") -> None:
        """TopicsError TOPIC_, GROUP_, TRANSACTIONAL_ID_ or CLUSTER_AUTHORIZATION_FAILED if it may not."""
        if not self.may(operation, name):
            code = _REFUSALS.get(operation, Code.TOPIC_AUTHORIZATION_FAILED)
            raise TopicsError(code, f"{self.principal} has no right to {operation} {name[:249]}".rstrip())

    def topic(self, name: str, operation: Operation) -> Topic:
        """A topic that this client may do that to. TopicsError: TOPIC_AUTHORIZATION_FAILED before
        UNKNOWN_TOPIC_OR_PARTITION."""
        self.require(operation, name)
        return self.broker.topic(name)

    def partition(self, name: str, index: int, operation: Operation) -> Partition:
        """As `topic`."""
        partitions = self.topic(name, operation).partitions
        if not 0 <= index < len(partitions):
            raise TopicsError(Code.UNKNOWN_TOPIC_OR_PARTITION, f"topic {name} has no partition {index}")
        return partitions[index]


Handler = Callable[[Request, Session], Awaitable[Body | None]]
