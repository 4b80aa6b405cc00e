"""The store's one connection: how the file is opened, what a transaction is, and how pages come and go.

One connection and one thread: SQLite before 3.51.3 can corrupt a WAL that two connections write or checkpoint. Of a
shared form others may read, and no more than that.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.errors import ChannelError
from agent.store.creation import create, is_nothing
from agent.store.schema import STORE, Form, value_crc

WAL_BYTES = 4 << 20
"""Checkpoint when the WAL holds so many bytes of pages."""
BASE_PAGES = 64
"""An empty store has less; they don't count against `maxBytes`."""


class Damaged(Exception):
    """The file's content is not what was written."""


class Transaction:
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


class Connection:
    """An open file; created if there is none. Raises Damaged, sqlite3.Error, ChannelError."""

    def __init__(self, path: Path, synchronous: str, max_bytes: int, form: Form = STORE) -> None:
        self.path, self.form = path, form
        if is_nothing(path):
            create(path, form)
        if not form.shared and (damage := _wal_damage(path)):
            # Before SQLite sees it: it would write over what it doesn't believe.
            raise Damaged(damage)
        # Cached statements must outnumber the kinds of statement used; autocommit, because BEGIN is ours.
        self.conn = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=64)
        with self._closed_on_error():
            self._pragmas(synchronous, max_bytes)

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
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
        if not self.form.shared:
            # Before anything is read: no shared-memory file (a full disk has no room for it), no other process.
            run("PRAGMA locking_mode=EXCLUSIVE")
        (found,) = run("PRAGMA application_id").fetchone()
        (version,) = run("PRAGMA user_version").fetchone()
        if found != self.form.application_id:
            raise Damaged(f"{self.path} is no Headrace store (application_id {found:#x})")
        if version // 1000 > self.form.major:
            raise ChannelError(
                f"{self.path} was written by a newer Headrace (format {version // 1000}, this one knows "
                f"{self.form.major}): start that version, or drain the store with it first"
            )
        run("PRAGMA journal_mode=WAL")
        run(f"PRAGMA synchronous={synchronous}")
        run("PRAGMA secure_delete=OFF")
        run(f"PRAGMA wal_autocheckpoint={WAL_BYTES // self.form.page_size}")
        run(f"PRAGMA journal_size_limit={4 * WAL_BYTES}")
        run("PRAGMA cache_size=-2000")
        self.page_size = int(run("PRAGMA page_size").fetchone()[0])
        if max_bytes:
            # 5 % above the limit that refuses puts, so that acknowledgements and dead letters still find room.
            run(f"PRAGMA max_page_count={BASE_PAGES + int(max_bytes * 1.05) // self.page_size}")

    def close(self) -> None:
        """Checkpoint what is in the WAL and let go of the file."""
        self.conn.close()

    def transaction(self) -> Transaction:
        return Transaction(self.conn)

    # ---- pages

    def vacuum(self, pages: int) -> int:
        """Give up to `pages` free pages back to the file system; how many are still free."""
        # `execute` would step the pragma once, which frees one page.
        self.conn.executescript(f"PRAGMA incremental_vacuum({pages})")
        return self.free_pages()

    def used_bytes(self) -> int:
        """Bytes of the pages that hold something, beyond the few that an empty store has."""
        return max(0, self.pages() - self.free_pages() - BASE_PAGES) * self.page_size

    def pages(self) -> int:
        """Pages of the file, those in the free list too."""
        (count,) = self.conn.execute("PRAGMA page_count").fetchone()
        return int(count)

    def free_pages(self) -> int:
        """Pages in the free list."""
        (count,) = self.conn.execute("PRAGMA freelist_count").fetchone()
        return int(count)

    def checkpoint(self, mode: str = "PASSIVE") -> None:
        """Copy the WAL into the file."""
        self.conn.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()


def checked_rows(conn: sqlite3.Connection, table: str) -> list[tuple[Any, ...]]:
    """Every row of a small table. Damaged if a checksum does not fit."""
    rows = conn.execute(f"SELECT * FROM {table} ORDER BY id").fetchall()
    for row in rows:
        if row[-1] != value_crc(*row[:-1]):
            raise Damaged(f"the checksum of row {row[0]} of table {table} does not fit")
    return rows


def _wal_damage(path: Path) -> str:
    if not path.with_name(path.name + "-wal").exists():
        return ""
    from agent.store.pages import wal_damage  # only after a kill

    return wal_damage(path)
