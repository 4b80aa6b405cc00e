"""A new store: made beside its name, synced and renamed, so that a crash leaves all of it or nothing."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from agent.errors import ChannelError
from agent.store.schema import STORE, Form


def create(path: Path, form: Form = STORE) -> None:
    """A new, empty store at `path`, synced. Made beside it and renamed, so that a crash leaves no half of one."""
    new = path.with_name(path.name + ".new")
    for leftover in (new, new.with_name(new.name + "-wal"), new.with_name(new.name + "-journal")):
        leftover.unlink(missing_ok=True)
    os.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    conn = sqlite3.connect(new, isolation_level=None)
    try:
        conn.execute(f"PRAGMA page_size={form.page_size}")
        conn.execute("PRAGMA auto_vacuum=INCREMENTAL")
        conn.execute("PRAGMA synchronous=FULL")
        conn.executescript(
            f"BEGIN; PRAGMA application_id={form.application_id}; PRAGMA user_version={form.user_version};"
            f"{form.tables} COMMIT;"
        )
    finally:
        conn.close()
    os.rename(new, path)
    sync_folder(path.parent)


def is_nothing(path: Path) -> bool:
    """No file, or an empty one without a WAL: the name survived a power cut and the content, which was empty too, did
    not."""
    if not path.exists():
        return True
    wal = path.with_name(path.name + "-wal")
    return path.stat().st_size == 0 and not (wal.exists() and wal.stat().st_size)


def make_folder(folder: Path) -> None:
    """The folder of a store, made if need be. ChannelError if it can't be, or if a Java Flume keeps events in it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ChannelError(f"can't make the folder {folder} for the store: {error.strerror}") from None
    java = next(iter(sorted(folder.glob("log-[0-9]*"))), None)
    if java is not None:
        raise ChannelError(
            f"{folder} holds a Java Flume's file channel ({java.name}): drain it first (run that Flume with its sinks "
            "until ChannelSize is 0), then move its log-* files away or name another folder"
        )


def sync_folder(path: Path) -> None:
    """Make names in a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
