"""Asks the stores, then the destinations.

In this order: what moves on between the two questions is found twice and never missed. A store is asked through the
agent that holds it, or opened where nobody does; a destination by a sink of its own that is never opened for sending
(`Sink.held`).
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from agent.audit.numbers import Numbers, Tally
from agent.audit.verdict import Channel, Destination, Outlet, Store, Verdict, judge
from agent.channel import Channel as AnyChannel
from agent.config.specs import Flow, SinkSpec
from agent.errors import AgentError, ConfigError
from agent.sink import Sink
from agent.store import control
from agent.store.streams import Identity

RELAYS = ("avro", "mqtt")
"""Types of sinks whose far side is another agent."""
Say = Callable[[str], None]
"""Tells who waits how far it is."""
APART = ("channel", "filePrefix", "inUsePrefix", "clientId")
"""Keys in which sinks with one destination may differ."""


def check_stores(flows: Sequence[tuple[str, Flow]]) -> None:
    """ConfigError if two agents name one store: one of them would be taken for the other."""
    seen: dict[Path, str] = {}
    for label, flow in flows:
        for name in flow.channels:
            folder = _channel(flow, name).folder
            if folder and (first := seen.setdefault(folder.resolve(), label)) != label:
                raise ConfigError(
                    f"{first} and {label} both name the store {folder}: an agent has a folder of its own; write it "
                    "into its configuration (STATE_DIRECTORY is the same for all of them here)"
                )


def audit(flows: Sequence[tuple[str, Flow]], say: Say) -> list[Verdict]:
    """A verdict on each destination of these flows, which go by the labels beside them."""
    stores: dict[Path, Store | str] = {}
    outlets: dict[tuple[str, str], Outlet] = {}
    for label, flow in flows:
        for name in flow.channels:
            outlets[label, name] = _outlet(label, flow, name, stores, say)
    destinations = _destinations(flows, outlets)
    for destination, sinks in destinations:
        _look(destination, sinks, say)
    return judge([destination for destination, _ in destinations], outlets.values())


def _destinations(
    flows: Sequence[tuple[str, Flow]], outlets: dict[tuple[str, str], Outlet]
) -> list[tuple[Destination, list[Sink]]]:
    """Each with the sinks that deliver there."""
    destinations: list[tuple[Destination, list[Sink]]] = []
    for label, flow in flows:
        for spec in flow.sinks.values():
            sink = _sink(flow, spec)
            outlet = outlets[label, spec.channel]
            same = next((one for one in destinations if _same(one[1][0], sink) or _relays(one[0], spec, outlet)), None)
            if same is None:
                same = Destination(f"{label}.{spec.name}", spec.type, [], relays=spec.type in RELAYS), []
                destinations.append(same)
            else:
                same[0].name += f", {label}.{spec.name}"
            if outlet not in same[0].outlets:
                same[0].outlets.append(outlet)
            same[1].append(sink)
    return destinations


# ---- stores


def _outlet(label: str, flow: Flow, name: str, stores: dict[Path, Store | str], say: Say) -> Outlet:
    folder = _channel(flow, name).folder
    if folder is None:
        return Outlet(
            label, name, None, f"a channel of type {flow.channels[name].type} keeps no account of what it was given"
        )
    if folder not in stores:
        stores[folder] = _store(folder, say)
    store = stores[folder]
    if isinstance(store, str):
        return Outlet(label, name, None, store)
    if name not in store.channels:
        return Outlet(label, name, store, f"the store {folder} has no channel {name} yet")
    return Outlet(label, name, store, branch=_is_branch(flow, name))


def _channel(flow: Flow, name: str) -> AnyChannel:
    spec = flow.channels[name]
    channel = cast(AnyChannel, spec.cls(spec.name, spec.config))
    channel.agent = flow.agent
    return channel


def _is_branch(flow: Flow, channel: str) -> bool:
    sources = [source for source in flow.sources.values() if channel in source.channels and len(source.channels) > 1]
    return len(flow.sources) > 1 or any(one.selector and one.selector.type != "replicating" for one in sources)


def _store(folder: Path, say: Say) -> Store | str:
    """What a store says, or why it says nothing."""
    say(f"asking the store {folder}")
    try:
        said = asyncio.run(control.ask(folder, "account"))
    except AgentError as error:
        return str(error)
    channels = {
        name: Channel(about["put"], Numbers.of(map(_run, about["inside"]))) for name, about in said["channels"].items()
    }
    for letter in said["letters"]:
        if letter["channel"] in channels:
            letters = channels[letter["channel"]].letters
            more = Numbers.of(map(_run, letter["runs"]))
            letters[letter["reason"]] = letters.get(letter["reason"], Numbers()).plus(more)
    received = Numbers.of(
        Identity(bytes.fromhex(origin), first, last - first + 1)
        for origin, _, ranges in said["streams"] for first, last in ranges
    )  # fmt: skip
    own = Numbers.of(Identity(bytes.fromhex(origin), 1, last) for origin, last in said["origins"] if last)
    return Store(str(folder), channels, received, own, said["lost"])


def _run(plain: list[Any]) -> Identity:
    return Identity(bytes.fromhex(plain[0]), plain[1], plain[2])


# ---- destinations


def _sink(flow: Flow, spec: SinkSpec) -> Sink:
    sink = cast(Sink, spec.cls(spec.name, spec.config))
    sink.agent = flow.agent
    sink.folder = _channel(flow, spec.channel).folder
    return sink


def _same(one: Sink, other: Sink) -> bool:
    """Whether two sinks deliver to one place."""
    return type(one) is type(other) and _place(one) == _place(other)


def _relays(one: Destination, spec: SinkSpec, outlet: Outlet) -> bool:
    """Whether both are ways from one channel to other agents."""
    return one.relays and spec.type in RELAYS and outlet in one.outlets


def _place(sink: Sink) -> dict[str, Any]:
    config = {field.name: getattr(sink.config, field.name) for field in dataclasses.fields(sink.config)}
    return {name: value for name, value in config.items() if name not in APART}


def _look(destination: Destination, sinks: Sequence[Sink], say: Say) -> None:
    """Fill in what a destination holds. What all hold together is read once, what each wrote itself from each."""
    tally, due = Tally(), 0
    say(f"{destination.name}: reading")
    for sink in sinks if sinks[0].holds_its_own else sinks[:1]:
        try:
            for held in sink.held():
                if held.place:
                    destination.files.append(held)
                if not held.gone:
                    tally.add(held.runs)
                if tally.count >= due:
                    say(f"{destination.name}: {tally.count:,} events found")
                    due = tally.count + 10_000
        except AgentError as error:
            destination.trouble = destination.trouble or str(error)
    destination.arrived, destination.repeated = tally.all, tally.twice
