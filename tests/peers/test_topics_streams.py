"""Kafka Streams 4 against the topics service: a word count with `exactly_once_v2`, killed in the middle, and the
service too.

It keeps its counts in a store of its own whose changes go to a compacted topic of ours, and its words in a topic
between its two halves; counts, changes and offsets are one transaction. The store is thrown away when it was killed:
what it goes on with is what the service has kept.
"""

from __future__ import annotations

import random
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, Message, Producer

from tests.needs import need
from tests.peers import jars
from tests.peers.harness import Server, wait_until
from tests.peers.kafka import QUIET, Reader
from tests.peers.topics import Topics

WORDS = [f"w{number}" for number in range(7)]
PARTITIONS = 2


class WordCount(Server):
    """tests/peers/kafka-streams/WordCount.java."""

    def __init__(self, folder: Path, bootstrap: str) -> None:
        super().__init__("word-count", folder)
        self.bootstrap = bootstrap

    def command(self) -> Sequence[str]:
        lib, source = jars.jars("kafka-streams"), jars.HERE / "kafka-streams" / "WordCount.java"
        java = ("java", "-Xmx192m", *jars.LEAN, QUIET, "-cp", lib, str(source))
        return [*java, self.bootstrap, str(self.folder / "state")]

    def ready(self) -> bool:
        return True


class Words(threading.Thread):
    """Lines of random words to the topic `lines`, until it is told to stop; `sent` is how often each of them went."""

    def __init__(self, bootstrap: str) -> None:
        super().__init__(daemon=True)
        self.sent, self.stop = Counter[str](), threading.Event()
        self.producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "log_level": 0})

    def run(self) -> None:
        while not self.stop.wait(0.1):
            for _ in range(50):
                line = random.choices(WORDS, k=5)
                self.sent.update(line)
                self.producer.produce("lines", " ".join(line), on_delivery=self._told)
            self.producer.poll(0)

    def _told(self, error: KafkaError | None, _: Message) -> None:
        assert error is None, error

    def end(self) -> int:
        """How many words were sent, once all are there."""
        self.stop.set()
        self.join()
        assert self.producer.flush(60) == 0
        return self.sent.total()


@pytest.fixture
def topics(tmp_path: Path) -> Iterator[Topics]:
    need("java", "javac", "kafka-streams")
    with Topics(tmp_path, partitions=str(PARTITIONS)) as one:
        for topic in ("lines", "counts"):
            one.create_topic(topic, PARTITIONS)
        yield one


@pytest.mark.fault
@pytest.mark.limit(300)
def test_word_count(topics: Topics, tmp_path: Path) -> None:
    """Killed within a transaction and started again, then with the service killed under it, while words come all the
    time: each word has each count from 1 on once and in order, which is as often as it was sent."""
    words, counts = Words(topics.bootstrap), Reader(topics, "counts", PARTITIONS)
    with WordCount(tmp_path / "app", topics.bootstrap) as app:
        words.start()
        for server in (app, topics):
            counts.wait(words.sent.total() + 1000)
            wait_until(lambda: topics.in_transaction("counts", PARTITIONS), 60, "a transaction")
            server.kill9()
            server.start()
        counts.wait(words.sent.total() + 1000)
        counts.wait(words.end())
        app.stop()
    counts.close()
    found = defaultdict[str, list[int]](list)
    for record in counts.found:
        found[(record.key or b"").decode()].append(int(record.value or b""))
    assert found == {word: list(range(1, count + 1)) for word, count in words.sent.items()}
    assert len(topics.consume("counts")) > words.sent.total(), "none was killed within a transaction"
