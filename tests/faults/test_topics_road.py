"""sensor -> mosquitto -> collector -> aggregator -> topic -> consumer group, with kills at random times; then the topic
and what the group has read are counted.

HEADRACE_SEED repeats a run's choices (they are printed), HEADRACE_KILLS says how many kills (`make soak`: 500).
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from tests.faults.audit import Sent
from tests.faults.crash_road import Sensors
from tests.faults.fan_out import COLLECTOR
from tests.needs import need
from tests.peers.harness import Program, free_port, progress, wait_until
from tests.peers.mosquitto import Mosquitto

pytestmark = [pytest.mark.fault, pytest.mark.peer]
KILLS = int(os.environ.get("HEADRACE_KILLS", "12"))
SEED = int(os.environ.get("HEADRACE_SEED", "0")) or random.SystemRandom().randrange(1, 1_000_000)
SHORTEST, LONGEST = 0.2, 2.5
"""Seconds from a start to the kill; some die before they are ready."""
PARTITIONS = 3
Reading = tuple[str, str]
AGGREGATOR = """\
a.sources = r
a.channels = kept
a.sinks = topic
a.services = topics
a.sources.r.type = avro
a.sources.r.bind = 127.0.0.1
a.sources.r.port = {receiver}
a.sources.r.channels = kept
a.channels.kept.type = file
a.channels.kept.path = {folder}/aggregator-store
a.sinks.topic.type = topics
a.sinks.topic.channel = kept
a.sinks.topic.topic = readings
a.sinks.topic.key = %{{topic}}
a.sinks.topic.batchSize = 7
a.sinks.topic.backoff = 50
a.sinks.topic.maxBackoff = 200
a.services.topics.type = topics
a.services.topics.port = {kafka}
a.services.topics.path = {folder}/topics
a.services.topics.partitions = {partitions}
"""


class Group:
    """A consumer of a group; one that was stopped goes on where its last commit was."""

    def __init__(self, port: int) -> None:
        self.servers = f"127.0.0.1:{port}"
        self.found: Counter[Reading] = Counter()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(60)

    def _read(self) -> None:
        consumer = Consumer({
            "bootstrap.servers": self.servers, "group.id": "g", "auto.offset.reset": "earliest", "log_level": 0,
            "enable.auto.commit": False, "topic.metadata.refresh.interval.ms": 500,
            "reconnect.backoff.max.ms": 500,
        })  # fmt: skip
        consumer.subscribe(["readings"])
        while not self._stop.is_set():
            messages = [one for one in consumer.consume(500, 0.2) if not one.error()]
            self.found.update(map(_reading, messages))
            try:
                if messages:
                    consumer.commit(asynchronous=False)
            except KafkaException:
                pass  # the service was killed, or the group changes: what is not committed comes again
        consumer.close()


def _reading(message: Message) -> Reading:
    key, value = message.key(), message.value()
    assert isinstance(key, bytes)
    assert isinstance(value, bytes)
    return key.decode(), value.decode()


def in_topic(port: int) -> Counter[Reading]:
    """All that it holds."""
    consumer = Consumer({"bootstrap.servers": f"127.0.0.1:{port}", "group.id": "count", "log_level": 0})
    places = [TopicPartition("readings", number, 0) for number in range(PARTITIONS)]
    left = sum(consumer.get_watermark_offsets(place, 20)[1] for place in places)
    consumer.assign(places)
    found: Counter[Reading] = Counter()
    while found.total() < left:
        messages = consumer.consume(1000, 20)
        assert messages, f"{found.total()} of {left} records came"
        found.update(_reading(one) for one in messages if not one.error())
    consumer.close()
    return found


def kill(programs: list[Program], dice: random.Random) -> None:
    """KILLS times one of the two, or sometimes both at once, started again at once."""
    started = {one.name: time.monotonic() for one in programs}
    for done in range(1, KILLS + 1):
        victims = dice.choices([[one] for one in programs] + [programs], (4, 4, 1))[0]
        time.sleep(max(0.0, started[victims[0].name] + dice.uniform(SHORTEST, LONGEST) - time.monotonic()))
        for victim in victims:
            assert victim.running, f"{victim.name} ended by itself:\n{victim.log[-3000:]}"
            victim.kill9()
        for victim in victims:
            victim.launch()
            started[victim.name] = time.monotonic()
        if done % 20 == 0:
            progress(f"{done} kills")


@pytest.mark.limit(180 + 4 * KILLS)
def test_each_reading_is_once_in_the_topic(tmp_path: Path) -> None:
    """Nothing acknowledged is missing in the topic and nothing is there twice, and the group has read all of it."""
    need("mosquitto")
    progress(f"{KILLS} kills, HEADRACE_SEED={SEED}")
    dice, sent = random.Random(SEED), Sent()
    receiver, kafka = free_port(), free_port()
    with Mosquitto(tmp_path / "broker") as broker:
        keys = {
            "url": broker.url, "folder": tmp_path, "receiver": receiver, "kafka": kafka, "partitions": PARTITIONS,
            "batch": 20, "longest": 200,
        }  # fmt: skip
        aggregator = Program("aggregator", AGGREGATOR.format(**keys), tmp_path / "a", name="aggregator")
        collector = Program("edge", COLLECTOR.format(**keys), tmp_path / "c", name="collector")
        sensors = Sensors(broker, sent)
        with aggregator, collector:
            group, over = Group(kafka), threading.Event()

            def publish() -> None:
                number = 0
                while not over.is_set():
                    sensors.burst("kills", number, 5)
                    number += 5
                    time.sleep(0.02)

            load = threading.Thread(target=publish, daemon=True)
            load.start()
            kill([aggregator, collector], dice)
            over.set()
            load.join()
            sensors.settled(60)
            wait_until(lambda: group.found.keys() >= sent.kept.keys(), 120, "the group has read every reading")
            wait_until(lambda: _end(aggregator) and _end(collector), 60, "nothing is under way")
            found = in_topic(kafka)
            wait_until(lambda: not found - group.found, 60, f"the group has read {sorted(found - group.found)[:5]}")
            group.close()
        sensors.close()
    why = f"HEADRACE_SEED={SEED}"
    assert not sent.kept - found, f"{why}: missing {sorted((sent.kept - found).items())[:5]}"
    assert not found - sent.kept - sent.open, f"{why}: twice {sorted((found - sent.kept).items())[:5]}"
    progress(f"{found.total():,} readings, 0 missing, 0 twice; the group read {group.found.total():,}")


def _end(program: Program) -> bool:
    try:
        return program.count("CHANNEL.kept", "ChannelSize") == 0
    except (OSError, KeyError, ValueError):
        return False
