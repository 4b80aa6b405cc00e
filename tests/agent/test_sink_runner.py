"""The way out of a channel."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from agent.backoff import Backoff
from agent.channel import Channel
from agent.channels.memory import MemoryChannel, MemoryConfig, MemoryTake
from agent.errors import ChannelError, ChannelFull, DeliveryError, Rejected
from agent.event import Batch
from agent.metrics import ChannelCounter, SinkCounter
from agent.sink import Sink, SinkConfig
from agent.sink_runner import Outlet, SinkRunner
from tests.contracts.channel import batch, bodies, settle


class Channelled(MemoryChannel):
    """A memory channel that remembers what was buried, and has receipts."""

    def __init__(self, **keys: Any) -> None:
        super().__init__("c1", MemoryConfig(capacity=1000, transactionCapacity=1000, **keys))
        self.counter = ChannelCounter("c1")
        self.kept: bytes | None = None

    def receipt(self) -> bytes | None:
        return self.kept

    async def keep_receipt(self, receipt: bytes) -> None:
        self.kept = receipt


class Scripted(Sink):
    """Calls `reply(bodies)` for each send; what it doesn't raise for has arrived."""

    def __init__(self, reply: Callable[[list[str]], Any] = lambda bodies: None, in_flight: int = 1) -> None:
        super().__init__("k1", SinkConfig(channel="c1"))
        self.reply, self.in_flight = reply, in_flight
        self.arrived: list[str] = []
        self.sends: list[list[str]] = []
        self.opened = self.closed = 0

    async def open(self) -> None:
        self.opened += 1

    async def close(self) -> None:
        self.closed += 1

    async def send(self, batch: Batch) -> bytes | None:
        names = bodies(batch)
        self.sends.append(names)
        answer = self.reply(names)
        if asyncio.iscoroutine(answer):
            answer = await answer
        self.arrived += names
        return answer if isinstance(answer, bytes) else None


Steps = Callable[[Channel, SinkRunner], Coroutine[Any, Any, None]]


def run(sink: Sink, steps: Steps, channel: Channel | None = None) -> SinkRunner:
    """Take these steps beside a running runner, then cancel it. Back-off is from 1 to 4 ms."""
    counter = SinkCounter("k1")
    sink.counter = counter
    made = channel or Channelled()
    runner = SinkRunner("k1", lambda: Outlet([sink], sink.send), made, counter, Backoff(0.001, 0.004))

    async def bounded() -> None:
        async with asyncio.timeout(20), made:
            task = asyncio.create_task(runner.run())
            try:
                await steps(made, runner)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    asyncio.run(bounded())
    return runner


async def until(true: Callable[[], Any]) -> None:
    """Until something is so; the run's bound ends it."""
    while not true():  # noqa: ASYNC110 - counters and states give no event
        await asyncio.sleep(0.001)


async def emptied(channel: Channel) -> None:
    """Until nothing is inside."""
    await until(lambda: not channel.depth)


def all_of(*batches: Batch) -> Steps:
    """Put these, wait until they are gone."""

    async def steps(channel: Channel, runner: SinkRunner) -> None:
        for one in batches:
            await channel.put(one)
        await emptied(channel)

    return steps


def failing(times: int, error: BaseException) -> Callable[[list[str]], None]:
    """A reply that fails so many times."""
    left = [times]

    def reply(names: list[str]) -> None:
        if left[0]:
            left[0] -= 1
            raise error

    return reply


def rejecting(*bad: str, text: str = "illegal key") -> Callable[[list[str]], None]:
    """A reply that rejects every batch with one of these in it."""

    def reply(names: list[str]) -> None:
        if set(names) & set(bad):
            raise Rejected(text)

    return reply


def test_events_arrive_in_order() -> None:
    """First in, first out."""
    sink = Scripted()
    run(sink, all_of(*(batch(*range(i, i + 5)) for i in range(0, 50, 5))))
    assert sink.arrived == [str(i) for i in range(50)]


