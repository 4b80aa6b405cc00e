"""HDFS and the aggregator are killed under load; then Hadoop's own tools count what the files hold."""

from __future__ import annotations

import os
import random
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
from tests.peers.hdfs import Hdfs

pytestmark = [pytest.mark.fault, pytest.mark.peer, pytest.mark.limit(400)]
KILLS = 5
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
a.sinks.k.type = hdfs
a.sinks.k.channel = c
a.sinks.k.hdfs.path = {url}/{folder}
a.sinks.k.hdfs.inUsePrefix = _
a.sinks.k.hdfs.fileSuffix = .avro
a.sinks.k.hdfs.fileType = DataStream
a.sinks.k.hdfs.batchSize = 50
a.sinks.k.hdfs.rollCount = 400
a.sinks.k.hdfs.rollSize = 0
a.sinks.k.hdfs.rollInterval = 5
a.sinks.k.hdfs.callTimeout = 15000
a.sinks.k.hdfs.retryInterval = 1
a.sinks.k.serializer = avro_event
a.sinks.k.serializer.compressionCodec = deflate
a.sinks.k.backoff = 50ms
a.sinks.k.maxBackoff = 500ms
"""


class Load:
    """An aggregator that takes lines, a steady load of them, and what was acknowledged."""

    def __init__(self, hdfs: Hdfs, name: str, folder: Path) -> None:
        self.hdfs, self.name, self.port, self.sent, self.over = hdfs, name, free_port(), Sent(), False
        text = FLOW.format(lines=self.port, store=folder / "store", url=hdfs.url, folder=name)
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

    def runs_empty(self) -> None:
        wait_until(lambda: not self.agent.count("CHANNEL.c", "ChannelSize"), 90, f"all out:\n{self.agent.log[-2000:]}")

    def check(self) -> None:
        """After an orderly end: each acknowledged reading is in one file, none is in two; no file is open or left."""
        files = self.hdfs.ls(f"/{self.name}")
        assert files and all(path.endswith(".avro") and "/_" not in path for path in files), list(files)
        text = self.hdfs.text(f"/{self.name}/*").decode()
        found = Counter(("", line.split('"body":"')[1].rstrip('"}')) for line in text.splitlines())
        assert not self.sent.kept - found, "missing"
        assert not found - self.sent.kept - self.sent.open, "twice, or of nobody"
        state = self.hdfs.fsck(f"/{self.name}")
        assert state.healthy and not state.open_files
        progress(f"{len(self.sent):,} acknowledged, 0 missing, 0 twice, in {len(files)} files")


@contextmanager
def under_load(hdfs: Hdfs, name: str, folder: Path) -> Iterator[Load]:
    load = Load(hdfs, name, folder)
    with load.agent:
        call = Call(load)
        try:
            yield load
        finally:
            load.over = True
            call.result()
        load.runs_empty()
        assert load.agent.stop() == 0
    load.check()


@pytest.fixture(scope="module")
def hdfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hdfs]:
    """One of this module's own."""
    need("hdfs", "java")
    with Hdfs(tmp_path_factory.mktemp("hdfs")) as one:
        yield one


def test_the_aggregator_is_killed(hdfs: Hdfs, tmp_path: Path) -> None:
    """SIGKILL at random times under load: each acknowledged reading is in a finished file once."""
    dice = random.Random(SEED)
    progress(f"{KILLS} kills of the aggregator, HEADRACE_SEED={SEED}")
    with under_load(hdfs, "aggregator", tmp_path) as load:
        for _ in range(KILLS):
            load.goes_on()
            time.sleep(dice.uniform(0.0, 1.0))
            load.agent.kill9()
            load.agent.start()
        load.goes_on()


def test_namenode_and_datanode_are_killed(hdfs: Hdfs, tmp_path: Path) -> None:
    """SIGKILL of each under load, while files grow and are finished: the batch waits with the reason, then goes on."""
    with under_load(hdfs, "servers", tmp_path) as load:
        load.goes_on()
        hdfs.kill_namenode()
        load.agent.wait_log("k waits: ", 60)
        hdfs.start_namenode()
        load.goes_on()
        hdfs.kill_datanode()
        wait_until(lambda: load.agent.log.count("k waits: ") > 1, 60, load.agent.log[-2000:])
        hdfs.start_datanode()
        load.goes_on()
        assert load.agent.log.count("ready, agent") == 1
        assert load.agent.log.count("k waits: ") + load.agent.log.count("can't be finished") <= 12, load.agent.log


def test_down_at_start(hdfs: Hdfs, tmp_path: Path) -> None:
    """The agent starts without a NameNode, over files that it left open, and takes readings meanwhile."""
    with under_load(hdfs, "late", tmp_path) as load:
        load.goes_on()
        load.agent.kill9()
        hdfs.kill_namenode()
        load.agent.start()
        load.agent.wait_log("a file can't be finished and is tried again: ", 60)
        before = len(load.sent)
        wait_until(lambda: len(load.sent) > before + 200, 60, "readings are acknowledged meanwhile")
        hdfs.start_namenode()
        load.goes_on()
