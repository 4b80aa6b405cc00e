"""Agent: builds what a flow describes, opens it, runs it, drains it, closes it; takes up a new flow as a diff.

Opened in this order: channels, services, sinks, sources, and closed the other way round, so that nothing is taken in
that could not go on. Channels are opened here and must open; everything else lives in a task of its own, which waits
its failures out (agent/runner.py, agent/sink_runner.py). A ChannelError in any of them ends the agent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from agent.builder import Builder, PartSpec, part_specs
from agent.channel import Channel
from agent.component import Component
from agent.config.specs import Flow, Spec
from agent.errors import ChannelError, ChannelFull, ConfigError
from agent.metrics import ChannelCounter, Metrics
from agent.runner import Runner
from agent.sink_runner import SinkRunner

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Part:
    """A source, sink, group or service that runs: what it was built from, the channels it touches, its task."""

    spec: PartSpec
    channels: frozenset[str]
    runner: Runner | SinkRunner
    task: asyncio.Task[None]


class Agent:
    """One flow, running. `run` ends after `stop`, or raises the ChannelError that ended it."""

    restart = (1.0, 30.0)
    """First and longest wait, in seconds, before a source or service that failed is tried again."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.metrics = Metrics()
        self.channels: dict[str, Channel] = {}
        self.builder = Builder(flow.agent, self.metrics, self.channels, lambda: self.ready, self.services)
        self.parts: dict[tuple[str, str], Part] = {}
        self._group = asyncio.TaskGroup()
        self._ended: asyncio.Future[None] | None = None
        self._bound: asyncio.Timeout | None = None
        self._stops = 0
        self._changing = asyncio.Lock()
        self._started = False

    # -- what others look at

    @property
    def ready(self) -> bool:
        """Whether every source listens and no change is under way."""
        runners = [part.runner for part in self.parts.values()]
        up = self._started and not self._stops and not self._changing.locked()
        return up and all(runner.ready for runner in runners if isinstance(runner, Runner))

    def component(self, kind: str, name: str) -> Component | None:
        """The component of this kind ("sources", "channels" ...) that runs under a name now."""
        if kind == "channels":
            return self.channels.get(name)
        runners = [part.runner for part in self.parts.values()]
        part = self.parts.get((kind, name))
        if part and isinstance(part.runner, Runner):
            return part.runner.component
        sinks = [sink for runner in runners if isinstance(runner, SinkRunner) for sink in runner.sinks]
        return next((sink for sink in sinks if sink.name == name), None) if kind == "sinks" else None

    def services(self) -> dict[str, Component]:
        """Those that run, by name; one that waits for its next try is not open."""
        found = {name: part.runner for (kind, name), part in self.parts.items() if kind == "services"}
        return {name: one.component for name, one in found.items() if isinstance(one, Runner) and one.component}

    # -- life

    async def run(self) -> None:
        """Open, run until `stop`, drain, close."""
        self._ended = asyncio.get_running_loop().create_future()
        if self._stops:
            return
        try:
            async with self._group:
                async with self._changing:
                    await self._open(self.flow)
                    self._started = True
                self._say_weak()
                try:
                    await self._ended
                finally:
                    async with self._changing:
                        await self._stop(list(self.parts), list(self.channels))
        except BaseExceptionGroup as group:
            raise _first(group) from None
        finally:
            await self._close_channels(list(self.channels))

    def stop(self) -> None:
        """First call: drain and end. Second: skip the drain."""
        self._stops += 1
        if self._ended and not self._ended.done():
            self._ended.set_result(None)
        if self._stops > 1 and self._bound and not self._bound.expired():
            self._bound.reschedule(asyncio.get_running_loop().time())

    async def reload(self, flow: Flow) -> None:
        """Take up a new flow: what is the same keeps running, the rest is stopped, and opened as the flow says.

        ConfigError, and nothing has changed, if events would be left behind. When a channel can't be opened the agent
        ends: ChannelError.
        """
        async with self._changing:
            if self._stops:
                return
            self._leaves_nothing(flow)
            channels = {name for name, spec in self.flow.channels.items() if flow.channels.get(name) != spec}
            wanted = dict(part_specs(flow))
            parts = [
                key for key, part in self.parts.items() if wanted.get(key) != part.spec or part.channels & channels
            ]  # fmt: skip
            try:
                await self._stop(parts, [name for name in channels if name not in flow.channels])
                old = {name: self.channels[name] for name in channels}
                await self._replace(old, flow)
                self.flow = flow
                await self._open(flow)
            except Exception as error:
                if self._ended and not self._ended.done():
                    self._ended.set_exception(error)
                raise
            self._say_weak()

    def _leaves_nothing(self, flow: Flow) -> None:
        """ConfigError if a durable channel that holds events would get another type or place."""
        for name, spec in flow.channels.items():
            old = self.channels.get(name)
            if old is None or not old.durable or not old.depth or spec == self.flow.channels[name]:
                continue
            new = self.builder.make(spec)
            if type(new) is not type(old) or getattr(new, "folder", None) != getattr(old, "folder", None):
                raise ConfigError(
                    f"{spec.place}: {flow.agent}.channels.{name}: it holds {old.depth} events that another type or "
                    "place would leave behind: give the new channel another name, and keep this one until it is drained"
                )

    # -- opening

    async def _open(self, flow: Flow) -> None:
        """Open what the flow has and isn't there yet."""
        for name, spec in flow.channels.items():
            if name not in self.channels:
                self.channels[name] = await self._open_channel(spec)
        for key, part in part_specs(flow):
            if key not in self.parts:
                self._start(key, part)

    async def _open_channel(self, spec: Spec) -> Channel:
        channel = cast(Channel, self.builder.make(spec))
        counter = channel.counter = self.metrics.counter(ChannelCounter, spec.name)
        try:
            await channel.open()
        except BaseException:
            await channel.close()
            raise
        counter.start()
        counter.say("running")
        return channel

    def _start(self, key: tuple[str, str], spec: PartSpec) -> None:
        runner, channels = self.builder.runner(spec, self.restart)
        task = self._group.create_task(runner.run(), name=" ".join(key))
        self.parts[key] = Part(spec, channels, runner, task)

    # -- stopping

    async def _stop(self, keys: Iterable[tuple[str, str]], emptied: Iterable[str]) -> None:
        """Stop these parts: sources first, then sinks, once what they have open is settled and the memory channels
        among `emptied` are drained, within drainTimeout; services last."""
        parts = {key: self.parts.pop(key) for key in keys}
        sinks = [part for part in parts.values() if isinstance(part.runner, SinkRunner)]
        drained = {name for name in emptied if self.channels[name].volatile}
        try:
            async with asyncio.timeout(self.flow.drain_timeout) as self._bound:
                if self._stops > 1:
                    self._bound.reschedule(asyncio.get_running_loop().time())
                await _cancel(part.task for (kind, _), part in parts.items() if kind == "sources")
                async with asyncio.TaskGroup() as group:
                    for name in {next(iter(part.channels)) for part in sinks}:
                        mine = [part for part in sinks if name in part.channels]
                        group.create_task(_finish(mine, name in drained), name=f"finish {name}")
        except TimeoutError:
            pass
        finally:
            self._bound = None
            await _cancel(part.task for part in parts.values())
        for name in drained:
            if self.channels[name].depth:
                log.warning("channel %s is left with %d events, they are lost", name, self.channels[name].depth)

    async def _replace(self, old: dict[str, Channel], flow: Flow) -> None:
        """Close changed and removed channels; what a memory channel holds moves into its successor."""
        for name, channel in old.items():
            spec = flow.channels.get(name)
            if spec and channel.volatile:
                self.channels[name] = await self._open_channel(spec)
                await _move(channel, self.channels[name])
                await channel.close()
            else:
                await self._close_channels([name])

    async def _close_channels(self, names: Iterable[str]) -> None:
        for name in names:
            channel = self.channels.pop(name)
            channel.counter.stop()
            channel.counter.say("stopped")
            try:
                await channel.close()
            except Exception:
                log.exception("closing channel %s failed", name)

    def _say_weak(self) -> None:
        """One line that says where less than 'exactly once' is promised, and why."""
        weak = [
            f"source {spec.name}: {weakness}"
            for spec in self.flow.sources.values()
            if (weakness := self.builder.processor(spec).weakness)
        ]
        if weak:
            log.info("at least once, not exactly once: %s", "; ".join(weak))