def test_batches_keep_to_the_sinks_size() -> None:
    """No send has more events than batch_size."""
    sink = Scripted()
    sink.batch_size = 7
    runner = run(sink, all_of(batch(*range(50))))
    assert max(map(len, sink.sends)) == 7
    assert runner.counter.BatchCompleteCount == 7
    assert runner.counter.BatchUnderflowCount == 1
    assert runner.counter.EventDrainSuccessCount == runner.counter.EventDrainAttemptCount == 50


def test_a_failed_batch_is_sent_again() -> None:
    """DeliveryError puts the batch back; it is sent again, and nothing overtakes it."""
    sink = Scripted(failing(3, DeliveryError("away")))
    runner = run(sink, all_of(batch("a"), batch("b")))
    assert sink.arrived == ["a", "b"]
    assert runner.counter.EventWriteFail == 3
    assert runner.counter.EventDrainSuccessCount == 2


def test_failures_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """One line when it begins to fail, one when it delivers again, never one a try."""
    caplog.set_level(logging.INFO)
    states: list[str] = []

    def reply(names: list[str]) -> None:
        states.append(runners[0].counter.state)
        if len(states) < 6:
            raise DeliveryError("away")

    runners: list[SinkRunner] = []

    async def steps(channel: Channel, runner: SinkRunner) -> None:
        runners.append(runner)
        await all_of(batch("a"))(channel, runner)
        states.append(runner.counter.state)

    run(Scripted(reply), steps)
    assert states[0] == "running"
    assert set(states[1:-1]) == {"waiting: away"}
    assert states[-1] == "running"
    assert len(caplog.messages) == 2


def test_the_wait_doubles_up_to_its_bound() -> None:
    """First 1, 2, 4, 4 ...; from the start after a success."""
    waits = Backoff(1.0, 4.0)
    assert [waits.next() for _ in range(4)] == [1.0, 2.0, 4.0, 4.0]
    waits.reset()
    assert waits.next() == 1.0


def test_a_receipt_is_handed_back() -> None:
    """A sink gets the last receipt before it is opened; what open changes is kept before the first send."""
    channel = Channelled()
    channel.kept = b"before"
    seen: list[bytes | None] = []

    class Receipted(Scripted):
        async def open(self) -> None:
            seen.append(self.receipt)
            self.receipt = b"opened"

    run(Receipted(lambda names: seen.append(channel.kept)), all_of(batch("a")), channel)
    assert seen == [b"before", b"opened"]


def test_a_sink_that_cannot_be_opened_is_tried_again() -> None:
    """Nothing is taken until open succeeded, and every open has its close."""

    class Shy(Scripted):
        async def open(self) -> None:
            await super().open()
            if self.opened < 4:
                raise DeliveryError("no route")

    sink = Shy()
    run(sink, all_of(batch("a")))
    assert (sink.arrived, sink.opened, sink.closed) == (["a"], 4, 4)


def test_several_sends_are_open_at_once() -> None:
    """As many as in_flight, started in order, and no more."""

    async def steps(channel: Channel, runner: SinkRunner) -> None:
        for i in range(10):
            await channel.put(batch(i))
        await settle()
        assert sink.sends == [["0"], ["1"], ["2"]]
        gate.set()
        await emptied(channel)

    gate = asyncio.Event()
    sink = Scripted(lambda names: gate.wait(), in_flight=3)
    sink.batch_size = 1
    run(sink, steps)
    assert sink.sends == [[str(i)] for i in range(10)]
    assert sorted(sink.arrived) == [str(i) for i in range(10)]


def test_sends_are_committed_as_they_are_answered() -> None:
    """A later send that was answered first stays delivered when an earlier one fails."""
    gates = {str(i): asyncio.Event() for i in range(3)}

    async def reply(names: list[str]) -> None:
        await gates[names[0]].wait()
        if names == ["0"] and sink.sends.count(["0"]) == 1:
            raise DeliveryError("lost")
        if names == ["0"]:
            gates["2"].set()

    async def steps(channel: Channel, runner: SinkRunner) -> None:
        for i in range(3):
            await channel.put(batch(i))
        await settle()
        gates["1"].set()
        await settle()
        assert channel.depth == 2
        gates["0"].set()
        await emptied(channel)

    sink = Scripted(reply, in_flight=3)
    sink.batch_size = 1
    run(sink, steps)
    assert sink.arrived == ["1", "0", "2"]


