"""What the files of a sink hold: which identity runs lie between which bytes, for the audit.

    CREATE TABLE file(id INTEGER PRIMARY KEY, name TEXT UNIQUE, length INTEGER, finished_ms INTEGER)
    CREATE TABLE run(file INTEGER, stop INTEGER, origin BLOB, first INTEGER, count INTEGER)
    CREATE TABLE past(origin BLOB, first INTEGER, count INTEGER)
    CREATE TABLE gap(wall_ms INTEGER, reason TEXT)

An SQLite file beside the channel's store, `outputs-<sink>.db`. A batch that was written is added in one synced commit
before it is acknowledged; `stop` is the offset behind its last byte, so a file that is cut back after a crash loses the
runs that went with its tail. When a file is finished its runs are joined per origin, and it takes a row or two.

It is bounded: a file that was finished more than `KEEP_DAYS` ago, or before the last `MOST_FILES`, is forgotten; its
numbers stay in `past`, joined with each other, as having arrived. The audit then no longer looks whether the file is
still there.

**The sink never fails for its sake.** What goes wrong here is said once in the log and noted as a gap, after which the
audit says "not known" of what it doesn't find, instead of "missing". A damaged file is set aside and a new one begun.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import groupby
from logging import Logger
from pathlib import Path
from typing import NamedTuple

from agent import clock
from agent.errors import DeliveryError, translated
from agent.sink import Held as Found
from agent.store.coverage import Coverage
from agent.store.streams import Identity

KEEP_DAYS = 400
MOST_FILES = 200_000
PRUNE_EVERY = 1000
"""Finished files between two looks for what is to be forgotten."""
BUSY_SECONDS = 5.0
TABLES = """
CREATE TABLE IF NOT EXISTS file(id INTEGER PRIMARY KEY, name TEXT UNIQUE, length INTEGER, finished_ms INTEGER);
CREATE TABLE IF NOT EXISTS run(file INTEGER, stop INTEGER, origin BLOB, first INTEGER, count INTEGER);
CREATE INDEX IF NOT EXISTS run_of_file ON run(file);
CREATE TABLE IF NOT EXISTS past(origin BLOB, first INTEGER, count INTEGER);
CREATE TABLE IF NOT EXISTS gap(wall_ms INTEGER, reason TEXT);
"""
Added = tuple[str, int, int, Sequence[Identity] | None]
"""(file, offset of the first byte, offset behind the last one, whose events lie there; None: nobody knows)."""


class Held(NamedTuple):
    """One file: its name as the sink knows it, the bytes that it has at least, and what it holds."""

    name: str
    length: int
    finished: bool
    runs: tuple[Identity, ...]


class Contents(NamedTuple):
    """All of a manifest: its files, the runs of forgotten ones, and why it may be incomplete ("" if it isn't)."""

    files: list[Held]
    past: list[Identity]
    gap: str


def path_of(folder: Path, sink: str) -> Path:
    """The manifest of a sink, in the folder of its channel's store."""
    return folder / f"outputs-{sink}.db"


class Manifest:
    """Used by one thread at a time. `earlier`: the sink has written before, so that a missing manifest is a gap.

    No method raises because of its file: SQLite's and the disk's errors are said in the log, once until it works again.
    """

    def __init__(self, path: Path, log: Logger, earlier: bool = False) -> None:
        self.path, self.log = path, log
        self.conn: sqlite3.Connection | None = None
        self._ids: dict[str, int] = {}
        self._finished = 0
        self._gap = "there was no manifest though the sink had written before" if earlier and not path.exists() else ""
        """To be noted with the next commit."""
        self._said = False
        self._guarded(self._prune, "opened")

    def add(self, rows: Iterable[Added]) -> None:
        """Note what a batch put where, in one synced commit."""
        self._guarded(lambda conn: self._add(conn, rows), "written")

    def cut(self, file: str, length: int) -> None:
        """A file was cut back to its acknowledged length: what lay beyond is no longer there."""

        def work(conn: sqlite3.Connection) -> None:
            named = "(SELECT id FROM file WHERE name=?)"
            conn.execute(f"DELETE FROM run WHERE file={named} AND stop>?", (file, length))
            conn.execute("UPDATE file SET length=min(length, ?) WHERE name=?", (length, file))

        self._guarded(work, "written")

    def rename(self, old: str, new: str) -> None:
        """A file has another name now; one that had that name before is gone. May be said again."""

        def work(conn: sqlite3.Connection) -> None:
            if old != new and conn.execute("SELECT 1 FROM file WHERE name=?", (old,)).fetchone():
                self._drop(conn, new)
                conn.execute("UPDATE file SET name=? WHERE name=?", (new, old))
                self._ids.pop(old, None)

        self._guarded(work, "written")

    def finish(self, file: str, length: int) -> None:
        """A file is complete, with so many bytes; its runs are joined."""

        def work(conn: sqlite3.Connection) -> None:
            at = self._id(conn, file)
            conn.execute("UPDATE file SET length=?, finished_ms=? WHERE id=?", (length, clock.wall_ms(), at))
            joined = join(_runs(conn, at))
            conn.execute("DELETE FROM run WHERE file=?", (at,))
            _insert(conn, ((at, length, run) for run in joined))
            self._ids.pop(file, None)
            self._finished += 1
            if self._finished % PRUNE_EVERY == 0:
                self._prune(conn)

        self._guarded(work, "written")

    def drop(self, file: str) -> None:
        """A file was removed, with what it held: its events come again."""
        self._guarded(lambda conn: self._drop(conn, file), "written")

    def close(self) -> None:
        if self.conn:
            try:
                self.conn.close()
            except sqlite3.Error as error:
                self.log.warning("%s: %s", self.path, error)
            self.conn = None

    # ---- inside one transaction

    def _add(self, conn: sqlite3.Connection, rows: Iterable[Added]) -> None:
        for file, _, stop, identities in rows:
            at = self._id(conn, file)
            conn.execute("UPDATE file SET length=? WHERE id=?", (stop, at))
            _insert(conn, ((at, stop, run) for run in identities or ()))

    def _id(self, conn: sqlite3.Connection, file: str) -> int:
        found = self._ids.get(file)
        if found is None:
            conn.execute("INSERT OR IGNORE INTO file VALUES(NULL, ?, 0, NULL)", (file,))
            (found,) = conn.execute("SELECT id FROM file WHERE name=?", (file,)).fetchone()
            self._ids[file] = found
        return found

    def _drop(self, conn: sqlite3.Connection, file: str) -> None:
        conn.execute("DELETE FROM run WHERE file=(SELECT id FROM file WHERE name=?)", (file,))
        conn.execute("DELETE FROM file WHERE name=?", (file,))
        self._ids.pop(file, None)

    def _prune(self, conn: sqlite3.Connection) -> None:
        """Forget the oldest finished files beyond the bounds; their numbers stay, joined."""
        before = clock.wall_ms() - KEEP_DAYS * 86_400_000
        old = conn.execute(
            "SELECT id FROM file WHERE finished_ms IS NOT NULL ORDER BY finished_ms DESC, id DESC LIMIT -1 OFFSET ?",
            (MOST_FILES,),
        ).fetchall()
        old += conn.execute("SELECT id FROM file WHERE finished_ms < ?", (before,)).fetchall()
        if not old:
            return
        runs = [Identity(*row) for row in conn.execute("SELECT origin, first, count FROM past")]
        for (at,) in set(old):
            runs += _runs(conn, at)
            conn.execute("DELETE FROM run WHERE file=?", (at,))
            conn.execute("DELETE FROM file WHERE id=?", (at,))
        conn.execute("DELETE FROM past")
        conn.executemany("INSERT INTO past VALUES(?,?,?)", ((r.origin, r.first, r.count) for r in _covered(runs)))

    # ---- the file

    def _guarded(self, work: Callable[[sqlite3.Connection], None], doing: str) -> None:
        """One transaction, on a new file if the old one is damaged or gone; whatever fails is a gap."""
        try:
            conn = self._connection()
            conn.execute("BEGIN IMMEDIATE")
            try:
                if self._gap:
                    conn.execute("INSERT INTO gap VALUES(?,?)", (clock.wall_ms(), self._gap))
                work(conn)
                conn.execute("COMMIT")
            except BaseException:
                if conn.in_transaction:
                    conn.execute("ROLLBACK")
                raise
            self._gap, self._said = "", False
        except (sqlite3.Error, OSError) as error:
            self._failed(error, doing)

    def _failed(self, error: sqlite3.Error | OSError, doing: str) -> None:
        self._ids.clear()
        self.close()
        self._gap = self._gap or f"it could not be {doing} ({error})"
        if not self._said:
            self._said = True
            self.log.warning(
                "%s could not be %s (%s): the audit won't know what this sink wrote", self.path, doing, error
            )
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            self._set_aside()

    def _connection(self) -> sqlite3.Connection:
        if self.conn and not self.path.exists():
            self._gap = self._gap or "it was removed while the sink ran"
            self._ids.clear()
            self.close()
        if self.conn is None:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            conn = sqlite3.connect(self.path, isolation_level=None, timeout=BUSY_SECONDS, check_same_thread=False)
            try:
                conn.execute("PRAGMA journal_mode = WAL")
                conn.execute("PRAGMA synchronous = FULL")
                conn.executescript(TABLES)
            except BaseException:
                conn.close()
                raise
            self.conn = conn
        return self.conn

    def _set_aside(self) -> None:
        """A damaged file isn't written again; the next call begins a new one."""
        aside = self.path.with_name(f"{self.path.name}.damaged-{clock.wall_ms()}")
        try:
            self.path.rename(aside)
            for tail in ("-wal", "-shm"):
                self.path.with_name(self.path.name + tail).unlink(missing_ok=True)
            self.log.warning("%s was damaged and is set aside as %s", self.path, aside.name)
        except OSError as error:
            self.log.warning("%s: %s", self.path, error)


def read(path: Path) -> Contents:
    """A manifest as it is now, whether a sink writes it or not. DeliveryError if it can't be read."""
    with translated({sqlite3.Error: DeliveryError}, str(path)):
        if not path.exists():
            return Contents([], [], "there is no manifest")
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=BUSY_SECONDS)) as conn:
            conn.execute("BEGIN")
            files = conn.execute("SELECT id, name, length, finished_ms IS NOT NULL FROM file ORDER BY id").fetchall()
            held = [Held(name, length, bool(done), tuple(_runs(conn, at))) for at, name, length, done in files]
            past = [Identity(*row) for row in conn.execute("SELECT origin, first, count FROM past")]
            gaps = [reason for (reason,) in conn.execute("SELECT reason FROM gap ORDER BY wall_ms DESC LIMIT 1")]
    return Contents(held, past, gaps[0] if gaps else "")


