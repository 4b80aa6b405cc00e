"""Event and Batch.

**A batch stays encoded.** It has two faces, each made from the other at most once: `events` (list of Event) and
`block` (the same events back to back in Avro: exactly what Flume's `appendBatch` array and an Avro container block
hold between their counts). Channels and the Avro legs ask for `block`; interceptors and keyed outputs ask for
`events`. So a reading is encoded once, at the collector, and reaches a file untouched.

A batch also knows where it comes from: `transit` is what its sender said of its way, `identity` who kept its events
first (agent/store/streams.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from agent.avro import record
from agent.store.streams import (
    Identity,
    Transit,
    identities_of,
    numbers_of,
    runs_of,
    slice_identity,
    slice_runs,
)


class Event(NamedTuple):
    """One reading: headers `map<string>`, body bytes (Flume's AvroFlumeEvent)."""

    headers: dict[str, str]
    body: bytes


def stamp_in(headers: Mapping[str, str], below: int) -> int | None:
    """The header `timestamp`, in ms; None where it is missing, no number, or not `below`."""
    text = headers.get("timestamp", "")
    usable = text.isascii() and text.isdigit() and len(text) < 16
    return stamp if usable and (stamp := int(text)) < below else None


class Batch:
    """Events in order, in one of two faces. Immutable by convention: interceptors make a new one."""

    __slots__ = ("_block", "_events", "count", "identity", "transit")

    def __init__(
        self,
        events: Sequence[Event] | None = None,
        block: bytes | None = None,
        count: int = 0,
        transit: Transit | None = None,
        identity: tuple[Identity, ...] | None = None,
    ) -> None:
        if events is None and block is None:
            raise ValueError("a batch needs events or a block")
        self._events, self._block = events, block
        self.count = count if events is None else len(events)
        self.transit, self.identity = transit, identity

    def __len__(self) -> int:
        return self.count

    @property
    def events(self) -> Sequence[Event]:
        if self._events is None:
            assert self._block is not None
            self._events = [Event(headers, body) for headers, body in record.decode(self._block, self.count)]
        return self._events

    @property
    def bodies(self) -> list[bytes]:
        """The events' bodies; their headers stay encoded."""
        if self._events is None:
            assert self._block is not None
            return record.bodies(self._block, self.count)
        return [event.body for event in self._events]

    @property
    def block(self) -> bytes:
        if self._block is None:
            assert self._events is not None
            self._block = record.encode(self._events)
        return self._block

    @property
    def size(self) -> int:
        """Bytes of the block."""
        return len(self.block)

    @property
    def identities(self) -> tuple[Identity, ...] | None:
        """End-to-end identity: what was given, else the transport numbers themselves, else nothing yet."""
        if self.identity is not None:
            return self.identity
        if self.transit is not None:
            return tuple(Identity(self.transit.origin, first, count) for first, count in self.transit.numbers)
        return None

    def with_events(self, events: Sequence[Event]) -> Batch:
        """The same batch with each event replaced by its successor, one for one."""
        if len(events) != self.count:
            raise ValueError("with_events replaces one for one; use pick to leave events out")
        return Batch(events, transit=self.transit, identity=self.identity)

    def pick(self, indexes: Iterable[int]) -> Batch:
        """The events at these ascending indexes, with their numbers and identities."""
        chosen = list(indexes)
        transit, identity = self.transit, self.identity
        if transit is not None:
            numbers = list(numbers_of(transit.numbers))
            runs = runs_of(numbers[i] for i in chosen)
            transit = Transit(transit.origin, transit.channel, transit.after, runs, transit.settled, transit.chain)
        if identity is not None:
            ids = [(run.origin, run.first + i) for run in identity for i in range(run.count)]
            identity = identities_of(ids[i] for i in chosen)
        return Batch([self.events[i] for i in chosen], transit=transit, identity=identity)

    def part(self, start: int, stop: int) -> Batch:
        """The events [start, stop), cut from the block without decoding them."""
        if start == 0 and stop == self.count:
            return self
        ends = record.offsets(self.block, self.count)
        low = ends[start - 1] if start else 0
        high = ends[stop - 1] if stop else 0
        transit, identity = self.transit, self.identity
        if transit is not None:
            after = next(reversed(list(numbers_of(slice_runs(transit.numbers, 0, start)))), transit.after)
            numbers = slice_runs(transit.numbers, start, stop)
            transit = Transit(transit.origin, transit.channel, after, numbers, transit.settled, transit.chain)
        if identity is not None:
            identity = slice_identity(identity, start, stop)
        return Batch(None, self.block[low:high], stop - start, transit, identity)
