"""One value: text -> a type with a unit, back to text, and what it takes, in words.

`parse(kind, text, about)` raises Wrong; `parse(kind, show(value, about), about) == value`.
"""

from __future__ import annotations

import math
import re
import types
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from agent.config.fields import Bytes, Key, Seconds, Secret

SECONDS = {
    "d": Fraction(86400), "h": Fraction(3600), "m": Fraction(60), "s": Fraction(1),
    "ms": Fraction(1, 10**3), "us": Fraction(1, 10**6), "ns": Fraction(1, 10**9),
}  # fmt: skip
SIZES = {"B": 1} | {
    f"{letter}{binary}B": (1024 if binary else 1000) ** power
    for power, letter in enumerate("kMGT", 1)
    for binary in ("i", "")
}
SIZES["KiB"], SIZES["KB"] = SIZES["kiB"], SIZES["kB"]
MOST = {int: 2**63 - 1, Bytes: 2**63 - 1, Seconds: 100 * 365 * 86400}
"""Bounds where a key sets none; what lies beyond overflows in C."""
MAX_SECRET = 1 << 16
"""Characters of a secret's file."""

_NUMBER = re.compile(r"([+-]?[0-9]{1,30}(?:\.[0-9]{1,30})?)\s*([A-Za-z]*)")


class Wrong(ValueError):
    """A text that isn't such a value. With a message: more than 'takes X'."""


def parse(kind: Any, text: str, about: Key) -> Any:
    """The value of type `kind` that a text says."""
    kind = plain(kind)
    if get_origin(kind) is list:
        words = text.split(about.split or None)
        item = get_args(kind)[0]
        return [parse(item, word.strip(), about) for word in words if word.strip()]
    if kind is bool:
        return _bool(text)
    if kind in (Seconds, Bytes, int, float):
        return _bounded(kind, _quantity(kind, text, about), about)
    if kind is Secret:
        return _secret(text)
    if kind is Path:
        return Path(text).expanduser()
    return _choice(text, about)


def plain(kind: Any) -> Any:
    """`X | None` -> X."""
    if get_origin(kind) in (Union, types.UnionType):
        return next(part for part in get_args(kind) if part is not type(None))
    return kind


def _bool(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise Wrong
    return text.lower() == "true"


def _quantity(kind: Any, text: str, about: Key) -> Any:
    found = _NUMBER.fullmatch(text)
    if not found:
        raise Wrong
    number, unit = Fraction(found.group(1)), found.group(2)
    if kind is Seconds:
        return Seconds(number * _factor(SECONDS, unit or about.unit or "s"))
    if kind is Bytes:
        number *= _factor(SIZES, unit or about.unit or "B")
    elif unit:
        raise Wrong
    if kind is float:
        return float(number)
    if number.denominator != 1:
        raise Wrong
    return kind(number.numerator)


def _factor(units: dict[str, Any], unit: str) -> Any:
    if unit not in units:
        raise Wrong
    return units[unit]


def _bounded(kind: Any, value: Any, about: Key) -> Any:
    low, high = bounds(kind, about)
    if not low <= value <= high:
        raise Wrong
    return value


def bounds(kind: Any, about: Key) -> tuple[float, float]:
    """Lowest and highest value: the key's own, else what the type can mean."""
    low = about.low if about.low is not None else 0 if kind in (Seconds, Bytes) else -math.inf
    high = about.high if about.high is not None else MOST.get(kind, math.inf)
    return low, high


def _secret(text: str) -> Secret:
    if not text.startswith("file:"):
        return Secret(text)
    path = Path(text[5:]).expanduser()
    try:
        with path.open(encoding="utf-8") as file:
            content = file.read(MAX_SECRET + 1).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it isn't UTF-8"
        raise Wrong(f"can't be read from {path}: {reason}") from None
    if not content or len(content) > MAX_SECRET:
        raise Wrong(f"can't be read from {path}: it takes 1 to {MAX_SECRET:,} characters")
    return Secret(content)


def _choice(text: str, about: Key) -> str:
    if not about.choices:
        return text
    for choice in about.choices:
        if choice.lower() == text.lower():
            return choice
    raise Wrong


def takes(kind: Any, about: Key) -> str:
    """What a key takes, in words that follow 'takes'."""
    kind = plain(kind)
    if get_origin(kind) is list:
        inner = takes(get_args(kind)[0], about)
        between = "commas" if about.split == "," else repr(about.split) if about.split else "blanks"
        return f"a list separated by {between}" + (f", each {inner}" if inner != "a text" else "")
    if about.choices:
        return _one_of(about.choices)
    words: dict[Any, str] = {bool: "true or false", Path: "a path", Secret: "a secret, or file:/path of a file with it"}
    if kind is Seconds:
        return f"a duration such as 500ms or 2m{_range(kind, about)}; a bare number counts in {about.unit or 's'}"
    if kind is Bytes:
        return f"a size such as 64MiB or 10kB{_range(kind, about)}; a bare number counts in {about.unit or 'B'}"
    if kind is int:
        return f"a whole number{_range(kind, about)}"
    if kind is float:
        return f"a number{_range(kind, about)}"
    return words.get(kind, "a text")


def _one_of(choices: tuple[str, ...]) -> str:
    return choices[0] if len(choices) == 1 else f"{', '.join(choices[:-1])} or {choices[-1]}"


def _range(kind: Any, about: Key) -> str:
    natural = kind in (Seconds, Bytes) and not about.low
    unset = about.low is None or natural, about.high is None
    low, high = (show(kind(value), about) if value is not None else "" for value in (about.low, about.high))
    if unset == (False, False):
        return f" from {low} to {high}"
    if not unset[0]:
        return f" of at least {low}"
    return "" if unset[1] else f" up to {high}"


def show(value: Any, about: Key) -> str:
    """A value as one would write it in the file. Never a secret."""
    if isinstance(value, list | tuple):
        return (f"{about.split} " if about.split else " ").join(show(item, about) for item in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Secret):
        return "***"
    if isinstance(value, Seconds):
        return _with_unit(value, SECONDS, "s")
    if isinstance(value, Bytes):
        return _with_unit(value, {unit: SIZES[unit] for unit in ("TiB", "GiB", "MiB", "kiB")}, "B")
    if isinstance(value, float):
        return _decimal(value)
    return str(value)


def _with_unit(value: float, units: dict[str, Any], smallest: str) -> str:
    """In the largest unit that gives a whole number, below 10,000 of it; exact."""
    exact = Fraction(_decimal(value))
    if not exact:
        return f"0{smallest}"
    for unit, factor in units.items():
        count = exact / factor
        if count.denominator == 1:
            return f"{count.numerator}{unit.replace('ki', 'Ki')}"
    return f"{_decimal(value)}{smallest}"


def _decimal(value: float) -> str:
    text = format(Decimal(repr(float(value))), "f") if isinstance(value, float) else str(int(value))
    return text.removesuffix(".0")
