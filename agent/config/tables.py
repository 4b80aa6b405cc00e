"""docs/components.md, made from each component's `Config`: python -m agent.config.tables > docs/components.md"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from agent.component import KINDS, Component, class_name_of, load, types_of
from agent.config import flume_names, values
from agent.config.fields import Config
from agent.config.flow import AgentConfig, GroupConfig
from agent.config.reading import Field, fields_of
from agent.errors import ConfigError

PACKAGES = ("agent", "edge", "aggregator")
HEAD = """\
# Components

Every component and every key it takes. This page is made from the code (`make docs`, or
`python -m agent.config.tables > docs/components.md`); [guide.md](guide.md) shows how they are wired.

A duration is `500ms`, `2m`, `1h`; a size is `64MiB` (1024) or `64MB` (1000); a bare number counts in the unit in
brackets, which is Flume's for that key. A secret is the text, `${env:NAME}`, or `file:/path` of a file that holds it.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *_agent(), *(line for kind in KINDS for line in _kind(kind))]).rstrip("\n") + "\n"


def _agent() -> Iterator[str]:
    yield "## agent\n"
    yield "Keys of the agent itself: `<agent>.<key>`.\n"
    yield from _table(AgentConfig)
    yield "A sink group: `<agent>.sinkgroups.<group>.<key>`.\n"
    yield from _table(GroupConfig)


def _kind(kind: str) -> Iterator[str]:
    classes = list(components(kind))
    if classes:
        yield f"## {kind}\n"
    for package, name, cls in classes:
        yield f"### {name} ({kind.removesuffix('s')})\n"
        yield f"{_summary(cls)}\n"
        yield f"`{package}/{kind}/{name}.py`{_spellings(kind, name)}\n"
        yield from _table(cls.Config)


def components(kind: str) -> Iterator[tuple[str, str, type[Component]]]:
    """(package, type, class) of each component; modules beside them that hold none are left out."""
    for package in PACKAGES:
        for name in types_of(kind, (package,)):
            try:
                yield package, name, load(kind, name, (package,))
            except ConfigError as error:
                if f"has no class {class_name_of(kind, name)}" not in str(error):
                    raise


def _summary(cls: type[Component]) -> str:
    """What the module says of itself first."""
    text = sys.modules[cls.__module__].__doc__ or cls.__doc__ or ""
    return " ".join(text.split("\n\n")[0].split())


def _spellings(kind: str, name: str) -> str:
    java = [full for full in flume_names.classes(kind) if flume_names.ours(kind, full) == name]
    return f"; in Flume `{'`, `'.join(java)}`" if java else ""


def _table(config: type[Config]) -> Iterator[str]:
    fields = fields_of(config)
    if fields:
        yield "| key | takes | default | what it is |\n|---|---|---|---|"
        yield from (_row(field) for field in fields)
        yield ""
    else:
        yield "No keys.\n"
    yield from _list("No effect here, accepted with a warning", config.IGNORED)
    yield from _list("Refused", config.REFUSED)


def _row(field: Field) -> str:
    names = ", ".join(f"`{name}`" for name in (field.about.name, *field.about.also))
    default = field.shown_default().removeprefix("default ")
    default = {"required": "**required**", "no default": ""}.get(default, f"`{default}`")
    return f"| {names} | {_cell(_takes(field))} | {_cell(default)} | {_cell(field.about.doc)} |"


def _takes(field: Field) -> str:
    """Short, as the page's head explains the units."""
    text = values.takes(field.item, field.about)
    for words, short in (("a duration such as 500ms or 2m", "duration"), ("a size such as 64MiB or 10kB", "size")):
        text = text.replace(words, short)
    body, bare, unit = text.partition("; a bare number counts in ")
    return f"{body.removeprefix('a ')} ({unit})" if bare else body.removeprefix("a ")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _list(title: str, keys: dict[str, str]) -> Iterator[str]:
    if keys:
        yield f"{title}:\n\n| key | why |\n|---|---|"
        yield from (f"| `{name}` | {_cell(why)} |" for name, why in keys.items())
        yield ""


if __name__ == "__main__":
    sys.stdout.write(page())
