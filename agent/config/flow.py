"""The wiring: properties of one agent -> a judged `Flow`, or every error at once.

The whole file is judged before anything opens. What Flume would drop in silence is an error here, with the place,
what it takes and the nearest known key; `lenient` turns those into warnings and drops the part, as Flume does
(FlumeConfiguration.AgentConfiguration, AbstractConfigurationProvider). What Flume itself dies of stays an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

from agent.component import Component, load, types_of
from agent.config import checks
from agent.config.blocks import LISTS, Block, Text, split_names
from agent.config.fields import Config, Seconds, key
from agent.config.flume_names import ours
from agent.config.problems import ConfigErrors, Problem, Report
from agent.config.reading import Fault, listed, nearest, read
from agent.config.specs import Flow, GroupSpec, SinkSpec, SourceSpec, Spec
from agent.errors import ConfigError
from agent.selector import Selector

__all__ = ["AgentConfig", "ConfigErrors", "Flow", "GroupSpec", "Problem", "SinkSpec", "SourceSpec", "Spec", "judge"]

PARTS = (*LISTS, "sinkgroups", "services")


class AgentConfig(Config):
    """Keys of the agent itself."""

    drainTimeout: Seconds = key(
        "drainTimeout", Seconds(10.0), unit="s", low=0, doc="how long memory channels may drain when the agent stops"
    )


class GroupConfig(Config):
    """Keys of a sink group; `processor.*` belong to its processor."""

    sinks: list[str] = key("sinks", doc="the sinks of the group")


def judge(
    files: Sequence[tuple[str, bytes]],
    agent: str | None = None,
    *,
    lenient: bool = False,
    system: Mapping[str, str] | None = None,
    packages: tuple[str, ...] = ("agent", "aggregator", "edge"),
) -> Flow:
    """Judge (path, content) files, later ones replacing keys of earlier ones; `system` holds the -D properties.

    `agent` may be None when the files hold one agent. Raises ConfigErrors with every problem.
    """
    report = Report([path for path, _ in files], lenient)
    text = Text(files, system or {}, report)
    name = text.choose(agent)
    if name is None:
        report.finish()
        raise AssertionError("an agent that isn't there is an error")
    return _Wiring(text.block(name), name, report, packages).flow()


class _Wiring:
    """One agent's block, read part by part: channels, sources, sinks, groups, services."""

    def __init__(self, block: Block, agent: str, report: Report, packages: tuple[str, ...]) -> None:
        self.block, self.report, self.packages = block, report, packages
        self.built = Flow(agent)

    def flow(self) -> Flow:
        """The judged flow. ConfigErrors if there is an error."""
        drain = self._agent_keys()
        flow = self.built
        if not self.block.text("channels") and not checks.serves_alone(self.block):
            text = "is missing; it takes the names of channels"
            self.report.error(self.block.place, f"{self.block.prefix}channels", text)
        self._each("channels", self._channel)
        self._each("sources", self._source)
        self._each("sinks", self._sink)
        self._each("sinkgroups", self._group)
        self._each("services", self._service)
        checks.run(flow, self.block, self.report)
        warnings = self.report.finish()
        return Flow(
            flow.agent, flow.channels, flow.sources, flow.sinks, flow.groups, flow.services, drain, warnings
        )  # fmt: skip

    def _agent_keys(self) -> float:
        """Read the keys that belong to no component; returns drainTimeout."""
        own = self.block.without(*PARTS)
        if "configfilters" in own.names() or "configfilters" in own.entries:
            place = own.at("configfilters") if "configfilters" in own.entries else own.below("configfilters").place
            text = "config filters are not in this version; ${env:NAME} gives a variable of the environment"
            self.report.error(place, f"{own.prefix}configfilters", text)
            own = own.without("configfilters")
        for name in [name for name in own.entries if "." in name]:
            head = name.partition(".")[0]
            close = nearest(head, PARTS)
            hint = f"; the nearest is {close}" if close else f"; {listed(PARTS, 'an agent has')}"
            self.report.dropped(own.entries.pop(name).place, own.prefix + name, f"there is no kind {head!r}{hint}")
        reading = read(AgentConfig, own.raw(), "an agent", lenient=self.report.lenient)
        for fault in reading.faults:
            close = nearest(fault.key, PARTS)
            if fault.unknown and close:
                fault = fault._replace(text=f"an agent has no such key; the nearest is {close}")
            self._fault(own, fault)
        return float(reading.config.drainTimeout) if reading.config else 10.0

    def _each(self, part: str, build: Callable[[str, Block], None]) -> None:
        """Build what the list names; report what is named twice, and keys of what isn't named."""
        names, again = split_names(self.block.text(part))
        listing = f"{self.block.prefix}{part}"
        for name in dict.fromkeys(again):
            self.report.dropped(self.block.at(part), listing, f"names {name} twice")
        block = self.block.below(part)
        self._not_listed(block, names, listing, "processor.type" if part == "sinkgroups" else "type")
        for name in names:
            one = block.below(name)
            if self._named_well(name, one, names, block, self.block.at(part), listing):
                build(name, one)

    def _named_well(self, name: str, one: Block, names: list[str], part: Block, place: str, listing: str) -> bool:
        """Whether a listed name can be and has properties."""
        if one.entries and "." not in name:
            return True
        others = [other for other in part.names() if other not in names]
        text = f"{name} has no properties: {one.prefix}type is missing"
        if others:
            text = f"{name} has no properties, and {', '.join(others)} is not in this list"
        if "," in name:
            text = f"names are separated by blanks, not commas: {name}"
        elif "." in name:
            text = f"{name}: a name has no dot"
        self.report.dropped(place, listing, text)
        return False

    def _not_listed(self, block: Block, names: list[str], listing: str, needs: str) -> None:
        """With a type it is parked, as one does in Flume; without, the name is wrong."""
        for name in block.names():
            if name in names:
                continue
            one = block.below(name)
            place, prefix = next(iter(one.entries.values())).place, one.prefix.rstrip(".")
            close = nearest(name, names)
            if needs in one.entries:
                self.report.warning(place, prefix, f"is not in {listing} and does not run")
            else:
                hint = f"; the nearest is {close}" if close else f"; {listed(names, 'it has')}"
                self.report.dropped(place, prefix, f"is not in {listing}{hint}")
        for name in [name for name in block.entries if "." not in name]:
            text = f"is no key: it takes {block.prefix}NAME.KEY"
            self.report.dropped(block.entries[name].place, block.prefix + name, text)

    def _channel(self, name: str, block: Block) -> None:
        spec = self._component("channels", name, block)
        if spec:
            self.built.channels[name] = spec

    def _source(self, name: str, block: Block) -> None:
        own = block.without("selector", "interceptors")
        spec = self._component("sources", name, own, raw=block.raw())
        interceptors = self._interceptors(name, block)
        named = self._channels_of(block)
        selector = self._selector(name, block.below("selector"), named) if named else None
        channels = [channel for channel in named if channel in self.built.channels]
        if spec and channels and selector and interceptors is not None:
            fields = (spec.kind, name, spec.type, spec.cls, spec.config, spec.raw, spec.place)
            self.built.sources[name] = SourceSpec(*fields, tuple(channels), selector, tuple(interceptors))

    def _channels_of(self, block: Block) -> list[str]:
        """The channels of a source that the agent names; a missing list is the Config's to report."""
        names, again = split_names(block.text("channels"))
        place, key = block.at("channels"), f"{block.prefix}channels"
        for name in dict.fromkeys(again):
            self.report.dropped(place, key, f"names {name} twice")
        return [name for name in names if self._channel_exists(name, place, key)]

    def _channel_exists(self, name: str, place: str, key: str) -> bool:
        """Whether the agent names it; what may be wrong with it is reported there."""
        known, _ = split_names(self.block.text("channels"))
        if known and name not in known:
            close = nearest(name, known)
            hint = f"the nearest is {close}" if close else listed(known, f"{self.block.prefix}channels has")
            self.report.dropped(place, key, f"there is no channel {name!r}; {hint}")
        return name in known

    def _interceptors(self, source: str, block: Block) -> list[Spec] | None:
        """In the order of the list; None if one is wrong: Flume then drops the source."""
        names, again = split_names(block.text("interceptors"))
        listing, inner = f"{block.prefix}interceptors", block.below("interceptors")
        for name in dict.fromkeys(again):
            self.report.dropped(block.at("interceptors"), listing, f"names {name} twice")
        self._not_listed(inner, names, listing, "type")
        specs = []
        for name in names:
            one = inner.below(name)
            well = self._named_well(name, one, names, inner, block.at("interceptors"), listing)
            specs.append(self._component("interceptors", f"{source}.{name}", one) if well else None)
        found = [spec for spec in specs if spec]
        return found if len(found) == len(specs) else None

    def _selector(self, source: str, block: Block, channels: list[str]) -> Spec | None:
        spec = self._component("selectors", source, block, default="replicating")
        if spec is None:
            return None
        wrong = cast("type[Selector]", spec.cls)(source, spec.config, channels).problems()
        for name, text in wrong:
            self._fault(block, Fault(name, text))
        return None if wrong else spec

    def _sink(self, name: str, block: Block) -> None:
        spec = self._component("sinks", name, block)
        channel = block.text("channel")
        if channel:
            self._channel_exists(channel, block.at("channel"), f"{block.prefix}channel")
        if spec and channel in self.built.channels:
            fields = (spec.kind, name, spec.type, spec.cls, spec.config, spec.raw, spec.place)
            self.built.sinks[name] = SinkSpec(*fields, channel)

    def _service(self, name: str, block: Block) -> None:
        spec = self._component("services", name, block)
        if spec:
            self.built.services[name] = spec

    def _group(self, name: str, block: Block) -> None:
        reading = read(GroupConfig, block.without("processor").raw(), "a sink group")
        for fault in reading.faults:
            self._fault(block, fault)
        processor = self._component("processors", name, block.below("processor"), default="default")
        sinks = [
            sink for sink in dict.fromkeys(reading.config.sinks if reading.config else []) if self._free(sink, block)
        ]
        if processor and processor.type == "default" and len(sinks) > 1:
            text = f"the default processor takes one sink, not {len(sinks)}: {', '.join(sinks)}"
            self.report.dropped(block.at("sinks"), f"{block.prefix}sinks", text)
        elif processor and sinks:
            self.built.groups[name] = GroupSpec(name, tuple(sinks), processor)

    def _free(self, sink: str, block: Block) -> bool:
        """Whether a group may have a sink: it is there, and in no other group."""
        place, key = block.at("sinks"), f"{block.prefix}sinks"
        names, _ = split_names(self.block.text("sinks"))
        if sink not in names:
            close = nearest(sink, names)
            hint = f"the nearest is {close}" if close else listed(names, f"{self.block.prefix}sinks has")
            self.report.dropped(place, key, f"there is no sink {sink!r}; {hint}")
        for other in self.built.groups.values():
            if sink in other.sinks:
                self.report.dropped(place, key, f"{sink} is in group {other.name} already; a sink is in one group")
                return False
        return sink in self.built.sinks

    def _component(
        self, kind: str, name: str, block: Block, default: str = "", raw: Mapping[str, str] | None = None
    ) -> Spec | None:
        """Load and read one; None after a report of what is wrong."""
        type_name = block.text("type") or default
        if not type_name:
            known = listed(types_of(kind, self.packages), "it takes one of")
            self.report.dropped(block.place, f"{block.prefix}type", f"is missing; {known}")
            return None
        try:
            cls = load(kind, type_name, self.packages)
        except ConfigError as error:
            self.report.error(block.at("type"), f"{block.prefix}type", str(error))
            return None
        config = self._read(cls, ours(kind, type_name), block)
        if config is None:
            return None
        return Spec(kind, name, ours(kind, type_name), cls, config, raw or block.raw(), block.at("type"))

    def _read(self, cls: type[Component], type_name: str, block: Block) -> Config | None:
        """The typed Config. Unknown keys of a user's own class are only a warning: it may read them by itself."""
        reading = read(cls.Config, block.without("type").raw(), type_name, lenient=self.report.lenient)
        for name, text in reading.notes:
            self.report.warning(block.at(name), block.prefix + name, text)
        for fault in reading.faults:
            if fault.unknown and ":" in type_name:
                self.report.warning(block.at(fault.key), block.prefix + fault.key, fault.text)
            else:
                self._fault(block, fault)
        return reading.config

    def _fault(self, block: Block, fault: Fault) -> None:
        say = self.report.error if fault.refused else self.report.dropped
        say(block.at(fault.key), block.prefix + fault.key if fault.key else block.prefix.rstrip("."), fault.text)
