"""The store's one connection: every transaction, nothing asynchronous.

**One transaction holds everything that must be true together**: new rows, the marks of the sources that sent them,
what was received of each stream, the cursors and receipts of channels, dead letters. `apply` takes whatever has come
together since the last commit and makes one commit of it; nothing in memory moves before that commit succeeded.

One connection and one thread: SQLite before 3.51.3 can corrupt a WAL that two connections write or checkpoint.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from agent import clock
from agent.avro import record
from agent.errors import ChannelError, ChannelFull
from agent.store import schema
from agent.store.coverage import Coverage, pack_ranges, unpack_ranges
from agent.store.schema import Row, row_crc, value_crc
from agent.store.streams import Identity, Runs, Transit, identities_of

STREAM_LIMIT, RANGE_LIMIT = 10_000, 1_000
STREAM_IDLE_MS = 90 * 86_400_000
JOIN_BYTES = 32 << 10
"""Puts below this that meet in one commit are stored as one row: a commit costs the same whatever it holds, but a row
costs a page."""
WAL_PAGES = 4096
"""Checkpoint when the WAL holds this many pages."""
BASE_PAGES = 64
"""An empty store has less; they don't count against `maxBytes`."""


VERSIONED = ("channel", "receipt", "mark", "stream", "opening", "dead_letter", "lost")


class Part(NamedTuple):
    """Events for the channels of a mask; `block` holds `events` events."""

    channels: int
    block: bytes
    events: int
    transit: Transit | None
    identity: tuple[Identity, ...] | None


@dataclass(slots=True)
class PutRequest:
    """Parts of one batch and the marks of its source, all or nothing."""

    parts: list[Part]
    source: str = ""
    marks: Mapping[str, bytes] | None = None


class Letter(NamedTuple):
    """A dead letter: one event as a block of one, or raw bytes that never were an event (then as its body)."""

    channel: str
    source: str
    origin: bytes | None
    number: int
    wall_ms: int
    reason: str
    block: bytes


@dataclass(slots=True)
class BuryRequest:
    """Dead letters, with the cursor that steps over them or the marks that go with them."""

    letters: list[Letter]
    source: str = ""
    marks: Mapping[str, bytes] | None = None
    over: tuple[int, list[tuple[int, int]]] | None = None
    """A channel and the closed ranges of positions that it steps over with them."""


class CursorState(NamedTuple):
    """A channel's place: everything up to `cursor` is finished, and the closed ranges of positions above it."""

    cursor: int
    finished: tuple[tuple[int, int], ...]
    done_events: int
    done_bytes: int


@dataclass(slots=True)
class ChannelState:
    """A row of `channel`, as committed."""

    id: int
    name: str
    place: CursorState
    put_events: int
    put_bytes: int

    @property
    def inside(self) -> int:
        """Events that it has yet to deliver (those finished above the cursor count too)."""
        return self.put_events - self.place.done_events

    @property
    def inside_bytes(self) -> int:
        """Their bytes."""
        return self.put_bytes - self.place.done_bytes


@dataclass(slots=True)
class StreamState:
    id: int
    coverage: Coverage
    touched_ms: int


@dataclass(slots=True)
class Work:
    """What one `apply` has changed so far; becomes the truth when the commit has succeeded."""

    position: int
    rows: list[Row] = field(default_factory=list)
    streams: dict[tuple[bytes, str], StreamState] = field(default_factory=dict)
    puts: dict[int, list[int]] = field(default_factory=dict)
    letter_bytes: int = 0
    joined: list[Part] = field(default_factory=list)
    buried: dict[int, list[tuple[int, int]]] = field(default_factory=dict)


class Kept(NamedTuple):
    stored: int
    repeats: int


Request = PutRequest | BuryRequest
Result = Kept | Exception


class Damaged(Exception):
    """The file's content is not what was written."""


