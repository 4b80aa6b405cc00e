"""Random schedules of clients against what must hold of a group whatever happens.

Clients join in one or two steps, sync, send heartbeats, change their topics, leave, vanish with and without a closed
connection, lose the answer they wait for, start again under a static name, and speak on when they are fenced;
administrators interfere; time passes. The promises hold after each step; when those who live behave for a while, the
group is stable and has exactly them.

A schedule is bytes, two a step (what, and who or how): a zero is nothing, so what hypothesis shrinks stays a schedule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given, note, settings
from hypothesis import strategies as st

from aggregator.topics.errors import Code
from aggregator.topics.groups.member import MEMBER_BYTES
from tests.aggregator.topics.groups.scene import Client, Scene, Waiting

NAMES = ("a", "b", "c", "s1", "s2", "s3")
"""Those that begin with s are static."""
PATIENCE = 60
"""The longest rebalance timeout, seconds."""
SESSIONS = (6, 10, 100)
PROTOCOLS = (("range",), ("range", "sticky"), ("sticky", "range"), ("new", "sticky", "range"))


class Actor:
    """A client that takes its answers when they have come. `phase`: idle, joining, joined, syncing, member."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.phase = "idle"

    def refused(self, code: Code) -> None:
        """What a real client does: join again, without its id if that is unknown."""
        self.phase = "idle"
        if code is not Code.REBALANCE_IN_PROGRESS:
            self.client.id = ""
        self.client.generation = -1


