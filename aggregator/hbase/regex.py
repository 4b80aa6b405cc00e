"""Groups of a regular expression as columns (Flume's RegexHbaseEventSerializer and its kin for hbase2).

The whole body has to match (a dot takes line ends too). Flume drops an event that doesn't, in silence; here it is a
dead letter. The key is the group `ROW_KEY` at `rowKeyIndex`, else `<ms>-<10 letters and digits>-<number>` as in Flume,
where the letters follow from the event's origin instead of chance, the number is the event's own, and ms are those of
its timestamp header (0 without one). So a repeat writes the same row.
"""

from __future__ import annotations

import codecs
import re
import string
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import ClassVar

from agent.config.fields import Config as AnyConfig
from agent.config.fields import key
from agent.errors import Rejected
from agent.event import Event
from aggregator.hbase.cells import CellSerializer, Name, Row, checked, time_ms

ROW_KEY = "ROW_KEY"
ALPHABET = string.ascii_letters + string.digits


class RegexConfig(AnyConfig):
    regex: str = key("regex", "(.*)", doc="what a whole body has to match; its groups are the columns")
    regexIgnoreCase: bool = key("regexIgnoreCase", False, doc="whether case counts for nothing")
    colNames: list[str] = key("colNames", ["payload"], split=",", doc="columns of the groups, in order")
    rowKeyIndex: int = key("rowKeyIndex", -1, doc="which column, from 0, is the row key; it is called ROW_KEY")
    depositHeaders: bool = key("depositHeaders", False, doc="a column for each header too")
    charset: str = key("charset", "UTF-8", doc="of body and headers")

    def problems(self) -> list[tuple[str, str]]:
        found = []
        try:
            codecs.lookup(self.charset)
        except LookupError:
            found.append(("charset", f"there is no charset {self.charset}"))
        try:
            groups = pattern(self).groups
        except re.error as error:
            return [*found, ("regex", f"is no regular expression: {error}")]
        if groups != len(self.colNames):
            found.append(("colNames", f"names {len(self.colNames)} columns, but the regex has {groups} groups"))
        index = self.rowKeyIndex
        if index >= len(self.colNames) or (index >= 0 and self.colNames[index] != ROW_KEY):
            found.append(("rowKeyIndex", f"column {index} of colNames has to be called {ROW_KEY}"))
        return found


def pattern(config: RegexConfig) -> re.Pattern[str]:
    """Java's named groups are spelt as Python's."""
    text = re.sub(r"\(\?<(?![=!])", "(?P<", config.regex)
    return re.compile(text, re.DOTALL | (re.IGNORECASE if config.regexIgnoreCase else 0))


class RegexSerializer(CellSerializer):
    Config: ClassVar[type[AnyConfig]] = RegexConfig
    config: RegexConfig

    def __init__(self, config: AnyConfig, family: str) -> None:
        super().__init__(config, family)
        self.pattern = pattern(self.config)
        self.columns = [self.family + name.encode() for name in self.config.colNames]

    def rows(self, events: Sequence[Event], names: Sequence[Name]) -> list[Row]:
        return [self._row(event, name) for event, name in zip(events, names, strict=True)]

    def _row(self, event: Event, name: Name) -> Row:
        groups = self._groups(event.body)
        index = self.config.rowKeyIndex
        cells = {
            column: group.encode()
            for at, (column, group) in enumerate(zip(self.columns, groups, strict=True))
            if at != index and group is not None
        }
        if self.config.depositHeaders:
            charset = self.config.charset
            for header, value in event.headers.items():
                cells[self.family + header.encode(charset, "replace")] = value.encode(charset, "replace")
        row = (groups[index] or "").encode() if index >= 0 else generated(time_ms(event), name)
        if not cells:
            raise Rejected("an event has no column beside its row key")
        return checked(row), cells

    def _groups(self, body: bytes) -> tuple[str | None, ...]:
        try:
            found = self.pattern.fullmatch(body.decode(self.config.charset))
        except UnicodeDecodeError:
            raise Rejected(f"an event's body is not {self.config.charset}") from None
        if not found:
            raise Rejected(f"an event's body does not match regex = {self.config.regex}")
        return found.groups()


def generated(ms: int, name: Name) -> bytes:
    """Flume's key shape for an identity."""
    return f"{ms}-{letters(name[0])}-{name[1]}".encode()


@lru_cache(maxsize=1024)
def letters(origin: bytes) -> str:
    """Ten letters and digits that follow from an origin."""
    raw = int.from_bytes(blake2b(origin, digest_size=16).digest(), "big")
    return "".join(ALPHABET[raw // len(ALPHABET) ** place % len(ALPHABET)] for place in range(10))
