"""What is readable of a damaged store goes into a new one; the damaged file is kept.

Each row carries its own proof, a checksum over all of its columns, so rows are taken wherever they are found: in pages
that no tree reaches any more, in pages on the free list, in earlier states of a page in the WAL. Of two states of a
row the one of the later transaction (`version`) wins, and a batch that every cursor has passed has been delivered and
is left out. Old states can only set a channel back, never forward: it then sends again what its receivers recognise.

What is missing is counted by number range (agent/store/accounts.py).

**A crash at any step leaves a store that can be used**, provided that `resume` is called before every open:

    1. <name>.salvage is written and synced         a crash leaves it half written: resume deletes it
    2. it is renamed to <name>.salvaged-<ms>        from here on the new store counts, and resume does the rest:
    3. <name>-wal becomes <name>.damaged-<ms>-wal   first, so that the old WAL never meets the new file
    4. <name> becomes <name>.damaged-<ms>
    5. <name>.salvaged-<ms> becomes <name>          the folder is synced after each step
"""

from __future__ import annotations

import os
import re
import sqlite3
import struct
from array import array
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from agent import clock
from agent.errors import ChannelError, translated
from agent.store import schema
from agent.store.accounts import Accounts, Columns, Range, ranges_of
from agent.store.coverage import Coverage, pack_ranges
from agent.store.creation import create, sync_folder
from agent.store.pages import Cell, Layout, Pages, Value, cells
from agent.store.schema import row_crc, value_crc

_COLUMNS = {
    table: "".join(column.split()[1][0].lower() for column in columns.split(","))
    for table, columns in re.findall(r"CREATE TABLE (\w+)\(([^)]+)\)", schema.TABLES)
}
"""The type of each column of a table: i, t or b for integer, text, blob; any but the first may be NULL."""
_SHAPES = {size: [t for t in _COLUMNS if len(_COLUMNS[t]) == size] for size in map(len, _COLUMNS.values())}
_KEYS = {"opening": (1,), "channel": (0,), "receipt": (0,), "mark": (1, 2), "stream": (1, 2), "lost": (0,)}
"""What makes two rows of the small tables two states of one."""


@dataclass
class Report:
    """What became of a store. Ranges are (origin, first number, count)."""

    damaged: Path
    reason: str
    rows: int = 0
    events: int = 0
    lost: list[Range] = field(default_factory=list)
    possibly_lost: list[Range] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def lost_events(self) -> int:
        return sum(count for _, _, count in self.lost)


def salvage(path: Path, reason: str, names: Mapping[int, str] | None = None) -> Report:
    """Replace the damaged store at `path` by a new one with all that is readable of it.

    Nobody has it open and the caller holds its lock. `names` are channels that the caller knows by id: each has a row
    afterwards; a channel that only batches speak of is called `?<id>`. ChannelError if the new file can't be written.
    """
    new = _beside(path, ".salvage")
    with translated(
        {OSError: ChannelError, sqlite3.Error: ChannelError},
        f"{path} is damaged ({reason}) and what is readable of it can't be written to {new} "
        f"(make room for as much again, then start)",
    ):
        resume(path)
        stamp = clock.wall_ms()
        while _beside(path, f".damaged-{stamp}").exists():  # a clock that starts at one time at each boot
            stamp += 1
        report = Report(_beside(path, f".damaged-{stamp}"), reason)
        create(new)
        with closing(Pages(path)) as pages, closing(sqlite3.connect(new, isolation_level=None)) as conn:
            _Salvage(pages, conn, report).run(names or {})
        _sync(new)
        os.rename(new, _beside(path, f".salvaged-{stamp}"))
        sync_folder(path.parent)
        resume(path)
    return report