def create(path: Path) -> None:
    """A new, empty store at `path`, synced. Made beside it and renamed, so that a crash leaves no half of one."""
    new = path.with_name(path.name + ".new")
    for leftover in (new, new.with_name(new.name + "-wal"), new.with_name(new.name + "-journal")):
        leftover.unlink(missing_ok=True)
    os.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    conn = sqlite3.connect(new, isolation_level=None)
    try:
        conn.execute(f"PRAGMA page_size={schema.PAGE_SIZE}")
        conn.execute("PRAGMA auto_vacuum=INCREMENTAL")
        conn.execute("PRAGMA synchronous=FULL")
        conn.executescript(
            f"BEGIN; PRAGMA application_id={schema.APPLICATION_ID}; PRAGMA user_version={schema.USER_VERSION};"
            f"{schema.TABLES} COMMIT;"
        )
    finally:
        conn.close()
    os.rename(new, path)
    sync_folder(path.parent)


def _is_nothing(path: Path) -> bool:
    """An empty file without a WAL: the name survived a power cut and the content, which was empty too, did not."""
    wal = path.with_name(path.name + "-wal")
    return path.stat().st_size == 0 and not (wal.exists() and wal.stat().st_size)


def _wal_damage(path: Path) -> str:
    if not path.with_name(path.name + "-wal").exists():
        return ""
    from agent.store.pages import wal_damage  # only after a kill

    return wal_damage(path)


