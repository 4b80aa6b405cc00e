"""Kafka Connect 4 in distributed mode against the topics service: lines of a file to a topic and out to another file.

What it knows (connectors, their state, how far its sources are) is in three compacted topics of ours. With
`exactly.once.source.support` a source's records and its place in the file are one transaction.
"""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, ConsumerGroupState, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.needs import need
from tests.peers import jars
from tests.peers.harness import Server, answers, free_port, wait_until
from tests.peers.kafka import QUIET
from tests.peers.topics import Topics

CONVERTER = "org.apache.kafka.connect.storage.StringConverter"
INTERNAL = ("config", "offset", "status")


class Connect(Server):
    """A worker of a group, with its REST interface; its own topics are `connect-config` and so on."""

    start_seconds = 120.0

    def __init__(self, folder: Path, bootstrap: str) -> None:
        super().__init__("connect", folder)
        self.bootstrap, self.port = bootstrap, free_port()

    def configure(self) -> None:
        settings: dict[str, object] = {
            "bootstrap.servers": self.bootstrap,
            "group.id": "connect",
            "listeners": f"http://127.0.0.1:{self.port}",
            "plugin.discovery": "only_scan",
            "key.converter": CONVERTER,
            "value.converter": CONVERTER,
            "exactly.once.source.support": "enabled",
            "offset.flush.interval.ms": 500,
            "session.timeout.ms": 6000,  # who was killed is missed sooner
            "heartbeat.interval.ms": 1000,
            "scheduled.rebalance.max.delay.ms": 0,
        }
        settings |= {f"{name}.storage.topic": f"connect-{name}" for name in INTERNAL}
        settings |= {f"{name}.storage.replication.factor": 1 for name in INTERNAL}
        (self.folder / "worker.properties").write_text("".join(f"{one}={value}\n" for one, value in settings.items()))

    def command(self) -> Sequence[str]:
        java = ("java", "-Xmx256m", *jars.LEAN, QUIET, "-cp", jars.jars("kafka-connect"))
        return [*java, "org.apache.kafka.connect.cli.ConnectDistributed", str(self.folder / "worker.properties")]

    def ready(self) -> bool:
        return answers(self.port) and self.ask("connectors") is not None

    def ask(self, path: str, body: Any = None) -> Any:
        """What its REST interface answers to a GET, or to a PUT with a body; None if it can't now."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{path}", method="PUT" if body else "GET")
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, json.dumps(body).encode() if body else None, 30) as answer:
                return json.load(answer)
        except OSError:
            return None

    def connector(self, name: str, kind: str, **settings: str) -> None:
        """A file connector that runs."""
        config = {"connector.class": f"org.apache.kafka.connect.file.{kind}", "tasks.max": "1", **settings}
        wait_until(lambda: self.ask(f"connectors/{name}/config", config), 60, f"{name} is made")
        wait_until(lambda: self.states(name) == ["RUNNING", "RUNNING"], 60, f"{name} runs")

    def states(self, name: str) -> list[str]:
        """Of the connector and its tasks."""
        said = self.ask(f"connectors/{name}/status")
        return [one["state"] for one in (said["connector"], *said["tasks"])] if said else []


class Lines(threading.Thread):
    """Numbered lines to a file, until it is told to stop."""

    def __init__(self, file: Path) -> None:
        super().__init__(daemon=True)
        self.file, self.count, self.stop = file, 0, threading.Event()
        file.touch()

    def add(self, count: int) -> None:
        with self.file.open("a") as file:
            file.writelines(f"line {number}\n" for number in range(self.count, self.count + count))
        self.count += count

    def run(self) -> None:
        while not self.stop.wait(0.05):
            self.add(100)

    def end(self) -> None:
        self.stop.set()
        self.join()


@pytest.fixture
def topics(tmp_path: Path) -> Iterator[Topics]:
    need("java", "kafka-connect")
    with Topics(tmp_path, partitions="1") as one:
        yield one


def values(topics: Topics) -> list[str]:
    """The topic's lines, as read_committed sees them."""
    return [(record.value or b"").decode() for record in topics.consume("lines", committed=True)]


def wait_idle(topics: Topics, group: str) -> None:
    """Until the group has members and has committed all that there is to read."""
    last = topics.consume("lines", committed=True)[-1].offset
    place = TopicPartition("lines", 0)
    client = Consumer({"bootstrap.servers": topics.bootstrap, "group.id": group, "log_level": 0})
    admin = AdminClient({"bootstrap.servers": topics.bootstrap, "log_level": 0})

    def is_idle() -> bool:
        state = admin.describe_consumer_groups([group])[group].result(20).state
        return state is ConsumerGroupState.STABLE and client.committed([place], 20)[0].offset > last

    wait_until(is_idle, 90, f"{group} has read all")
    client.close()


@pytest.mark.fault
@pytest.mark.limit(300)
def test_file_to_file(topics: Topics, tmp_path: Path) -> None:
    """Killed within a transaction, the service has each line in its topic once, in order; killed again, and the worker
    too, each line is in the file at the end once, in order.

    A sink may repeat what it hasn't committed when it is killed; it has committed all by then.
    """
    lines, out = Lines(tmp_path / "in.txt"), tmp_path / "out.txt"
    with Connect(tmp_path / "connect", topics.bootstrap) as connect:
        more = {
            "batch.size": "1000000",  # it leaves what is behind a full batch until the file grows
            "transaction.boundary": "interval",
            "transaction.boundary.interval.ms": "500",
        }
        connect.connector("source", "FileStreamSourceConnector", file=str(lines.file), topic="lines", **more)
        lines.start()
        wait_until(lambda: len(values(topics)) > 500, 60, "lines come")
        wait_until(lambda: topics.in_transaction("lines"), 60, "a transaction")
        topics.kill9()
        topics.start()
        lines.end()
        wait_until(lambda: len(values(topics)) >= lines.count, 90, "all lines are in the topic")
        assert values(topics) == lines.file.read_text().splitlines()

        override = {"isolation.level": "read_committed", "session.timeout.ms": "6000"}
        more = {f"consumer.override.{key}": value for key, value in override.items()}
        connect.connector("sink", "FileStreamSinkConnector", file=str(out), topics="lines", **more)
        for server in (topics, connect):
            wait_idle(topics, "connect-sink")
            server.kill9()
            server.start()
            wait_idle(topics, "connect-sink")
            lines.add(100)
            wait_until(lambda: len(out.read_text().splitlines()) >= lines.count, 90, "all lines are out")
        assert out.read_text() == lines.file.read_text()
