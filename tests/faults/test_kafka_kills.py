"""SIGKILL of the aggregator and of the broker under load, with a kafka sink: what consumers of the topic see.

Every line is sent once, so whatever is in the topic twice was repeated by the sink; what the source has answered must
be there.
"""

from __future__ import annotations

import socket
import threading
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from tests.needs import need
from tests.peers.harness import Program, free_port, wait_until
from tests.peers.kafka import Kafka, shared_kafka

KILLS = 5
BROKER_KILLS = 3
WINDOW = 100
"""Lines that wait for an answer at once; a sink keeps up with a few such windows a second."""
FLOW = """\
a.sources = r
a.channels = c
a.sinks = k
a.sources.r.type = netcat
a.sources.r.bind = 127.0.0.1
a.sources.r.port = {port}
a.sources.r.channels = c
a.channels.c.type = file
a.channels.c.path = {store}
a.sinks.k.type = kafka
a.sinks.k.channel = c
a.sinks.k.kafka.bootstrap.servers = {servers}
a.sinks.k.kafka.topic = {topic}
a.sinks.k.flumeBatchSize = 20
a.sinks.k.transactional = {transactional}
a.sinks.k.callTimeout = 5s
a.sinks.k.backoff = 100ms
a.sinks.k.maxBackoff = 1s
"""


class Load(threading.Thread):
    """Lines to a netcat source until it is told to stop, or the source is gone. `answered`: those it said OK to."""

    def __init__(self, port: int, name: str) -> None:
        super().__init__(daemon=True)
        self.port, self.word = port, name
        self.answered: list[str] = []
        self.done = threading.Event()
        self.start()

    def run(self) -> None:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 20) as peer, peer.makefile("rb") as answers:
                while not self.done.wait(0.2):
                    sent = len(self.answered)
                    lines = [f"{self.word}-{number}" for number in range(sent, sent + WINDOW)]
                    peer.sendall("".join(f"{line}\n" for line in lines).encode())
                    for line in lines:
                        if answers.readline() != b"OK\n":
                            return
                        self.answered.append(line)
        except OSError:
            pass

    def end(self) -> list[str]:
        self.done.set()
        self.join(60)
        assert not self.is_alive()
        return self.answered


def _flow(folder: Path, kafka: Kafka, topic: str, transactional: bool) -> tuple[Program, int]:
    port = free_port()
    flow = FLOW.format(
        port=port, store=folder / "store", servers=kafka.bootstrap, topic=topic,
        transactional=str(transactional).lower(),
    )  # fmt: skip
    return Program("aggregator", flow, folder / "a"), port


def _delivered(program: Program) -> int:
    return program.count("SINK.k", "EventDrainSuccessCount")


def _has_delivered(program: Program, goal: int) -> bool:
    return _delivered(program) >= goal


def _runs_empty(program: Program) -> None:
    wait_until(lambda: program.count("CHANNEL.c", "ChannelSize") == 0, 120, program.log[-2000:])


def _seen(kafka: Kafka, topic: str) -> Counter[str]:
    return Counter(str(one.value, "utf-8") for one in kafka.consume(topic, committed=True) if one.value)


@pytest.mark.fault
@pytest.mark.limit(300)
@pytest.mark.parametrize("transactional", [True, False], ids=["transactional", "plain"])
def test_sigkill_of_the_aggregator(tmp_path: Path, transactional: bool) -> None:
    """With transactions every answered line is there exactly once; without, none is missing and some are repeated."""
    need("kafka", "java")
    kafka, topic = shared_kafka(), f"kills-{str(transactional).lower()}"
    kafka.create_topic(topic, 3)
    program, port = _flow(tmp_path, kafka, topic, transactional)
    answered: set[str] = set()
    for turn in range(KILLS):
        program.start()
        load = Load(port, f"t{turn}")
        wait_until(partial(_has_delivered, program, 1_000), 60, program.log[-2000:])
        program.kill9()
        answered.update(load.end())
    with program:
        _runs_empty(program)
    seen = _seen(kafka, topic)
    assert answered - seen.keys() == set()
    repeated = {line: count for line, count in seen.items() if count > 1}
    if transactional:
        assert repeated == {}
    else:
        assert repeated, "the kills came at moments when nothing was under way: they show nothing"


@pytest.mark.fault
@pytest.mark.limit(400)
def test_sigkill_of_the_broker(tmp_path: Path) -> None:
    """In the middle of transactions: when the broker is back each line is there exactly once."""
    need("kafka", "java")
    with Kafka(tmp_path / "kafka", apart=True) as kafka:
        kafka.create_topic("kills", 3)
        program, port = _flow(tmp_path, kafka, "kills", True)
        with program:
            load = Load(port, "t")
            for _ in range(BROKER_KILLS):
                goal = _delivered(program) + 1_000
                wait_until(partial(_has_delivered, program, goal), 120, program.log[-2000:])
                kafka.kill9()
                kafka.start()
            answered = load.end()
            _runs_empty(program)
        assert _seen(kafka, "kills") == Counter(answered)
