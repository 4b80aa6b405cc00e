"""What only several components together show: batch sizes against channels, ports, channels that nobody uses."""

from __future__ import annotations

from collections.abc import Iterator

from agent.config.blocks import LISTS, Block
from agent.config.problems import Report
from agent.config.reading import fields_of
from agent.config.specs import Flow, SinkSpec, SourceSpec, Spec

EVERYWHERE = ("0.0.0.0", "::", "")
"""Addresses that take a port on every interface."""


def run(flow: Flow, block: Block, report: Report) -> None:
    """Report, and with `lenient` take out of the flow what Flume would take out."""
    _batches(flow, block, report)
    _groups(flow)
    _ports(flow, block, report)
    _unused(flow, block, report)
    if not report.errors and not (flow.sources or flow.sinks or serves_alone(block)):
        report.error(block.place, block.prefix.rstrip("."), "has nothing to run: no source and no sink is left")


def serves_alone(block: Block) -> bool:
    """Whether an agent has services and no more."""
    return bool(block.text("services")) and not any(block.text(part) for part in LISTS)


def _batches(flow: Flow, block: Block, report: Report) -> None:
    """A batch that its channel can never take, which Flume removes the component for."""
    for spec in [*flow.sources.values(), *flow.sinks.values()]:
        found = setting(spec, "batchsize")
        for channel in _channels(spec) if found else ():
            limit = setting(flow.channels[channel], "transactioncapacity")
            if not found or not limit or found[1] <= limit[1]:
                continue
            own = block.below(spec.kind).below(spec.name)
            text = (
                f"{found[1]} events are more than the {limit[1]} of "
                f"{block.prefix}channels.{channel}.{limit[0]}: make that as large, or this smaller"
            )
            report.dropped(own.at(found[0]), own.prefix + found[0], text)
            (flow.sources if isinstance(spec, SourceSpec) else flow.sinks).pop(spec.name, None)


def setting(spec: Spec, letters: str) -> tuple[str, int] | None:
    """(key, value) of the key that reads so without case and separators: `sink.batchSize` and `batch-size` alike."""
    for field in fields_of(type(spec.config)):
        name = field.about.name
        value = getattr(spec.config, field.name)
        if name.rpartition(".")[2].replace("-", "").lower() == letters and isinstance(value, int):
            return name, value
    return None


def _channels(spec: Spec) -> tuple[str, ...]:
    if isinstance(spec, SourceSpec):
        return spec.channels
    return (spec.channel,) if isinstance(spec, SinkSpec) else ()


def _groups(flow: Flow) -> None:
    """Without the sinks that were taken out."""
    for name, group in list(flow.groups.items()):
        if not set(group.sinks) <= set(flow.sinks):
            del flow.groups[name]


def _ports(flow: Flow, block: Block, report: Report) -> None:
    """Two listeners on one port."""
    seen: list[tuple[str, int, Block]] = []
    for bind, port, own in _listeners(flow, block):
        for other, taken, owner in seen:
            if port == taken and (bind == other or bind in EVERYWHERE or other in EVERYWHERE):
                text = f"port {port} is taken by {owner.prefix}port ({owner.at('port')})"
                report.error(own.at("port"), f"{own.prefix}port", text)
                break
        seen.append((bind, port, own))


def _listeners(flow: Flow, block: Block) -> Iterator[tuple[str, int, Block]]:
    """(address, port, keys) of what has both a `bind` and a `port`; 0 takes a free one."""
    for spec in [*flow.sources.values(), *flow.services.values()]:
        names = {field.about.name: getattr(spec.config, field.name) for field in fields_of(type(spec.config))}
        if isinstance(names.get("bind"), str) and isinstance(names.get("port"), int) and names["port"]:
            yield names["bind"], names["port"], block.below(spec.kind).below(spec.name)


def _unused(flow: Flow, block: Block, report: Report) -> None:
    """Channels without source and sink; the places of those that others have lost are reported there."""
    named = {name for part in ("sources", "sinks") for name in _named(block.below(part))}
    used = {channel for spec in [*flow.sources.values(), *flow.sinks.values()] for channel in _channels(spec)}
    for name in [name for name in flow.channels if name not in used]:
        own = block.below("channels").below(name)
        if name not in named:
            report.dropped(own.place, own.prefix.rstrip("."), "no source puts into it and no sink takes from it")
        if not report.errors:
            del flow.channels[name]


def _named(part: Block) -> Iterator[str]:
    for key, entry in part.entries.items():
        if key.rpartition(".")[2] in ("channel", "channels"):
            yield from entry.value.split()