def test_a_failure_takes_the_later_ones_back() -> None:
    """When one fails, all later ones are cancelled and sent again after it, in order."""
    state = {"fail": True}
    never = asyncio.Event()

    async def reply(names: list[str]) -> None:
        if state["fail"]:
            if names != ["2"]:
                await never.wait()
            await settle()
            state["fail"] = False
            raise DeliveryError("away")

    async def steps(channel: Channel, runner: SinkRunner) -> None:
        for i in range(2, 8):
            await channel.put(batch(i))
        await emptied(channel)

    sink = Scripted(reply, in_flight=4)
    sink.batch_size = 1
    run(sink, steps)
    assert sink.sends[:4] == [["2"], ["3"], ["4"], ["5"]]
    assert sink.arrived == [str(i) for i in range(2, 8)]


def test_earlier_sends_come_to_their_end() -> None:
    """A failure doesn't cancel the sends before it: what they deliver isn't sent twice."""
    gate = asyncio.Event()

    async def reply(names: list[str]) -> None:
        if names == ["0"]:
            await gate.wait()
        if names == ["1"] and sink.sends.count(["1"]) == 1:
            raise DeliveryError("away")

    async def steps(channel: Channel, runner: SinkRunner) -> None:
        for i in range(4):
            await channel.put(batch(i))
        await settle()
        assert sink.arrived.count("0") == 0
        gate.set()
        await emptied(channel)

    sink = Scripted(reply, in_flight=2)
    sink.batch_size = 1
    run(sink, steps)
    assert sink.sends.count(["0"]) == 1
    assert sink.arrived == ["0", "1", "2", "3"]


def test_a_sink_may_raise_its_in_flight_later() -> None:
    """After a first answer that says so, more sends are open; and fewer again when it says 1."""
    gate = asyncio.Event()

    async def reply(names: list[str]) -> None:
        if names == ["0"]:
            sink.in_flight = 2
        elif names == ["3"]:
            sink.in_flight = 1
        elif names in (["1"], ["2"]):
            await gate.wait()

    async def steps(channel: Channel, runner: SinkRunner) -> None:
        for i in range(6):
            await channel.put(batch(i))
        await settle()
        assert sink.sends == [["0"], ["1"], ["2"]]
        gate.set()
        await emptied(channel)

    sink = Scripted(reply)
    sink.batch_size = 1
    run(sink, steps)
    assert sink.sends == [[str(i)] for i in range(6)]
    assert sorted(sink.arrived) == [str(i) for i in range(6)]


@pytest.mark.parametrize("in_flight", [1, 3])
@pytest.mark.parametrize("bad", [["0"], ["9"], ["4"], ["3", "4"], ["0", "9"], ["1", "5", "6"]])
def test_rejected_events_are_found_and_buried(bad: list[str], in_flight: int) -> None:
    """What is at fault is buried alone; everything else arrives once, in order."""
    channel = Channelled()
    sink = Scripted(rejecting(*bad), in_flight)
    runner = run(sink, all_of(batch(*range(10))), channel)
    assert sink.arrived == [str(i) for i in range(10) if str(i) not in bad]
    assert runner.counter.rejected == channel.counter.dropped == len(bad)


def test_a_batch_rejected_for_one_reason_waits() -> None:
    """All of two or more rejected alike is the destination's fault: nothing is buried, all is sent again, in order."""
    away = {"now": True}

    def reply(names: list[str]) -> None:
        if away["now"]:
            raise Rejected(f"no table, line {len(sink.sends)}")

    async def steps(channel: Channel, runner: SinkRunner) -> None:
        await channel.put(batch(*range(5)))
        await until(lambda: runner.backoff.failures >= 2)
        assert channel.depth == 5
        assert "no table" in runner.counter.state
        away["now"] = False
        await emptied(channel)

    sink = Scripted(reply)
    runner = run(sink, steps)
    assert sink.arrived == ["0", "1", "2", "3", "4"]
    assert runner.counter.rejected == 0


