"""One transaction of many requests: each is all or nothing, and none pays for another.

A request that is refused, or has a bug in it, leaves the others of its commit as they are; a commit that fails leaves
nothing of any, in the file and in memory.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from typing import Any, NamedTuple

from aggregator.topics.errors import TopicsError
from aggregator.topics.log.database import Database
from aggregator.topics.log.states import Tell, Work

log = logging.getLogger(__name__)

OURS = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError)
"""Of SQLite's errors, those that a statement is at fault for, not the file."""

Call = Callable[[Database, Work], Any]


class Job(NamedTuple):
    """A change to make; None ends the writer's thread."""

    call: Call | None
    future: asyncio.Future[Any] | None = None
    size: int = 0
    """Bytes that it appends; what appends none goes on when the disk is full."""
    whole: bool = False
    """It has changed nothing when it raises a TopicsError, so that it needs no savepoint."""


Outcome = list[tuple[Job, Any]]
"""Jobs with their results, or with the exceptions that they raised."""


class _Broken(Exception):
    """A job failed half-way, without a savepoint: the transaction has to begin again without it."""

    def __init__(self, job: Job, error: Exception) -> None:
        self.job, self.error = job, error


def transact(db: Database, group: list[Job]) -> tuple[Outcome, list[Tell]]:
    """Do these jobs in one transaction: their results, and what is to be told. sqlite3.Error: nothing has changed."""
    group, failed = list(group), Outcome()
    while group:
        work, done = Work(), Outcome()
        try:
            with db.transaction():
                for job in group:
                    done.append((job, _one(db, job, work)))
        except _Broken as broken:
            work.back()
            group.remove(broken.job)
            failed.append((broken.job, broken.error))
            continue
        except BaseException:
            work.back()
            raise
        return failed + done, work.tells
    return failed, []


def _one(db: Database, job: Job, work: Work) -> Any:
    """A job's result, or what it failed with; then nothing of it is left."""
    assert job.call is not None
    mark = work.mark
    if not job.whole:
        db.conn.execute("SAVEPOINT job")
    try:
        result = job.call(db, work)
    except Exception as error:
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, OURS):
            raise
        if not isinstance(error, TopicsError):
            log.exception("a request to the topics' log failed with a bug")
            if job.whole:
                raise _Broken(job, error) from None
        if not job.whole:
            work.back(mark)
            db.conn.execute("ROLLBACK TO job")
        result = error
    if not job.whole:
        db.conn.execute("RELEASE job")
    return result
