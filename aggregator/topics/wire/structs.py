"""From a table to a codec: what a version has is sorted out once, so that a request runs through closures alone.

Neighbouring fields of fixed size (most of a partition's) are packed and unpacked in one step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from operator import itemgetter
from struct import Struct
from typing import Any

from agent.errors import LocalProtocolError
from aggregator.topics.wire.fields import REQUIRED, Field
from aggregator.topics.wire.primitives import (
    COMPACT,
    FIXED,
    LONG,
    SHORT,
    Codec,
    Input,
    Output,
    array,
    blob,
    fixed,
    numbers,
    skip_tags,
    string,
)

Body = dict[str, Any]
Step = tuple[Callable[[Input, Body], None], Callable[[Output, Body], None], int]
"""One or more fields, read into a body and written out of it; the fewest bytes they take."""


def struct(fields: tuple[Field, ...], version: int, flexible: bool) -> Codec:
    """The codec of a struct in one version; its values are dicts with all of the table's names."""
    there = [field for field in fields if version in field.versions]
    absent = {field.name: field.absent for field in fields if version not in field.versions}
    defaults = {field.name: field.default for field in there if field.default is not REQUIRED}
    known = {field.name for field in fields}
    steps = list(_steps(there, version, flexible))
    readers, writers = [step[0] for step in steps], [step[1] for step in steps]

    def read(source: Input) -> Body:
        body = absent.copy()
        for step in readers:
            step(source, body)
        return body

    def write(out: Output, body: Body) -> None:
        if not body.keys() <= known:
            raise LocalProtocolError(f"no field {', '.join(sorted(body.keys() - known))} among {', '.join(known)}")
        whole = defaults | body
        for step in writers:
            step(out, whole)

    return Codec(read, write, sum(step[2] for step in steps))


def _steps(fields: list[Field], version: int, flexible: bool) -> Iterator[Step]:
    for is_fixed, group in groupby(fields, lambda field: field.kind in FIXED and not field.is_array):
        run = list(group)
        if is_fixed and len(run) > 1:
            yield _run(run)
        else:
            yield from (_single(field.name, _codec(field, version, flexible)) for field in run)
    if flexible:
        yield (lambda source, _: skip_tags(source)), (lambda out, _: out.tail.append(0)), 1


def _run(fields: list[Field]) -> Step:
    """Neighbours of fixed size."""
    names = [field.name for field in fields]
    form = Struct(">" + "".join(FIXED[field.kind] for field in fields))
    unpack, pack, size, values = form.unpack_from, form.pack, form.size, itemgetter(*names)

    def read(source: Input, body: Body) -> None:
        body.update(zip(names, unpack(source.data, source.at), strict=True))
        source.at += size

    def write(out: Output, body: Body) -> None:
        out.tail += pack(*values(body))

    return read, write, size


def _single(name: str, codec: Codec) -> Step:
    take, give, least = codec

    def read(source: Input, body: Body) -> None:
        body[name] = take(source)

    def write(out: Output, body: Body) -> None:
        give(out, body[name])

    return read, write, least


def _codec(field: Field, version: int, flexible: bool) -> Codec:
    """The codec of one field."""
    nullable = field.nullable is not None and version in field.nullable
    if not field.is_array:
        return _value(field, version, flexible, nullable)
    length = COMPACT if flexible else LONG
    if field.kind in FIXED:
        return numbers(field.kind, length, nullable)
    return array(_value(field, version, flexible, False), length, nullable)


def _value(field: Field, version: int, flexible: bool, nullable: bool) -> Codec:
    match field.kind:
        case "":
            return struct(field.fields, version, flexible)
        case "string":
            return string(COMPACT if flexible else SHORT, nullable)
        case "bytes":
            return blob(COMPACT if flexible else LONG, nullable, bytes)
        case "records":
            return blob(COMPACT if flexible else LONG, nullable, memoryview)
        case _:
            return fixed(field.kind)
