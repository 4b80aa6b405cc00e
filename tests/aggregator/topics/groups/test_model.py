"""Random schedules of clients against what must hold of a group whatever happens.

Clients join in one or two steps, sync, send heartbeats, change their topics, leave, vanish with and without a closed
connection, lose the answer they wait for, start again under a static name; administrators interfere; time passes. The
invariants hold at any moment; and when those who live behave for a while, the group is stable and has exactly them.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aggregator.topics.errors import Code
from tests.aggregator.topics.groups.scene import Client, Scene, Waiting

NAMES = ("a", "b", "c", "d")
STATIC = ("s1", "s2")
PATIENCE = 60.0
PROTOCOLS = (("range",), ("range", "sticky"), ("sticky", "range"), ("new", "sticky", "range"))
REJOIN = (Code.REBALANCE_IN_PROGRESS, Code.UNKNOWN_MEMBER_ID, Code.ILLEGAL_GENERATION)


class Actor:
    """A client that takes its answers when they have come. `phase`: idle, joining, joined, syncing, member."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.phase = "idle"

    def ask(self) -> Waiting:
        self.phase = "joining"
        return self.client.ask()

    def sync(self) -> Waiting:
        self.phase = "syncing"
        return self.client.sync()

    def refused(self, code: Code) -> None:
        """What a real client does: join again, without its id if it is unknown."""
        self.phase = "idle"
        if code is not Code.REBALANCE_IN_PROGRESS:
            self.client.id = ""
        self.client.generation = -1


