"""How far a transactional sink has come, as the metadata of a committed offset (no I/O here).

A place is a number in a stream (agent/store/streams.py), which is an origin and a channel. What is done is kept as
intervals:

    2;<stream, 32 hexadecimal digits made of origin and channel>:<low>-<high>;...

A batch covers everything from behind the number that precedes it in its stream up to its last: numbers between belong
to other channels, and are missing still when the sink is given one of those. Intervals of a channel that is drained in
order grow at one end, one for each opening of the store since the channel's own cursor was last known to be on the
device; an event that is held back (it may become a dead letter) leaves a gap. The broker keeps 4,096 bytes of metadata;
`crowded` says when it is time to make the channel's cursor durable and `clear`.

Version 1 named the origin alone. Whose numbers they were is not known any more, so they count as none: what the channel
gives again comes twice, where it would be lost otherwise.
"""

from __future__ import annotations

from hashlib import blake2b

from agent.store.streams import NUMBER_LIMIT, Transit, numbers_of

MOST = 40
"""Intervals; each takes at most 75 bytes."""
VERSION, OLD = "2", "1"


class Position:
    """Intervals (stream, low, high), both ends included."""

    def __init__(self, text: str = "") -> None:
        """ValueError if the text was not written by `__str__`."""
        self.intervals: list[tuple[bytes, int, int]] = []
        version, *parts = (text or VERSION).split(";")
        self.outdated = version == OLD
        """Whether the text was of the version that says too little."""
        if version not in (VERSION, OLD):
            raise ValueError(f"position {text[:80]!r} is of another version")
        for part in parts if version == VERSION else ():
            stream, _, ends = part.partition(":")
            low, _, high = ends.partition("-")
            self.intervals.append((bytes.fromhex(stream), int(low), int(high)))
        if any(not 0 <= low <= high < NUMBER_LIMIT for _, low, high in self.intervals):
            raise ValueError(f"position {text[:80]!r} makes no sense")

    def __str__(self) -> str:
        return ";".join([VERSION, *(f"{stream.hex()}:{low}-{high}" for stream, low, high in self.intervals)])

    @property
    def crowded(self) -> bool:
        """Whether the next batch may have no room."""
        return len(self.intervals) >= MOST

    def clear(self) -> None:
        """The channel itself won't give any of this again."""
        self.intervals.clear()

    def missing(self, transit: Transit) -> list[int]:
        """Indexes of the batch's events that are not covered, ascending."""
        name = _stream(transit)
        mine = [(low, high) for stream, low, high in self.intervals if stream == name]
        first = transit.numbers[0][0]
        if all(high < first or low > transit.last for low, high in mine):
            return list(range(transit.count))
        return [
            index
            for index, number in enumerate(numbers_of(transit.numbers))
            if not any(low <= number <= high for low, high in mine)
        ]

    def with_batch(self, transit: Transit) -> Position:
        """The position once this batch is there as well."""
        first, last = transit.numbers[0][0], transit.last
        low, high, name = first, last, _stream(transit)
        kept = []
        for one in self.intervals:
            stream, start, end = one
            touches = end >= min(transit.after, first - 1) and start <= last + 1
            if stream == name and touches:
                low, high = min(low, start), max(high, end)
            else:
                kept.append(one)
        new = Position()
        new.intervals = [*kept, (name, low, high)]
        return new


def _stream(transit: Transit) -> bytes:
    """As short as an origin, whatever the channel is called."""
    return blake2b(transit.origin + transit.channel.encode(), digest_size=16, person=b"headrace stream").digest()
