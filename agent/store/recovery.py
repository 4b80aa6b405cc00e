"""A damaged file, found when it is opened or under way: what is readable goes into a new one, and the store goes on.

The salvage itself is in agent/store/salvage.py, which is imported when it is needed: most stores never are damaged.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from agent.store.connection import Damaged
from agent.store.database import Database
from agent.store.space import sqlite_code

if TYPE_CHECKING:
    from agent.store.salvage import Report

log = logging.getLogger(__name__)


def open_database(path: Path, make: Callable[[], Database]) -> Database:
    """What `make` opens, after a salvage where that is due. sqlite3.OperationalError where it can't be opened."""
    if any(path.parent.glob(f"{path.name}.salvage*")):
        _resume(path)
    try:
        return make()
    except (Damaged, sqlite3.DatabaseError) as error:
        if isinstance(error, sqlite3.OperationalError) and not damage(error):
            raise
        _report(path, _salvage(path, str(error)))
        return make()


def mended(old: Database, reason: str, make: Callable[[], Database]) -> tuple[Database, dict[str, tuple[int, int]]]:
    """The file anew, where it was found damaged under way; and the events and bytes that each channel has lost."""
    old.close()
    report = _salvage(old.path, reason, {c.id: c.name for c in old.channels.values()})
    db = make()
    db.resume(old)
    _report(old.path, report)
    now = db.channels
    lost = {c.name: (c.put_events - now[i].put_events, c.put_bytes - now[i].put_bytes) for i, c in old.channels.items()}
    return db, lost


def damage(error: Exception) -> str:
    """What is damaged, if the error says that something is."""
    corrupt = sqlite_code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    return str(error) if corrupt or isinstance(error, Damaged) else ""


def missing(db: Database) -> int:
    """Events that are certainly lost; those that may have been delivered before don't count."""
    return sum(row[3] for row in db.lost() if row[5].startswith("lost:"))


def _report(path: Path, report: Report) -> None:
    log.error(
        "%s was damaged (%s): %d events salvaged into a new file, %d numbers missing; the damaged one is kept: %s",
        path, report.reason, report.events, report.lost_events, report.damaged,
    )  # fmt: skip
    for origin, first, count in report.lost:
        log.error("missing: %d events of origin %s from number %d", count, origin.hex(), first)
    for note in report.notes:
        log.warning("salvage: %s", note)


def _salvage(path: Path, reason: str, names: Mapping[int, str] | None = None) -> Report:
    from agent.store.salvage import salvage

    return salvage(path, reason, names)


def _resume(path: Path) -> None:
    from agent.store.salvage import resume

    resume(path)
