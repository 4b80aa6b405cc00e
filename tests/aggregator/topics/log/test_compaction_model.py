"""Random updates, transactions and rounds of compaction, against a list of all records that ever came.

A round may be killed after any of its transactions; keys, reads and slices are so few that each round has several
passes, and each pass several slices.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aggregator.topics import record_batch
from aggregator.topics.log import compaction
from tests.aggregator.topics.log.compacted import EVERYTHING, NOW, Topic, folded, keyed

T = TypeVar("T")
KEYS = st.sampled_from([b"a", b"b", b"c", b"a key that is longer than its digest", b"another one of that length"])
PAIRS = st.lists(st.tuples(KEYS, st.sampled_from([b"value", b"value", None])), min_size=1, max_size=4)


@dataclass
class Sent:
    """A record of the model. `producer`: it is of this one's open transaction; `lost`: that was aborted."""

    offset: int
    key: bytes
    value: bytes | None
    time: int
    producer: int | None = None
    lost: bool = False


class Killed(BaseException):
    """In the middle of a round."""


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.patches = [
            mock.patch.object(compaction, "MOST_KEYS", 2),
            mock.patch.object(compaction, "READ_BYTES", 300),
            mock.patch.object(compaction, "SLICE_ROWS", 2),
        ]
        for patch in self.patches:
            patch.start()
        self.root = tempfile.TemporaryDirectory()
        self.folder = Path(self.root.name) / "log"
        self.sent: list[Sent] = []
        self.sequences: dict[int, list[tuple[int, bytes, int]]] = {}
        """Producer -> sequence number, batch and offset of each of its batches."""
        self.end = self.start = self.count = 0
        self.clean = 0
        """A whole round has come so far."""

    def teardown(self) -> None:
        self.do(self.topic.log.close())
        self.loop.close()
        self.root.cleanup()
        for patch in self.patches:
            patch.stop()

    def do(self, work: Awaitable[T]) -> T:
        async def run() -> T:
            return await work

        return self.loop.run_until_complete(run())

    @initialize(tombstones=st.booleans(), policy=st.sampled_from(["compact", "compact,delete"]))
    def opened(self, tombstones: bool, policy: str) -> None:
        config = EVERYTHING | {"cleanup.policy": policy, "retention.ms": "-1"}
        self.tombstones = tombstones
        if tombstones:
            config["delete.retention.ms"] = "86400000"
        self.topic = self.do(Topic.open(self.folder, config))

    # ---- what comes

    def store(self, pairs: list[tuple[bytes, bytes | None]], producer: int | None, time: int) -> None:
        for at, (key, value) in enumerate(pairs):
            self.sent.append(Sent(self.end + at, key, value, time + at, producer))
        self.end += len(pairs)

    def named(self, pairs: list[tuple[bytes, bytes | None]]) -> list[tuple[bytes, bytes | None]]:
        """Each value is another."""
        self.count += 1
        return [(key, value and b"%d/%d" % (self.count, at)) for at, (key, value) in enumerate(pairs)]

    @rule(pairs=PAIRS, packed=st.integers(0, 4), late=st.integers(-50, 50))
    def update(self, pairs: list[tuple[bytes, bytes | None]], packed: int, late: int) -> None:
        pairs = self.named(pairs)
        assert self.do(self.topic.append(keyed(*pairs, packed=packed, time=NOW + late))) == self.end
        self.store(pairs, None, NOW + late)

    @rule(producer=st.integers(1, 3), pairs=PAIRS)
    def transact(self, producer: int, pairs: list[tuple[bytes, bytes | None]]) -> None:
        """Producer 3 has no transactions."""
        before = self.sequences.setdefault(producer, [])
        first = before[-1][0] + record_batch.header(before[-1][1]).count if before else 0
        pairs, inside = self.named(pairs), producer < 3
        batch = keyed(*pairs, producer=(producer, 0, first), transactional=inside)
        assert self.do(self.topic.append(batch)) == self.end
        before.append((first, batch, self.end))
        self.store(pairs, producer if inside else None, NOW)

    @rule(producer=st.integers(1, 2), commit=st.booleans())
    def decide(self, producer: int, commit: bool) -> None:
        assert self.do(self.topic.marker(producer, commit)) == self.end
        self.end += 1
        for one in self.sent:
            if one.producer == producer:
                one.producer, one.lost = None, not commit

    @rule(producer=st.integers(1, 2), pairs=PAIRS, commit=st.booleans())
    def transaction(self, producer: int, pairs: list[tuple[bytes, bytes | None]], commit: bool) -> None:
        self.transact(producer, pairs)
        self.decide(producer, commit)

    @rule(producer=st.integers(1, 3))
    def repeat(self, producer: int) -> None:
        """The last five batches of a producer are known, whatever was compacted."""
        for _, batch, offset in self.sequences.get(producer, [])[-5:]:
            assert self.do(self.topic.append(batch)) == offset

    @rule(data=st.data())
    def trim(self, data: st.DataObject) -> None:
        self.start = data.draw(st.integers(self.start, self.stable))
        self.do(self.topic.trim(self.start))

    # ---- compaction

    @rule()
    def compact(self) -> None:
        self.do(self.topic.compact())
        self.clean = self.stable

    @rule(pairs=PAIRS)
    def compact_twice(self, pairs: list[tuple[bytes, bytes | None]]) -> None:
        """What goes in the second round goes."""
        for _ in range(2):
            self.update(pairs, 0, 0)
            self.compact()

    @rule(after=st.integers(1, 6))
    def killed(self, after: int) -> None:
        """The process ends after so many transactions of a round, and the log is opened as it lies there."""
        copy, run = self.folder.with_name(f"{self.folder.name}+"), self.topic.log.run
        left = after

        async def counted(*asked: Any, **more: Any) -> Any:
            nonlocal left
            result = await run(*asked, **more)
            left -= 1
            if not left:
                shutil.copytree(self.folder, copy)
                raise Killed
            return result

        try:
            with mock.patch.object(self.topic.log, "run", counted):
                self.do(self.topic.compact())
        except Killed:
            self.do(self.topic.log.close())
            self.folder = copy
            self.topic = self.do(Topic.open(copy))

    @rule()
    def reopened(self) -> None:
        self.do(self.topic.log.close())
        self.topic = self.do(Topic.open(self.folder))

    # ---- what must be true

    @property
    def stable(self) -> int:
        return max(self.start, min((one.offset for one in self.sent if one.producer), default=self.end))

    @invariant()
    def the_ends_are_where_they_were(self) -> None:
        partition = self.topic.partition
        assert (partition.start, partition.stable, partition.end) == (self.start, self.stable, self.end)
        assert partition.size == sum(map(len, self.do(self.topic.batches())))

    @invariant()
    def views_are_what_an_open_would_show(self) -> None:
        view, told = self.topic.log._writer.db.views().parts[self.topic.partition.id], self.topic.partition
        assert (view.start, view.stable, view.end, view.size) == (told.start, told.stable, told.end, told.size)
        assert view.aborted == told.aborted

    @invariant()
    def consumers_read_on_anywhere(self) -> None:
        """Each sees in order what came, and of each key the newest; nothing that was aborted."""
        for position in range(self.start, self.end + 1):
            self.reads(position, 1 + position % 3 * 200)

    def reads(self, position: int, most: int) -> None:
        good = {one.offset: one for one in self.sent if not one.lost and position <= one.offset < self.stable}
        found = self.do(self.topic.consume(position, most=most))
        offsets = [record.offset for record in found]
        assert offsets == sorted(set(offsets)) and set(offsets) <= set(good)
        for record in found:
            one = good[record.offset]
            assert (record.key, record.value, record.time) == (one.key, one.value, one.time)
        newest = {one.key: one for one in good.values()}
        wanted = {one.offset for one in newest.values() if one.value is not None or self.tombstones}
        assert wanted <= set(offsets)

    @invariant()
    def who_folds_by_key_ends_with_the_same(self) -> None:
        """Committed or not, from the start."""
        for committed in (True, False):
            upto = self.stable if committed else self.end
            all_ = [one for one in self.sent if self.start <= one.offset < upto and not (committed and one.lost)]
            found = folded(self.do(self.topic.consume(self.start, committed=committed, most=1000)))
            if committed:
                assert found == folded(all_)  # type: ignore[arg-type]
            else:
                assert found.keys() <= {one.key for one in all_}

    @invariant()
    def compacted_means_one_of_each_key(self) -> None:
        """Below what a whole round may touch."""
        batches = [record_batch.header(one) for one in self.do(self.topic.batches())]
        below = [head.base_offset for head in batches if head.last_offset < self.clean]
        untouched = max(below, default=0)
        found = {offset: key for offset, key, _ in self.do(self.topic.records()) if self.start <= offset < untouched}
        assert len(found) == len(set(found.values()))
        assert not {one.offset for one in self.sent if one.lost} & found.keys()

    @invariant()
    def times_are_found(self) -> None:
        left = [
            record
            for batch in self.do(self.topic.batches())
            for record in record_batch.records(batch)
            if record.offset >= self.start
        ]
        for ms in (NOW - 30, NOW, NOW + 40):
            wanted = next(((one.offset, one.time) for one in left if one.time >= ms), None)
            assert self.do(self.topic.log.at_time(self.topic.partition, ms)) == wanted


Machine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestCompaction = Machine.TestCase
