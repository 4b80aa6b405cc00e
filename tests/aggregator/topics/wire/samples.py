"""Bodies of every API and version, made from the tables: one with a value of its own in each field, and any."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, cycle
from typing import Any

from hypothesis import strategies as st

from aggregator.topics.wire.api import APIS, Api
from aggregator.topics.wire.fields import Field

EVERY = [(api, version) for api in APIS.values() for version in range(api.served.low, api.served.high + 1)]
SIDES = ["request", "response"]


def fields(api: Api, side: str) -> tuple[Field, ...]:
    """The table of one side, `request` or `response`."""
    return getattr(api, side)


def sample(table: tuple[Field, ...], version: int) -> dict[str, Any]:
    """A body in which no two fields are alike, as far as their types go; arrays hold two elements."""
    return _body(table, version, count(1), cycle(range(90)))


def _body(table: tuple[Field, ...], version: int, numbers: Iterator[int], errors: Iterator[int]) -> dict[str, Any]:
    def one(field: Field) -> Any:
        number = next(numbers)
        match field.kind:
            case "":
                return _body(field.fields, version, numbers, errors)
            case "string":
                return f"{field.name}-{number}-ä"
            case "bytes" | "records":
                return f"{field.name}-{number}".encode()
            case "bool":
                return number % 2 == 1
            case "int8":
                return number % 2
            case "int16" if field.name.endswith("error_code"):
                return next(errors)
            case _:
                return number

    there = [field for field in table if version in field.versions]
    return {field.name: [one(field), one(field)] if field.is_array else one(field) for field in there}


_BITS = {"int8": 8, "int16": 16, "int32": 32, "int64": 64}


def bodies(table: tuple[Field, ...], version: int) -> st.SearchStrategy[dict[str, Any]]:
    """Any body of a version."""
    there = [field for field in table if version in field.versions]
    return st.fixed_dictionaries({field.name: _values(field, version) for field in there})


def _values(field: Field, version: int) -> st.SearchStrategy[Any]:
    match field.kind:
        case "":
            values = bodies(field.fields, version)
        case "string":
            values = st.text(st.characters(codec="utf-8"), max_size=20) | st.just("x" * 300)
        case "bytes" | "records":
            values = st.binary(max_size=40) | st.sampled_from([bytes(1023), bytes(1024), bytes(20_000)])
        case "bool":
            values = st.booleans()
        case kind:
            half = 1 << (_BITS[kind] - 1)
            values = st.integers(-half, half - 1)
    if field.is_array:
        values = st.lists(values, max_size=3)
    return st.none() | values if field.nullable is not None and version in field.nullable else values


def there(value: Any, like: Any) -> Any:
    """A decoded value without the fields that `like` hasn't, its slices as bytes: to compare with what was encoded."""
    if isinstance(value, dict):
        return {name: there(item, like[name]) for name, item in value.items() if name in like}
    if isinstance(value, list):
        return [there(item, first) for item, first in zip(value, like, strict=True)]
    return bytes(value) if isinstance(value, memoryview) else value
