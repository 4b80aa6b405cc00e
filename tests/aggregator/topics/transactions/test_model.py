"""Transactions against a simple model: lists of records, each with the transaction that it belongs to.

Three producers, two of which share a transactional id without knowing it, do whatever comes; the log is closed, killed
and opened at any moment, and time passes. Whatever the order: a reader sees what has been committed, once and in
order, up to the first that is open.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.log.log import Offset
from tests.aggregator.topics.groups.scene import Clock
from tests.aggregator.topics.transactions.scene import Producer, Scene, staged

CLIENTS = st.sampled_from(["a", "b", "zombie"])
INDEX = st.integers(0, 1)
IDS = {"a": "x", "b": "y", "zombie": "x"}
TIMEOUT = {"x": 60_000, "y": 30_000}
T = TypeVar("T")


@dataclass(eq=False)
class Txn:
    """A transaction: `end` is None while it is open."""

    begun: float
    partitions: set[int] = field(default_factory=set)
    group: bool = False
    pending: dict[int, int] = field(default_factory=dict)
    end: bool | None = None


@dataclass
class Id:
    """A transactional id: who owns it, with which epoch; what its last transaction was."""

    owner: str = ""
    producer: int = -1
    epoch: int = -1
    txn: Txn | None = None

    @property
    def open(self) -> Txn | None:
        return self.txn if self.txn and self.txn.end is None else None


class TransactionMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.root = tempfile.TemporaryDirectory()
        self.folder = Path(self.root.name) / "l"
        self.clock = Clock()
        self.clients: dict[str, Producer] = {}
        self.ids = {"x": Id(), "y": Id()}
        self.parts: list[list[tuple[bytes, Txn] | Txn]] = [[], []]
        """By offset: a record with its transaction, or the marker of one."""
        self.offsets: dict[int, int] = {}
        self.count = 0
        self.open()

    def open(self) -> None:
        async def enter() -> Scene:
            self.stack = AsyncExitStack()
            return await self.stack.enter_async_context(staged(self.folder, self.clock))

        self.scene = self.do(enter())
        for name, client in self.clients.items():
            client.scene = self.scene
            self.clients[name] = client

    def do(self, what: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(what)

    def code(self, what: Coroutine[Any, Any, Any]) -> Code:
        try:
            self.do(what)
        except TopicsError as error:
            return error.code
        return Code.NONE

    def close(self) -> None:
        self.do(self.stack.aclose())

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.close()
            self.loop.close()
            self.root.cleanup()

    # ---- the model

    def finish(self, id_: Id, commit: bool) -> None:
        txn = id_.open
        assert txn is not None
        txn.end = commit
        for index in txn.partitions:
            self.parts[index].append(txn)
        if commit:
            self.offsets |= txn.pending

    def client(self, name: str) -> tuple[Producer, Id, bool]:
        """The client, its id, and whether it owns that."""
        client = self.clients.setdefault(name, self.scene.producer(IDS[name], TIMEOUT[IDS[name]]))
        id_ = self.ids[IDS[name]]
        return client, id_, id_.owner == name and client.epoch == id_.epoch and client.epoch >= 0

    def stranger(self, client: Producer, id_: Id) -> Code:
        """What a request of one that doesn't own its id is answered."""
        return Code.PRODUCER_FENCED if client.producer == id_.producer >= 0 else Code.INVALID_PRODUCER_ID_MAPPING

    # ---- what clients do

    @rule(name=CLIENTS, goes_on=st.booleans())
    def init(self, name: str, goes_on: bool) -> None:
        client, id_, owns = self.client(name)
        goes_on = goes_on and client.epoch >= 0
        code = self.code(client.init(goes_on=goes_on))
        if goes_on and not owns:
            assert code is Code.PRODUCER_FENCED
            return
        assert code is Code.NONE
        if id_.open:
            self.finish(id_, False)
        id_.txn = None
        assert client.epoch == id_.epoch + 1
        id_.owner, id_.producer, id_.epoch = name, client.producer, client.epoch

    @rule(name=CLIENTS, indexes=st.sets(INDEX, min_size=1))
    def add(self, name: str, indexes: set[int]) -> None:
        client, id_, owns = self.client(name)
        code = self.code(client.add(*indexes))
        assert code is (Code.NONE if owns else self.stranger(client, id_))
        if owns:
            id_.txn = id_.open or Txn(self.clock.now)
            id_.txn.partitions |= indexes

    @rule(name=CLIENTS, index=INDEX, count=st.integers(1, 3))
    def send(self, name: str, index: int, count: int) -> None:
        client, id_, owns = self.client(name)
        values = [b"%d" % (self.count + i) for i in range(count)]
        self.count += count
        code = self.code(client.send(index, *values))
        txn = id_.open
        if owns and txn and index in txn.partitions:
            assert code is Code.NONE
            self.parts[index] += [(value, txn) for value in values]
        elif owns:
            assert code is Code.INVALID_TXN_STATE
        else:
            stale = client.producer == id_.producer
            wanted = Code.INVALID_PRODUCER_EPOCH if stale else Code.INVALID_PRODUCER_ID_MAPPING
            assert code is (wanted if client.producer >= 0 else Code.INVALID_RECORD)

    @rule(name=CLIENTS, index=INDEX)
    def commit_offset(self, name: str, index: int) -> None:
        client, id_, owns = self.client(name)
        self.count += 1
        if owns:
            assert self.code(client.add_group("g")) is Code.NONE
            id_.txn = id_.open or Txn(self.clock.now)
            id_.txn.pending[index] = self.count
        offsets = {("t", index): Offset(self.count)}
        code = self.code(self.scene.transactions.commit_offsets(client.id, client.producer, client.epoch, "g", offsets))
        assert code is (Code.NONE if owns else self.stranger(client, id_))

    @rule(name=CLIENTS, commit=st.booleans())
    def end(self, name: str, commit: bool) -> None:
        client, id_, owns = self.client(name)
        code = self.code(client.end(commit))
        if not owns:
            assert code is self.stranger(client, id_)
        elif id_.open:
            assert code is Code.NONE
            self.finish(id_, commit)
        else:
            assert code is (Code.NONE if id_.txn and id_.txn.end is commit else Code.INVALID_TXN_STATE)

    # ---- what befalls the log

    @rule(seconds=st.sampled_from([1, 15, 31]))
    def wait(self, seconds: int) -> None:
        self.do(self.scene.wait(seconds))
        for name, id_ in self.ids.items():
            if id_.open and id_.open.begun + TIMEOUT[name] / 1000 <= self.clock.now:
                self.finish(id_, False)
                id_.epoch += 1

    @rule()
    def restart(self) -> None:
        self.close()
        self.renew()

    @rule()
    def kill(self) -> None:
        copy = self.folder.with_name(self.folder.name + "+")
        shutil.copytree(self.folder, copy)
        self.close()
        self.folder = copy
        self.renew()

    def renew(self) -> None:
        """Wall time has stood still: each transaction has all of its time again."""
        self.open()
        for id_ in self.ids.values():
            if id_.open:
                id_.open.begun = self.clock.now

    # ---- what is seen

    @invariant()
    def readers_see_what_is_committed(self) -> None:
        for index, rows in enumerate(self.parts):
            stable = next((at for at, row in enumerate(rows) if _txn(row).end is None), len(rows))
            partition = self.scene.partition(index)
            assert (partition.stable, partition.end) == (stable, len(rows))
            committed = [row[0] for row in rows[:stable] if isinstance(row, tuple) and row[1].end]
            for size in (1, 1 << 20):
                assert self.do(self.scene.committed(index, size)) == committed
            assert self.do(self.scene.all(index)) == [row[0] for row in rows if isinstance(row, tuple)]

    @invariant()
    def offsets_are_those_of_committed_transactions(self) -> None:
        log = self.scene.log
        assert {place[1]: offset.offset for place, offset in log.committed("g").items()} == self.offsets
        waiting = {index for id_ in self.ids.values() if id_.open for index in id_.open.pending}
        assert {place[1] for place in log.pending_offsets("g")} == waiting


def _txn(row: tuple[bytes, Txn] | Txn) -> Txn:
    return row[1] if isinstance(row, tuple) else row


TransactionMachine.TestCase.settings = settings(
    max_examples=15, stateful_step_count=30, deadline=None, suppress_health_check=[*HealthCheck]
)
TestTransactions = TransactionMachine.TestCase