class Groups(RuleBasedStateMachine):
    """The schedule."""

    def __init__(self) -> None:
        super().__init__()
        self.scene = Scene()
        self.scene.kept["g"] = True  # it is never forgotten, so its generations only rise
        self.live: dict[str, Actor] = {}
        self.past: set[tuple[str, int, str | None]] = set()
        self.waiting: list[tuple[float, Waiting]] = []
        self.assigned: dict[tuple[int, str], bytes] = {}
        self.leads: dict[int, str] = {}
        self.protocols: dict[int, str] = {}
        self.newest = 0

    # -- what clients do

    @precondition(lambda self: len(self.live) < len(NAMES) + len(STATIC))
    @rule(data=st.data(), two_steps=st.booleans())
    def start(self, data: st.DataObject, two_steps: bool) -> None:
        name = data.draw(st.sampled_from([name for name in NAMES + STATIC if name not in self.live]))
        self.live[name] = Actor(Client(self.scene, name, static=name in STATIC, two_steps=two_steps,
                                       protocols=data.draw(st.sampled_from(PROTOCOLS)),
                                       session=data.draw(st.sampled_from([6, 10, 100])),
                                       rebalance=data.draw(st.sampled_from([10, 30, PATIENCE]))))  # fmt: skip
        self.ask(self.live[name])

    def ask(self, actor: Actor) -> None:
        self.waiting.append((self.scene.clock.now, actor.ask()))
        self.take()

    @precondition(lambda self: self.live)
    @rule(data=st.data(), change=st.sampled_from(["", "", "topics", "extra"]))
    def join(self, data: st.DataObject, change: str) -> None:
        """Again, from any phase: also while the last request waits, and with other metadata."""
        actor = self.someone(data)
        if change == "topics":
            actor.client.topics = tuple(data.draw(st.sets(st.sampled_from("tuv"), min_size=1)))
        if change == "extra":
            actor.client.extra = data.draw(st.binary(max_size=3))
        self.ask(actor)

    @precondition(lambda self: any(actor.phase in ("joined", "member") for actor in self.live.values()))
    @rule(data=st.data())
    def sync(self, data: st.DataObject) -> None:
        self.do_sync(self.someone(data, "joined", "member"))

    def do_sync(self, actor: Actor) -> None:
        self.waiting.append((self.scene.clock.now, actor.sync()))
        self.take()

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def beat(self, data: st.DataObject) -> None:
        self.do_beat(self.someone(data))

    def do_beat(self, actor: Actor) -> None:
        code = actor.client.beat()
        if actor.phase in ("joined", "member") and code in (*REJOIN, Code.FENCED_INSTANCE_ID):
            actor.refused(code)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        actor = self.someone(data)
        actor.client.leave()
        del self.live[actor.client.name]
        self.take()

    @precondition(lambda self: self.live)
    @rule(data=st.data(), closed=st.booleans())
    def vanish(self, data: st.DataObject, closed: bool) -> None:
        """The program is gone; `closed`: its connection is, too."""
        actor = self.someone(data)
        del self.live[actor.client.name]
        if closed and actor.client.waiting:
            actor.client.lose()

    @precondition(lambda self: any(actor.client.waiting for actor in self.live.values()))
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        """The connection breaks while an answer is waited for; the program goes on."""
        actor = data.draw(st.sampled_from([actor for actor in self.live.values() if actor.client.waiting]))
        actor.client.lose()
        actor.phase = "idle"

    @rule(name=st.sampled_from(STATIC))
    def expel(self, name: str) -> None:
        """An administrator removes a static member, whose program may go on."""
        self.scene.do(self.scene.coordinator.leave, "g", [("", name)])
        self.take()

    @rule()
    def delete(self) -> None:
        """An administrator deletes the group: it goes if nobody is in it, and its generations begin anew."""
        if self.scene.coordinator.delete("g") is Code.NONE:
            assert not self.scene.ids
            self.newest, self.assigned, self.leads, self.protocols = 0, {}, {}, {}

    @rule(seconds=st.sampled_from([0.1, 0.2, 1, 3, 7, 15, 40]))
    def wait(self, seconds: float) -> None:
        self.scene.wait(seconds)
        self.take()

    def someone(self, data: st.DataObject, *phases: str) -> Actor:
        found = [actor for actor in self.live.values() if not phases or actor.phase in phases]
        return data.draw(st.sampled_from(found))

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
                self.joined(actor, client.joined())
            else:
                assignment = client.synced()
                actor.phase = "member"
                assert self.assigned.setdefault((client.generation, client.id), assignment) == assignment

    def joined(self, actor: Actor, body: dict[str, Any]) -> None:
        client = actor.client
        actor.phase = "joined"
        self.past.add((client.id, client.generation, client.instance_id))
        self.newest = max(self.newest, client.generation)
        protocol = body["protocol_name"]
        assert protocol in client.protocols
        assert self.protocols.setdefault(client.generation, protocol) == protocol, "two protocols of one generation"
        if client.peers:
            assert body["leader"] == client.id
            assert client.id in client.peers
            assert self.leads.setdefault(client.generation, client.id) == client.id, "two leaders of one generation"

    # -- what holds at any moment

    @invariant()
    def nobody_waits_for_ever(self) -> None:
        """No request waits longer than the most patient client would for a rebalance."""
        self.waiting = [(since, waiting) for since, waiting in self.waiting if not waiting.done()]
        for since, _ in self.waiting:
            assert self.scene.clock.now - since <= PATIENCE

    @invariant()
    def the_past_cannot_commit(self) -> None:
        """No id of an older generation may commit with it, and nobody who isn't a member."""
        ids = self.scene.ids
        for member_id, generation, instance_id in self.past:
            arguments = ("g", generation, member_id, instance_id, True)
            if self.scene.coordinator.check(*arguments) is Code.NONE:
                assert generation >= self.newest
                assert member_id in ids

    @invariant()
    def an_assignment_is_for_one_generation(self) -> None:
        """A member has what the leader of its own generation assigned to it, or to its static name before."""
        for actor in self.live.values():
            client = actor.client
            if actor.phase == "member" and client.assignment:
                generation, _, whose = client.assignment.decode().partition(":")
                assert int(generation) == client.generation
                assert whose == client.id or (client.instance_id and whose.startswith(client.instance_id))

    @invariant()
    def all_are_watched(self) -> None:
        """Each member has a timer or a request that waits, each id given out has a timer, and there are no others."""
        group = self.scene.coordinator._groups.get("g")
        if group is None:
            return
        members = group.roster.members.values()
        assert all(member.timer or member.waits for member in members)
        assert len(self.scene.clock.running) <= len(members) + len(group.roster.pending) + 1
        assert group.roster.bytes == sum(member.size for member in members)
        assert set(group.roster.static.values()) == {member.id for member in members if member.instance_id}
        assert (group.roster.leader in group.roster.members) == bool(members)

    # -- and in the end

    @rule()
    def settle(self) -> None:
        """Those who live behave for a while: the group is stable and has exactly them."""
        for _ in range(150):
            self.scene.wait(2)
            self.take()
            for actor in self.live.values():
                if actor.phase == "idle":
                    self.ask(actor)
                elif actor.phase == "joined":
                    self.do_sync(actor)
                elif actor.phase == "member":
                    self.do_beat(actor)
        assert self.scene.state == ("Stable" if self.live else "Empty")
        assert self.scene.ids == {actor.client.id for actor in self.live.values()}
        assert {actor.phase for actor in self.live.values()} <= {"member"}
        assert {actor.client.commit() for actor in self.live.values()} <= {Code.NONE}
        assert len({actor.client.generation for actor in self.live.values()}) <= 1

    def teardown(self) -> None:
        """The service closes: every request is answered, no timer stays."""
        self.scene.do(self.scene.coordinator.close)
        assert all(waiting.done() for _, waiting in self.waiting)
        assert not self.scene.clock.running
        self.scene.loop.close()


TestGroups = Groups.TestCase
TestGroups.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