async def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel and wait; their errors are the task group's affair."""
    waiting = list(tasks)
    for task in waiting:
        task.cancel()
    if waiting:
        await asyncio.wait(waiting)


async def _finish(parts: list[Part], drain: bool) -> None:
    """Let the sinks of one channel end: when it is empty, or when what they have open is settled."""
    runners = [cast(SinkRunner, part.runner) for part in parts]
    if drain:
        for runner in runners:
            runner.drain()
        await asyncio.wait([part.task for part in parts], return_when=asyncio.FIRST_COMPLETED)
    for runner in runners:
        runner.finish()
    await asyncio.wait([part.task for part in parts])


async def _move(old: Channel, new: Channel) -> None:
    try:
        while old.depth:
            async with await old.take(1) as take:
                await new.put(take.batch)
    except ChannelFull:
        log.warning("channel %s has room for less now: %d events are lost", new.name, old.depth)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that ended the agent: a ChannelError if there is one."""
    leaves: list[BaseException] = []
    todo: list[BaseException] = [group]
    while todo:
        one = todo.pop(0)
        if isinstance(one, BaseExceptionGroup):
            todo += one.exceptions
        else:
            leaves.append(one)
    return next((leaf for leaf in leaves if isinstance(leaf, ChannelError)), leaves[0])
