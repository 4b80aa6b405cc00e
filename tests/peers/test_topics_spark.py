"""Spark Structured Streaming against the topics service, by the script of docs/topics.md."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from confluent_kafka import Producer

from tests.house.test_docs import fenced
from tests.needs import need
from tests.peers.harness import ROOT, wait_until
from tests.peers.spark import Stream
from tests.peers.topics import Topics

KEYS = [f"s{number}" for number in range(5)]


def printed(topics: Topics, folder: Path) -> str:
    """The page's script; its address and the place of its checkpoint are ours."""
    (script,) = (block for block in fenced(ROOT / "docs" / "topics.md", "python") if "readStream" in block)
    found = script.replace("127.0.0.1:9092", topics.bootstrap).replace("/var/lib/spark", str(folder))
    assert found.count(topics.bootstrap) == 2 and str(folder) in found
    return found


class Readings:
    """To the topic `readings`; `sent` is how many each sensor has sent."""

    def __init__(self, bootstrap: str) -> None:
        self.sent = Counter[str]()
        self.producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0})

    def send(self, count: int) -> None:
        keys = random.choices(KEYS, k=count)
        for key in keys:
            self.producer.produce("readings", "21.5", key)
        assert self.producer.flush(60) == 0
        self.sent.update(keys)


def counted(topics: Topics) -> dict[str, list[int]]:
    """Of each sensor, the counts that came, in order."""
    found: dict[str, list[int]] = {key: [] for key in KEYS}
    for record in topics.consume("counts"):
        found[(record.key or b"").decode()].append(int(record.value or b""))
    return found


@pytest.mark.fault
@pytest.mark.limit(300)
def test_counts(tmp_path: Path) -> None:
    """Killed within a batch and started again it goes on from its checkpoint, and goes on when the service was killed:
    the last count of each sensor is how often it sent, and none is below the one before.

    Spark's sink is at least once: a count may come twice.
    """
    need("java", "spark-kafka")
    with Topics(tmp_path, partitions="2") as topics:
        for topic in ("readings", "counts"):
            topics.create_topic(topic, 2)
        readings = Readings(topics.bootstrap)

        def wait_counted() -> None:
            wait_until(lambda: all(sent in counted(topics)[key] for key, sent in readings.sent.items()), 120, "counts")

        readings.send(1000)
        with Stream(printed(topics, tmp_path / "checkpoint"), tmp_path / "spark") as spark:
            wait_counted()
            readings.send(1000)
            wait_until((tmp_path / "checkpoint" / "counts" / "offsets" / "1").exists, 60, "its next batch begins")
            spark.kill9()
            readings.send(1000)
            spark.start()
            wait_counted()
            topics.kill9()
            topics.start()
            readings.send(1000)
            wait_counted()
        for key, counts in counted(topics).items():
            assert counts == sorted(counts) and counts[-1] == readings.sent[key]
