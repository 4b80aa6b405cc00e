"""SIGKILL of the aggregator under load, five times, with a kafka sink: what consumers of the topic see."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.needs import need
from tests.peers.harness import Program, wait_until
from tests.peers.kafka import Kafka, Record, shared_kafka

EVENTS = 20_000
KILLS = 5
FLOW = """\
a.sources = r
a.channels = c
a.sinks = k
a.sources.r.type = seq
a.sources.r.totalEvents = {events}
a.sources.r.batchSize = 10
a.sources.r.channels = c
a.channels.c.type = file
a.channels.c.path = {store}
a.sinks.k.type = kafka
a.sinks.k.channel = c
a.sinks.k.kafka.bootstrap.servers = {servers}
a.sinks.k.kafka.topic = {topic}
a.sinks.k.flumeBatchSize = 50
a.sinks.k.identity = true
a.sinks.k.transactional = {transactional}
a.sinks.k.backoff = 100ms
a.sinks.k.maxBackoff = 1s
"""


def names(records: list[Record]) -> Counter[tuple[bytes, bytes]]:
    return Counter((one.headers["headrace.origin"], one.headers["headrace.number"]) for one in records)


def _killed(kafka: Kafka, folder: Path, transactional: bool) -> tuple[Counter[tuple[bytes, bytes]], int]:
    """(what read_committed consumers see, by identity; how many events the channel has taken in).

    The source begins anew with each start; the last start has none, so that the channel runs empty.
    """
    topic = f"kills-{str(transactional).lower()}"
    kafka.create_topic(topic, 3)
    flow = FLOW.format(
        events=EVENTS, store=folder / "store", servers=kafka.bootstrap, topic=topic,
        transactional=str(transactional).lower(),
    )  # fmt: skip
    program = Program("aggregator", flow, folder / "a")
    seen = 0
    for turn in range(KILLS):
        program.start()
        wait_until(
            lambda wanted=300 * (turn + 1): program.count("SINK.k", "EventDrainSuccessCount") > wanted,
            60,
        )
        program.kill9()
        now = len(kafka.consume(topic))
        assert now > seen, "a turn delivered nothing"
        seen = now
    program.conf = flow.replace(f"totalEvents = {EVENTS}", "totalEvents = 1")
    with program:
        wait_until(lambda: program.count("CHANNEL.c", "ChannelSize") == 0, 90, program.log[-2000:])
    return names(kafka.consume(topic, committed=True)), seen


def _is_whole(found: Counter[tuple[bytes, bytes]]) -> None:
    """The file channel numbers what it keeps of one opening from 1 without a hole."""
    for origin in {origin for origin, _ in found}:
        numbers = sorted(int(number) for one, number in found if one == origin)
        assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.fault
@pytest.mark.limit(300)
@pytest.mark.parametrize("transactional", [True, False], ids=["transactional", "plain"])
def test_sigkill_of_the_aggregator(tmp_path: Path, transactional: bool) -> None:
    """With transactions every event that was acknowledged is there exactly once; without, none is missing."""
    need("kafka", "java")
    found, seen = _killed(shared_kafka(), tmp_path, transactional)
    _is_whole(found)
    assert len(found) >= seen // 2 > 0
    if transactional:
        assert {name: count for name, count in found.items() if count > 1} == {}
