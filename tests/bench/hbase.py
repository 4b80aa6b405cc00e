"""The hbase sink, batches of 100 and 1000: driver -> avro source, memory channel, hbase sink -> a real HBase.

Beside it a bare client loop of happybase that puts rows of the same keys and bodies, in the same run; each run of the
sink follows one of the loop. What HBase and its gateway need of the cores is the same for both.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from agent.config.fields import Config
from aggregator.hbase.simple import SimpleConfig, SimpleSerializer
from tests.bench.chain import WAIT_SECONDS, Load, agent_text, headrace, taken
from tests.bench.figure import Figure, Say, Target, middle
from tests.bench.machine import cpu_seconds
from tests.needs import missing
from tests.peers.harness import Program, free_port, wait_until
from tests.peers.hbase import Hbase

SIZE = 100
EVENTS = {100: 40_000, 1000: 100_000}
WARM_UP = 20_000
SINK = """\
a1.sinks.out.type = hbase
a1.sinks.out.thriftPort = {port}
a1.sinks.out.table = sink
a1.sinks.out.columnFamily = d
a1.sinks.out.createTable = true
a1.sinks.out.batchSize = {batch}
a1.sinks.out.serializer.countEvents = false
"""


def measure(folder: Path, runs: int, flume: bool, say: Say, *, batch: int = 100) -> list[Figure]:
    """AssertionError without HBase. Flume's sink needs an older HBase than there is."""
    assert not missing("hbase"), f"no HBase: {missing('hbase')}"
    title, events = f"hbase sink, batch {batch}", EVENTS[batch]
    bare, ours, cpu = [], [], []
    with Hbase(folder / "hbase") as hbase:
        hbase.create("bare", "d")
        port = free_port()
        text = agent_text(port, "memory", folder, SINK.format(port=hbase.port, batch=batch))
        with headrace("aggregator", text, folder / "headrace") as agent:
            loop(hbase, WARM_UP, batch)
            drive(agent, port, WARM_UP, batch)
            for _ in range(runs):
                bare.append(loop(hbase, events, batch))
                before = cpu_seconds(agent.pid)
                ours.append(drive(agent, port, events, batch))
                cpu.append((cpu_seconds(agent.pid) - before) / events * 1e6)
                say(f"{title}: bare loop {bare[-1]:,.0f} rows/s, sink {ours[-1]:,.0f}, CPU {cpu[-1]:.1f} us")
    ratio = middle(mine / theirs for mine, theirs in zip(ours, bare, strict=True))
    return [
        Figure(f"{title}: rows", "rows/s", middle(ours)),
        Figure(f"{title}: a bare happybase loop", "rows/s", middle(bare)),
        Figure(f"{title}: sink / bare loop", "", ratio, None, Target(0.8)),
        Figure(f"{title}: CPU of the agent", "us/event", middle(cpu)),
    ]


def loop(hbase: Hbase, events: int, batch: int) -> float:
    """Rows/s of a client that does nothing else; its rows are made before."""
    config: Config = SimpleConfig(countEvents=False)
    key_of = SimpleSerializer(config, "d")._key
    origin, body = os.urandom(16), os.urandom(SIZE)
    keys = [key_of((origin, number)) for number in range(events)]
    with hbase.client() as client:
        table = client.table("bare")
        began = time.monotonic()
        for first in range(0, events, batch):
            with table.batch() as puts:
                for key in keys[first : first + batch]:
                    puts.put(key, {b"d:pCol": body})
        return events / (time.monotonic() - began)


def drive(agent: Program, port: int, events: int, batch: int) -> float:
    """Rows/s from the first call to the avro source until the channel is empty."""
    goal = taken(agent) + events
    sent = Load(events, batch, size=SIZE)(port)
    wait_until(lambda: taken(agent) >= goal, WAIT_SECONDS, "the sink has written every row")
    return events / (time.monotonic() - sent["began"])