def test_bad_events_in_a_row_do_not_stop_the_channel() -> None:
    """A whole batch of bad events is buried once an event after it was accepted."""
    sink = Scripted(rejecting("0", "1", "2", "3", "4", "5"))
    sink.batch_size = 3
    runner = run(sink, all_of(*(batch(i, i + 1, i + 2) for i in range(0, 12, 3))))
    assert sink.arrived == [str(i) for i in range(6, 12)]
    assert runner.counter.rejected == 6


def test_different_reasons_are_the_events_own() -> None:
    """Two events rejected for two reasons are both buried, though nothing of their batch was accepted."""

    def reply(names: list[str]) -> None:
        raise Rejected("too large" if "a" in names else "no key")

    channel = Channelled()
    runner = run(Scripted(reply), all_of(batch("a", "b")), channel)
    assert runner.counter.rejected == 2


def test_a_single_rejected_event_is_buried_at_once() -> None:
    """A batch of one event has nothing to be compared with."""
    runner = run(Scripted(rejecting("a")), all_of(batch("a")))
    assert runner.counter.rejected == 1


def test_held_events_go_back_when_the_far_side_goes_away() -> None:
    """A DeliveryError in the middle of the search puts the held events back: order and events are kept."""
    state = {"away": 0}

    def reply(names: list[str]) -> None:
        if "0" in names:
            raise Rejected("illegal")
        if "1" in names and state["away"] < 3:
            state["away"] += 1
            raise DeliveryError("away")

    sink = Scripted(reply)
    runner = run(sink, all_of(batch(*range(4))))
    assert sink.arrived == ["1", "2", "3"]
    assert runner.counter.rejected == 1


def test_held_events_go_back_when_it_is_cancelled() -> None:
    """Cancelled in the middle of the search: everything is inside again, in order."""

    async def reply(names: list[str]) -> None:
        if "0" in names:
            raise Rejected("illegal")
        await asyncio.sleep(1000)

    async def steps(channel: Channel, runner: SinkRunner) -> None:
        await channel.put(batch(*range(4)))
        await until(lambda: sink.sends[-1:] == [["1"]])
        assert runner._task
        runner._task.cancel()
        await asyncio.gather(runner._task, return_exceptions=True)
        async with await channel.take(100) as take:
            assert bodies(take) == ["0", "1", "2", "3"]

    sink = Scripted(reply)
    run(sink, steps)


def test_full_dead_letters_make_the_channel_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """When bury has no room the event stays, and is buried when there is."""
    refused: list[str] = []
    bury = MemoryTake.bury

    async def cramped(take: MemoryTake, reason: str) -> None:
        if len(refused) < 3:
            refused.append(reason)
            raise ChannelFull("deadLetter.maxBytes")
        await bury(take, reason)

    monkeypatch.setattr(MemoryTake, "bury", cramped)
    sink = Scripted(rejecting("bad"))
    runner = run(sink, all_of(batch("a", "bad", "c")))
    assert (sink.arrived, len(refused), runner.counter.rejected) == (["a", "c"], 3, 1)


def test_an_unexpected_exception_makes_the_sink_anew() -> None:
    """The batch goes back, the sink is closed and opened, and the batch is sent again."""
    sink = Scripted(failing(2, ZeroDivisionError("bug")))
    run(sink, all_of(batch("a", "b")))
    assert sink.arrived == ["a", "b"]
    assert (sink.opened, sink.closed) == (3, 3)