def sync_folder(path: Path) -> None:
    """Make names in a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Database:
    """An open store. Not thread-safe: one thread owns it. Raises Damaged, sqlite3.Error, ChannelError."""

    def __init__(self, path: Path, synchronous: str = "FULL", max_bytes: int = 0, letter_limit: int = 64 << 20) -> None:
        self.path, self.letter_limit = path, letter_limit
        if not path.exists() or _is_nothing(path):
            create(path)
        if damage := _wal_damage(path):
            # Before SQLite sees it: it would write over what it doesn't believe.
            raise Damaged(damage)
        # Cached statements must outnumber the kinds of statement used; autocommit, because BEGIN is ours.
        self.conn = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=64)
        try:
            self._pragmas(synchronous, max_bytes)
            self._load()
        except sqlite3.DatabaseError as error:
            self.conn.close()
            if type(error) is sqlite3.DatabaseError:
                raise Damaged(str(error)) from error
            raise
        except BaseException:
            self.conn.close()
            raise

    def _pragmas(self, synchronous: str, max_bytes: int) -> None:
        run = self.conn.execute
        # Before anything is read: no shared-memory file (a full disk has no room for it), no other process slips in.
        run("PRAGMA locking_mode=EXCLUSIVE")
        (found,) = run("PRAGMA application_id").fetchone()
        (version,) = run("PRAGMA user_version").fetchone()
        if found != schema.APPLICATION_ID:
            raise Damaged(f"{self.path} is no Headrace store (application_id {found:#x})")
        if version // 1000 > schema.MAJOR:
            raise ChannelError(
                f"{self.path} was written by a newer Headrace (format {version // 1000}, this one knows "
                f"{schema.MAJOR}): start that version, or drain the store with it first"
            )
        run("PRAGMA journal_mode=WAL")
        run(f"PRAGMA synchronous={synchronous}")
        run("PRAGMA secure_delete=OFF")
        run(f"PRAGMA wal_autocheckpoint={WAL_PAGES}")
        run(f"PRAGMA journal_size_limit={4 * WAL_PAGES * schema.PAGE_SIZE}")
        run("PRAGMA cache_size=-2000")
        (self.page_size,) = run("PRAGMA page_size").fetchone()
        if max_bytes:
            # 5 % above the limit that refuses puts, so that acknowledgements and dead letters still find room.
            run(f"PRAGMA max_page_count={BASE_PAGES + int(max_bytes * 1.05) // self.page_size}")

    def _load(self) -> None:
        run = self.conn.execute
        self.channels = {
            row[0]: ChannelState(
                row[0], row[1], CursorState(row[2], tuple(unpack_ranges(row[3])), row[6], row[7]), *row[4:6]
            )
            for row in self._rows("channel")
        }
        self.receipts = {row[0]: bytes(row[1]) for row in self._rows("receipt")}
        self.marks: dict[str, dict[str, bytes]] = {}
        self._mark_ids: dict[tuple[str, str], int] = {}
        for row in self._rows("mark"):
            self.marks.setdefault(row[1], {})[row[2]] = bytes(row[3])
            self._mark_ids[row[1], row[2]] = row[0]
        self.streams = {
            (bytes(row[1]), row[2]): StreamState(row[0], Coverage(row[3], unpack_ranges(row[4])), row[5])
            for row in self._rows("stream")
        }
        self.openings = [(bytes(row[1]), row[2], row[0]) for row in self._rows("opening")]
        (last,) = run("SELECT max(position) FROM batch").fetchone()
        places = [c.place.cursor for c in self.channels.values()] + [last_of for _, last_of, _ in self.openings]
        self.position = max([last or 0, *places])
        self.version = max(run(f"SELECT max(version) FROM {table}").fetchone()[0] or 0 for table in VERSIONED)
        (self.letter_bytes,) = run("SELECT coalesce(sum(length(block)), 0) FROM dead_letter").fetchone()
        (self._next_stream,) = run("SELECT coalesce(max(id), 0) + 1 FROM stream").fetchone()
        self.buried: dict[int, list[tuple[int, int]]] = {}
        """Positions of dead letters above the cursors, by channel."""
        self.origin, self.base = b"", 0
        self._opening_due = False
        self.chain: tuple[bytes, int] | None = None

    def _rows(self, table: str) -> list[tuple[Any, ...]]:
        rows = self.conn.execute(f"SELECT * FROM {table} ORDER BY id").fetchall()
        for row in rows:
            if row[-1] != value_crc(*row[:-1]):
                raise Damaged(f"the checksum of row {row[0]} of table {table} does not fit")
        return rows

    # ---- opening and closing

    def start(self, channels: Iterable[str] = ()) -> None:
        """Begin an opening: a new origin, and rows for channels that are new (they start at the end).

        Where a full disk has no room for its row (sqlite3.OperationalError), the opening has begun nonetheless: the row
        goes into the next transaction that finds room, before any event of it.
        """
        self.origin, self.base = os.urandom(16), self.position
        last_used = self._last_used()
        self.chain = (last_used[0], last_used[1]) if last_used else None
        self.openings.append((self.origin, self.base, (self.openings[-1][2] if self.openings else 0) + 1))
        self._opening_due = True
        self.version += 1
        with self._transaction():
            self._keep_opening()
            for name in channels:
                self._add_channel(name)
        self._opening_due = False

    def _keep_opening(self) -> None:
        self._prune_openings()
        row = (self.openings[-1][2], self.origin, self.base, clock.boot_id(), clock.wall_ms(), self.version)
        self.conn.execute("INSERT INTO opening VALUES(?,?,?,?,?,?,?)", (*row, value_crc(*row)))
        self._forget_streams()

    def _add_channel(self, name: str) -> None:
        if any(c.name == name for c in self.channels.values()):
            return
        # A nameless one is what salvage left of a channel whose row was gone; ids follow the configuration's order.
        free = next((i for i in range(62) if i not in self.channels or self.channels[i].name == f"?{i}"), None)
        if free is None:
            raise ChannelError(f"{self.path} has 62 channels already: give one of them a `path` of its own")
        state = ChannelState(free, name, CursorState(self.position, (), 0, 0), 0, 0)
        if free in self.channels:
            state = replace(self.channels[free], name=name)
        self.channels[free] = state
        self._write_channel(state)

    def channel(self, name: str) -> tuple[ChannelState, int]:
        """A channel's row (a new one starts at the end) and the position of the last event in the store."""
        if not any(c.name == name for c in self.channels.values()):
            self.version += 1
            with self._transaction():
                self._add_channel(name)
        return self._named(name), self.position

    def _named(self, name: str) -> ChannelState:
        for state in self.channels.values():
            if state.name == name:
                return state
        raise ChannelError(
            f"the store {self.path} has no channel {name!r}; it has {[c.name for c in self.channels.values()]}"
        )

    def resume(self, old: Database) -> None:
        """Go on with an opening after the file was replaced under it (salvage)."""
        self.position, self.version = max(self.position, old.position), max(self.version, old.version)
        self.origin, self.base, self.chain, self.openings = old.origin, old.base, old.chain, old.openings
        self._opening_due = old._opening_due
        # What memory knows was committed: it is never older than what the file has left.
        self.streams.update(old.streams)
        self._next_stream = max(self._next_stream, old._next_stream)
        self.marks, self._mark_ids = old.marks, old._mark_ids
        self.receipts, self.buried = old.receipts, old.buried
        for channel, was in old.channels.items():
            now = self.channels[channel]
            # Counted from the same start as the queues on the loop, which know `done_events` and `done_bytes` already.
            events = was.put_events - max(0, was.inside - now.inside)
            size = was.put_bytes - max(0, was.inside_bytes - now.inside_bytes)
            place = now.place._replace(done_events=events - now.inside, done_bytes=size - now.inside_bytes)
            self.channels[channel] = replace(now, place=place, put_events=events, put_bytes=size)

    def chains(self) -> dict[bytes, tuple[bytes, int]]:
        """For each origin of the store: the one before it that numbered anything, and the last number that gave."""
        out: dict[bytes, tuple[bytes, int]] = {}
        before: tuple[bytes, int] | None = None
        for (origin, base, _), end in self.spans():
            if before:
                out[origin] = before
            if end > base:
                before = origin, end - base
        return out

    def _last_used(self) -> tuple[bytes, int] | None:
        """The newest origin that numbered anything, and the last number it gave."""
        for (origin, base, _), end in reversed(self.spans()):
            if end > base:
                return origin, end - base
        return None

    def spans(self) -> list[tuple[tuple[bytes, int, int], int]]:
        """Each opening with the last position of its events."""
        ends = [base for _, base, _ in self.openings[1:]] + [self.position]
        return list(zip(self.openings, ends, strict=False))

    def _prune_openings(self) -> None:
        """Forget openings whose events have all left, but the last one that numbered anything."""
        floor = min((c.place.cursor for c in self.channels.values()), default=self.position)
        used = self._last_used()
        kept = []
        for opening, end in self.spans():
            mine = opening[0] == self.origin
            if mine or (end > floor and end > opening[1]) or (used and opening[0] == used[0]):
                kept.append(opening)
            else:
                self.conn.execute("DELETE FROM opening WHERE id=?", (opening[2],))
        self.openings = kept

    def _forget_streams(self) -> None:
        old = clock.wall_ms() - STREAM_IDLE_MS
        for name, stream in list(self.streams.items()):
            if stream.touched_ms < old:
                self.conn.execute("DELETE FROM stream WHERE id=?", (stream.id,))
                del self.streams[name]

    def close(self) -> None:
        """Checkpoint what is in the WAL and let go of the file."""
        self.conn.close()

    def _transaction(self) -> _Transaction:
        return _Transaction(self.conn)

    # ---- one commit

    def apply(
        self,
        requests: Sequence[Request],
        cursors: Mapping[int, CursorState] | None = None,
        receipts: Mapping[int, bytes] | None = None,
    ) -> tuple[list[Result], list[Row]]:
        """Make one commit of all of it: a result for each request, and the rows that were stored.

        A request that is refused for a cause of its own (too many streams, dead letters full) has an exception as its
        result and changes nothing; if the commit fails, nothing has changed and the error is raised.
        """
        self.version += 1
        work = Work(self.position)
        with self._transaction():
            if self._opening_due:
                self._keep_opening()
            results = [self._one(request, work) for request in requests]
            self._store_joined(work)
            places = dict(cursors or {})
            for request, result in zip(requests, results, strict=True):
                if isinstance(request, BuryRequest) and request.over and isinstance(result, Kept):
                    channel, ranges = request.over
                    work.buried.setdefault(channel, self.buried.get(channel, []))
                    work.buried[channel] = work.buried[channel] + ranges
                    places.setdefault(channel, self.channels[channel].place)
            channels = self._move(places, work)
            for channel, receipt in (receipts or {}).items():
                self._write_receipt(channel, receipt)
            for key, stream in work.streams.items():
                self._write_stream(key, stream)
        self._opening_due = False
        self.position = work.position
        self.streams.update(work.streams)
        self.channels.update(channels)
        self.receipts.update(receipts or {})
        self.letter_bytes += work.letter_bytes
        self.buried.update(work.buried)
        for request, result in zip(requests, results, strict=True):
            if request.marks and isinstance(result, Kept):
                self.marks.setdefault(request.source, {}).update(request.marks)
        return results, work.rows

    def _one(self, request: Request, work: Work) -> Result:
        try:
            kept = self._put(request, work) if isinstance(request, PutRequest) else self._bury(request, work)
        except ChannelFull as error:
            return error
        if request.marks:
            self._write_marks(request.source, request.marks)
        return kept

    def _put(self, request: PutRequest, work: Work) -> Kept:
        stored = repeats = 0
        fresh = [self._fresh(part, work) for part in request.parts]
        self._cover(request.parts, work)
        for part, kept in zip(request.parts, fresh, strict=True):
            if kept is not None:
                stored += kept.events
                self._add(kept, work)
            repeats += part.events - (kept.events if kept else 0)
        return Kept(stored, repeats)

    def _fresh(self, part: Part, work: Work) -> Part | None:
        """The part without what is here already; None if all of it is."""
        transit = part.transit
        if transit is None:
            return part
        key = transit.origin, transit.channel
        stream = work.streams.get(key) or self.streams.get(key)
        if stream is None:
            if len(self.streams) + len(work.streams) >= STREAM_LIMIT:
                self._forget_streams()
            if len(self.streams) + len(work.streams) >= STREAM_LIMIT:
                raise ChannelFull(f"the store knows {STREAM_LIMIT} streams already; it takes no new sender")
            new = Coverage().fresh(transit.numbers, transit.settled)
        else:
            if len(stream.coverage.ranges) >= RANGE_LIMIT and _widens(stream.coverage, transit):
                raise ChannelFull(
                    f"a stream of {transit.origin.hex()} has {RANGE_LIMIT} holes; its sender must settle first"
                )
            new = stream.coverage.fresh(transit.numbers, transit.settled)
        if new == transit.numbers:
            return part
        return _cut(part, new) if new else None

    def _cover(self, parts: Sequence[Part], work: Work) -> None:
        for part in parts:
            transit = part.transit
            if transit is None:
                continue
            key = transit.origin, transit.channel
            stream = work.streams.get(key)
            if stream is None:
                old = self.streams.get(key)
                if old is None:
                    stream = StreamState(self._next_stream, Coverage(), 0)
                    self._next_stream += 1
                else:
                    stream = StreamState(old.id, old.coverage.copy(), 0)
                work.streams[key] = stream
            stream.coverage.settle(transit.settled)
            stream.coverage.cover(transit.after + 1, transit.last)

    def _add(self, part: Part, work: Work) -> None:
        small = len(part.block) < JOIN_BYTES
        if work.joined and not (
            small and work.joined[0].channels == part.channels
            and sum(len(p.block) for p in work.joined) + len(part.block) <= JOIN_BYTES
        ):  # fmt: skip
            self._store_joined(work)
        work.joined.append(part)
        if not small:
            self._store_joined(work)

    def _store_joined(self, work: Work) -> None:
        parts, work.joined = work.joined, []
        if not parts:
            return
        count = sum(part.events for part in parts)
        block = parts[0].block if len(parts) == 1 else b"".join(part.block for part in parts)
        identity = self._identity(parts, work.position - self.base + 1)
        self._store(parts[0].channels, block, count, identity, work)

    def _identity(self, parts: Sequence[Part], number: int) -> bytes | None:
        """The identity runs of a row of these parts whose first event gets `number`; None if they are its own."""
        if all(part.identity is None and part.transit is None for part in parts):
            return None
        runs: list[Identity] = []
        for part in parts:
            if part.identity is not None:
                runs += part.identity
            elif part.transit is not None:
                runs += [Identity(part.transit.origin, *run) for run in part.transit.numbers]
            else:
                runs.append(Identity(self.origin, number, part.events))
            number += part.events
        return schema.pack_identity(tuple(runs))

    def _store(self, channels: int, block: bytes, count: int, identity: bytes | None, work: Work) -> None:
        work.position += count
        head = (
            work.position, count, self.origin, work.position - self.base, channels, clock.wall_ms(), clock.boot_ns(),
            schema.CODEC_NULL, identity,
        )  # fmt: skip
        row = Row(*head, row_crc(head, block), block)
        self.conn.execute("INSERT INTO batch VALUES(?,?,?,?,?,?,?,?,?,?,?)", row)
        work.rows.append(row)
        bit = 0
        while channels >> bit:
            if channels >> bit & 1:
                counts = work.puts.setdefault(bit, [0, 0])
                counts[0] += count
                counts[1] += len(block)
            bit += 1

    def _bury(self, request: BuryRequest, work: Work) -> Kept:
        size = sum(len(letter.block) for letter in request.letters)
        if self.letter_bytes + work.letter_bytes + size > self.letter_limit:
            raise ChannelFull(
                f"the dead letters have reached deadLetter.maxBytes ({self.letter_limit} bytes): "
                "look at them, replay or delete them (headrace dead-letters)"
            )
        for letter in request.letters:
            (new,) = self.conn.execute("SELECT coalesce(max(id), 0) + 1 FROM dead_letter").fetchone()
            row = (new, *letter, self.version)
            self.conn.execute("INSERT INTO dead_letter VALUES(?,?,?,?,?,?,?,?,?,?)", (*row, value_crc(*row)))
        work.letter_bytes += size
        return Kept(0, 0)

    # ---- cursors

    def _move(self, places: Mapping[int, CursorState], work: Work) -> dict[int, ChannelState]:
        changed: dict[int, ChannelState] = {}
        for channel in places.keys() | work.puts.keys():
            old = self.channels[channel]
            events, size = work.puts.get(channel, (0, 0))
            place = places.get(channel, old.place)
            buried = [r for r in work.buried.get(channel, self.buried.get(channel, [])) if r[1] > place.cursor]
            if channel in work.buried or channel in self.buried:
                work.buried[channel] = buried
            if buried:
                # A snapshot of the place that was made before the letter was committed doesn't know it.
                place = place._replace(
                    finished=tuple(Coverage(place.cursor, sorted({*place.finished, *buried})).ranges)
                )
            changed[channel] = new = ChannelState(
                channel, old.name, place, old.put_events + events, old.put_bytes + size
            )
            self._write_channel(new)
        cursors = {c.id: changed.get(c.id, c).place.cursor for c in self.channels.values()}
        for channel in places:
            self._delete_passed(self.channels[channel].place.cursor, cursors[channel], cursors)
        return changed

    def _delete_passed(self, low: int, high: int, cursors: Mapping[int, int]) -> None:
        """Delete rows in (low, high] that every channel of their set has passed.

        A row that only channels further on share goes at once: a channel that stands still must not keep what was
        never meant for it.
        """
        if low >= high:
            return
        bounds = sorted({low, high} | {c for c in cursors.values() if low < c < high})
        for above, to in pairwise(bounds):
            behind = sum(1 << channel for channel, cursor in cursors.items() if cursor < to)
            self.conn.execute(
                "DELETE FROM batch WHERE position > ? AND position <= ? AND channels & ? = 0", (above, to, behind)
            )

    def _write_channel(self, c: ChannelState) -> None:
        row = (c.id, c.name, c.place.cursor, pack_ranges(c.place.finished), c.put_events, c.put_bytes,
               c.place.done_events, c.place.done_bytes, self.version)  # fmt: skip
        self.conn.execute("INSERT OR REPLACE INTO channel VALUES(?,?,?,?,?,?,?,?,?,?)", (*row, value_crc(*row)))

    def _write_receipt(self, channel: int, value: bytes) -> None:
        row = (channel, value, self.version)
        self.conn.execute("INSERT OR REPLACE INTO receipt VALUES(?,?,?,?)", (*row, value_crc(*row)))

    def _write_stream(self, key: tuple[bytes, str], stream: StreamState) -> None:
        stream.touched_ms = clock.wall_ms()
        coverage = stream.coverage
        row = (
            stream.id,
            key[0],
            key[1],
            coverage.settled,
            pack_ranges(coverage.ranges),
            stream.touched_ms,
            self.version,
        )
        self.conn.execute("INSERT OR REPLACE INTO stream VALUES(?,?,?,?,?,?,?,?)", (*row, value_crc(*row)))

    def _write_marks(self, source: str, marks: Mapping[str, bytes]) -> None:
        for name, value in marks.items():
            at = self._mark_ids.setdefault((source, name), len(self._mark_ids) + 1)
            row = (at, source, name, bytes(value), self.version)
            self.conn.execute("INSERT OR REPLACE INTO mark VALUES(?,?,?,?,?,?)", (*row, value_crc(*row)))

    # ---- reading

    def read(self, channel: int, after: int, max_bytes: int, max_rows: int = 256) -> list[Row]:
        """Rows of a channel above a position, in order, up to a sum of bytes (one row at least). Damaged if a checksum
        does not fit."""
        rows: list[Row] = []
        cursor = self.conn.execute(
            "SELECT * FROM batch WHERE position > ? AND channels & ? ORDER BY position LIMIT ?",
            (after, 1 << channel, max_rows),
        )
        for values in cursor:
            row = Row._make(values)
            if not row.intact():
                raise Damaged(f"the checksum of the batch at position {row.position} does not fit")
            rows.append(row)
            max_bytes -= len(row.block)
            if max_bytes <= 0:
                break
        cursor.close()
        return rows

    def letters(self) -> list[tuple[Any, ...]]:
        """Every dead letter: (id, channel, source, origin, number, wall_ms, reason, block)."""
        return [row[:-2] for row in self._rows("dead_letter")]

    def count_letters(self) -> int:
        (count,) = self.conn.execute("SELECT count(*) FROM dead_letter").fetchone()
        return int(count)

    def lost(self) -> list[tuple[Any, ...]]:
        """Ranges that salvage could not read: (id, origin, first, count, wall_ms, reason)."""
        return [row[:-2] for row in self._rows("lost")]

    def vacuum(self, pages: int) -> int:
        """Give up to `pages` free pages back to the file system; how many are still free."""
        # `execute` would step the pragma once, which frees one page.
        self.conn.executescript(f"PRAGMA incremental_vacuum({pages})")
        return self.free_pages()

    def used_bytes(self) -> int:
        """Bytes of the pages that hold something, beyond the few that an empty store has."""
        (pages,) = self.conn.execute("PRAGMA page_count").fetchone()
        return max(0, int(pages) - self.free_pages() - BASE_PAGES) * int(self.page_size)

    def free_pages(self) -> int:
        """Pages in the free list."""
        (count,) = self.conn.execute("PRAGMA freelist_count").fetchone()
        return int(count)

    def checkpoint(self, mode: str = "PASSIVE") -> None:
        """Copy the WAL into the file."""
        self.conn.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()

    # ---- commands

    def replay(self, ids: Sequence[int] | None) -> list[Row]:
        """Put dead letters (all for None) again into the channel they came from, under their old identity.

        Returns the new rows. What a source buried before it was an event stays.
        """
        if not self.origin:
            self.start()  # by command, without an agent: the rows need an origin of their own
        names = {c.name: c.id for c in self.channels.values()}
        work = Work(self.position)
        self.version += 1
        gone = 0
        with self._transaction():
            if self._opening_due:
                self._keep_opening()
            for letter in self.letters():
                target = names.get(letter[1])
                if (ids is not None and letter[0] not in ids) or target is None or letter[2]:
                    continue
                own = (Identity(letter[3], letter[4], 1),) if letter[3] else None
                identity = schema.pack_identity(own) if own else None
                self._store(1 << target, letter[7], 1, identity, work)
                self.conn.execute("DELETE FROM dead_letter WHERE id=?", (letter[0],))
                gone += len(letter[7])
            channels = self._move({}, work)
        self._opening_due = False
        self.position = work.position
        self.channels.update(channels)
        self.letter_bytes -= gone
        return work.rows

    def delete_letters(self, ids: Sequence[int] | None) -> int:
        """Drop dead letters (all for None) for good; how many there were."""
        chosen = [letter for letter in self.letters() if ids is None or letter[0] in ids]
        with self._transaction():
            for letter in chosen:
                self.conn.execute("DELETE FROM dead_letter WHERE id=?", (letter[0],))
        self.letter_bytes -= sum(len(letter[7]) for letter in chosen)
        return len(chosen)

    def forget(self, name: str) -> int:
        """Give up a channel and what only it still had to deliver; how many events that were."""
        state = self._named(name)
        channel = state.id
        left = state.put_events - state.place.done_events
        cursors = {c.id: c.place.cursor for c in self.channels.values() if c.id != channel}
        self.version += 1
        with self._transaction():
            self.conn.execute("DELETE FROM channel WHERE id=?", (channel,))
            self.conn.execute("DELETE FROM receipt WHERE id=?", (channel,))
            # Checksums cover the channel set, so rows keep the bit; a channel that no longer exists holds nothing.
            self._delete_passed(state.place.cursor, self.position, cursors)
        del self.channels[channel]
        self.receipts.pop(channel, None)
        return left


