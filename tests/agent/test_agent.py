"""The agent: a flow, opened, run, changed, drained, closed."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.agent import Agent
from agent.channel import Channel
from agent.channels.memory import MemoryChannel
from agent.errors import ChannelError, ConfigError, DeliveryError
from agent.metrics import SinkCounter, SourceCounter
from tests.agent.parts import SIMPLE, HandSource, ListSink, flow, reset
from tests.contracts.channel import batch, settle


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Parts that know nothing of another test."""
    reset()
    yield
    reset()


async def until(true: Callable[[], Any]) -> None:
    """Until something is so; the run's bound ends it."""
    while not true():  # noqa: ASYNC110 - counters and states give no event
        await asyncio.sleep(0.001)


def run(text: str, steps: Callable[[Agent], Coroutine[Any, Any, None]]) -> Agent:
    """Run a flow, take these steps once it is ready, stop it and wait for its end. Restarts after 1 to 4 ms."""
    agent = Agent(flow(text))
    agent.restart = (0.001, 0.004)

    async def bounded() -> None:
        async with asyncio.timeout(20):
            running = asyncio.create_task(agent.run())
            ready = asyncio.create_task(until(lambda: agent.ready))
            await asyncio.wait({running, ready}, return_when=asyncio.FIRST_COMPLETED)
            try:
                if ready.done():
                    await steps(agent)
            finally:
                ready.cancel()
                if agent.ready:
                    agent.stop()
                await running

    asyncio.run(bounded())
    return agent


async def put(name: str, *names: str | int) -> None:
    """Have a source process a batch of these bodies."""
    await until(lambda: name in HandSource.live)
    source = HandSource.live[name]
    await source.inbox.put(batch(*names))
    await source.inbox.join()


def test_what_a_source_takes_in_reaches_the_sink() -> None:
    """The whole road: source, memory channel, sink."""

    async def steps(agent: Agent) -> None:
        await put("r1", "a", "b")
        await put("r1", "c")
        await until(lambda: len(ListSink.got.get("k1", [])) == 3)

    agent = run(SIMPLE, steps)
    assert ListSink.got == {"k1": ["a", "b", "c"]}
    assert agent.metrics.counter(SinkCounter, "k1").EventDrainSuccessCount == 3
    assert ListSink.opens == ListSink.closes == ["k1"]
    assert HandSource.live == {}


def test_ready_when_every_source_listens() -> None:
    """Not ready while a source's open fails; ready once it succeeds; not ready when it stops."""
    tries: list[bool] = []

    def fail(source: HandSource) -> None:
        tries.append(agent_of[0].ready)
        if len(tries) < 4:
            raise OSError(errno.EADDRINUSE, "address already in use")

    agent_of: list[Agent] = []
    HandSource.fail = staticmethod(fail)  # type: ignore[assignment]
    original = Agent.__init__

    def remember(self: Agent, *args: Any) -> None:
        original(self, *args)
        agent_of.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Agent, "__init__", remember)
        agent = run(SIMPLE, lambda agent: asyncio.sleep(0))
    assert tries == [False] * 4
    assert not agent.ready


def test_a_taken_port_is_one_line_that_names_the_key(caplog: pytest.LogCaptureFixture) -> None:
    """The place in the file and the key's value are in the line; there is one line however often it is tried."""
    tries: list[int] = []

    def fail(source: HandSource) -> None:
        tries.append(1)
        if len(tries) < 4:
            raise OSError(errno.EADDRINUSE, "address already in use")

    HandSource.fail = staticmethod(fail)  # type: ignore[assignment]
    run(SIMPLE, lambda agent: asyncio.sleep(0))
    lines = [message for message in caplog.messages if "already in use" in message]
    assert len(lines) == 1
    assert "a.sources.r1.port = " in lines[0] and "(a.conf:4)" in lines[0]


def test_a_source_that_crashes_is_made_anew() -> None:
    """An unexpected exception in run restarts the source; the others go on."""

    async def steps(agent: Agent) -> None:
        for _ in range(3):
            first = HandSource.live["r1"]
            await first.inbox.put(ZeroDivisionError("bug"))
            await until(lambda first=first: HandSource.live.get("r1") not in (first, None))
        await put("r1", "after")
        await until(lambda: "k1" in ListSink.got)

    run(SIMPLE, steps)
    assert ListSink.got == {"k1": ["after"]}
    assert HandSource.opens == ["r1"] * 4


def test_a_source_may_come_to_its_end() -> None:
    """A source whose run returns is done and closed; the agent goes on, ready."""

    async def steps(agent: Agent) -> None:
        await put("r1", "a")
        await HandSource.live["r1"].inbox.put(None)
        await until(lambda: not HandSource.live)
        await until(lambda: agent.metrics.counter(SourceCounter, "r1").state == "done")
        assert agent.ready

    run(SIMPLE, steps)
    assert ListSink.got == {"k1": ["a"]}


