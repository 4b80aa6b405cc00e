"""What docs/topics.md shows is run as it is printed: its stream processors, one of them a client, one an agent's flow.

Addresses and paths are ours, nothing else differs.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from tests.house.test_docs import fenced
from tests.peers.harness import ROOT, Program, Server, free_port, wait_until
from tests.peers.kafka import Reader, Record, Tools
from tests.peers.topics import Topics

PAGE = ROOT / "docs" / "topics.md"
PARTITIONS = 3
KILLS = 3


def block(language: str, word: str) -> str:
    """The one block of the page with this word."""
    (found,) = (text for text in fenced(PAGE, language) if word in text)
    return found


class Readings(threading.Thread):
    """Degrees from 0 up to the topic `readings`, each with itself as key, until it is told to stop."""

    def __init__(self, bootstrap: str) -> None:
        super().__init__(daemon=True)
        self.count, self.stop = 0, threading.Event()
        self.producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "log_level": 0})

    def run(self) -> None:
        while not self.stop.wait(0.05):
            for _ in range(100):
                self.producer.produce("readings", str(self.count), str(self.count))
                self.count += 1
            self.producer.poll(0)

    def end(self) -> int:
        """How many there are, once all are in the topic."""
        self.stop.set()
        self.join()
        assert self.producer.flush(60) == 0
        return self.count


class Script(Server):
    """A Python script."""

    def __init__(self, text: str, folder: Path) -> None:
        super().__init__("script", folder)
        self.file = folder / "script.py"
        self.file.write_text(text)

    def command(self) -> list[str]:
        return [sys.executable, str(self.file)]

    def ready(self) -> bool:
        return True


class Flow(Tools, Program):
    """The page's flow that reads a topic."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        text = block("properties", "agg.sources.readings.topics")
        assert text.count("/var/lib/headrace") == 2
        text = text.replace("/var/lib/headrace", str(folder)) + f"agg.services.topics.port = {self.port}\n"
        super().__init__("aggregator", text, folder)


def check(came: list[Record], made: list[Record]) -> None:
    """What was made of each record is there once, and in the order of its partition."""
    place = {record.key: record.partition for record in came}
    for partition in range(PARTITIONS):
        keys = [record.key for record in made if place[record.key] == partition]
        assert keys == [record.key for record in came if record.partition == partition]


def committed(server: Tools, group: str) -> int:
    """Records that a group has behind it, in all partitions of `readings`."""
    client = Consumer({"bootstrap.servers": server.bootstrap, "group.id": group, "log_level": 0})
    places = [TopicPartition("readings", number) for number in range(PARTITIONS)]
    found = [place.offset for place in client.committed(places, 20)]
    client.close()
    return sum(found)


@pytest.mark.fault
@pytest.mark.limit(300)
def test_stream_processor(tmp_path: Path) -> None:
    """Killed again and again, and started again when it ended since the service was killed, each reading is converted
    once, and in order."""
    text = block("python", "send_offsets_to_transaction")
    assert text.count("127.0.0.1:9092") == 1
    with Topics(tmp_path / "topics") as topics:
        for topic in ("readings", "fahrenheit"):
            topics.create_topic(topic, PARTITIONS)
        readings, out = Readings(topics.bootstrap), Reader(topics, "fahrenheit", PARTITIONS)
        readings.start()
        with Script(text.replace("127.0.0.1:9092", topics.bootstrap), tmp_path) as script:
            for server in (*[script] * KILLS, topics):
                out.wait(readings.count + 500)
                server.kill9()
                server.start()
            goal = readings.end()

            def is_done() -> bool:
                if not script.running:
                    script.start()
                return out.read() >= goal

            wait_until(is_done, 120, f"{goal} readings come out")
        out.close()
        check(topics.consume("readings"), out.found)
        assert all(float(record.value or b"") == round(int(record.key or b"") * 1.8 + 32, 1) for record in out.found)
        assert committed(topics, "fahrenheit") == goal


@pytest.mark.fault
@pytest.mark.limit(300)
def test_flow(tmp_path: Path) -> None:
    """Killed again and again, the flow stores each record once, in order and with its key, and its group has them all
    behind it."""
    with Flow(tmp_path) as flow:
        flow.create_topic("readings", PARTITIONS)
        readings, out = Readings(flow.bootstrap), Reader(flow, "readings.north", 1)
        readings.start()
        for _ in range(KILLS):
            out.wait(readings.count + 500)
            flow.kill9()
            flow.start()
        out.wait(readings.end())
        out.close()
        check(flow.consume("readings"), out.found)
        assert {(record.headers["site"], record.value == record.key) for record in out.found} == {(b"north", True)}
        wait_until(lambda: committed(flow, "agg.readings") == readings.count, 30, "the group's offsets")