class _Transaction:
    """BEGIN IMMEDIATE ... COMMIT, or ROLLBACK when the block or the commit fails."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self.conn = conn

    def __enter__(self) -> None:
        self.conn.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is None:
            try:
                self.conn.execute("COMMIT")
                return
            except sqlite3.Error:
                self._rollback()
                raise
        self._rollback()

    def _rollback(self) -> None:
        if self.conn.in_transaction:
            self.conn.execute("ROLLBACK")


def _widens(coverage: Coverage, transit: Transit) -> bool:
    """Whether a batch would leave the set with more ranges than it has: what settles or fills holes is always taken."""
    then = coverage.copy()
    then.settle(transit.settled)
    then.cover(transit.after + 1, transit.last)
    return len(then.ranges) > len(coverage.ranges)


def _cut(part: Part, new: Runs) -> Part:
    """The events of a received part that carry the numbers `new`."""
    assert part.transit is not None
    wanted = {number for first, count in new for number in range(first, first + count)}
    ends = record.offsets(part.block, part.events)
    keep, at = [], 0
    for first, count in part.transit.numbers:
        for number in range(first, first + count):
            if number in wanted:
                keep.append(at)
            at += 1
    block = b"".join(part.block[ends[i - 1] if i else 0 : ends[i]] for i in keep)
    t = part.transit
    identity = part.identity
    if identity is not None:
        ids = [(run.origin, run.first + i) for run in identity for i in range(run.count)]
        identity = identities_of(ids[i] for i in keep)
    return Part(
        part.channels, block, len(keep), Transit(t.origin, t.channel, t.after, new, t.settled, t.chain), identity
    )
