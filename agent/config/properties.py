"""Text of a properties file -> entries, each with its file and line.

The grammar is that of java.util.Properties.load (its Javadoc), which Flume uses:

    # comment, or ! comment: by the first character of a natural line that is not a blank
    key = value        the key ends at the first unescaped `=`, `:` or blank; blanks around the separator go
    long = one \\       an odd number of backslashes at the end of a line continues it, and the blanks that
           two         open the next line go
    \\t \\n \\r \\f \\\\ \\uXXXX; a backslash before any other character goes: C:\\temp is C:<tab>emp

Flume then trims key and value. Where we differ on purpose: the file is UTF-8 if it is valid UTF-8 (Java: ISO-8859-1), a
byte order mark is skipped, and an earlier value of a repeated key is reported.

Values may hold references (commons-text StringSubstitutor, as in Flume 1.10 and later): `${env:NAME}` environment,
`${sys:name}` -D property, `${name}` another property, `${name:-default}`, `$${name}` the text itself. They nest and are
resolved recursively, here always against the complete set of keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from agent.config.problems import Report

BLANKS = " \t\f"
TRIMMED = "".join(map(chr, range(33)))
"""What Java's String.trim removes."""
MAX_DEPTH = 50
"""References inside references."""
MAX_REFERENCES = 10_000
"""References followed for one value."""
MAX_VALUE = 1 << 20
"""Characters of one resolved value."""

_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|u|.|$)", re.DOTALL)
_KEY = re.compile(r"(?:[^\\=: \t\f]|\\.)*", re.DOTALL)
_LETTERS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
_PLACES = {"env": "environment variable", "sys": "-D property"}
_ELSEWHERE = {"java", "date", "base64Encoder", "base64Decoder", "const", "dns", "file", "properties", "script", "url"}


class Entry(NamedTuple):
    """One key with its value; `place` is file:line."""

    key: str
    value: str
    place: str


def parse(path: str, content: bytes, report: Report) -> list[Entry]:
    """The entries in the file's order, of a repeated key the last one only."""
    entries: dict[str, Entry] = {}
    for number, line in _logical_lines(_decoded(content)):
        place = f"{path}:{number}"
        entry = _entry(line, place, report)
        before = entries.pop(entry.key, None)
        if before:
            report.warning(place, entry.key, f"replaces the value that line {before.place.rpartition(':')[2]} gave")
        entries[entry.key] = entry
    return list(entries.values())


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("iso-8859-1")


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """(number of the first natural line, text with continuations joined), without comments and empty lines."""
    start, joined = 0, ""
    for number, natural in enumerate(re.split(r"\r\n|\n|\r", text), 1):
        line = natural.lstrip(BLANKS)
        if not joined and (not line or line[0] in "#!"):
            continue
        start = start if joined else number
        if (len(line) - len(line.rstrip("\\"))) % 2:
            joined += line[:-1]
            continue
        if joined + line:
            yield start, joined + line
        joined = ""
    if joined:
        yield start, joined


def _entry(line: str, place: str, report: Report) -> Entry:
    """The key and value of a logical line; where an escape is wrong, as they stand there."""
    found = _KEY.match(line)
    key = found.group() if found else ""
    value = re.sub(r"^[ \t\f]*[=:]?[ \t\f]*", "", line[len(key) :])
    try:
        key = _unescaped(key).strip(TRIMMED)
        value = _unescaped(value).strip(TRIMMED)
    except ValueError as error:
        report.unreadable(place, key, str(error))
    return Entry(key, value, place)


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text
    plain = _ESCAPE.sub(_character, text)
    try:
        return plain.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise ValueError("half of a surrogate pair: a character above \\uFFFF is written as two \\uXXXX") from None


def _character(found: re.Match[str]) -> str:
    name = found.group(1)
    if name == "u":
        raise ValueError("\\u takes four hexadecimal digits; a backslash itself is written \\\\")
    return chr(int(name[1:], 16)) if len(name) == 5 else _LETTERS.get(name, name)


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
        return f"there is no property {name}{way_out}"


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