def found_of(folder: Path | None, sink: str, length_of: Callable[[str], int | None]) -> Iterator[Found]:
    """For an audit: what the manifest of a sink names, each file as it is now; `length_of` asks where they lie.
    DeliveryError at the end if there may be more."""
    if folder is None:
        raise DeliveryError("behind a memory channel it keeps no account of what its files hold: use a file channel")
    contents = read(path_of(folder, sink))
    yield Found(tuple(contents.past))
    for name, length, _, runs in contents.files:
        there = length_of(name)
        gone = "is not there" if there is None else f"has {there} bytes of {length}" if there < length else ""
        yield Found(runs, name, gone)
    if contents.gap:
        raise DeliveryError(f"what its files hold isn't fully known: {contents.gap}")


def join(runs: Iterable[Identity]) -> list[Identity]:
    """Runs that follow each other in one origin as one; what is there twice stays twice."""
    out: list[Identity] = []
    for run in sorted(runs, key=lambda run: (run.origin, run.first, run.count)):
        last = out[-1] if out else None
        if last and last.origin == run.origin and last.first + last.count == run.first:
            out[-1] = Identity(last.origin, last.first, last.count + run.count)
        else:
            out.append(run)
    return out


def _covered(runs: Iterable[Identity]) -> Iterable[Identity]:
    """The numbers of the runs, each once."""
    for origin, group in groupby(sorted(runs, key=lambda run: run.origin), key=lambda run: run.origin):
        ranges = Coverage(0, ((run.first, run.first + run.count - 1) for run in group)).ranges
        yield from (Identity(origin, first, last - first + 1) for first, last in ranges)


def _runs(conn: sqlite3.Connection, file: int) -> list[Identity]:
    return [Identity(*row) for row in conn.execute("SELECT origin, first, count FROM run WHERE file=?", (file,))]


def _insert(conn: sqlite3.Connection, rows: Iterable[tuple[int, int, Identity]]) -> None:
    conn.executemany(
        "INSERT INTO run VALUES(?,?,?,?,?)", ((at, stop, r.origin, r.first, r.count) for at, stop, r in rows)
    )