def resume(path: Path) -> None:
    """Before every open of the store at `path`: end a salvage that a crash interrupted, or clear it away."""
    for half in path.parent.glob(f"{path.name}.salvage*"):
        if ".salvaged-" not in half.name:
            half.unlink()
    for done in sorted(path.parent.glob(f"{path.name}.salvaged-*")):
        damaged = _beside(path, f".damaged-{done.name.rpartition('-')[2]}")
        for old, kept in ((_beside(path, "-wal"), _beside(damaged, "-wal")), (path, damaged), (done, path)):
            if old.exists():
                os.rename(old, kept)
                sync_folder(path.parent)
        _beside(path, "-shm").unlink(missing_ok=True)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class _Salvage:
    """One run: small tables are gathered in memory, batches and dead letters copied one by one."""

    def __init__(self, pages: Pages, conn: sqlite3.Connection, report: Report) -> None:
        self.pages, self.conn, self.report = pages, conn, report
        self.best: dict[str, dict[tuple[Value, ...], Columns]] = {table: {} for table in _KEYS}
        self.coverage: dict[tuple[Value, ...], Coverage] = {}
        self.version = 0
        self.stale_channels: set[int] = set()

    def run(self, names: Mapping[int, str]) -> None:
        # No journal: until the file has its final name, a crash throws it away whole.
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-8000"):
            self.conn.execute(f"PRAGMA {pragma}")
        self.conn.execute("BEGIN")
        places = self._small_tables()
        accounts = Accounts(self.conn, self.best, self.stale_channels)
        self._batches(places, accounts)
        accounts.close(names, self.version + 1)
        self.report.lost, self.report.possibly_lost, self.report.notes = (
            accounts.lost, accounts.possibly_lost, accounts.notes,
        )  # fmt: skip
        self._write_small_tables()
        self.conn.execute("COMMIT")
        self.conn.execute("PRAGMA journal_mode=WAL")

    # ---- reading

    def _small_tables(self) -> array[int]:
        """Read everything but batches; returns the places of the leaves that hold those."""
        places = array("Q")
        for place, page, current in self.pages.leaves():
            batches = False
            for cell in cells(page):
                for table in _tables(cell):
                    if table == "batch":
                        batches = True
                    elif row := self._proven(table, cell):
                        self._keep(table, row, current)
            if batches:
                places.append(place)
        return places

    def _proven(self, table: str, cell: Cell) -> Columns | None:
        """The row, if its checksum fits."""
        payload = self.pages.payload(cell)
        if payload is None:
            return None
        try:
            row = (cell.rowid, *cell.columns(payload)[1:])
            if table == "batch":
                return row if row[9] == row_crc(row[:9], row[10]) else None  # type: ignore[arg-type]
            return row if row[-1] == value_crc(*row[:-1]) else None
        except (ValueError, TypeError, struct.error):
            return None

    def _keep(self, table: str, row: Columns, current: bool) -> None:
        version: int = row[-2]
        self.version = max(self.version, version)
        if table == "dead_letter":
            # Not from earlier states of a page: there are the letters that have been replayed since.
            if current:
                self.conn.execute(
                    "INSERT OR REPLACE INTO dead_letter SELECT ?,?,?,?,?,?,?,?,?,? "
                    "WHERE NOT EXISTS (SELECT 1 FROM dead_letter WHERE id=? AND version>=?)",
                    (*row, row[0], version),
                )
            return
        key = tuple(row[at] for at in _KEYS[table])
        old = self.best[table].get(key)
        if table == "stream":
            self._unite(key, row)
        if old is None or version >= old[-2]:
            if table == "channel":
                newest = current or (old is not None and version == old[-2] and row[0] not in self.stale_channels)
                (self.stale_channels.discard if newest else self.stale_channels.add)(row[0])
            self.best[table][key] = row

    def _unite(self, key: tuple[Value, ...], row: Columns) -> None:
        coverage = self.coverage.setdefault(key, Coverage())
        for first, last in ranges_of(row[4]):
            coverage.cover(first, last)
        coverage.settle(row[3])

    def _batches(self, places: array[int], accounts: Accounts) -> None:
        for place in places:
            for cell in cells(self.pages.at(place)):
                if "batch" in _tables(cell):
                    self._batch(cell, accounts)

    def _batch(self, cell: Cell, accounts: Accounts) -> None:
        _, count, _, _, channels = cell.columns(cell.payload, 5)
        if not isinstance(count, int) or not isinstance(channels, int) or channels < 0:
            return
        # Before the block is read: most rows on the free list are delivered ones.
        if accounts.passed(cell.rowid, channels) or self._has(cell.rowid):
            return
        row = self._proven("batch", cell)
        if row:
            self.conn.execute("INSERT INTO batch VALUES(?,?,?,?,?,?,?,?,?,?,?)", row)
            self.report.rows += 1
            self.report.events += count

    def _has(self, position: int) -> bool:
        return self.conn.execute("SELECT 1 FROM batch WHERE position=?", (position,)).fetchone() is not None

    # ---- writing

    def _write_small_tables(self) -> None:
        opened = sorted(self.best["opening"].values(), key=lambda row: (row[2], row[-2]))
        streams = [
            (*row[:3], self.coverage[key].settled, pack_ranges(self.coverage[key].ranges), *row[5:])
            for key, row in self.best["stream"].items()
        ]
        self._write("opening", _ids(opened))
        self._write("stream", _ids(streams))
        self._write("mark", [(i, *row[1:]) for i, row in enumerate(self.best["mark"].values(), 1)])
        for table in ("channel", "receipt"):
            self._write(table, list(self.best[table].values()))
        self._write("lost", self._lost_rows())

    def _lost_rows(self) -> list[Columns]:
        rows: list[Columns] = list(self.best["lost"].values())
        at = max((row[0] for row in rows), default=0)
        now = clock.wall_ms()
        for ranges, certainty in ((self.report.lost, "lost"), (self.report.possibly_lost, "possibly lost")):
            for origin, first, count in ranges:
                at += 1
                rows.append((at, origin, first, count, now, f"{certainty}: {self.report.reason}", self.version + 1, 0))
        return rows

    def _write(self, table: str, rows: list[Columns]) -> None:
        holes = ",".join("?" * len(_COLUMNS[table]))
        self.conn.executemany(
            f"INSERT INTO {table} VALUES({holes})", [(*row[:-1], value_crc(*row[:-1])) for row in rows]
        )


def _tables(cell: Cell) -> tuple[str, ...]:
    """The tables whose rows have this shape."""
    return _fitting(cell.layout) if cell.rowid < 1 << 63 else ()


@lru_cache(8192)
def _fitting(layout: Layout) -> tuple[str, ...]:
    found = _SHAPES.get(len(layout.columns), [])
    shape = layout.shape
    return tuple(t for t in found if all(kind in ("n", due) for kind, due in zip(shape, _COLUMNS[t], strict=True)))


def _ids(rows: list[Columns]) -> list[Columns]:
    """Rows under their own ids, which who has the store in memory still uses; all anew if two of them share one."""
    ids = [row[0] for row in rows]
    if len(set(ids)) == len(ids):
        return rows
    return [(i, *row[1:]) for i, row in enumerate(rows, 1)]
