"""The log against a simple model: lists of batches, dicts of offsets; closed, killed and opened at any moment."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent.store.streams import Transit, runs_of
from aggregator.topics import record_batch
from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.log import batches, janitor
from aggregator.topics.log.batches import Append
from aggregator.topics.log.database import Database
from aggregator.topics.log.schema import Offset
from aggregator.topics.log.states import Work
from tests.aggregator.topics.log.parts import Held, batch

TOPICS = st.sampled_from(["a", "b"])
PRODUCERS = st.integers(1, 2)


@dataclass
class Kept:
    """A batch of the model: its number of records and its value, which is unique."""

    base: int
    count: int
    value: bytes


@dataclass
class Part:
    kept: list[Kept] = field(default_factory=list)
    start: int = 0
    end: int = 0
    sent: dict[int, tuple[int, list[tuple[int, int, int]]]] = field(default_factory=dict)
    """Producer -> epoch, and all its batches in it: sequence, count, offset."""
    open: dict[int, int] = field(default_factory=dict)
    aborted: list[tuple[int, int]] = field(default_factory=list)

    @property
    def stable(self) -> int:
        return max(self.start, min([self.end, *self.open.values()]))


def some(machine: LogMachine) -> bool:
    return bool(machine.topics)


class LogMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.patches = [mock.patch.object(batches, "SNAPSHOT_EVERY", 3), mock.patch.object(janitor, "SLICE_ROWS", 2)]
        for patch in self.patches:
            patch.start()
        self.root = tempfile.TemporaryDirectory()
        self.held = Held(Path(self.root.name) / "l")
        self.topics: dict[str, list[Part]] = {}
        self.offsets: dict[str, dict[tuple[str, int], int]] = {}
        self.received: set[int] = set()
        self.ids: list[int] = []
        self.count = 0

    def teardown(self) -> None:
        self.held.db.close()
        self.root.cleanup()
        for patch in self.patches:
            patch.stop()

    def value(self) -> bytes:
        self.count += 1
        return b"%d" % self.count

    def place(self, data: st.DataObject) -> tuple[str, int, Part]:
        """A partition that exists; mostly the first, so that much happens to one."""
        topic = data.draw(st.sampled_from(sorted(self.topics)))
        index = data.draw(st.sampled_from([0, 0, 0, *range(len(self.topics[topic]))]))
        return topic, index, self.topics[topic][index]

    def store(self, part: Part, count: int, value: bytes) -> int:
        part.kept.append(Kept(part.end, count, value))
        part.end += count
        return part.end - count

    # ---- topics

    @initialize()
    def first(self) -> None:
        self.create("a", 1)

    @rule(topic=TOPICS, count=st.integers(1, 3))
    def create(self, topic: str, count: int) -> None:
        try:
            self.held.create(topic, count)
        except TopicsError as error:
            assert error.code is Code.TOPIC_ALREADY_EXISTS and topic in self.topics
        else:
            assert topic not in self.topics
            self.topics[topic] = [Part() for _ in range(count)]

    @rule(topic=TOPICS)
    def delete(self, topic: str) -> None:
        if topic in self.topics:
            self.held.do(lambda db, work: db.catalog.delete(work, topic))
            del self.topics[topic]
            for places in self.offsets.values():
                for place in [place for place in places if place[0] == topic]:
                    del places[place]

    @rule(topic=TOPICS)
    def grow(self, topic: str) -> None:
        if topic in self.topics:
            total = len(self.topics[topic]) + 1
            self.held.do(lambda db, work: db.catalog.add_partitions(work, topic, total))
            self.topics[topic].append(Part())

    # ---- batches

    @precondition(some)
    @rule(data=st.data(), counts=st.lists(st.integers(1, 4), min_size=1, max_size=3))
    def append(self, data: st.DataObject, counts: list[int]) -> None:
        topic, index, part = self.place(data)
        values = [self.value() for _ in counts]
        sent = [batch(count, value=value) for count, value in zip(counts, values, strict=True)]
        answer = self.held.append(*sent, topic=topic, partition=index)
        assert answer.base_offset == part.end
        for count, value in zip(counts, values, strict=True):
            self.store(part, count, value)

    @precondition(some)
    @rule(data=st.data(), id_=PRODUCERS, count=st.integers(1, 3), transactional=st.booleans())
    def produce(self, data: st.DataObject, id_: int, count: int, transactional: bool) -> None:
        """With a sequence number: the next one, a repeat of any before, a gap, an old epoch or a new one."""
        topic, index, part = self.place(data)
        epoch, sent = part.sent.get(id_, (0, []))
        follows = sent[-1][0] + sent[-1][1] if sent else 0
        how = data.draw(st.sampled_from(["next", "next", "repeat", "gap", "old", "new"]))
        first = {"gap": follows + 2, "new": 0}.get(how, follows)
        epoch += {"old": -1, "new": 1}.get(how, 0)
        if how == "repeat" and sent:
            at = data.draw(st.integers(0, len(sent) - 1))
            first, count, _ = sent[at]
        if epoch < 0:
            return
        value = self.value()
        new = batch(count, producer=(id_, epoch, first), transactional=transactional, value=value)
        wanted = self._wanted(part, id_, epoch, first, count, transactional)
        try:
            answer = self.held.append(new, topic=topic, partition=index)
        except TopicsError as error:
            assert error.code is wanted
            return
        if isinstance(wanted, int) and not isinstance(wanted, Code):
            assert answer.base_offset == wanted
            return
        assert wanted is None
        offset = self.store(part, count, value)
        assert answer.base_offset == offset
        kept = sent if part.sent.get(id_, (0,))[0] == epoch else []
        part.sent[id_] = (epoch, [*kept, (first, count, offset)])
        if transactional:
            part.open.setdefault(id_, offset)

    def _wanted(
        self, part: Part, id_: int, epoch: int, first: int, count: int, transactional: bool
    ) -> Code | int | None:
        """The code of the refusal, the offset of a repeat, or None."""
        if id_ in part.sent:
            known, sent = part.sent[id_]
            if epoch == known:
                for was, n, offset in sent[-5:]:
                    if (was, n) == (first, count):
                        return offset
            if epoch < known:
                return Code.INVALID_PRODUCER_EPOCH
            follows = sent[-1][0] + sent[-1][1] if epoch == known and sent else 0
            if first != follows:
                return Code.OUT_OF_ORDER_SEQUENCE_NUMBER
        return Code.INVALID_TXN_STATE if id_ in part.open and not transactional else None

    @precondition(some)
    @rule(data=st.data(), id_=PRODUCERS, commit=st.booleans(), newer=st.booleans())
    def end(self, data: st.DataObject, id_: int, commit: bool, newer: bool) -> None:
        topic, index, part = self.place(data)
        epoch, sent = part.sent.get(id_, (0, []))
        if newer:
            epoch, sent = epoch + 1, []
        assert self.held.marker(id_, epoch, commit, topic, index) == part.end
        part.sent[id_] = (epoch, sent)
        first = part.open.pop(id_, None)
        if first is not None and not commit:
            part.aborted.append((part.end, first))
        self.store(part, 1, b"")

    @precondition(some)
    @rule(data=st.data())
    def trim(self, data: st.DataObject) -> None:
        topic, index, part = self.place(data)
        offset = data.draw(st.integers(0, part.end))
        self.held.do(lambda db, work: db.trim(work, topic, index, offset))
        part.start = max(part.start, offset)

    @rule(numbers=st.sets(st.integers(1, 12), min_size=1), topic=TOPICS)
    def receive(self, numbers: set[int], topic: str) -> None:
        """As a sink does: looks what is new, builds, appends."""
        transit = Transit(bytes(16), "c", min(numbers) - 1, runs_of(sorted(numbers)), 0)
        covered = set(range(min(numbers), max(numbers) + 1))
        new = self.held.db.unseen(transit)
        assert new == runs_of(sorted(numbers - self.received))
        if new and topic in self.topics:
            cut = Transit(bytes(16), "c", transit.after, new, 0)
            count, value = sum(n for _, n in new), self.value()
            asked = [Append(topic, 0, [batch(count, value=value)])]
            self.held.do(lambda db, work: db.append_received(work, asked, cut))
            self.store(self.topics[topic][0], count, value)
            self.received |= {n for n in covered if n <= cut.last}

    # ---- groups, ids

    @rule(group=st.sampled_from(["g", "h"]), topic=TOPICS, index=st.integers(0, 2), offset=st.integers(0, 9))
    def commit(self, group: str, topic: str, index: int, offset: int) -> None:
        self.held.do(lambda db, work: db.committed.commit(work, group, {(topic, index): Offset(offset)}))
        if index < len(self.topics.get(topic, [])):
            self.offsets.setdefault(group, {})[topic, index] = offset

    @rule(group=st.sampled_from(["g", "h"]))
    def forget(self, group: str) -> None:
        self.held.do(lambda db, work: db.committed.forget(work, group, None))
        self.offsets.pop(group, None)

    @rule()
    def producer_id(self) -> None:
        self.ids.append(self.held.do(lambda db, work: db.producer_id(work)))
        assert len(set(self.ids)) == len(self.ids)

    # ---- what goes wrong, and what has time

    @rule(topic=TOPICS)
    def fail(self, topic: str) -> None:
        """A request that changes all kinds of things and fails."""

        def call(db: Database, work: Work) -> None:
            if topic in db.catalog.topics:
                producing = [batch(producer=(1, 100, 0), transactional=True)]
                db.append(work, [Append(topic, 0, producing)])
                db.batches.marker(work, db.catalog.part(topic, 0), 1, 200, False)
                db.trim(work, topic, 0, -1)
                db.catalog.delete(work, topic)
            db.catalog.create(work, topic, 5, {})
            db.committed.commit(work, "g", {(topic, 4): Offset(77)})
            db.producer_id(work)
            raise RuntimeError("not this one")

        (result,) = self.held.all(call)
        assert isinstance(result, RuntimeError)

    @rule()
    def slice(self) -> None:
        self.held.do(lambda db, work: db.janitor.look(work))
        if self.held.db.janitor.due:
            self.held.do(lambda db, work: db.janitor.slice(work))

    @rule()
    def tidy(self) -> None:
        self.held.tidy()
        assert self.held.rows() == sum(self._left(part) for parts in self.topics.values() for part in parts)
        assert self.held.rows("part") == sum(map(len, self.topics.values()))

    @staticmethod
    def _left(part: Part) -> int:
        return sum(one.base + one.count > part.start for one in part.kept)

    @rule(kill=st.booleans())
    def reopen(self, kill: bool) -> None:
        self.held = self.held.killed() if kill else self.held.reopened()

    # ---- what must be true

    @invariant()
    def views_are_what_an_open_would_show(self) -> None:
        """What was told adds up to what is in the file, and to what the writer knows."""
        told = self.held.seen()
        views, self.held.views = self.held.views, self.held.db.views()
        assert self.held.seen() == told
        self.held.views = views

    @invariant()
    def the_log_is_as_the_model(self) -> None:
        assert set(self.held.views.topics) == set(self.topics)
        for name, parts in self.topics.items():
            partitions = self.held.views.topics[name].partitions
            assert [(p.start, p.stable, p.end) for p in partitions] == [(p.start, p.stable, p.end) for p in parts]
            for partition, part in zip(partitions, parts, strict=True):
                wanted = {(at, first) for at, first in part.aborted if at >= part.start}
                assert {(at, first) for at, _, first in partition.aborted} == wanted
                self._same_batches(partition.id, part)
        found = {group: {k: o.offset for k, o in places.items()} for group, places in self.held.views.offsets.items()}
        assert found == {group: places for group, places in self.offsets.items() if places}

    def _same_batches(self, id_: int, part: Part) -> None:
        rows = self.held.db.conn.execute("SELECT head, body FROM batch WHERE id>>44=? ORDER BY id", (id_,)).fetchall()
        found = [Kept(*self._content(head + body)) for head, body in rows]
        wanted = part.kept[len(part.kept) - len(found) :]
        assert found == wanted
        assert len(found) >= self._left(part)

    @staticmethod
    def _content(raw: bytes) -> tuple[int, int, bytes]:
        head = record_batch.header(raw)
        records = list(record_batch.records(raw))
        assert [record.offset for record in records] == list(range(head.base_offset, head.last_offset + 1))
        return head.base_offset, head.count, b"" if head.is_control else records[0].value or b""


LogMachine.TestCase.settings = settings(
    max_examples=80, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLog = LogMachine.TestCase
