"""What a command does to a store, with an agent that holds it or without (agent/store/control.py)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agent import clock
from agent.store import schema
from agent.store.coverage import Coverage
from agent.store.database import Database
from agent.store.schema import Row
from agent.store.states import ChannelState
from agent.store.streams import Identity, slice_identity

REMOVED = ""
"""Source of the marks, one a channel, that tell an audit of the dead letters that are no more; no source has that name.
Each is JSON: how many were put `again` into the channel, and which were `deleted` (reason -> origin -> ranges)."""
REASONS = 100
"""Of deleted letters that are told apart."""


def replay(db: Database, ids: Sequence[int] | None) -> list[Row]:
    """Put dead letters (all for None) again into the channel they came from, under their old identity.

    Returns the new rows. What a source buried before it was an event stays.
    """
    if not db.origin:
        db.start()  # by command, without an agent: the rows need an origin of their own
    names = {c.name: c.id for c in db.channels.values()}
    removed: dict[str, dict[str, Any]] = {}
    work = db.begin()
    with db.transaction():
        db.keep_opening()
        for letter in db.letters.all():
            target = names.get(letter[1])
            if (ids is not None and letter[0] not in ids) or target is None or letter[2]:
                continue
            identity = schema.pack_identity((Identity(letter[3], letter[4], 1),)) if letter[3] else None
            db.batches.store(1 << target, letter[7], 1, identity, work)
            db.letters.remove(letter, work)
            if letter[3]:  # it was put before
                removed.setdefault(letter[1], _removed(db, letter[1]))["again"] += 1
        channels = db.places.move({}, work)
        _keep_removed(db, removed)
    db.settle(work, channels)
    return work.rows


def delete_letters(db: Database, ids: Sequence[int] | None) -> int:
    """Drop dead letters (all for None) for good; how many there were."""
    chosen = [letter for letter in db.letters.all() if ids is None or letter[0] in ids]
    removed: dict[str, dict[str, Any]] = {}
    work = db.begin()
    with db.transaction():
        for letter in chosen:
            db.letters.remove(letter, work)
        for (channel, reason), spans in _by_reason(chosen).items():
            if db.places.has(channel):
                deleted = removed.setdefault(channel, _removed(db, channel))["deleted"]
                kept = deleted.setdefault(
                    reason if reason in deleted or len(deleted) < REASONS else "other reasons", {}
                )
                for origin, numbers in spans.items():
                    for first, last in kept.get(origin.hex(), ()):
                        numbers.cover(first, last)
                    kept[origin.hex()] = numbers.ranges
        _keep_removed(db, removed)
    db.letters.bytes += work.letter_bytes
    return len(chosen)


def _by_reason(letters: Iterable[tuple[Any, ...]]) -> dict[tuple[str, str], Spans]:
    """(channel, reason) -> numbers of the letters that were events of a channel."""
    found: dict[tuple[str, str], Spans] = {}
    for _, channel, _, origin, number, _, reason, _ in letters:
        if origin:
            found.setdefault((channel, reason), Spans()).add(origin, number, 1)
    return found


def _removed(db: Database, channel: str) -> dict[str, Any]:
    found = db.conn.execute("SELECT value FROM mark WHERE source=? AND name=?", (REMOVED, channel)).fetchone()
    return json.loads(found[0]) if found else {"again": 0, "deleted": {}}


def _keep_removed(db: Database, removed: Mapping[str, dict[str, Any]]) -> None:
    """In the transaction that removes the letters."""
    db.places.write_marks(REMOVED, {name: json.dumps(about).encode() for name, about in removed.items()}, db.version)


def forget(db: Database, name: str) -> int:
    """Give up a channel and what only it still had to deliver; how many events that were."""
    state = db.places.named(name)
    db.version += 1
    with db.transaction():
        db.places.forget(state, db.position)
        if db.conn.execute("SELECT 1 FROM mark WHERE source=? AND name=?", (REMOVED, name)).fetchone():
            _keep_removed(db, {name: {"again": 0, "deleted": {}}})  # a new channel may have that name
    del db.places.channels[state.id]
    db.places.receipts.pop(state.id, None)
    return state.inside


def describe(db: Database) -> dict[str, Any]:
    """Everything that a store holds, as plain values."""
    wal = db.path.with_name(db.path.name + "-wal")
    return {
        "file": str(db.path),
        "format": schema.USER_VERSION,
        "file_bytes": db.path.stat().st_size,
        "wal_bytes": wal.stat().st_size if wal.exists() else 0,
        "free_bytes": db.free_pages() * db.page_size,
        "position": db.position,
        "origins": [{"origin": o.hex(), "last": end - base} for (o, base, _), end in db.openings.spans(db.position)],
        "channels": _channels(db),
        "streams": [
            {
                "origin": o.hex(),
                "channel": c,
                "settled": s.coverage.settled,
                "ranges": [list(r) for r in s.coverage.ranges],
            }
            for (o, c), s in db.streams.items()
        ],
        "marks": {source: sorted(marks) for source, marks in db.marks.items() if source != REMOVED},
        "letters": db.letters.count(),
        "letter_bytes": db.letters.bytes,
        "lost": [{"origin": (r[1] or b"").hex(), "first": r[2], "count": r[3], "reason": r[5]} for r in db.lost()],
        "full": "",
        "held_by": None,
    }


def account(db: Database) -> dict[str, Any]:
    """What an audit must know of a store at one moment, by identity: what each channel was given in its life, what it
    still holds, what was received, and what was left out. Runs are [origin, first, count]."""
    letters = [
        {"channel": channel, "reason": reason, "runs": spans.runs}
        for (channel, reason), spans in _by_reason(db.letters.all()).items()
    ]
    channels = {}
    for c in db.channels.values():
        removed = _removed(db, c.name)
        channels[c.name] = {"put": c.put_events - removed["again"], "inside": _inside(db, c)}
        for reason, deleted in removed["deleted"].items():
            runs = [[origin, low, high - low + 1] for origin, ranges in deleted.items() for low, high in ranges]
            letters.append({"channel": c.name, "reason": f"{reason} (deleted)", "runs": runs})
    return {
        "channels": channels,
        "letters": letters,
        "streams": [
            [o.hex(), c, [[1, s.coverage.settled], *s.coverage.ranges] if s.coverage.settled else s.coverage.ranges]
            for (o, c), s in db.streams.items()
        ],
        "origins": [[o.hex(), end - base] for (o, base, _), end in db.openings.spans(db.position)],
        "lost": sum(row[3] for row in db.lost()),
    }


class Spans(dict[bytes, Coverage]):
    """Numbers by origin, joined as they come: a channel may hold millions of rows that follow each other."""

    def add(self, origin: bytes, first: int, count: int) -> None:
        self.setdefault(origin, Coverage()).cover(first, first + count - 1)

    @property
    def runs(self) -> list[list[Any]]:
        """[origin, first, count] of each."""
        return [[origin.hex(), low, high - low + 1] for origin, of in self.items() for low, high in of.ranges]


def _inside(db: Database, channel: ChannelState) -> list[list[Any]]:
    """Runs of what a channel has yet to deliver."""
    cursor, finished = channel.place.cursor, channel.place.finished
    done, spans = Coverage(cursor, finished), Spans()
    rows = db.conn.execute(
        "SELECT position, count, origin, number, identity FROM batch WHERE position>? AND channels>>?&1 "
        "ORDER BY position",
        (cursor, channel.id),
    )
    for position, count, origin, number, packed in rows:
        named = schema.unpack_identity(packed) if packed else (Identity(origin, number - count + 1, count),)
        first = position - count + 1
        left = done.fresh(((first, count),)) if finished or first <= cursor else ((first, count),)
        for low, length in left:
            for run in slice_identity(named, low - first, low - first + length):
                spans.add(run.origin, run.first, run.count)
    return spans.runs


def _channels(db: Database) -> list[dict[str, Any]]:
    now, found = clock.wall_ms(), []
    for state in db.channels.values():
        head = db.read(state.id, state.place.cursor, 1, 1)
        found.append(
            {
                "name": state.name,
                "events": state.inside,
                "bytes": state.inside_bytes,
                "cursor": state.place.cursor,
                "finished": [list(r) for r in state.place.finished],
                "oldest_seconds": max(0, now - head[0].wall_ms) / 1000 if head else 0.0,
            }
        )
    return found
