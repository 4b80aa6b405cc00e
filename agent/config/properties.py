"""Text of a properties file -> entries, each with its file and line.

The grammar is that of java.util.Properties.load (its Javadoc), which Flume uses:

    # comment, or ! comment: by the first character of a natural line that is not a blank
    key = value        the key ends at the first unescaped `=`, `:` or blank; blanks around the separator go
    long = one \\       an odd number of backslashes at the end of a line continues it, and the blanks that
           two         open the next line go
    \\t \\n \\r \\f \\\\ \\uXXXX; a backslash before any other character goes: C:\\temp is C:<tab>emp

Flume then trims key and value. Where we differ on purpose: the file is UTF-8 if it is valid UTF-8 (Java: ISO-8859-1), a
byte order mark is skipped, and an earlier value of a repeated key is reported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from agent.config.problems import Report

BLANKS = " \t\f"
TRIMMED = "".join(map(chr, range(33)))
"""What Java's String.trim removes."""

_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|u|.|$)", re.DOTALL)
_KEY = re.compile(r"(?:[^\\=: \t\f]|\\.)*", re.DOTALL)
_LETTERS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


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
