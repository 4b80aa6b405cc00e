"""A channel's place in the store, as its takers see it: what is read ahead, what is out, what is finished.

Rows come in at the end, either straight from the commit that stored them or, when the channel is behind, read from the
file in order. `ready` holds segments nobody has; a take moves them to `out`, which stays in the order of the store.
A finished segment leaves `out` when everything before it has left: that moves the cursor. What a rollback returns is
still in `out`, at its place, and is taken again first.

Everything here runs on the event loop; nothing is written here.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from agent.avro import record
from agent.store import schema
from agent.store.coverage import Coverage
from agent.store.schema import Row
from agent.store.states import ChannelState, CursorState
from agent.store.streams import Identity, Transit, slice_identity

READY_BYTES = 4 << 20
"""Read ahead at most about this much; a channel that is further behind reads from the file."""

PASSED = 64
"""Segments that finish before those in `out` are joined."""

READY, OUT, RETURNED, DONE = range(4)


class Segment:
    """The events [start, stop) of a row; `after` is the number that precedes them in this channel's stream."""

    __slots__ = ("after", "ends", "row", "start", "state", "stop")

    def __init__(self, row: Row, after: int, start: int, stop: int, ends: list[int] | None = None) -> None:
        self.row, self.after, self.start, self.stop, self.ends = row, after, start, stop, ends
        self.state = READY

    @property
    def events(self) -> int:
        return self.stop - self.start

    @property
    def last(self) -> int:
        """Position of its last event."""
        return self.row.position - self.row.events + self.stop

    @property
    def number(self) -> int:
        """Number of its last event."""
        return self.row.first + self.stop - 1

    @property
    def first(self) -> int:
        """Position of its first event."""
        return self.row.position - self.row.events + self.start + 1

    @property
    def size(self) -> int:
        """Bytes of block."""
        if self.start == 0 and self.stop == self.row.events:
            return len(self.row.block)
        return self._end(self.stop) - self._end(self.start)

    @property
    def block(self) -> bytes:
        if self.start == 0 and self.stop == self.row.events:
            return self.row.block
        return self.row.block[self._end(self.start) : self._end(self.stop)]

    def _end(self, index: int) -> int:
        if self.ends is None:
            self.ends = record.offsets(self.row.block, self.row.events)
        return self.ends[index - 1] if index else 0

    def fitting(self, limit: int, max_bytes: int) -> int:
        """How many of its events fit; one at least."""
        count = min(self.events, limit)
        if self.size > max_bytes:
            self._end(0)
            assert self.ends is not None
            count = min(count, bisect_right(self.ends, self._end(self.start) + max_bytes) - self.start)
        return max(1, count)

    def cut(self, count: int) -> tuple[Segment, Segment]:
        """The first `count` events, and the rest."""
        at = self.start + count
        self._end(0)
        tail = Segment(self.row, self.row.first + at - 1, at, self.stop, self.ends)
        head = Segment(self.row, self.after, self.start, at, self.ends)
        head.state = tail.state = self.state
        return head, tail

    def identities(self) -> tuple[Identity, ...]:
        """End-to-end identity of its events."""
        if self.row.identity is None:
            return (Identity(self.row.origin, self.row.first + self.start, self.events),)
        return slice_identity(schema.unpack_identity(self.row.identity), self.start, self.stop)


class Done(NamedTuple):
    """Finished segments that follow each other in a channel: positions, and what they count for."""

    first: int
    last: int
    events: int
    size: int
    state: int = DONE


