"""One sink is down, the others don't notice: delay through a live sink, and memory, before and while HDFS is away.

    sender, 5,000 events/s -> aggregator: avro source -> two file channels of one store -> avro sink -> receiver
                                                                                       `-> hdfs sink -> HDFS

Sender and receiver live in this process and have one clock: an event's body is the time at which it was sent. HDFS is
killed with SIGKILL after the first minute and stays away for five (HEADRACE_OUTAGE seconds).
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path

from agent.event import Batch, Event
from agent.metrics import SinkCounter, SourceCounter
from agent.sinks.avro import AvroSink, AvroSinkConfig
from agent.source import Kept
from agent.sources.avro import AvroSource, AvroSourceConfig
from tests.bench.chain import headrace
from tests.bench.figure import Figure, Say, Target
from tests.bench.machine import memory_mb
from tests.needs import missing
from tests.peers.harness import Program, free_port
from tests.peers.hdfs import Hdfs

RATE, BATCH = 5_000, 100
BEFORE = 60.0
OUTAGE = float(os.environ.get("HEADRACE_OUTAGE", "300"))
PADDING = b"." * 181
"""Makes a body of 200 bytes with the time, 19 digits of nanoseconds."""
AGENT = """\
a1.sources = in
a1.channels = live files
a1.sinks = live files
a1.sources.in.type = avro
a1.sources.in.bind = 127.0.0.1
a1.sources.in.port = {port}
a1.sources.in.channels = live files
a1.channels.live.type = file
a1.channels.live.path = {folder}/store
a1.channels.files.type = file
a1.channels.files.path = {folder}/store
a1.channels.files.capacity = 100000000
a1.sinks.live.type = avro
a1.sinks.live.channel = live
a1.sinks.live.hostname = 127.0.0.1
a1.sinks.live.port = {receiver}
a1.sinks.files.type = hdfs
a1.sinks.files.channel = files
a1.sinks.files.hdfs.path = {hdfs}/bench
a1.sinks.files.hdfs.fileType = DataStream
a1.sinks.files.hdfs.batchSize = 1000
a1.sinks.files.hdfs.rollInterval = 30
a1.sinks.files.hdfs.rollSize = 0
a1.sinks.files.hdfs.rollCount = 0
a1.sinks.files.serializer = avro_event
"""


def measure(folder: Path, runs: int, flume: bool, say: Say) -> list[Figure]:
    """One run, whatever `runs` says: it takes six minutes. AssertionError without HDFS."""
    assert not missing("hdfs"), f"no HDFS: {missing('hdfs')}"
    ports = {"port": free_port(), "receiver": free_port()}
    with Hdfs(folder / "hdfs") as hdfs:
        agent = headrace("aggregator", AGENT.format(**ports, folder=folder, hdfs=hdfs.url), folder / "agent")
        with agent:
            return asyncio.run(_measure(hdfs, agent, ports["port"], ports["receiver"], say))


async def _measure(hdfs: Hdfs, agent: Program, port: int, receiver: int, say: Say) -> list[Figure]:
    delays: list[float] = []
    source, sink = _receiver(receiver, delays), _sender(port)
    async with source, sink:
        listening = asyncio.create_task(source.run())
        await _send(sink, 10)
        delays.clear()
        await _send(sink, BEFORE)
        calm, at_first = _p99(delays), memory_mb(agent.pid, "VmRSS")
        say(f"p99 of the delay with HDFS: {calm:.1f} ms, RSS {at_first:.0f} MB")
        await asyncio.to_thread(hdfs.kill9)
        await _send(sink, 5)
        delays.clear()
        await _send(sink, OUTAGE)
        away, at_last = _p99(delays), memory_mb(agent.pid, "VmRSS")
        say(f"p99 of the delay without HDFS: {away:.1f} ms, RSS {at_last:.0f} MB")
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening
    title = f"HDFS away for {OUTAGE:.0f} s at {RATE:,} events/s"
    return [
        Figure("p99 of the delay through a sink, HDFS there", "ms", calm),
        Figure(
            f"{title}: p99 of the delay through another sink",
            "ms",
            away,
            None,
            Target(1.5 * calm, False, text="1.5 x that"),
        ),
        Figure(f"{title}: growth of the RSS", "MB", at_last - at_first, None, Target(10, False)),
    ]


async def _send(sink: AvroSink, seconds: float) -> None:
    """So many batches as the rate asks for; one that is late is sent at once."""
    began = time.monotonic()
    for number in range(int(seconds * RATE / BATCH)):
        await asyncio.sleep(began + number * BATCH / RATE - time.monotonic())
        body = b"%d" % time.time_ns() + PADDING
        await sink.send(Batch([Event({"timestamp": body[:13].decode()}, body)] * BATCH))


def _sender(port: int) -> AvroSink:
    sink = AvroSink("sender", AvroSinkConfig(channel="c", hostname="127.0.0.1", port=port))
    sink.counter = SinkCounter("sender")
    return sink


def _receiver(port: int, delays: list[float]) -> AvroSource:
    """Notes the delay in ms of each batch that comes."""

    async def process(batch: Batch, marks: object = None) -> Kept:
        now = time.time_ns()
        sent = [int(body[:19]) for body in batch.bodies]
        delays.append((now - min(sent)) / 1e6)
        return Kept(batch.count, 0)

    source = AvroSource("receiver", AvroSourceConfig(channels=["c"], bind="127.0.0.1", port=port))
    source.counter, source.process = SourceCounter("receiver"), process
    return source


def _p99(delays: list[float]) -> float:
    assert len(delays) > 100, "nothing arrives at the receiver"
    return sorted(delays)[len(delays) * 99 // 100]
