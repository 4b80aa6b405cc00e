"""A coordinator in virtual time, and clients that say what real ones say.

Everything is synchronous: a call runs on the scene's own event loop, then the loop turns until what followed is done.
"""

from __future__ import annotations

import asyncio
import heapq
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from aggregator.topics.errors import Code
from aggregator.topics.groups.coordinator import Coordinator
from aggregator.topics.groups.state import Limits

Waiting = asyncio.Future[dict[str, Any]]


@dataclass(order=True)
class Alarm:
    """One timer of the clock."""

    due: float
    order: int
    function: Callable[..., object] = field(compare=False)
    arguments: tuple[object, ...] = field(compare=False)
    stopped: bool = field(default=False, compare=False)

    def cancel(self) -> None:
        self.stopped = True


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self._alarms: list[Alarm] = []
        self._order = count()

    def call_later(self, seconds: float, function: Callable[..., object], *arguments: object) -> Alarm:
        alarm = Alarm(self.now + seconds, next(self._order), function, arguments)
        heapq.heappush(self._alarms, alarm)
        return alarm

    @property
    def running(self) -> list[Alarm]:
        """The timers that will fire."""
        return [alarm for alarm in self._alarms if not alarm.stopped]

    def due(self, until: float) -> Iterator[Alarm]:
        """What fires up to then, each at its time."""
        while self._alarms and self._alarms[0].due <= until:
            alarm = heapq.heappop(self._alarms)
            if not alarm.stopped:
                self.now = max(self.now, alarm.due)
                yield alarm
        self.now = until


def subscription(*topics: str, extra: bytes = b"\0\0\0\0") -> bytes:
    """ConsumerProtocolSubscription, with what an assignor adds."""
    names = b"".join(struct.pack(">h", len(topic.encode())) + topic.encode() for topic in topics)
    return struct.pack(">hi", 1, len(topics)) + names + extra


class Scene:
    """One coordinator; the group of its clients is `g`."""

    def __init__(self, **limits: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.kept: dict[str, object] = {}
        self.coordinator = Coordinator(self.clock.call_later, self.kept, Limits(**limits))

    def do(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call on the loop."""

        async def run() -> Any:
            result = function(*arguments)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            return result

        return self.loop.run_until_complete(run())

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        for alarm in self.clock.due(self.clock.now + seconds):
            self.do(alarm.function, *alarm.arguments)

    @property
    def state(self) -> str:
        return str(self.coordinator.describe("g")["group_state"])

    @property
    def ids(self) -> set[str]:
        """The members that DescribeGroups tells."""
        return {member["member_id"] for member in self.coordinator.describe("g")["members"]}

    def close(self) -> None:
        self.do(self.coordinator.close)
        self.loop.close()


@contextmanager
def scene(**limits: Any) -> Iterator[Scene]:
    """A scene that is closed."""
    one = Scene(**limits)
    try:
        yield one
    finally:
        one.close()


class Client:
    """A consumer; it remembers what the last answers said. `answered` looks at what came."""

    def __init__(self, scene: Scene, name: str, *, static: bool = False, topics: tuple[str, ...] = ("t",),
                 protocols: tuple[str, ...] = ("range",), session: float = 10, rebalance: float = 60,
                 kind: str = "consumer", two_steps: bool = True) -> None:  # fmt: skip
        self.scene, self.name = scene, name
        self.instance_id = name if static else None
        self.topics, self.protocols, self.kind = topics, protocols, kind
        self.session, self.rebalance, self.two_steps = session, rebalance, two_steps
        self.extra = b"\0\0\0\0"
        self.id = ""
        self.generation = -1
        self.peers: list[str] = []
        self.assignment: bytes | None = None
        self.waiting: Waiting | None = None

    def ask(self) -> Waiting:
        """JoinGroup as it stands, with the second step at once if an id is required."""
        waiting = self._join()
        if waiting.done() and waiting.result()["error_code"] == Code.MEMBER_ID_REQUIRED:
            self.id = waiting.result()["member_id"]
            waiting = self._join()
        self.waiting = waiting
        return waiting

    def _join(self) -> Waiting:
        metadata = subscription(*self.topics, extra=self.extra)
        waiting: Waiting = self.scene.do(
            self.scene.coordinator.join, "g", self.id, self.instance_id, self.name, "/127.0.0.1",
            int(self.session * 1000), int(self.rebalance * 1000), self.kind,
            [(name, metadata) for name in self.protocols], self.two_steps,
        )  # fmt: skip
        return waiting

    def joined(self) -> dict[str, Any]:
        """The JoinGroup's answer, which must have come without an error; what it says is kept."""
        assert self.waiting is not None
        assert self.waiting.done(), f"{self.name} waits"
        body = self.waiting.result()
        assert body["error_code"] == Code.NONE, Code(body["error_code"])
        self.id, self.generation = body["member_id"], body["generation_id"]
        self.peers = [member["member_id"] for member in body["members"]]
        self.waiting = None
        return body

    def sync(self, **assignments: bytes) -> Waiting:
        """SyncGroup; a leader assigns its peers their own ids if nothing is given."""
        given = {peer: f"{self.generation}:{peer}".encode() for peer in self.peers}
        self.waiting = self.scene.do(
            self.scene.coordinator.sync, "g", self.generation, self.id, self.instance_id, given | assignments
        )
        assert self.waiting is not None
        return self.waiting

    def synced(self) -> bytes:
        """The SyncGroup's answer, which must have come without an error."""
        assert self.waiting is not None
        assert self.waiting.done(), f"{self.name} waits"
        body = self.waiting.result()
        assert body["error_code"] == Code.NONE, Code(body["error_code"])
        self.assignment = body["assignment"]
        self.waiting = None
        assert self.assignment is not None
        return self.assignment

    def beat(self) -> Code:
        return self.scene.coordinator.heartbeat("g", self.generation, self.id, self.instance_id)

    def commit(self, transactional: bool = False) -> Code:
        return self.scene.coordinator.check("g", self.generation, self.id, self.instance_id, transactional)

    def leave(self) -> Code:
        body = self.scene.do(self.scene.coordinator.leave, "g", [(self.id, self.instance_id)])
        return Code(body["members"][0]["error_code"])

    def lose(self) -> None:
        """The connection is gone while a request waits."""
        assert self.waiting is not None
        self.scene.do(self.waiting.cancel)
        self.waiting = None

    def again(self) -> Client:
        """The same program, started anew: it knows its name only."""
        return Client(self.scene, self.name, static=self.instance_id is not None, topics=self.topics,
                      protocols=self.protocols, session=self.session, rebalance=self.rebalance,
                      kind=self.kind, two_steps=self.two_steps)  # fmt: skip


def stable(scene: Scene, *clients: Client) -> None:
    """All of them join, the first one leads, all get their assignment."""
    for client in clients:
        client.ask()
    scene.wait(1)
    rejoin(*clients)


def rejoin(*clients: Client) -> None:
    """After all have asked: take the answers and sync."""
    for client in clients:
        client.joined()
    for client in clients:
        client.sync()
    for client in clients:
        client.synced()


def code(waiting: Waiting) -> Code:
    """What a request was answered with; it must be answered."""
    assert waiting.done()
    return Code(waiting.result()["error_code"])
