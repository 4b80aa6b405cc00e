"""Entries of the files -> the keys of one agent, grouped by component, references replaced.

a1.sources = r1                 an agent is what has a list of sources, channels or sinks
a1.sources.r1.port = ${PORT}    a key below a component: no dots in the names of agents and components
PORT = 44444                    a key of no agent: a variable
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from agent.config.problems import Report
from agent.config.properties import Entry, parse
from agent.config.reading import listed, nearest
from agent.config.references import Circular, Resolver, Unresolved

LISTS = ("sources", "channels", "sinks")
"""An agent has one of these."""


@dataclass
class Block:
    """The keys under one prefix, such as `a1.sources.r1.`; `place` is where the thing itself is named."""

    prefix: str
    place: str
    entries: dict[str, Entry] = field(default_factory=dict)

    def below(self, name: str) -> Block:
        """The keys that start with `name.`, without it."""
        head = f"{name}."
        inside = {key[len(head) :]: entry for key, entry in self.entries.items() if key.startswith(head)}
        first = self.entries.get(f"{name}.type") or self.entries.get(name) or next(iter(inside.values()), None)
        return Block(f"{self.prefix}{head}", first.place if first else self.place, inside)

    def without(self, *names: str) -> Block:
        """All but these keys and what lies below them."""
        kept = {key: entry for key, entry in self.entries.items() if key.partition(".")[0] not in names}
        return Block(self.prefix, self.place, kept)

    def names(self) -> list[str]:
        """First segments of the keys, in the file's order."""
        return list(dict.fromkeys(key.partition(".")[0] for key in self.entries if "." in key))

    def text(self, key: str) -> str:
        """A key's value; empty if it isn't there."""
        entry = self.entries.get(key)
        return entry.value if entry else ""

    def at(self, key: str) -> str:
        """file:line of a key, or of the thing itself if the key isn't there."""
        entry = self.entries.get(key)
        return entry.place if entry else self.place

    def raw(self) -> dict[str, str]:
        """The keys as text."""
        return {key: entry.value for key, entry in self.entries.items()}


class Text:
    """All files as one set of entries: later files replace keys of earlier ones."""

    def __init__(self, files: Sequence[tuple[str, bytes]], system: Mapping[str, str], report: Report) -> None:
        self.report, self.files = report, [path for path, _ in files]
        self.entries: dict[str, Entry] = {}
        for path, content in files:
            for entry in parse(path, content, report):
                self.entries.pop(entry.key, None)
                self.entries[entry.key] = entry
        values = {key: entry.value for key, entry in self.entries.items()}
        self.resolver = Resolver(values, os.environ, system)

    @property
    def place(self) -> str:
        """The files, where no line is to blame."""
        return ", ".join(self.files) or "no file"

    def agents(self) -> list[str]:
        """The agents of the files."""
        heads = (key.split(".") for key, entry in self.entries.items() if entry.value)
        return list(dict.fromkeys(parts[0] for parts in heads if len(parts) == 2 and parts[1] in (*LISTS, "services")))

    def choose(self, name: str | None) -> str | None:
        """The agent of that name, or the only one; None after reporting that there is none."""
        agents = self.agents()
        if name is None and len(agents) == 1:
            return agents[0]
        if name in agents:
            return name
        if not agents:
            lists = ", ".join(f"{name or 'a1'}.{part}" for part in LISTS)
            text = f"holds no agent; one starts with its lists: {lists}"
        elif name is None:
            text = f"holds {len(agents)} agents: say with --name which of {', '.join(agents)} to run"
        else:
            close = nearest(name, agents)
            text = f"holds no agent {name!r}; {f'the nearest is {close}' if close else listed(agents, 'it holds')}"
        self.report.error(self.place, "", text)
        return None

    def block(self, agent: str) -> Block:
        """The keys of an agent, resolved; what has no value and what belongs to nobody is reported."""
        head = f"{agent}."
        block = Block(head, self.place)
        for key, entry in self.entries.items():
            if key.startswith(head) and key != head:
                value = self._resolve(entry)
                if value:
                    block.entries[key[len(head) :]] = entry._replace(value=value)
        self._strangers()
        return block

    def _resolve(self, entry: Entry) -> str:
        """The entry's value with its references replaced; empty after a report that there is none."""
        try:
            value, left = self.resolver.resolve(entry.value, self.report.lenient)
        except (Unresolved, Circular) as error:
            self.report.unreadable(entry.place, entry.key, str(error))
            return entry.value
        for name in left:
            self.report.warning(entry.place, entry.key, f"${{{name}}} is not known and stays as it is")
        if not value.strip():
            self.report.empty(entry.place, entry.key, "has no value: give it one, or remove the line")
        return value.strip()

    def _strangers(self) -> None:
        """Keys of no agent that no reference uses."""
        agents = self.agents()
        for key, entry in self.entries.items():
            head, dot, _ = key.partition(".")
            if (head in agents and dot) or self._used(key):
                continue
            close = nearest(head, agents) if dot else ""
            if dot:
                hint = f"the nearest is {close}" if close else listed(agents, "the file holds")
                self.report.dropped(
                    entry.place, key, f"belongs to no agent: {head} lists no sources, channels or sinks; {hint}"
                )
            else:
                self.report.warning(entry.place, key, f"is used by no ${{{key}}}")

    def _used(self, key: str) -> bool:
        return key in self.resolver.used or any(f"{{{key}" in entry.value for entry in self.entries.values())


def split_names(text: str) -> tuple[list[str], list[str]]:
    """The names of a list, each once, and those that it names again."""
    names = text.split()
    return list(dict.fromkeys(names)), repeated(names)


def repeated(names: Iterable[str]) -> list[str]:
    """What comes more than once."""
    seen: set[str] = set()
    return [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
