"""The wiring: properties of one agent -> a judged `Flow`, or every error at once.

The whole file is judged before anything opens. What Flume would drop in silence is an error here, with the place,
what it takes and the nearest known key; `lenient` turns those into warnings and drops the part, as Flume does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agent.component import Component
from agent.config.fields import Config
from agent.errors import ConfigError


@dataclass(frozen=True)
class Problem:
    """One error or warning: `place` is file:line."""

    place: str
    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.key}: {self.text}" if self.key else f"{self.place}: {self.text}"


class ConfigErrors(ConfigError):
    """All that is wrong with a configuration; prints one line each."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = list(problems)


@dataclass(frozen=True)
class Spec:
    """One component to be: its class, its typed Config, and the raw keys it was read from (a reload compares them)."""

    kind: str
    name: str
    type: str
    cls: type[Component]
    config: Config
    raw: Mapping[str, str]
    place: str


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
    warnings: list[Problem] = field(default_factory=list)


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
    raise NotImplementedError