def test_an_event_that_always_crashes_the_sink_is_buried() -> None:
    """After five times on the same head the event at fault is buried, with the traceback as its reason."""
    reasons: list[str] = []

    def reply(names: list[str]) -> None:
        if "bad" in names:
            raise ZeroDivisionError("division of bad")

    async def steps(channel: Channel, runner: SinkRunner) -> None:
        error = channel.log.error
        channel.log.error = lambda text, *args: (reasons.append(str(args[-1])), error(text, *args))  # type: ignore
        await all_of(batch("a", "b", "bad", "c"))(channel, runner)

    sink = Scripted(reply)
    runner = run(sink, steps)
    assert sink.arrived == ["a", "b", "c"]
    assert runner.counter.rejected == 1
    assert sink.sends[:5] == [["a", "b", "bad", "c"]] * 5
    assert "ZeroDivisionError: division of bad" in reasons[0]


def test_an_os_error_is_never_an_events_fault() -> None:
    """However often it comes, for a batch of one event too: the batch waits, the sink is made anew."""
    sink = Scripted(failing(12, ConnectionResetError("by peer")))
    runner = run(sink, all_of(batch("a")))
    assert (sink.arrived, runner.counter.rejected, sink.opened) == (["a"], 0, 13)


def test_a_sink_that_opens_after_failures_runs() -> None:
    """It is said to run as soon as it is open, without an event to show it."""

    class Shy(Scripted):
        async def open(self) -> None:
            await super().open()
            if self.opened < 3:
                raise DeliveryError("no route")

    async def steps(channel: Channel, runner: SinkRunner) -> None:
        await until(lambda: runner.counter.state.startswith("waiting"))
        await until(lambda: runner.counter.state == "running")

    run(Shy(), steps)


def test_a_sink_that_always_crashes_loses_nothing() -> None:
    """When every event crashes it alike, the sink is at fault: nothing is buried."""
    broken = {"now": True}

    def reply(names: list[str]) -> None:
        if broken["now"]:
            raise ZeroDivisionError("bug")

    async def steps(channel: Channel, runner: SinkRunner) -> None:
        await channel.put(batch(*range(4)))
        await until(lambda: len(sink.sends) >= 40)
        assert channel.depth == 4
        broken["now"] = False
        await emptied(channel)

    sink = Scripted(reply)
    runner = run(sink, steps)
    assert sink.arrived == ["0", "1", "2", "3"]
    assert runner.counter.rejected == 0


@pytest.mark.parametrize("in_flight", [1, 3])
def test_a_broken_channel_ends_the_runner(in_flight: int) -> None:
    """ChannelError out of take leaves run: the agent can't keep its promise."""

    class Broken(Channelled):
        async def take(self, limit: int, max_bytes: int = 1 << 20) -> Any:
            raise ChannelError("the store is gone")

    async def bounded() -> None:
        sink = Scripted(in_flight=in_flight)
        sink.counter = SinkCounter("k1")
        async with Broken() as channel:
            with pytest.raises(ChannelError, match="gone"):
                await SinkRunner("k1", lambda: Outlet([sink], sink.send), channel, sink.counter, Backoff()).run()
        assert sink.closed == 1

    asyncio.run(bounded())


@pytest.mark.parametrize("in_flight", [1, 3])
def test_cancellation_puts_back_what_is_under_way(in_flight: int) -> None:
    """Cancelled in the middle of sends: all are inside again, in order."""

    async def steps(channel: Channel, runner: SinkRunner) -> None:
        for i in range(5):
            await channel.put(batch(i))
        await settle()
        assert runner._task
        runner._task.cancel()
        await asyncio.gather(runner._task, return_exceptions=True)
        async with await channel.take(100) as take:
            assert bodies(take) == ["0", "1", "2", "3", "4"]

    sink = Scripted(lambda names: asyncio.sleep(20), in_flight)
    sink.batch_size = 1
    run(sink, steps)


@pytest.mark.parametrize("in_flight", [1, 3])
def test_finish_lets_what_is_under_way_be_delivered(in_flight: int) -> None:
    """finish: nothing more is taken, what is open is delivered and committed, then run ends."""
    gate = asyncio.Event()

    async def steps(channel: Channel, runner: SinkRunner) -> None:
        for i in range(6):
            await channel.put(batch(i))
        await settle()
        runner.finish()
        await settle()
        assert runner._task and not runner._task.done()
        gate.set()
        await asyncio.wait([runner._task])
        assert channel.depth == 6 - in_flight

    sink = Scripted(lambda names: gate.wait(), in_flight)
    sink.batch_size = 1
    run(sink, steps)
    assert sink.arrived == [str(i) for i in range(in_flight)]


