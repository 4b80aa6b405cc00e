"""The log's file and what memory holds of it: every change, nothing asynchronous.

One thread owns it. A change is a call with the `Work` of the transaction under way (log/writer.py); whatever it does
to memory goes through that.
"""

from __future__ import annotations

import secrets
import sqlite3
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from pathlib import Path

from agent import clock
from agent.errors import ChannelFull
from agent.store.connection import Connection
from agent.store.received import Received
from agent.store.states import StreamState
from agent.store.streams import Runs, Transit
from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.log.batches import Append, Batches
from aggregator.topics.log.catalog import Catalog
from aggregator.topics.log.cleaned import Cleaned
from aggregator.topics.log.committed import Committed
from aggregator.topics.log.janitor import Janitor
from aggregator.topics.log.schema import LOG
from aggregator.topics.log.settings import Options
from aggregator.topics.log.states import Work
from aggregator.topics.log.transactions import TransactionTable
from aggregator.topics.log.views import Appended, Partition, Topic, Views

IDS_A_TIME = 1000
"""Producer ids taken from the file together; a restart skips the rest of them."""


class Database(Connection):
    """An open log. Raises Damaged, sqlite3.Error, ChannelError at open; TopicsError for what is asked wrongly."""

    def __init__(self, path: Path, options: Options) -> None:
        super().__init__(path, options.synchronous, options.max_bytes, LOG)
        self.options = options
        with self._closed_on_error():
            self.catalog = Catalog(self.conn, options)
            self.batches = Batches(self.conn, self.catalog)
            self.committed = Committed(self.conn, self.catalog)
            self.transactions = TransactionTable(self.conn, self.catalog, self.batches, self.committed)
            self.received = Received(self.conn)
            self.janitor = Janitor(self.conn, self.catalog, self.batches)
            self.cleaned = Cleaned(self.conn, self.catalog, self.batches)
            self.cluster_id = self._cluster_id()
            self._next_id = self._ids_end = self._number("producers")

    # ---- appends

    def append(self, work: Work, appends: Sequence[Append]) -> list[Appended | TopicsError]:
        """Each by itself: one that is refused has its error as its result and leaves nothing behind."""
        results: list[Appended | TopicsError] = []
        for one in appends:
            try:
                results.append(self.batches.append(work, one))
            except TopicsError as error:
                results.append(error)
        return results

    def append_received(self, work: Work, appends: Sequence[Append], transit: Transit) -> list[Appended]:
        """All together, with the numbers of the stream that they carry; nothing if all of those have been received.
        TopicsError: nothing was stored; where only some have been received, the sender looks again (`Log.fresh`)."""
        new = self.unseen(transit)
        if new and new != transit.numbers:
            raise TopicsError(Code.DUPLICATE_SEQUENCE_NUMBER, "a part of this batch has come meanwhile: look again")
        changed: dict[tuple[bytes, str], StreamState] = {}
        self.received.note(transit, changed)
        key, stream = changed.popitem()
        self.received.write(key, stream, 0)
        work.put(self.received.streams, key, stream)
        work.tell(lambda views: views.received(key, stream))
        return [self.batches.append(work, one) for one in appends] if new else []

    def unseen(self, transit: Transit) -> Runs:
        """The numbers that have not been received. TopicsError beyond a bound (agent/store/received.py)."""
        try:
            return self.received.unseen(transit, {})
        except ChannelFull as error:
            raise TopicsError(Code.POLICY_VIOLATION, str(error)) from None

    def trim(self, work: Work, topic: str, number: int, offset: int) -> int:
        """Let a partition begin at `offset` (-1: at its end); the new start. TopicsError OFFSET_OUT_OF_RANGE."""
        part = self.catalog.part(topic, number)
        return self.janitor.trim(work, part, part.end if offset == -1 else offset)

    # ---- producer ids

    def producer_id(self, work: Work) -> int:
        """One that nobody has had."""
        if self._next_id == self._ids_end:
            work.set(self, "_ids_end", self._ids_end + IDS_A_TIME)
            self._set_number("producers", self._ids_end)
        work.set(self, "_next_id", self._next_id + 1)
        return self._next_id - 1

    def _number(self, name: str) -> int:
        row = self.conn.execute("SELECT value FROM meta WHERE name=?", (name,)).fetchone()
        return int(row[0]) if row else 0

    def _set_number(self, name: str, value: int) -> None:
        self.conn.execute("INSERT OR REPLACE INTO meta VALUES(?,?)", (name, value))

    def _cluster_id(self) -> str:
        row = self.conn.execute("SELECT value FROM meta WHERE name='cluster'").fetchone()
        if row:
            return str(row[0])
        new = urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")
        try:
            self.conn.execute("INSERT INTO meta VALUES('cluster',?)", (new,))
        except sqlite3.OperationalError:  # a full disk keeps nobody from reading
            pass
        return new

    # ---- open and close

    def restart_wal(self) -> None:
        """Copy the WAL into the file and cut it; as far as that goes at once if another process reads."""
        (patience,) = self.conn.execute("PRAGMA busy_timeout").fetchone()
        self.conn.execute("PRAGMA busy_timeout=0")
        try:
            self.checkpoint("TRUNCATE")
        finally:
            self.conn.execute(f"PRAGMA busy_timeout={patience}")

    def views(self) -> Views:
        """What the loop begins with."""
        views = Views(self.options.cache_bytes)
        for topic in self.catalog.topics.values():
            view = views.topics[topic.name] = Topic(topic.name, topic.uuid, topic.config)
            for part in topic.parts:
                partition = views.parts[part.id] = Partition(part.id, topic.name, part.number, part.start, part.end)
                partition.stable, partition.size = part.stable, part.size
                view.partitions.append(partition)
        for id_, last, producer, first in self.conn.execute("SELECT * FROM aborted ORDER BY part, last"):
            if id_ in views.parts:
                views.parts[id_].aborted.append((last, producer, first))
        views.offsets = self.committed.all()
        views.pending = self.transactions.pending()
        views.streams = dict(self.received.streams)
        return views

    def snapshot_all(self, work: Work) -> None:
        """Before the file is closed: the next open reads no header."""
        for part in self.catalog.parts.values():
            if part.unsnapped:
                self.batches.snapshot(work, part, clock.wall_ms())
