"""HBase, its gateway and the aggregator are killed under load; then a scan and RowCounter count the rows."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.audit import Sent
from tests.faults.crash_road import Call, lines
from tests.needs import need
from tests.peers.harness import Program, free_port, progress, wait_until
from tests.peers.hbase import Hbase

pytestmark = [pytest.mark.fault, pytest.mark.peer, pytest.mark.limit(300)]
KILLS = 6
SEED = int(os.environ.get("HEADRACE_SEED", "0")) or random.SystemRandom().randrange(1, 1_000_000)
FLOW = """\
a.sources = r
a.channels = c
a.sinks = k
a.sources.r.type = netcat
a.sources.r.bind = 127.0.0.1
a.sources.r.port = {lines}
a.sources.r.channels = c
a.channels.c.type = file
a.channels.c.path = {store}
a.sinks.k.type = hbase
a.sinks.k.channel = c
a.sinks.k.thriftPort = {thrift}
a.sinks.k.table = {table}
a.sinks.k.columnFamily = d
a.sinks.k.createTable = true
a.sinks.k.batchSize = 50
a.sinks.k.callTimeout = 12s
a.sinks.k.backoff = 50ms
a.sinks.k.maxBackoff = 500ms
a.sinks.k.serializer = readings
"""


class Load:
    """An aggregator that takes lines, a steady load of them, and what was acknowledged."""

    def __init__(self, hbase: Hbase, table: str, folder: Path) -> None:
        self.hbase, self.table, self.port, self.sent, self.over = hbase, table, free_port(), Sent(), False
        text = FLOW.format(lines=self.port, store=folder / "store", thrift=hbase.port, table=table)
        self.agent = Program("aggregator", text, folder / "a")

    def __call__(self) -> None:
        number = 0
        while not self.over:
            lines(self.port, self.sent, [f"reading {at}" for at in range(number, number + 20)])
            number += 20
            time.sleep(0.01)

    def arrived(self) -> int:
        """Events that the sink has delivered since the agent started."""
        return self.agent.count("SINK.k", "EventDrainSuccessCount")

    def goes_on(self, seconds: float = 90) -> None:
        """Return when the sink delivers (again)."""
        before = self.arrived()
        wait_until(lambda: self.arrived() > before + 200, seconds, f"it delivers:\n{self.agent.log[-2000:]}")

    def check(self) -> None:
        """Each acknowledged reading is in one row, and no reading in two; RowCounter counts as many as the scan."""
        wait_until(lambda: not self.agent.count("CHANNEL.c", "ChannelSize"), 90, f"all out:\n{self.agent.log[-2000:]}")
        rows = self.hbase.rows(self.table)
        found = Counter(("", cells[b"d:body"].decode()) for _, cells in rows)
        assert not self.sent.kept - found, "missing"
        assert not found - self.sent.kept - self.sent.open, "twice, or of nobody"
        assert len({cells[b"d:headrace"] for _, cells in rows}) == len(rows) == self.hbase.count(self.table)
        progress(f"{len(self.sent):,} acknowledged, 0 missing, 0 twice")


@contextmanager
def under_load(hbase: Hbase, table: str, folder: Path) -> Iterator[Load]:
    load = Load(hbase, table, folder)
    with load.agent:
        call = Call(load)
        try:
            yield load
        finally:
            load.over = True
            call.result()
        load.check()


@pytest.fixture(scope="module")
def hbase(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hbase]:
    """One of this module's own."""
    need("hbase", "java")
    with Hbase(tmp_path_factory.mktemp("hbase")) as one:
        yield one


def _again(hbase: Hbase) -> None:
    """Whatever a test killed runs again."""
    for part, start in ((hbase.master, hbase.start_master), (hbase.gateway, hbase.start_gateway)):
        if not part.running:
            start()


def changes(log: str) -> list[str]:
    """Lines of the sink's trouble."""
    return [line for line in log.splitlines() if re.search(r"\bk (waits|can't be opened)\b", line)]


def test_the_gateway_is_killed(hbase: Hbase, tmp_path: Path) -> None:
    """SIGKILL of the Thrift gateway under load, twice: the batch waits, and each reading is there once."""
    with under_load(hbase, "gateway", tmp_path) as load:
        for _ in range(2):
            load.goes_on()
            hbase.kill_gateway()
            load.agent.wait_log("k waits: HBase's Thrift gateway")
            time.sleep(0.5)
            hbase.start_gateway()
        load.goes_on()
        assert load.agent.log.count("ready, agent") == 1
        assert len(changes(load.agent.log)) <= 8, "a line a change of the reason"


def test_hbase_is_killed(hbase: Hbase, tmp_path: Path) -> None:
    """SIGKILL of master and region server under load, and a new start: each reading is there once."""
    with under_load(hbase, "master", tmp_path) as load:
        load.goes_on()
        hbase.kill_master()
        load.agent.wait_log("k waits: ", 60)
        hbase.start_master()
        load.goes_on(120)
        assert load.agent.log.count("ready, agent") == 1


def test_a_gateway_that_stands_still(hbase: Hbase, tmp_path: Path) -> None:
    """A gateway that is stopped for longer than callTimeout and goes on has written nothing twice."""
    with under_load(hbase, "slow", tmp_path) as load:
        load.goes_on()
        hbase.gateway.signal(signal.SIGSTOP)
        try:
            load.agent.wait_log("k waits: HBase's Thrift gateway", 60)
        finally:
            hbase.gateway.signal(signal.SIGCONT)
        load.goes_on()


def test_down_at_start(hbase: Hbase, tmp_path: Path) -> None:
    """The agent starts and takes readings while the gateway is down, and says why once; later each is there once."""
    hbase.kill_gateway()
    try:
        with under_load(hbase, "late", tmp_path) as load:
            load.agent.wait_log("k can't be opened: HBase's Thrift gateway")
            wait_until(lambda: len(load.sent) > 500, 60, "readings are acknowledged meanwhile")
            assert len(changes(load.agent.log)) == 1
            hbase.start_gateway()
            load.goes_on()
    finally:
        _again(hbase)


def test_the_aggregator_is_killed(hbase: Hbase, tmp_path: Path) -> None:
    """SIGKILL of the aggregator at random times under load: each acknowledged reading is in one row."""
    dice = random.Random(SEED)
    progress(f"{KILLS} kills of the aggregator, HEADRACE_SEED={SEED}")
    with under_load(hbase, "aggregator", tmp_path) as load:
        for _ in range(KILLS):
            load.goes_on()
            time.sleep(dice.uniform(0.0, 1.0))
            load.agent.kill9()
            load.agent.start()
        load.goes_on()