def test_a_broken_channel_ends_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """ChannelError from a channel closes everything and is raised by run."""

    async def steps(agent: Agent) -> None:
        async def broken(self: Channel, puts: Any, marks: Any = None) -> Any:
            raise ChannelError("the store is gone")

        monkeypatch.setattr(MemoryChannel, "put_all", broken)
        await HandSource.live["r1"].inbox.put(batch("a"))
        await settle()

    with pytest.raises(ChannelError, match="the store is gone"):
        run(SIMPLE, steps)
    assert ListSink.closes == ["k1"]
    assert HandSource.live == {}


def test_a_channel_that_cannot_be_opened_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """No source listens before the channels are open; the error leaves run."""

    async def broken(self: Channel) -> None:
        raise ChannelError("no such disk")

    monkeypatch.setattr(MemoryChannel, "open", broken)
    with pytest.raises(ChannelError, match="no such disk"):
        run(SIMPLE, lambda agent: asyncio.sleep(0))
    assert HandSource.opens == []


def test_memory_channels_are_drained_at_the_end() -> None:
    """stop: the sources close first, and what is in a memory channel is still delivered, retries included."""

    async def steps(agent: Agent) -> None:
        ListSink.error = DeliveryError("away")
        await put("r1", *range(50))
        asyncio.get_running_loop().call_later(0.05, setattr, ListSink, "error", None)
        agent.stop()
        await until(lambda: not HandSource.live)

    run(SIMPLE, steps)
    assert ListSink.got == {"k1": [str(i) for i in range(50)]}


@pytest.mark.parametrize("second", [False, True])
def test_the_drain_is_bounded(second: bool, caplog: pytest.LogCaptureFixture) -> None:
    """After drainTimeout, or at once after a second stop, the agent ends and says how many events are lost."""

    async def steps(agent: Agent) -> None:
        ListSink.gate = asyncio.Event()
        await put("r1", "a", "b")
        agent.stop()
        await settle()
        if second:
            agent.stop()

    run(SIMPLE.replace("drainTimeout = 5", f"drainTimeout = {1000 if second else 0.05}"), steps)
    assert any("2 events" in message and "lost" in message for message in caplog.messages)


def test_what_is_at_least_once_is_said_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """At start, naming the source, the channel and why."""
    caplog.set_level(logging.INFO)
    run(SIMPLE, lambda agent: asyncio.sleep(0))
    lines = [message for message in caplog.messages if "at least once" in message]
    assert len(lines) == 1
    assert "r1" in lines[0] and "c1" in lines[0]


def test_a_reload_of_the_same_changes_nothing() -> None:
    """Every component keeps running, the same object."""

    async def steps(agent: Agent) -> None:
        before = [agent.component(kind, name) for kind, name in KINDS]
        await agent.reload(flow("# a comment more\n" + SIMPLE))
        assert [agent.component(kind, name) for kind, name in KINDS] == before
        assert None not in before

    run(SIMPLE, steps)
    assert ListSink.opens == ["k1"] and HandSource.opens == ["r1"]


KINDS = (("sources", "r1"), ("channels", "c1"), ("sinks", "k1"))


@pytest.mark.parametrize(
    ("line", "anew"),
    [
        ("sources.r1.tag = x", {"r1"}),
        ("sinks.k1.tag = x", {"k1"}),
        ("channels.c1.capacity = 200", {"r1", "c1", "k1"}),
        ("sources.r1.interceptors = i\nsources.r1.interceptors.i.type = timestamp", {"r1"}),
        ("sources.r1.selector.optional = c1", {"r1"}),
    ],
)
def test_a_reload_restarts_what_changed(line: str, anew: set[str]) -> None:
    """A changed source or sink alone; a changed channel with its neighbours, keeping what it holds."""

    async def steps(agent: Agent) -> None:
        ListSink.gate = asyncio.Event()
        await put("r1", "a", "b")
        before = {name: agent.component(kind, name) for kind, name in KINDS}
        reload = asyncio.create_task(agent.reload(flow(SIMPLE + line)))
        await settle()
        ListSink.gate.set()
        await reload
        await until(lambda: agent.ready)
        after = {name: agent.component(kind, name) for kind, name in KINDS}
        assert {name for name in after if after[name] is not before[name]} == anew
        await put("r1", "c")
        await until(lambda: len(ListSink.got.get("k1", [])) == 3)
        assert agent.metrics.counter(SinkCounter, "k1").EventDrainSuccessCount == 3

    run(SIMPLE, steps)
    assert ListSink.got == {"k1": ["a", "b", "c"]}


