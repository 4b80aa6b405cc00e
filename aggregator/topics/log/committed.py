"""The table of committed offsets: how far each group has come. Memory holds all of it on the loop's side."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping

from agent import clock
from aggregator.topics.log.catalog import Catalog
from aggregator.topics.log.schema import Offset
from aggregator.topics.log.states import Work
from aggregator.topics.log.views import Place


class Committed:
    """Not thread-safe; raises sqlite3.Error."""

    def __init__(self, conn: sqlite3.Connection, catalog: Catalog) -> None:
        self.conn, self.catalog = conn, catalog

    def all(self) -> dict[str, dict[Place, Offset]]:
        """By group."""
        found: dict[str, dict[Place, Offset]] = {}
        for group, topic, number, *offset in self.conn.execute("SELECT * FROM committed"):
            found.setdefault(group, {})[topic, number] = Offset(*offset)
        return found

    def commit(self, work: Work, group: str, offsets: Mapping[Place, Offset]) -> None:
        """Keep a group's offsets. Those of a partition that has just been deleted go with it, unsaid."""
        now = clock.wall_ms()
        kept = {
            place: offset if offset.time_ms >= 0 else offset._replace(time_ms=now)
            for place, offset in offsets.items()
            if self._exists(*place)
        }
        self.conn.executemany(
            "INSERT OR REPLACE INTO committed VALUES(?,?,?,?,?,?,?)",
            [(group, *place, *offset) for place, offset in kept.items()],
        )
        if kept:
            work.tell(lambda views: views.committed(group, kept))

    def _exists(self, topic: str, number: int) -> bool:
        found = self.catalog.topics.get(topic)
        return found is not None and 0 <= number < len(found.parts)

    def renew(self, work: Work, group: str, time_ms: int) -> None:
        """Let a group's offsets be as if they had been committed at this time."""
        rows = self.conn.execute("UPDATE committed SET time=? WHERE team=? RETURNING *", (time_ms, group)).fetchall()
        kept = {(topic, number): Offset(*offset) for _, topic, number, *offset in rows}
        if kept:
            work.tell(lambda views: views.committed(group, kept))

    def forget(self, work: Work, group: str, places: Iterable[Place] | None) -> None:
        """Drop a group's offsets; None: all of them."""
        if places is None:
            self.conn.execute("DELETE FROM committed WHERE team=?", (group,))
        else:
            places = list(places)
            self.conn.executemany(
                "DELETE FROM committed WHERE team=? AND topic=? AND number=?", [(group, *place) for place in places]
            )
        work.tell(lambda views: views.forgotten(group, places))
