"""Tables of fields as text, read at import. A line is a field; what is indented under an array is its elements.

    name type [versions] [= default]        # a comment

    type      a name of `primitives`, `[]int32`, or `[]` alone for an array of the structs that follow, indented;
              `?` after it: may be null, `?2+`: from version 2 on
    versions  in which the field is there, `3+`, `0-2`, `7`; all, if it is left out
    default   what is encoded if a body has no such key, and what a decoded body holds where its version has no such
              field. Without one a nullable field is null; any other has to be in a body that is encoded, and is
              0, false, "" or () in one that is decoded

Names are those of Kafka's message definitions (clients/src/main/resources/common/message), in snake case.
"""

from __future__ import annotations

from typing import Any, NamedTuple

REQUIRED: Any = object()
"""The default of a field that has none."""
LAST = 32767


class Versions(NamedTuple):
    """From `low` to `high`, both in."""

    low: int
    high: int

    def __contains__(self, version: object) -> bool:
        return isinstance(version, int) and self.low <= version <= self.high


class Field(NamedTuple):
    """One line of a table."""

    name: str
    kind: str
    """The type, of an array that of its elements; "" is a struct of `fields`."""
    is_array: bool
    versions: Versions
    nullable: Versions | None
    default: Any
    fields: tuple[Field, ...]

    @property
    def absent(self) -> Any:
        """What a decoded body holds in a version without this field."""
        if self.default is not REQUIRED:
            return self.default
        return () if self.is_array else _ZERO.get(self.kind, 0)


class Node(NamedTuple):
    """A line, and those that are indented under it."""

    line: str
    under: list[Node]


_ZERO: dict[str, Any] = {"bool": False, "string": "", "bytes": b"", "records": b""}
_WORDS: dict[str, Any] = {"null": None, "true": True, "false": False, '""': "", "empty": b"", "()": ()}


def versions(text: str) -> Versions:
    """`3+`, `0-2` or `7`."""
    low, _, high = text.partition("-")
    return Versions(int(low[:-1]), LAST) if low.endswith("+") else Versions(int(low), int(high or low))


def parse(text: str) -> list[Node]:
    """The text as a tree; `#` begins a comment."""
    lines = [line.partition("#")[0].rstrip() for line in text.splitlines()]
    return _nodes([line for line in lines if line])


def _nodes(lines: list[str]) -> list[Node]:
    depth = [len(line) - len(line.lstrip()) for line in lines]
    heads = [number for number, at in enumerate(depth) if at == min(depth)]
    ends = [*heads, len(lines)][1:]
    return [Node(lines[head].strip(), _nodes(lines[head + 1 : end])) for head, end in zip(heads, ends, strict=False)]


def field(node: Node) -> Field:
    """A line of a table, and those under it."""
    plain, _, default = node.line.partition("=")
    name, kind, *when = plain.split()
    kind, mark, since = kind.partition("?")
    nullable = versions(since or "0+") if mark else None
    is_array = kind.startswith("[]")
    return Field(
        name,
        kind.removeprefix("[]"),
        is_array,
        versions(when[0]) if when else Versions(0, LAST),
        nullable,
        _default(default.strip()) if default else None if nullable else REQUIRED,
        tuple(map(field, node.under)),
    )


def _default(text: str) -> Any:
    return _WORDS[text] if text in _WORDS else int(text, 0)