def test_a_memory_channel_keeps_its_events_over_a_change() -> None:
    """A sink that is stuck doesn't lose what its channel holds when the channel's capacity is changed."""

    async def steps(agent: Agent) -> None:
        ListSink.error = DeliveryError("away")
        await put("r1", *range(30))
        await agent.reload(flow(SIMPLE + "channels.c1.capacity = 300"))
        assert agent.channels["c1"].depth == 30
        ListSink.error = None
        await until(lambda: not agent.channels["c1"].depth)

    run(SIMPLE.replace("drainTimeout = 5", "drainTimeout = 0.05"), steps)
    assert ListSink.got == {"k1": [str(i) for i in range(30)]}


def test_a_reload_adds_and_removes() -> None:
    """New components open, those that are gone close; a removed memory channel is drained first."""
    two = """
        sources = r1 r2
        channels = c1 c2
        sinks = k1 k2
        sources.r2.type = hand
        sources.r2.channels = c2
        channels.c2.type = memory
        sinks.k2.type = list
        sinks.k2.channel = c2
    """

    async def steps(agent: Agent) -> None:
        await agent.reload(flow(SIMPLE + two))
        await put("r2", "x")
        await put("r1", "a")
        await agent.reload(flow(SIMPLE))
        assert set(agent.channels) == {"c1"}
        assert set(HandSource.live) == {"r1"}

    run(SIMPLE, steps)
    assert ListSink.got == {"k1": ["a"], "k2": ["x"]}
    assert sorted(ListSink.closes) == ["k1", "k2"]
    assert HandSource.opens == ["r1", "r2"]


def test_a_group_of_one_sink_delivers() -> None:
    """The default processor hands a group's batches to its sink."""
    group = """
        sinkgroups = g
        sinkgroups.g.sinks = k1
        sinkgroups.g.processor.type = default
    """

    async def steps(agent: Agent) -> None:
        await put("r1", "a")
        await until(lambda: "k1" in ListSink.got)

    agent = run(SIMPLE + group, steps)
    assert ListSink.got == {"k1": ["a"]}
    assert agent.metrics.counter(SinkCounter, "k1").EventDrainSuccessCount == 1


def test_a_durable_channel_with_events_keeps_its_place(tmp_path: Path) -> None:
    """A reload that would leave events behind in another store is refused, and everything goes on; drained, it is
    taken up."""
    there, elsewhere = (
        SIMPLE.replace("type = memory", f"type = file\nchannels.c1.path = {tmp_path / name}") for name in ("a", "b")
    )

    async def steps(agent: Agent) -> None:
        ListSink.gate = asyncio.Event()
        await put("r1", "a")
        before = agent.channels["c1"]
        for other in (elsewhere, SIMPLE):
            with pytest.raises(ConfigError, match=r"c1: it holds 1 events"):
                await agent.reload(flow(other))
        assert agent.channels["c1"] is before
        ListSink.gate.set()
        await until(lambda: not before.depth)
        await agent.reload(flow(elsewhere))
        await put("r1", "b")
        await until(lambda: len(ListSink.got["k1"]) == 2)

    run(there, steps)
    assert ListSink.got == {"k1": ["a", "b"]}


def test_what_a_durable_channel_holds_is_there_after_a_restart(tmp_path: Path) -> None:
    """stop doesn't wait for a file channel to drain; the next run delivers the rest, once."""
    text = SIMPLE.replace("type = memory", f"type = file\nchannels.c1.path = {tmp_path}")

    async def first(agent: Agent) -> None:
        await put("r1", "a")
        await until(lambda: ListSink.got)
        ListSink.error = DeliveryError("away")
        await put("r1", "b", "c")

    async def second(agent: Agent) -> None:
        await until(lambda: len(ListSink.got["k1"]) == 3)

    run(text, first)
    ListSink.error = None
    run(text, second)
    assert ListSink.got == {"k1": ["a", "b", "c"]}


def test_two_sinks_that_keep_a_receipt_on_one_channel_are_at_least_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A channel keeps one receipt: two file_roll sinks share none, and a reload to one sink gives it its own."""
    one = f"""
        sources = r1
        channels = c1
        sinks = k1
        sources.r1.type = hand
        sources.r1.channels = c1
        channels.c1.type = file
        channels.c1.path = {tmp_path}
        sinks.k1.type = file_roll
        sinks.k1.sink.directory = {tmp_path / "out"}
        sinks.k1.channel = c1
    """
    two = one.replace("sinks = k1", "sinks = k1 k2") + one[one.index("sinks.k1.type") :].replace("k1", "k2")

    async def steps(agent: Agent) -> None:
        def durable(name: str) -> bool | None:
            return getattr(agent.component("sinks", name), "durable", None)

        await until(lambda: (durable("k1"), durable("k2")) == (False, False))
        await until(lambda: sum("keeps no receipt" in message for message in caplog.messages) == 2)
        await agent.reload(flow(one))
        await until(lambda: (durable("k1"), durable("k2")) == (True, None))

    caplog.set_level(logging.INFO)
    run(two, steps)