class World:
    """The scene, its actors, and what they have been told so far."""

    def __init__(self) -> None:
        self.scene = Scene()
        self.scene.kept["g"] = True  # it is never forgotten, so its generations only rise
        self.live: dict[str, Actor] = {}
        self.fenced: list[Client] = []
        self.past: set[tuple[str, int, str | None]] = set()
        self.waiting: list[tuple[float, Waiting]] = []
        self.begin()

    def begin(self) -> None:
        """Of a group that is new."""
        self.newest = 0
        self.leaders: dict[int, str] = {}
        self.protocols: dict[int, str] = {}
        self.assigned: dict[tuple[int, str], bytes] = {}

    # -- what clients do; `how` is any number

    def one(self, how: int, *phases: str) -> Actor | None:
        found = [actor for actor in self.live.values() if not phases or actor.phase in phases]
        return found[how % len(found)] if found else None

    def start(self, how: int) -> None:
        name = NAMES[how % len(NAMES)]
        if name not in self.live:
            client = Client(self.scene, name, static=name.startswith("s"), two_steps=how % 4 > 0,
                            protocols=PROTOCOLS[how // 6 % 4], session=SESSIONS[how // 24 % 3],
                            rebalance=(10, 30, PATIENCE)[how // 72 % 3])  # fmt: skip
            self.live[name] = Actor(client)
            self.ask(self.live[name])

    def ask(self, actor: Actor) -> None:
        actor.phase = "joining"
        self.waiting.append((self.scene.clock.now, actor.client.ask()))

    def sync(self, actor: Actor) -> None:
        actor.phase = "syncing"
        self.waiting.append((self.scene.clock.now, actor.client.sync()))

    def duty(self, actor: Actor) -> None:
        """What a client in this phase does next."""
        if actor.phase == "idle":
            self.ask(actor)
        elif actor.phase == "joined":
            self.sync(actor)
        elif actor.phase == "member" and (code := actor.client.beat()) is not Code.NONE:
            actor.refused(code)

    def go_on(self, how: int) -> None:
        if actor := self.one(how):
            self.duty(actor)

    def all_go_on(self, how: int) -> None:
        for actor in list(self.live.values()):
            self.duty(actor)
            self.take()

    def ask_again(self, how: int) -> None:
        """In any phase, also while the last request waits, and with other metadata."""
        if actor := self.one(how):
            actor.client.topics = ("t", "u")[: 1 + how // 8 % 2]
            actor.client.extra = bytes(how // 16 % 2)
            self.ask(actor)

    def sync_again(self, how: int) -> None:
        if actor := self.one(how, "joined", "syncing", "member"):
            self.sync(actor)

    def leave(self, how: int) -> None:
        if actor := self.one(how):
            actor.client.leave()
            del self.live[actor.client.name]

    def vanish(self, how: int) -> None:
        """The program is gone, and perhaps its connection."""
        if actor := self.one(how):
            del self.live[actor.client.name]
            if how // 8 % 2 and actor.client.waiting:
                actor.client.lose()

    def lose(self, how: int) -> None:
        """The connection breaks while an answer is waited for; the program goes on."""
        if (actor := self.one(how, "joining", "syncing")) and actor.client.waiting:
            actor.client.lose()
            actor.phase = "idle"

    def restart(self, how: int) -> None:
        """A static member starts again while its old self still speaks."""
        actor = self.one(how)
        if actor and actor.client.instance_id and actor.client.id:
            self.fenced.append(actor.client)
            self.live[actor.client.name] = Actor(actor.client.again())
            self.ask(self.live[actor.client.name])

    def haunt(self, how: int) -> None:
        """Who was replaced isn't heard."""
        if self.fenced:
            old = self.fenced[how % len(self.fenced)]
            said = [old.beat(), old.leave(), Code(old.sync().result()["error_code"])]
            assert set(said) <= {Code.FENCED_INSTANCE_ID, Code.UNKNOWN_MEMBER_ID}

    def expel(self, how: int) -> None:
        """An administrator removes a static member, whose program may go on."""
        self.scene.do(self.scene.coordinator.leave, "g", [("", f"s{1 + how % 3}")])

    def delete(self, how: int) -> None:
        """An administrator deletes the group: it goes if nobody is in it, and its generations begin anew."""
        if self.scene.coordinator.delete("g") is Code.NONE:
            assert not self.scene.ids
            self.begin()

    def wait(self, how: int) -> None:
        self.scene.wait((0.1, 0.2, 1, 3, 5, 11, 40)[how % 7])

    def settle(self, seconds: int) -> None:
        """Those who live behave."""
        for _ in range(0, seconds, 2):
            self.scene.wait(2)
            self.take()
            self.all_go_on(0)

    # -- what they are answered

    def take(self) -> None:
        for actor in self.live.values():
            client = actor.client
            if client.waiting is None or not client.waiting.done():
                continue
            body = client.waiting.result()
            if body["error_code"] != Code.NONE:
                client.waiting = None
                actor.refused(Code(body["error_code"]))
            elif "generation_id" in body:
                actor.phase = "joined"
                self.joined(client, client.joined())
            else:
                actor.phase = "member"
                self.synced(client, client.synced())

    def joined(self, client: Client, body: dict[str, Any]) -> None:
        """A generation has one leader and one protocol."""
        self.past.add((client.id, client.generation, client.instance_id))
        self.newest = max(self.newest, client.generation)
        assert self.protocols.setdefault(client.generation, body["protocol_name"]) == body["protocol_name"]
        assert body["protocol_name"] in client.protocols
        if client.peers:
            assert body["leader"] == client.id
            assert client.id in client.peers
            assert self.leaders.setdefault(client.generation, client.id) == client.id

    def synced(self, client: Client, assignment: bytes) -> None:
        """A generation has one assignment a member: what its leader gave to it, or to its static name before."""
        assert self.assigned.setdefault((client.generation, client.id), assignment) == assignment
        if assignment:
            generation, _, whose = assignment.decode().partition(":")
            assert int(generation) == client.generation
            assert whose == client.id or (client.instance_id and whose.startswith(f"{client.instance_id}-"))

    # -- what holds at any moment

    def check(self) -> None:
        self.nobody_waits_for_ever()
        self.the_past_cannot_commit()
        self.all_are_watched()

    def nobody_waits_for_ever(self) -> None:
        """No request waits longer than the most patient client would for a rebalance."""
        self.waiting = [(since, waiting) for since, waiting in self.waiting if not waiting.done()]
        assert all(self.scene.clock.now - since <= PATIENCE + 0.01 for since, _ in self.waiting)

    def the_past_cannot_commit(self) -> None:
        """No id of an older generation may commit with it, and nobody who isn't a member."""
        ids = self.scene.ids
        for member_id, generation, instance_id in self.past:
            if self.scene.coordinator.check("g", generation, member_id, instance_id, True) is Code.NONE:
                assert generation >= self.newest
                assert member_id in ids

    def all_are_watched(self) -> None:
        """Each member has a timer or a request that waits, each id given out has a timer, and there are no others."""
        group = self.scene.coordinator._groups.get("g")
        if group is None:
            return
        members, timers = group.roster.members.values(), self.scene.clock.running
        assert all(member.timer in timers or member.waits for member in members)
        assert all(timer in timers for timer in group.roster.pending.values())
        assert len(timers) <= len(members) + len(group.roster.pending) + 1
        given = sum(MEMBER_BYTES + len(member_id) for member_id in group.roster.pending)
        assert group.roster.bytes == given + sum(member.size + len(member.assignment) for member in members)
        assert set(group.roster.static.values()) == {member.id for member in members if member.instance_id}
        assert (group.roster.leader in group.roster.members) == bool(members)


STEPS: list[tuple[int, Callable[[World, int], None]]] = [
    (6, World.start), (4, World.all_go_on), (8, World.go_on), (5, World.ask_again), (3, World.sync_again),
    (2, World.leave), (3, World.vanish), (4, World.lose), (3, World.restart), (2, World.haunt), (1, World.expel),
    (1, World.delete), (6, World.wait),
]  # fmt: skip
CHOICE = [step for weight, step in STEPS for _ in range(weight)]


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=200, max_size=200))
def test_whatever_happens(schedule: bytes) -> None:
    """The promises hold after each step, the living agree in the end, and nothing is left when the service closes."""
    world = World()
    for what, how in zip(schedule[::2], schedule[1::2], strict=True):
        if what:
            step = CHOICE[what % len(CHOICE)]
            note(f"{world.scene.clock.now:.1f} {step.__name__} {how}")
            step(world, how)
            world.take()
            world.check()
    world.settle(5 * PATIENCE)
    actors = list(world.live.values())
    assert world.scene.state == ("Stable" if actors else "Empty")
    assert world.scene.ids == {actor.client.id for actor in actors}
    assert {actor.phase for actor in actors} <= {"member"}
    assert {actor.client.commit() for actor in actors} <= {Code.NONE}
    assert {actor.client.generation for actor in actors} <= {world.newest}
    world.scene.do(world.scene.coordinator.close)
    assert all(waiting.done() for _, waiting in world.waiting)
    assert not world.scene.clock.running
    world.scene.loop.close()
