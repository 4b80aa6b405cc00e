"""The tables of topics and partitions: what exists, what is set for it, where each partition begins.

A deleted topic is gone at once; its partitions' rows stay without a topic until their batches have gone, slice by
slice (log/janitor.py), and only then are their numbers given out again.
"""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Mapping
from itertools import count

from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.log import settings
from aggregator.topics.log.schema import PARTITION_LIMIT
from aggregator.topics.log.settings import Options
from aggregator.topics.log.states import PartState, TopicState, Work
from aggregator.topics.names import is_legal

"""A legal topic name, but for `.` and `..` (org.apache.kafka.common.internals.Topic)."""
MOST_PARTITIONS = 10_000
"""Of all topics together."""


class Catalog:
    """`topics` by name and `parts` by id, as committed or as the transaction under way has left them."""

    def __init__(self, conn: sqlite3.Connection, options: Options) -> None:
        self.conn, self.defaults = conn, settings.defaults(options)
        self.topics: dict[str, TopicState] = {}
        self.parts: dict[int, PartState] = {}
        self.doomed: dict[int, None] = {}
        """Partitions of deleted topics whose batches have yet to go."""
        ids: dict[int, TopicState] = {}
        for id_, name, raw, config in conn.execute("SELECT id, name, uuid, config FROM topic ORDER BY id"):
            ids[id_] = self.topics[name] = self._topic(id_, name, raw, json.loads(config))
        for row in conn.execute(
            "SELECT id, topic, number, start, next, dropped, time FROM part ORDER BY topic, number"
        ):
            self._load(ids, *row)

    def _topic(self, id_: int, name: str, raw: bytes, config: dict[str, str]) -> TopicState:
        return TopicState(id_, name, raw, config, self.defaults | config)

    def _load(
        self, ids: Mapping[int, TopicState], id_: int, topic: int | None, number: int, start: int, next_: int,
        dropped: int, time: int,
    ) -> None:  # fmt: skip
        if topic is None:
            self.doomed[id_] = None
            return
        part = PartState(id_, ids[topic], number, start, next_, dropped, dropped, time)
        part.topic.parts.append(part)
        self.parts[id_] = part

    # ---- look-ups

    def topic(self, name: str) -> TopicState:
        """TopicsError if there is none."""
        topic = self.topics.get(name)
        if topic is None:
            raise TopicsError(Code.UNKNOWN_TOPIC_OR_PARTITION, f"there is no topic {name}")
        return topic

    def part(self, topic: str, number: int) -> PartState:
        """TopicsError if there is none."""
        parts = self.topic(topic).parts
        if not 0 <= number < len(parts):
            raise TopicsError(Code.UNKNOWN_TOPIC_OR_PARTITION, f"topic {topic} has no partition {number}")
        return parts[number]

    # ---- changes

    def create(self, work: Work, name: str, partitions: int, config: Mapping[str, str]) -> TopicState:
        """A topic with empty partitions. TopicsError."""
        if not is_legal(name):
            raise TopicsError(Code.INVALID_TOPIC_EXCEPTION, f"{name[:260]!r} is no legal topic name")
        if name in self.topics:
            raise TopicsError(Code.TOPIC_ALREADY_EXISTS, f"topic {name} exists")
        settings.check(config)
        self._check_count(1, partitions)
        raw = uuid.uuid4().bytes
        row = self.conn.execute(
            "INSERT INTO topic(name, uuid, config) VALUES(?,?,?)", (name, raw, json.dumps(dict(config)))
        )
        topic = self._topic(int(row.lastrowid or 0), name, raw, dict(config))
        work.put(self.topics, name, topic)
        self._grow(work, topic, partitions)
        snapshot = topic.uuid, topic.config, [part.id for part in topic.parts]
        work.tell(lambda views: views.created(name, *snapshot))
        return topic

    def add_partitions(self, work: Work, name: str, total: int) -> None:
        """Let the topic have `total` partitions. TopicsError."""
        topic = self.topic(name)
        had = len(topic.parts)
        self._check_count(had + 1, total, total - had)
        self._grow(work, topic, total)
        added = [part.id for part in topic.parts[had:]]
        work.tell(lambda views: views.grown(name, added))

    def _check_count(self, low: int, total: int, new: int | None = None) -> None:
        if total < low:
            raise TopicsError(Code.INVALID_PARTITIONS, f"the topic needs {low} partitions at least, not {total}")
        if len(self.parts) + (total if new is None else new) > MOST_PARTITIONS:
            raise TopicsError(Code.INVALID_PARTITIONS, f"the log holds {MOST_PARTITIONS} partitions in all, no more")

    def _grow(self, work: Work, topic: TopicState, total: int) -> None:
        new = []
        ids = (id_ for id_ in count(1) if id_ not in self.parts and id_ not in self.doomed)
        for number in range(len(topic.parts), total):
            part = PartState(next(ids), topic, number)
            if part.id >= PARTITION_LIMIT:
                raise TopicsError(Code.INVALID_PARTITIONS, "the log has no number left for a partition")
            self.conn.execute("INSERT INTO part VALUES(?,?,?,0,0,0,-1)", (part.id, topic.id, number))
            work.put(self.parts, part.id, part)
            new.append(part)
        work.set(topic, "parts", [*topic.parts, *new])

    def delete(self, work: Work, name: str) -> None:
        """Forget a topic and what groups committed of it. TopicsError."""
        topic = self.topic(name)
        self.conn.execute("DELETE FROM topic WHERE id=?", (topic.id,))
        self.conn.execute("UPDATE part SET topic=NULL WHERE topic=?", (topic.id,))
        self.conn.execute("DELETE FROM committed WHERE topic=?", (name,))
        work.drop(self.topics, name)
        for part in topic.parts:
            work.drop(self.parts, part.id)
            work.put(self.doomed, part.id, None)
        work.tell(lambda views: views.deleted(name))

    def buried(self, work: Work, id_: int) -> None:
        """The last batch of a deleted topic's partition has gone."""
        for table, column in (("snapshot", "id"), ("aborted", "part"), ("cleaned", "part"), ("part", "id")):
            self.conn.execute(f"DELETE FROM {table} WHERE {column}=?", (id_,))
        work.drop(self.doomed, id_)

    def configure(self, work: Work, name: str, changes: Mapping[str, str | None]) -> None:
        """Set keys of a topic; None: back to the default. TopicsError."""
        topic = self.topic(name)
        settings.check({key: value for key, value in changes.items() if value is not None})
        if unknown := [key for key, value in changes.items() if value is None and key not in settings.KEYS]:
            raise TopicsError(Code.INVALID_CONFIG, f"a topic has no key {unknown[0]}")
        config = {key: value for key, value in {**topic.config, **changes}.items() if value is not None}
        self.conn.execute("UPDATE topic SET config=? WHERE id=?", (json.dumps(config), topic.id))
        work.set(topic, "config", config)
        work.set(topic, "settings", self.defaults | config)
        work.tell(lambda views: views.configured(name, config))

    def keep(self, part: PartState) -> None:
        """Write where a partition begins; it is what is left of it when all batches have gone."""
        self.conn.execute(
            "UPDATE part SET start=?, next=?, dropped=?, time=? WHERE id=?",
            (part.start, part.end, part.dropped, part.time, part.id),
        )