@pytest.mark.parametrize("in_flight", [1, 3])
def test_finish_ends_a_wait_for_data(in_flight: int) -> None:
    """finish ends a runner that has nothing under way."""

    async def steps(channel: Channel, runner: SinkRunner) -> None:
        await settle()
        runner.finish()
        assert runner._task
        await asyncio.wait([runner._task])

    run(Scripted(in_flight=in_flight), steps)


def test_finish_ends_a_back_off() -> None:
    """finish doesn't wait until a sink that failed is tried again; its batch stays inside."""

    async def steps(channel: Channel, runner: SinkRunner) -> None:
        runner.backoff.first = runner.backoff.most = 1000.0
        await channel.put(batch("a"))
        await until(lambda: runner.backoff.failures)
        await settle()
        runner.finish()
        assert runner._task
        await asyncio.wait([runner._task])
        assert channel.depth == 1

    run(Scripted(failing(1, DeliveryError("away"))), steps)


@pytest.mark.parametrize("in_flight", [1, 3])
def test_drain_ends_when_the_channel_is_empty(in_flight: int) -> None:
    """drain: everything inside is delivered, then run ends by itself."""

    async def steps(channel: Channel, runner: SinkRunner) -> None:
        for i in range(20):
            await channel.put(batch(i))
        runner.drain()
        await until(lambda: runner._task and runner._task.done())
        assert channel.depth == 0

    sink = Scripted(in_flight=in_flight)
    sink.batch_size = 3
    run(sink, steps)
    assert sink.arrived == [str(i) for i in range(20)]


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_lost_or_sent_twice_whatever_fails(seed: int) -> None:
    """Random failures, rejections, crashes and restarts: each event arrives, or is buried, once."""
    chance = random.Random(seed)
    bad = {str(i) for i in range(60) if chance.random() < 0.1}
    trouble = [30]

    async def reply(names: list[str]) -> None:
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        if chance.random() < 0.3:
            sink.in_flight = chance.choice((1, 2, 5))
        if set(names) & bad:
            raise Rejected(f"illegal: {sorted(set(names) & bad)}")
        if trouble[0] and chance.random() < 0.3:
            trouble[0] -= 1
            raise chance.choice((DeliveryError("away"), ZeroDivisionError("bug"), OSError("reset")))

    async def feed(channel: Channel) -> None:
        for start in range(0, 60, 3):
            await channel.put(batch(*range(start, start + 3)))
            await asyncio.sleep(0)

    async def steps(channel: Channel, runner: SinkRunner) -> None:
        feeding = asyncio.create_task(feed(channel))
        for _ in range(3):
            for _ in range(chance.randrange(60)):
                await asyncio.sleep(0)
            await restart(runner, channel)
        await feeding
        while channel.depth:
            # a batch that is bad as a whole waits until something after it is accepted
            good.append(f"good {len(good)}")
            await channel.put(batch(good[-1]))
            await asyncio.sleep(0.002)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def restart(runner: SinkRunner, channel: Channel) -> None:
        """Cancel the runner, or let it finish, and put another in its place."""
        for task in (*tasks, runner._task) if runner._task else tasks:
            if not task.done() and chance.random() < 0.7:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        other = SinkRunner("k1", lambda: Outlet([sink], sink.send), channel, sink.counter, Backoff(0.0001, 0.001))
        tasks.append(asyncio.create_task(other.run()))

    good: list[str] = []
    tasks: list[asyncio.Task[None]] = []
    sink = Scripted(reply)
    sink.batch_size = chance.choice((1, 4, 10))
    channel = Channelled()
    run(sink, steps, channel)
    buried = sink.counter.rejected
    assert sorted(sink.arrived) == sorted({str(i) for i in range(60)} - bad | set(good))
    assert buried == len(bad)
