"""Who sent an event, under which number, and who kept it first.

An **origin** is a random 128-bit id drawn each time a store is opened; what is put during that opening is numbered
1, 2, 3 ... A **stream** is (origin, channel): what one channel sends of one origin, in ascending numbers. A batch
that leaves a file channel carries a `Transit`: its stream, the number that precedes it there, its own numbers as
runs, and the number up to which the stream is settled. A receiver keeps what it has covered and so recognises a
repeat (docs/delivery.md). **Identity** is the (origin, number) that the first store gave; it stays with the event.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from agent.errors import RemoteProtocolError

Runs = tuple[tuple[int, int], ...]
"""Ascending numbers as (first, count) runs: ((1, 100), (103, 2)) is 1..100, 103, 104."""

NUMBER_LIMIT = 1 << 62
RUN_LIMIT = 100_000


@dataclass(frozen=True, slots=True)
class Identity:
    """A run of events as the first store that kept them named them: (origin, first) ... (origin, first+count-1)."""

    origin: bytes
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Transit:
    """What a batch says of its way: `after` precedes it in the stream, `settled` is done at the sender's side.

    `chain` is (the origin before this one in the sender's store, the last number that one gave), for audits.
    """

    origin: bytes
    channel: str
    after: int
    numbers: Runs
    settled: int
    chain: tuple[bytes, int] | None = None

    @property
    def last(self) -> int:
        first, count = self.numbers[-1]
        return first + count - 1

    @property
    def count(self) -> int:
        return sum(count for _, count in self.numbers)


def numbers_of(runs: Runs) -> Iterator[int]:
    """Each number of the runs, ascending."""
    for first, count in runs:
        yield from range(first, first + count)


def runs_of(numbers: Iterable[int]) -> Runs:
    """Ascending numbers as runs."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][0] + runs[-1][1]:
            runs[-1][1] += 1
        else:
            runs.append([number, 1])
    return tuple((first, count) for first, count in runs)


def identities_of(ids: Iterable[tuple[bytes, int]]) -> tuple[Identity, ...]:
    """Single identities, in order, as runs."""
    runs: list[Identity] = []
    for origin, number in ids:
        last = runs[-1] if runs else None
        if last and last.origin == origin and number == last.first + last.count:
            runs[-1] = Identity(origin, last.first, last.count + 1)
        else:
            runs.append(Identity(origin, number, 1))
    return tuple(runs)


def slice_identity(runs: tuple[Identity, ...], start: int, stop: int) -> tuple[Identity, ...]:
    """The identities of the events [start, stop) of a batch."""
    out: list[Identity] = []
    at = 0
    for run in runs:
        low, high = max(start - at, 0), min(stop - at, run.count)
        if low < high:
            out.append(Identity(run.origin, run.first + low, high - low))
        at += run.count
    return tuple(out)


def slice_runs(runs: Runs, start: int, stop: int) -> Runs:
    """The numbers of the events [start, stop) of a batch."""
    out: list[tuple[int, int]] = []
    at = 0
    for first, count in runs:
        low, high = max(start - at, 0), min(stop - at, count)
        if low < high:
            out.append((first + low, high - low))
        at += count
    return tuple(out)


def to_metadata(transit: Transit | None, identity: tuple[Identity, ...] | None) -> dict[str, bytes]:
    """The labels of a batch as text, the same on both legs: Avro call metadata, container metadata (docs/wire.md)."""
    out: dict[str, bytes] = {}
    if transit:
        out["headrace.stream"] = f"{transit.origin.hex()}/{transit.channel}".encode()
        out["headrace.after"] = b"%d" % transit.after
        out["headrace.numbers"] = ",".join(f"{first}+{count}" for first, count in transit.numbers).encode()
        out["headrace.settled"] = b"%d" % transit.settled
        if transit.chain:
            out["headrace.chain"] = f"{transit.chain[0].hex()}:{transit.chain[1]}".encode()
    if identity:
        out["headrace.identity"] = ",".join(f"{i.origin.hex()}:{i.first}+{i.count}" for i in identity).encode()
    return out


def from_metadata(meta: dict[str, bytes], count: int) -> tuple[Transit | None, tuple[Identity, ...] | None]:
    """Read the labels back for a batch of `count` events. RemoteProtocolError if they are malformed or don't fit."""
    try:
        transit = _transit(meta) if "headrace.stream" in meta else None
        identity = _identity(meta["headrace.identity"]) if "headrace.identity" in meta else None
    except (KeyError, ValueError, UnicodeDecodeError, IndexError) as error:
        raise RemoteProtocolError(f"headrace labels of a batch are malformed: {error!r}") from None
    if (transit and transit.count != count) or (identity and sum(i.count for i in identity) != count):
        raise RemoteProtocolError(f"headrace labels do not fit a batch of {count} events")
    return transit, identity


def _transit(meta: dict[str, bytes]) -> Transit:
    origin, channel = meta["headrace.stream"].decode().split("/", 1)
    numbers = tuple(_run(part) for part in meta["headrace.numbers"].decode().split(","))
    after, settled = _number(meta["headrace.after"].decode()), _number(meta["headrace.settled"].decode())
    chain = None
    if "headrace.chain" in meta:
        previous, last = meta["headrace.chain"].decode().split(":")
        chain = (_origin(previous), _number(last))
    at = after
    for first, count in numbers:
        if first <= at:
            raise ValueError("numbers do not ascend")
        at = first + count - 1
    if len(numbers) > RUN_LIMIT or not 0 < len(channel) <= 255:
        raise ValueError("too many runs, or a channel name out of bounds")
    return Transit(_origin(origin), channel, after, numbers, settled, chain)


def _identity(text: bytes) -> tuple[Identity, ...]:
    out = []
    for part in text.decode().split(","):
        origin, run = part.split(":")
        out.append(Identity(_origin(origin), *_run(run)))
    if len(out) > RUN_LIMIT:
        raise ValueError("too many runs")
    return tuple(out)


def _origin(text: str) -> bytes:
    origin = bytes.fromhex(text)
    if len(origin) != 16 or len(text) != 32:
        raise ValueError("an origin has 16 bytes")
    return origin


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20) or int(text) >= NUMBER_LIMIT:
        raise ValueError(f"not a number: {text[:30]!r}")
    return int(text)


def _run(text: str) -> tuple[int, int]:
    first, count = text.split("+")
    run = _number(first), _number(count)
    if run[0] < 1 or run[1] < 1:
        raise ValueError("an empty run")
    return run
