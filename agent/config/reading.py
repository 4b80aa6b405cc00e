"""Raw keys of one component -> its typed `Config`, or everything that is wrong with them at once."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from agent.config import values
from agent.config.fields import Bytes, Config, Key, Seconds, Secret
from agent.errors import ConfigError

AnyConfig = TypeVar("AnyConfig", bound=Config)
MOST_LISTED = 30
"""Names in a message."""
MOST_SHOWN = 80
"""Characters of a wrong value in a message."""


class Fault(NamedTuple):
    """What is wrong with a key. `unknown`: Flume ignores it; `refused`: no way round; else it drops the component."""

    key: str
    text: str
    unknown: bool = False
    refused: bool = False


class Reading(NamedTuple, Generic[AnyConfig]):
    """`config` is None if a fault other than an unknown key stands in its way. Notes are (key, warning)."""

    config: AnyConfig | None
    faults: list[Fault]
    notes: list[tuple[str, str]]


class Field(NamedTuple):
    """One field of a Config: its name in Python, type, Key, and default (dataclasses.MISSING: required)."""

    name: str
    kind: Any
    about: Key
    default: Any

    @property
    def required(self) -> bool:
        return self.default is dataclasses.MISSING

    @property
    def is_table(self) -> bool:
        """Whether it collects every key with a prefix."""
        return get_origin(values.plain(self.kind)) is dict

    @property
    def item(self) -> Any:
        """The type of one value: that of a table's values, else the field's."""
        return get_args(values.plain(self.kind))[1] if self.is_table else self.kind

    def takes(self) -> str:
        """What it takes, with its default."""
        return f"{values.takes(self.item, self.about)} ({self.shown_default()})"

    def doc(self) -> str:
        """`: what it is`, to follow on what it takes."""
        return f": {self.about.doc}" if self.about.doc else ""

    def shown_default(self) -> str:
        """`required`, `no default`, or the default. A duration or size below its bound stands for 'not set'."""
        if self.required:
            return "required"
        if self.default is None or self.default in ("", {}, []):
            return "no default"
        if isinstance(self.default, Seconds | Bytes) and self.default < values.bounds(self.kind, self.about)[0]:
            return "no default"
        return f"default {values.show(self.default, self.about)}"


def fields_of(cls: type[Config]) -> list[Field]:
    """The fields that are read from the file, in the order of the class."""
    hints = get_type_hints(cls)
    found = []
    for field in dataclasses.fields(cls):
        if "key" in field.metadata:
            kind = hints[field.name]
            made = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            unit = values.plain(kind)
            typed = unit(made) if unit in (Seconds, Bytes) and isinstance(made, int | float) else made
            found.append(Field(field.name, kind, field.metadata["key"], typed))
    return found


def read(cls: type[AnyConfig], raw: Mapping[str, str], what: str, *, lenient: bool = False) -> Reading[AnyConfig]:
    """Read `raw` as `cls`; `what` names the component in messages (`netcat`).

    With `lenient` a boolean is what Flume makes of it: whatever isn't `true` is false.
    """
    reader = _Reader(cls, raw, what, lenient)
    return Reading(reader.config(), reader.faults, reader.notes)


class _Reader(Generic[AnyConfig]):
    def __init__(self, cls: type[AnyConfig], raw: Mapping[str, str], what: str, lenient: bool) -> None:
        self.cls, self.what, self.lenient = cls, what, lenient
        self.fields = fields_of(cls)
        self.left = dict(raw)
        self.faults: list[Fault] = []
        self.notes: list[tuple[str, str]] = []

    def config(self) -> AnyConfig | None:
        given: dict[str, Any] = {}
        tables = sorted((f for f in self.fields if f.is_table), key=lambda field: -len(field.about.name))
        for field in [*(f for f in self.fields if not f.is_table), *tables]:
            read = self._table if field.is_table else self._single
            read(field, given)
        self._rest()
        if any(not fault.unknown for fault in self.faults):
            return None
        try:
            config = self.cls(**given)
            found = config.problems()
        except ConfigError as error:
            found = [("", str(error))]
        self.faults += [Fault(key, text) for key, text in found]
        return None if found else config

    def _single(self, field: Field, given: dict[str, Any]) -> None:
        spelt = [name for name in (field.about.name, *field.about.also) if name in self.left]
        if len(spelt) > 1:
            self.faults.append(Fault(spelt[1], f"is another spelling of {spelt[0]}, which is given too: remove one"))
        elif not spelt and field.required:
            doc = f": {field.about.doc}" if field.about.doc else ""
            self.faults.append(
                Fault(field.about.name, f"is missing; it takes {values.takes(field.kind, field.about)}{doc}")
            )
        texts = [self.left.pop(name) for name in spelt]
        if texts:
            self._parse(field, spelt[0], texts[0], given, field.name)

    def _table(self, field: Field, given: dict[str, Any]) -> None:
        prefixes = [name.removesuffix("*") for name in (field.about.name, *field.about.also)]
        table: dict[str, Any] = {}
        for prefix in prefixes:
            for name in [name for name in self.left if name.startswith(prefix) and not self._special(name)]:
                self._parse(field, name, self.left.pop(name), table, name.removeprefix(prefix))
        if table:
            given[field.name] = table
        elif field.required:
            self.faults.append(Fault(field.about.name, f"is missing: at least one such key; it takes {field.takes()}"))

    def _parse(self, field: Field, name: str, text: str, into: dict[str, Any], at: str) -> None:
        try:
            value = values.parse(field.item, text, field.about)
            into[at] = Secret(value) if field.is_table and at in field.about.secrets else value
        except values.Wrong as error:
            if self.lenient and values.plain(field.item) is bool:
                into[at] = False
                self.notes.append((name, f"takes true or false; {text!r} counts as false, as in Flume"))
                return
            self.faults.append(Fault(name, str(error) or f"takes {field.takes()}, not {_short(text)}"))

    def _special(self, name: str) -> bool:
        return bool(_match(name, self.cls.IGNORED) or _match(name, self.cls.REFUSED))

    def _rest(self) -> None:
        """Keys that no field took."""
        for name in self.left:
            ignored, refused = _match(name, self.cls.IGNORED), _match(name, self.cls.REFUSED)
            if refused:
                self.faults.append(Fault(name, f"is refused: {self.cls.REFUSED[refused]}", refused=True))
            elif ignored:
                self.notes.append((name, f"has no effect: {self.cls.IGNORED[ignored]}"))
            else:
                self.faults.append(Fault(name, self._unknown(name), unknown=True))

    def _unknown(self, name: str) -> str:
        known = {spelling: field for field in self.fields for spelling in (field.about.name, *field.about.also)}
        close = nearest(name, known)
        if close:
            field = known[close]
            return f"{self.what} has no such key; the nearest is {close}, which takes {field.takes()}{field.doc()}"
        return f"{self.what} has no such key; {listed(known, 'it has')}"


def _short(text: str) -> str:
    return repr(text) if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]!r}..."


def _match(name: str, table: Mapping[str, str]) -> str:
    """The entry of a table that a key falls under: its own name, or a prefix that ends in `*`."""
    if name in table:
        return name
    return next((entry for entry in table if entry.endswith("*") and name.startswith(entry[:-1])), "")


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that is most like this one, whatever its case and separators; empty if none is."""
    plain = {_letters(candidate): candidate for candidate in known}
    close = difflib.get_close_matches(_letters(name), plain, n=1, cutoff=0.6)
    return plain[close[0]] if close else ""


def _letters(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").rstrip("*")


def listed(names: Iterable[str], words: str) -> str:
    """`it has bind, port and ...` for a message."""
    every = list(names)
    if not every:
        return f"{words} none"
    return f"{words} {', '.join(every[:MOST_LISTED])}{' ...' if len(every) > MOST_LISTED else ''}"
