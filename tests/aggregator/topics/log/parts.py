"""A log without threads: each request is a transaction of its own, and what is told is seen at once."""

from __future__ import annotations

import copy as copies
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aggregator.topics import record_batch
from aggregator.topics.log.batches import Append
from aggregator.topics.log.commit import Job, transact
from aggregator.topics.log.database import Database
from aggregator.topics.log.settings import Options
from aggregator.topics.log.states import Work
from aggregator.topics.log.views import Appended, Partition

NOW = 1_900_000_000_000


def batch(
    count: int = 1, *, producer: tuple[int, int, int] = (-1, -1, -1), transactional: bool = False, time: int = NOW,
    value: bytes = b"v",
) -> bytes:  # fmt: skip
    """So many records."""
    records = [(time + i, b"k", value, ()) for i in range(count)]
    return record_batch.build(records, producer=producer, transactional=transactional)


class Held:
    """An open file and its views."""

    def __init__(self, folder: Path, options: Options | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.options = folder, options or Options()
        self.db = Database(folder / "topics.db", self.options)
        self.views = self.db.views()

    def all(self, *calls: Callable[[Database, Work], Any]) -> list[Any]:
        """One transaction; results and exceptions."""
        done, tells = transact(self.db, [Job(call) for call in calls])
        for tell in tells:
            tell(self.views)
        return [result for _, result in done]

    def do(self, call: Callable[[Database, Work], Any]) -> Any:
        (result,) = self.all(call)
        if isinstance(result, Exception):
            raise result
        return result

    def create(self, name: str = "t", partitions: int = 1, **config: str) -> None:
        keys = {key.replace("_", "."): value for key, value in config.items()}
        self.do(lambda db, work: db.catalog.create(work, name, partitions, keys))

    def append(self, *batches: bytes, topic: str = "t", partition: int = 0) -> Appended:
        (result,) = self.do(lambda db, work: db.append(work, [Append(topic, partition, batches)]))
        if isinstance(result, Exception):
            raise result
        assert isinstance(result, Appended)
        return result

    def marker(self, producer: int, epoch: int, commit: bool, topic: str = "t", partition: int = 0) -> int:
        return int(
            self.do(
                lambda db, work: db.batches.marker(work, db.catalog.part(topic, partition), producer, epoch, commit)
            )
        )

    def partition(self, topic: str = "t", index: int = 0) -> Partition:
        return self.views.topics[topic].partitions[index]

    def tidy(self) -> int:
        """A round of retention; the slices it took."""
        slices = 0
        self.do(lambda db, work: db.janitor.look(work))
        while self.db.janitor.due:
            self.do(lambda db, work: db.janitor.slice(work))
            slices += 1
        return slices

    def rows(self, table: str = "batch") -> int:
        return int(self.db.conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    def reopened(self) -> Held:
        """Closed as the writer closes it, and opened again."""
        self.do(lambda db, work: db.snapshot_all(work))
        self.db.close()
        return Held(self.folder, self.options)

    def killed(self) -> Held:
        """Opened from the file and the WAL as they lie there, with nothing closed."""
        again = self.folder.with_name(self.folder.name + "+")
        shutil.copytree(self.folder, again)
        self.db.close()
        return Held(again, self.options)

    def memory(self) -> dict[str, Any]:
        """What the writer knows: equal before and after a change that failed, and over an open."""
        parts = {
            id_: (p.topic.name, p.number, p.start, p.end, p.size, p.time, p.producers, p.open, p.stable)
            for id_, p in self.db.catalog.parts.items()
        }
        topics = {name: (t.id, t.uuid, t.config, [p.id for p in t.parts]) for name, t in self.db.catalog.topics.items()}
        return {"parts": parts, "topics": topics, "doomed": list(self.db.catalog.doomed)}

    def seen(self) -> dict[str, Any]:
        """What the loop knows."""
        return {
            "topics": {
                name: (t.id, t.config, [(p.id, p.start, p.end, p.stable, p.size, p.aborted) for p in t.partitions])
                for name, t in self.views.topics.items()
            },
            "offsets": self.views.offsets,
            "streams": {k: (s.coverage.settled, s.coverage.ranges) for k, s in self.views.streams.items()},
        }


def copy(state: dict[str, Any]) -> dict[str, Any]:
    """As it is now: its tables are changed in place."""
    return copies.deepcopy(state)
