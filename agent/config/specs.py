"""A judged flow: what the agent builds its components from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from agent.component import Component
from agent.config.fields import Config
from agent.config.problems import Problem

ComponentClass: TypeAlias = type[Component]


@dataclass(frozen=True)
class Spec:
    """One component to be: its class and its typed Config, which alone count when two are compared.

    `raw` are the keys it was read from, `place` the line that names its type.
    """

    kind: str
    name: str
    type: str
    cls: ComponentClass
    config: Config
    raw: Mapping[str, str] = field(compare=False, repr=False)
    place: str = field(compare=False)


@dataclass(frozen=True)
class SourceSpec(Spec):
    channels: tuple[str, ...] = ()
    selector: Spec | None = None
    interceptors: tuple[Spec, ...] = ()


@dataclass(frozen=True)
class SinkSpec(Spec):
    channel: str = ""


@dataclass(frozen=True)
class GroupSpec:
    name: str
    sinks: tuple[str, ...]
    processor: Spec


@dataclass(frozen=True)
class Flow:
    """One agent, judged: every component by name, in the file's order."""

    agent: str
    channels: dict[str, Spec] = field(default_factory=dict)
    sources: dict[str, SourceSpec] = field(default_factory=dict)
    sinks: dict[str, SinkSpec] = field(default_factory=dict)
    groups: dict[str, GroupSpec] = field(default_factory=dict)
    services: dict[str, Spec] = field(default_factory=dict)
    drain_timeout: float = 10.0
    warnings: list[Problem] = field(default_factory=list, compare=False)
