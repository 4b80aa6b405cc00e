"""A judged flow -> a commented properties file that judges to an equal flow (`--write-config FILE`).

Each key of each component stands there with what it is: those that differ from their default as they are, the others
as a comment with the default. A secret is never written: its place is, with how to give it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from agent.config import values
from agent.config.fields import Config, Seconds, Secret
from agent.config.flow import AgentConfig, Flow, GroupSpec, SourceSpec, Spec
from agent.config.reading import Field, fields_of

WIDTH = 118


def render(flow: Flow) -> str:
    """The text of the file."""
    return "\n".join(_lines(flow)) + "\n"


def _lines(flow: Flow) -> Iterator[str]:
    agent = _escaped_key(flow.agent)
    parts = (("sources", flow.sources), ("channels", flow.channels), ("sinks", flow.sinks))
    for part, named in (*parts, ("sinkgroups", flow.groups), ("services", flow.services)):
        if named:
            yield _line(f"{agent}.{part}", " ".join(named))
    drain = AgentConfig(drainTimeout=Seconds(flow.drain_timeout))
    yield from _keys(f"{agent}.", drain, ())
    for spec in (*flow.sources.values(), *flow.channels.values(), *flow.sinks.values()):
        yield from _component(agent, spec)
    for group in flow.groups.values():
        yield from _group(agent, group)
    for spec in flow.services.values():
        yield from _component(agent, spec)


def _component(agent: str, spec: Spec) -> Iterator[str]:
    prefix = f"{agent}.{spec.kind}.{_escaped_key(spec.name)}."
    yield ""
    yield f"# {spec.kind.removesuffix('s')} {spec.name}"
    yield _line(f"{prefix}type", spec.type)
    yield from _keys(prefix, spec.config, ("channels", "channel"))
    if isinstance(spec, SourceSpec):
        yield from _selector(prefix, spec)
        yield from _interceptors(prefix, spec)


def _selector(prefix: str, spec: SourceSpec) -> Iterator[str]:
    if spec.selector:
        yield _line(f"{prefix}selector.type", spec.selector.type)
        yield from _keys(f"{prefix}selector.", spec.selector.config, ())


def _interceptors(prefix: str, spec: SourceSpec) -> Iterator[str]:
    named = [(interceptor.name.rpartition(".")[2], interceptor) for interceptor in spec.interceptors]
    if named:
        yield _line(f"{prefix}interceptors", " ".join(name for name, _ in named))
    for name, interceptor in named:
        inner = f"{prefix}interceptors.{_escaped_key(name)}."
        yield _line(f"{inner}type", interceptor.type)
        yield from _keys(inner, interceptor.config, ())


def _group(agent: str, group: GroupSpec) -> Iterator[str]:
    prefix = f"{agent}.sinkgroups.{_escaped_key(group.name)}."
    yield ""
    yield f"# sink group {group.name}"
    yield _line(f"{prefix}sinks", " ".join(group.sinks))
    yield _line(f"{prefix}processor.type", group.processor.type)
    yield from _keys(f"{prefix}processor.", group.processor.config, ())


def _keys(prefix: str, config: Config, first: tuple[str, ...]) -> Iterator[str]:
    """One comment and one line a key; the wiring first."""
    for field in sorted(fields_of(type(config)), key=lambda field: field.about.name not in first):
        text = f"{field.about.doc} ({values.takes(field.item, field.about)})"
        yield from textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="#   ", break_long_words=False)
        yield from _values(prefix, field, getattr(config, field.name))


def _values(prefix: str, field: Field, value: Any) -> Iterator[str]:
    name = _escaped_key(field.about.name)
    if isinstance(value, Secret) and value:
        yield _hidden(prefix + name)
    elif value == field.default or value is None:
        shown = field.shown_default()
        yield f"#{_line(prefix + name, shown.removeprefix('default ') if shown.startswith('default ') else '')}"
    elif isinstance(value, dict):
        stem = field.about.name.removesuffix("*")
        for key, item in value.items():
            full = prefix + _escaped_key(stem + key)
            yield _hidden(full) if isinstance(item, Secret) else _line(full, values.show(item, field.about))
    else:
        yield _line(prefix + name, values.show(value, field.about))


def _hidden(key: str) -> str:
    return f"# (a secret is not written here; give it again) {key} = file:/path/of/the/secret"


def _line(key: str, value: str) -> str:
    return f"{key} = {_escaped(value)}".rstrip(" ")


def _escaped(value: str) -> str:
    r"""As the grammar needs it: backslashes, line ends, and `$${` for a text that looks like a reference."""
    for plain, escape in (("\\", "\\\\"), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t"), ("\f", "\\f"), ("${", "$${")):
        value = value.replace(plain, escape)
    return value


def _escaped_key(key: str) -> str:
    key = _escaped(key)
    for character in " =:":
        key = key.replace(character, f"\\{character}")
    return f"\\{key}" if key[:1] in ("#", "!") else key
