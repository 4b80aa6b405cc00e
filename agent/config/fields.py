"""Typed configuration: a component's `Config` says its keys, their types, units, bounds and defaults.

    class Config(SourceConfig):
        bind: str = key("bind", doc="address to listen on")
        timeout: Seconds = key("request-timeout", 20.0, unit="ms", low=1.0, doc="wait for an answer")

A type is a unit: `Seconds` takes `500ms`, `2m`, a bare number counts in the key's `unit` (Flume's unit for that key);
`Bytes` takes `64MiB`, `1kB`; `Secret` never prints and may be `file:/path`; `Path` expands `~`; `list[str]` splits on
blanks (or commas with split=","); a name that ends in `*` collects every key with that prefix into a `dict[str, str]`,
of which those in `secrets` are `Secret`, as they stand in the file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, dataclass_transform


class Seconds(float):
    """A duration in seconds."""


class Bytes(int):
    """A size in bytes."""


class Secret(str):
    """A value that never prints."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


REQUIRED: Any = dataclasses.MISSING


@dataclasses.dataclass(frozen=True, slots=True)
class Key:
    """What the properties file knows of one field."""

    name: str
    doc: str = ""
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    split: str = ""
    secrets: tuple[str, ...] = ()


def key(
    name: str,
    default: Any = REQUIRED,
    *,
    doc: str = "",
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    also: tuple[str, ...] = (),
    split: str = "",
    secrets: tuple[str, ...] = (),
) -> Any:
    """A field read from the property `name` (or an older spelling in `also`); no default means required.

    `choices` compare case-insensitively and give the spelling listed. `low`/`high` are inclusive, in the type's own
    unit (seconds, bytes). A default that is a list or dict is copied.
    """
    about = Key(name, doc, unit, low, high, choices, also, split, secrets)
    if isinstance(default, list | dict):
        maker: Callable[[], Any] = default.copy
        return dataclasses.field(default_factory=maker, metadata={"key": about})
    return dataclasses.field(default=default, metadata={"key": about})


@dataclass_transform(kw_only_default=True, field_specifiers=(key,))
@dataclasses.dataclass(kw_only=True)
class Config:
    """Base of every component's `Config`: subclasses become keyword-only dataclasses.

    IGNORED: keys Flume knows that mean nothing here -> why (accepted with one warning).
    REFUSED: keys that would promise what we can't -> why and what to do.
    """

    IGNORED: ClassVar[dict[str, str]] = {}
    REFUSED: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclasses.dataclass(kw_only=True)(cls)

    def problems(self) -> list[tuple[str, str]]:
        """(key, what is wrong) for what only several keys together show; overridden where needed."""
        return []
