"""References in values, as in Flume 1.10 and later (commons-text StringSubstitutor):

    ${env:NAME}       environment             ${name}            another property, of any file
    ${sys:name}       -D property             ${name:-default}   a default
    $${name}          the text itself         ${${env:STAGE}_HOST}   a name that is put together

They are resolved recursively. Flume fills the table of properties while it walks through them, so that a reference may
stay unresolved by chance; here it is always the complete set. A lookup that has no answer (`env`, `sys`) falls back to
the property of that name, as in Flume.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping

MAX_DEPTH = 50
"""References inside references."""
MAX_REFERENCES = 10_000
"""References followed for one value."""
MAX_VALUE = 1 << 20
"""Characters of one resolved value."""

_PLACES = {"env": "environment variable", "sys": "-D property"}
_ELSEWHERE = {"java", "date", "base64Encoder", "base64Decoder", "const", "dns", "file", "properties", "script", "url"}


class Unresolved(ValueError):
    """A reference that nothing answers."""


class Circular(ValueError):
    """A reference that leads back to itself, or to too much."""


class Resolver:
    """Replaces the references in values. `used` collects the names of the properties that were looked up."""

    def __init__(
        self, properties: Mapping[str, str], environment: Mapping[str, str], system: Mapping[str, str]
    ) -> None:
        self.properties = properties
        self.lookups: dict[str, Callable[[str], str | None]] = {"env": environment.get, "sys": system.get}
        self.used: set[str] = set()

    def resolve(self, value: str, lenient: bool = False) -> tuple[str, list[str]]:
        """The value with its references replaced, and what stayed unresolved (only if `lenient`: as it was).

        Raises Unresolved (not if lenient) and Circular, which say how to put it right.
        """
        return _Resolution(self, lenient).run(value)


class _Resolution:
    """Of one value: keeps the chain of names, for cycles, and what is left."""

    def __init__(self, resolver: Resolver, lenient: bool) -> None:
        self.resolver, self.lenient = resolver, lenient
        self.left: list[str] = []
        self.depth = self.followed = 0

    def run(self, value: str) -> tuple[str, list[str]]:
        text = self._expand(value, ())
        return text, self.left

    def _expand(self, text: str, chain: tuple[str, ...]) -> str:
        if "${" not in text:
            return text
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Circular(f"has more than {MAX_DEPTH} references inside one another")
        parts: list[str] = []
        position = size = 0
        while position < len(text):
            part, position = self._next(text, position, chain)
            parts.append(part)
            size += len(part)
            if size > MAX_VALUE:
                raise Circular(f"grows beyond {MAX_VALUE:,} characters when its references are replaced")
        self.depth -= 1
        return "".join(parts)

    def _next(self, text: str, position: int, chain: tuple[str, ...]) -> tuple[str, int]:
        """The piece at `position`, replaced if it is a reference, and where the next one starts."""
        start = text.find("${", position)
        if start < 0:
            return text[position:], len(text)
        if start > position:
            if text[start - 1] == "$":
                end = _closing(text, start + 2)
                literal = text[start:] if end < 0 else text[start : end + 1]
                return text[position : start - 1] + literal, start + len(literal)
            return text[position:start], start
        end = _closing(text, start + 2)
        if end < 0:
            return text[start:], len(text)
        return self._reference(text[start + 2 : end], chain), end + 1

    def _reference(self, inner: str, chain: tuple[str, ...]) -> str:
        name, separator, default = _split_default(inner)
        name = self._expand(name, chain)
        if name in chain:
            raise Circular(f"refers to itself: {' -> '.join((*chain[chain.index(name) :], name))}")
        self.followed += 1
        if self.followed > MAX_REFERENCES:
            raise Circular(f"leads to more than {MAX_REFERENCES:,} references")
        found = self._look_up(name)
        if found is not None:
            return self._expand(found, (*chain, name))
        if separator:
            return self._expand(default, chain)
        if not self.lenient:
            raise Unresolved(self._remedy(name))
        self.left.append(name)
        return f"${{{inner}}}"

    def _look_up(self, name: str) -> str | None:
        prefix, colon, rest = name.partition(":")
        if colon and prefix in self.resolver.lookups:
            found = self.resolver.lookups[prefix](rest)
            if found is not None:
                return found
            name = rest
        self.resolver.used.add(name)
        return self.resolver.properties.get(name)

    def _remedy(self, name: str) -> str:
        prefix, _, rest = name.partition(":")
        way_out = f"; ${{{name}:-default}} gives a default, $${{{name}}} is the text itself"
        if prefix in _PLACES:
            return f"the {_PLACES[prefix]} {rest} is not set{way_out}"
        if prefix in _ELSEWHERE:
            return f"there is no lookup {prefix!r} here, only env and sys{way_out}"
        close = difflib.get_close_matches(name, self.resolver.properties, n=1)
        return f"there is no property {name}{f', the nearest is {close[0]}' if close else ''}{way_out}"


def _closing(text: str, position: int) -> int:
    """Where the reference that was opened before `position` ends; -1 if it doesn't."""
    depth = 1
    for found in re.finditer(r"\$\{|\}", text[position:]):
        depth += 1 if found.group() == "${" else -1
        if not depth:
            return position + found.start()
    return -1


def _split_default(inner: str) -> tuple[str, str, str]:
    """Split at the first `:-` outside of nested references."""
    depth = 0
    for found in re.finditer(r"\$\{|\}|:-", inner):
        if found.group() == ":-" and not depth:
            return inner[: found.start()], ":-", inner[found.end() :]
        depth += {"${": 1, "}": -1, ":-": 0}[found.group()]
    return inner, "", ""
