"""From specs to parts that are wired: each gets the attributes that its interface names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import cast

from agent.backoff import Backoff
from agent.channel import Channel
from agent.channel_processor import ChannelProcessor
from agent.component import Component
from agent.config.specs import Flow, GroupSpec, SinkSpec, SourceSpec, Spec
from agent.interceptor import Interceptor
from agent.metrics import Metrics, SinkCounter, SourceCounter
from agent.processor import Processor
from agent.runner import Made, Runner
from agent.selector import Selector
from agent.service import Service
from agent.sink import Sink, SinkConfig
from agent.sink_runner import Outlet, SinkRunner
from agent.source import Source

SinkPart = tuple[GroupSpec | None, tuple[SinkSpec, ...], bool]
"""The sinks of a group, or one sink without a group; whether a receipt of the channel would be theirs alone."""
PartSpec = Spec | SinkPart
"""What runs by itself: a source, a service, a sink or a group. Equal specs need no restart."""
Backoffs = tuple[float, float]


def part_specs(flow: Flow) -> Iterable[tuple[tuple[str, str], PartSpec]]:
    """((kind, name), spec) of every part of a flow, in the order of opening."""
    for service in flow.services.values():
        yield ("services", service.name), service
    grouped = {sink for group in flow.groups.values() for sink in group.sinks}
    keepers = Counter(sink.channel for sink in flow.sinks.values() if getattr(sink.cls, "keeps_receipt", False))
    for group in flow.groups.values():
        sinks = tuple(flow.sinks[name] for name in group.sinks)
        yield ("groups", group.name), (group, sinks, keepers[sinks[0].channel] < 2)
    for name, sink in flow.sinks.items():
        if name not in grouped:
            yield ("sinks", name), (None, (sink,), keepers[sink.channel] < 2)
    for source in flow.sources.values():
        yield ("sources", source.name), source


class Builder:
    """Makes components of one agent. `channels` are those that are open, by name."""

    def __init__(
        self, agent: str, metrics: Metrics, channels: Mapping[str, Channel], ready: Callable[[], bool],
        services: Callable[[], Mapping[str, Component]],
    ) -> None:  # fmt: skip
        self.agent, self.metrics, self.channels, self.ready, self.services = agent, metrics, channels, ready, services

    def make(self, spec: Spec) -> Component:
        """A component that is not open yet."""
        component = spec.cls(spec.name, spec.config)
        component.agent, component.services = self.agent, self.services
        return component

    def runner(self, spec: PartSpec, restart: Backoffs) -> tuple[Runner | SinkRunner, frozenset[str]]:
        """What runs a part, and the names of the channels that it touches."""
        if isinstance(spec, SourceSpec):
            counter = self.metrics.counter(SourceCounter, spec.name)
            where = f"{self.agent}.sources.{spec.name}.port = {spec.raw.get('port', '')} ({spec.place})"
            source = Runner(spec.name, lambda: self._source(spec), counter, Backoff(*restart), where)
            return source, frozenset(spec.channels)
        if isinstance(spec, Spec):
            where = f"{self.agent}.services.{spec.name}.port = {spec.raw.get('port', '')} ({spec.place})"
            return Runner(spec.name, lambda: self._service(spec), None, Backoff(*restart), where), frozenset()
        return self._sinks(*spec), frozenset((spec[1][0].channel,))

    def _source(self, spec: SourceSpec) -> Made:
        source = cast(Source, self.make(spec))
        processor = self.processor(spec)
        source.counter = processor.counter
        source.process, source.bury = processor, processor.bury
        source.marks, source.durable = processor.marks, processor.durable
        return Made(source, (*processor.interceptors, processor.selector))

    def processor(self, spec: SourceSpec) -> ChannelProcessor:
        """A source's way in; its interceptors and selector are not open yet."""
        assert spec.selector is not None
        make_selector = cast(type[Selector], spec.selector.cls)
        selector = make_selector(spec.selector.name, spec.selector.config, list(spec.channels))
        selector.agent = self.agent
        interceptors = [cast(Interceptor, self.make(one)) for one in spec.interceptors]
        channels = {name: self.channels[name] for name in spec.channels}
        counter = self.metrics.counter(SourceCounter, spec.name)
        return ChannelProcessor(spec.name, interceptors, selector, channels, counter)

    def _service(self, spec: Spec) -> Made:
        service = cast(Service, self.make(spec))
        service.metrics, service.ready = self.metrics, self.ready
        return Made(service)

    def _sinks(self, group: GroupSpec | None, specs: tuple[SinkSpec, ...], alone: bool) -> SinkRunner:
        """A runner for one sink counts for that sink, one for several under the group's name."""
        name = group.name if group else specs[0].name
        channel = self.channels[specs[0].channel]
        configs = [cast(SinkConfig, spec.config) for spec in specs]
        backoff = Backoff(min(c.backoff for c in configs), max(c.maxBackoff for c in configs))
        counter = self.metrics.counter(SinkCounter, specs[0].name if len(specs) == 1 else name)
        return SinkRunner(name, lambda: self._outlet(group, specs, channel, alone), channel, counter, backoff)

    def _outlet(self, group: GroupSpec | None, specs: tuple[SinkSpec, ...], channel: Channel, alone: bool) -> Outlet:
        sinks = []
        for spec in specs:
            sink = cast(Sink, self.make(spec))
            sink.counter = self.metrics.counter(SinkCounter, spec.name)
            sink.durable = channel.durable and (alone or not sink.keeps_receipt)
            sink.folder = channel.folder
            sinks.append(sink)
        if group is None:
            return Outlet(sinks, sinks[0].send)
        processor = cast(Processor, self.make(group.processor))
        processor.sinks = sinks
        return Outlet(sinks, processor.process, processor)
