"""`python -m aggregator topics ...` as a process, and what tests of it write to servers and read back."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterable
from typing import Any, NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

from tests.peers.harness import ROOT

COMMAND = [sys.executable, "-m", "aggregator", "topics"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def run(*arguments: str, wrong: int = 0) -> str:
    """What it prints to stdout, or to stderr if it must end with `wrong`. AssertionError if it ends otherwise."""
    done = subprocess.run(
        [*COMMAND, *arguments], env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=110,
        check=False,
    )  # fmt: skip
    assert done.returncode == wrong, f"{arguments} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr if wrong and done.stderr else done.stdout


def start(*arguments: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
    """It, going on; whoever starts it ends it."""
    return subprocess.Popen(
        [*COMMAND, *arguments], env=ENVIRONMENT, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def name() -> str:
    """Of a topic or a group that nobody else has."""
    return f"c-{uuid.uuid4().hex[:8]}"


class Sent(NamedTuple):
    """A record as a producer gives it and a consumer gets it; time in ms."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    time: int


def produce(bootstrap: str, topic: str, records: Iterable[Sent], partition: int = 0, **settings: Any) -> None:
    """Acknowledged, in order; `settings` with _ for the dot."""
    producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0, **dotted(settings)})
    write(producer, topic, records, partition)


def write(producer: Producer, topic: str, records: Iterable[Sent], partition: int = 0) -> None:
    """With a producer that has begun a transaction, if it does such."""
    failed: list[Any] = []
    for one in records:
        producer.produce(
            topic, one.value, one.key, partition, headers=one.headers, timestamp=one.time,
            on_delivery=lambda error, _: failed.append(error) if error else None,
        )  # fmt: skip
        producer.poll(0)
    assert producer.flush(60) == 0
    assert not failed, failed[0]


def dotted(settings: dict[str, Any]) -> dict[str, Any]:
    return {key.replace("_", "."): value for key, value in settings.items()}


def stored(bootstrap: str, topic: str) -> dict[int, list[Sent]]:
    """All that read_committed sees of a topic, by partition."""
    client = Consumer(
        {
            "bootstrap.servers": bootstrap, "group.id": "look", "enable.auto.commit": False, "log_level": 0,
            "enable.partition.eof": True, "isolation.level": "read_committed",
        }
    )  # fmt: skip
    try:
        partitions = client.list_topics(topic, timeout=20).topics[topic].partitions
        client.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions])
        found: dict[int, list[Sent]] = {partition: [] for partition in partitions}
        left = set(partitions)
        while left:
            for message in client.consume(1000, timeout=0.3):
                if message.error() is not None:
                    left.discard(message.partition())
                else:
                    found[message.partition()].append(sent(message))
        return found
    finally:
        client.close()


def sent(message: Any) -> Sent:
    return Sent(message.key(), message.value(), message.headers() or [], message.timestamp()[1])


def read(bootstrap: str, group: str, topics: list[str], count: int, reset: str = "error") -> list[Sent]:
    """So many records as the only member of a group, which then commits and leaves; fewer if no more come in 10 s."""
    client = Consumer(
        {
            "bootstrap.servers": bootstrap, "group.id": group, "enable.auto.commit": False, "log_level": 0,
            "auto.offset.reset": reset, "isolation.level": "read_committed",
        }
    )  # fmt: skip
    client.subscribe(topics)
    found: list[Sent] = []
    try:
        while len(found) < count and (messages := client.consume(min(100, count - len(found)), timeout=10)):
            for message in messages:
                assert message.error() is None, message.error()
                found.append(sent(message))
        client.commit(asynchronous=False)
        return found
    finally:
        client.close()
