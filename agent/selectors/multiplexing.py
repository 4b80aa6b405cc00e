"""A header's value decides which channels an event goes to (Flume's MultiplexingChannelSelector).

An event is put once, whatever number of channels it goes to, so events with the same channels travel in one route.
Routes are put one after another, and each channel must see its events in the batch's order: an event joins the last
route with its channels, unless a later route has one of these channels too; then it opens a new one.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from agent.config.fields import Config as AnyConfig
from agent.config.fields import key
from agent.event import Batch
from agent.selector import Route, Selector


class MultiplexingConfig(AnyConfig):
    header: str = key("header", "flume.selector.header", doc="header whose value decides; matched exactly")
    mapping: dict[str, str] = key("mapping.*", {}, doc="mapping.<value> = channels for this value")
    default: list[str] = key("default", [], doc="channels for every other value, and for events without the header")
    optional: dict[str, str] = key("optional.*", {}, doc="optional.<value> = channels that may miss this value")


class Targets(NamedTuple):
    required: tuple[str, ...]
    optional: tuple[str, ...]


class MultiplexingSelector(Selector):
    """A value without required channels goes to the default ones; required wins over optional.

    An event without any channel is in no route: it is acknowledged and goes nowhere, as in Flume.
    """

    Config: ClassVar[type[AnyConfig]] = MultiplexingConfig
    config: MultiplexingConfig

    def __init__(self, name: str, config: AnyConfig, channels: list[str]) -> None:
        super().__init__(name, config, channels)
        values = [*self.config.mapping, *self.config.optional]
        self.default = Targets(self._known(self.config.default), ())
        self.targets = {value: self._targets(value) for value in values if value.strip()}

    def _known(self, names: list[str]) -> tuple[str, ...]:
        return tuple(name for name in dict.fromkeys(names) if name in self.channels)

    def _targets(self, value: str) -> Targets:
        required = self._known(self.config.mapping.get(value, "").split()) or self.default.required
        optional = self._known(self.config.optional.get(value, "").split())
        return Targets(required, tuple(name for name in optional if name not in required))

    def select(self, batch: Batch) -> list[Route]:
        groups = self._group(batch)
        if len(groups) == 1 and len(groups[0][1]) == len(batch):
            return [Route(*groups[0][0], batch)]
        return [Route(*targets, batch.pick(indexes)) for targets, indexes in groups]

    def _group(self, batch: Batch) -> list[tuple[Targets, list[int]]]:
        groups: list[tuple[Targets, list[int]]] = []
        latest: dict[Targets, int] = {}  # targets -> their last group
        touched: dict[str, int] = {}  # channel -> the last group that has it
        header, known, default = self.config.header, self.targets, self.default
        for index, event in enumerate(batch.events):
            targets = known.get(event.headers.get(header, ""), default)
            channels = targets.required + targets.optional
            if not channels:
                continue
            at = latest.get(targets, -1)
            if at < 0 or any(touched[channel] > at for channel in channels):
                at = latest[targets] = len(groups)
                touched.update(dict.fromkeys(channels, at))
                groups.append((targets, []))
            groups[at][1].append(index)
        return groups

    def problems(self) -> list[tuple[str, str]]:
        named = [("default", self.config.default)]
        named += [(f"mapping.{value}", names.split()) for value, names in self.config.mapping.items()]
        named += [(f"optional.{value}", names.split()) for value, names in self.config.optional.items()]
        found = [(where, "names no channel") for where, names in named[1:] if not names]
        for where, names in named:
            found += [
                (where, f"{name!r} is not a channel of this source") for name in names if name not in self.channels
            ]
        return found