class ChannelQueue:
    """The takers' side of one channel of a store."""

    def __init__(self, state: ChannelState, end: int) -> None:
        self.id, self.name = state.id, state.name
        self.put_events, self.put_bytes = state.put_events, state.put_bytes
        self.place = state.place
        self.read_to = state.place.cursor
        self.end = end if state.put_events > state.place.done_events else state.place.cursor
        self.ready: deque[Segment] = deque()
        self.ready_bytes = 0
        self.out: deque[Segment | Done] = deque()
        self._passed = 0
        self.returned = 0
        self.receipt: bytes | None = None
        """What its sink said last; in the file with the cursor, within a second."""
        self._skip = deque(state.place.finished)
        self._ahead = sum(last - first + 1 for first, last in self._skip)
        self._previous: tuple[bytes, int] | None = None

    @property
    def depth(self) -> int:
        """Events inside, those that are out included."""
        return max(0, self.put_events - self.place.done_events - self._ahead)

    @property
    def size(self) -> int:
        """Bytes of the blocks inside."""
        return max(0, self.put_bytes - self.place.done_bytes)

    @property
    def behind(self) -> bool:
        """Whether the file holds rows that are not read ahead."""
        return self.read_to < self.end

    def oldest(self) -> Row | None:
        """The row of the oldest event inside, if it is in memory."""
        for segment in self.out:
            if isinstance(segment, Segment) and segment.state != DONE:
                return segment.row
        return self.ready[0].row if self.ready else None

    # ---- rows coming in

    def stored(self, row: Row) -> None:
        """A row of this channel has been committed."""
        caught_up = not self.behind
        self.end = row.position
        self.put_events += row.events
        self.put_bytes += len(row.block)
        if caught_up and self.ready_bytes < READY_BYTES:
            self._append(row)

    def loaded(self, rows: list[Row]) -> None:
        """The rows next above `read_to`, read from the file; none if there are no more."""
        for row in rows:
            self._append(row)
        if not rows:
            self.read_to = max(self.read_to, self.end)

    def _append(self, row: Row) -> None:
        self.read_to = row.position
        after = self._after(row)
        first = row.position - row.events + 1
        if first <= self.place.cursor or self._skip:
            self._append_cut(row, after, max(0, self.place.cursor - first + 1))
        else:
            self._ready(Segment(row, after, 0, row.events))
        self._previous = row.origin, row.number

    def _after(self, row: Row) -> int:
        if self._previous is None:
            # The cursor stands on an event of this channel or before it: nothing of the stream lies between.
            return max(0, min(self.place.cursor - (row.position - row.number), row.first - 1))
        return self._previous[1] if self._previous[0] == row.origin else 0

    def _append_cut(self, row: Row, after: int, start: int) -> None:
        """A row of which some events were finished before the store was opened."""
        first = row.position - row.events + 1
        at = start
        if start:
            after = max(after, row.first + start - 1)
        while self._skip and self._skip[0][0] <= row.position:
            low, high = self._skip[0][0] - first, self._skip[0][1] - first + 1
            if low > at:
                self._ready(Segment(row, after if at == start else row.first + at - 1, at, low))
            done = Segment(row, row.first + max(low, at) - 1, max(low, at), min(high, row.events))
            if done.events > 0:
                # In `ready` it keeps the order; whoever takes on from here passes it by.
                done.state = DONE
                self.ready.append(done)
            at = max(at, min(high, row.events))
            if high > row.events:
                break
            self._skip.popleft()
        if at < row.events:
            self._ready(Segment(row, after if at == start else row.first + at - 1, at, row.events))

    def _ready(self, segment: Segment) -> None:
        self.ready.append(segment)
        self.ready_bytes += len(segment.row.block)

    # ---- takes

    def gather(self, limit: int, max_bytes: int) -> list[Segment]:
        """The next segments in order for one take: of one origin, within the limits; empty if there are none."""
        chosen: list[Segment] = []
        room, space = limit, max_bytes
        while room > 0:
            segment = self._next(chosen[0].row.origin if chosen else None)
            if segment is None or (chosen and (segment.events > room or segment.size > space)):
                break
            # Never across a gap: what lies between is in another take, and a batch covers all from `after` to its last.
            if chosen and segment.after != chosen[-1].number:
                break
            segment = self._claim(segment, limit, max_bytes)
            chosen.append(segment)
            room, space = room - segment.events, space - segment.size
        return chosen

    def _next(self, origin: bytes | None) -> Segment | None:
        """The first segment that may be taken; None if there is none, or none of that origin."""
        found: Segment | None = None
        if self.returned:
            found = next((s for s in self.out if isinstance(s, Segment) and s.state == RETURNED), None)
        else:
            while self.ready and self.ready[0].state == DONE:
                self.out.append(self.ready.popleft())
            if self.ready:
                found = self.ready[0]
            self._advance()
        return found if found and (origin is None or found.row.origin == origin) else None

    def _claim(self, segment: Segment, limit: int, max_bytes: int) -> Segment:
        count = segment.events
        if count > limit or segment.size > max_bytes:
            count = segment.fitting(limit, max_bytes)
        head, tail = (segment, None) if count == segment.events else segment.cut(count)
        if segment.state == RETURNED:
            if tail:
                at = self.out.index(segment)
                self.out[at] = tail
                self.out.insert(at, head)
            else:
                self.returned -= 1
        else:
            self.ready.popleft()
            if tail:
                self.ready.appendleft(tail)
            else:
                self.ready_bytes -= len(segment.row.block)
            self.out.append(head)
        head.state = OUT
        return head

    def finish(self, segments: Iterable[Segment]) -> None:
        """These are delivered (or buried)."""
        for segment in segments:
            segment.state = DONE
            self._ahead += segment.events
            self._passed += 1
        self._advance()
        if self._passed > PASSED:
            self._join_done()

    def _join_done(self) -> None:
        """What is finished behind an open take keeps its range alone: one piece between two that are not."""
        self._passed = 0
        out: deque[Segment | Done] = deque()
        for segment in self.out:
            last = out[-1] if out else None
            if segment.state != DONE:
                out.append(segment)
            elif last is None or last.state != DONE:
                out.append(Done(segment.first, segment.last, segment.events, segment.size))
            else:
                out[-1] = Done(last.first, segment.last, last.events + segment.events, last.size + segment.size)
        self.out = out

    def give_back(self, segments: Iterable[Segment]) -> None:
        """These go back to their place; they are taken again first."""
        for segment in segments:
            segment.state = RETURNED
            self.returned += 1

    def _advance(self) -> None:
        events = size = 0
        cursor = self.place.cursor
        while self.out and self.out[0].state == DONE:
            segment = self.out.popleft()
            events += segment.events
            size += segment.size
            cursor = segment.last
        if events:
            self._ahead -= events
            place = self.place
            self.place = CursorState(cursor, (), place.done_events + events, place.done_bytes + size)

    def snapshot(self) -> CursorState:
        """What to keep of the place: the cursor, and finished ranges above it."""
        place = self.place
        if not self._ahead:
            return place
        done = [s for s in (*self.out, *self.ready) if s.state == DONE]
        ranges = [(s.first, s.last) for s in done] + list(self._skip)
        # Joined where they touch: their number is bounded by the open takes.
        return place._replace(finished=tuple(Coverage(place.cursor, sorted(ranges)).ranges))

    # ---- labels

    def transit(self, segments: list[Segment], chain: tuple[bytes, int] | None) -> Transit:
        """What a batch of these says of its way."""
        row = segments[0].row
        runs: list[tuple[int, int]] = []
        for segment in segments:
            first = segment.row.first + segment.start
            if runs and runs[-1][0] + runs[-1][1] == first:
                runs[-1] = (runs[-1][0], runs[-1][1] + segment.events)
            else:
                runs.append((first, segment.events))
        settled = max(0, self.place.cursor - (row.position - row.number))
        after = segments[0].after
        return Transit(row.origin, self.name, after, tuple(runs), settled, chain if after == 0 else None)
