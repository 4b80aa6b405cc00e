"""The flow of docs/scale.md with the files of deploy/scale as they are, against a real Kafka, HDFS and HBase.

    two brokers, two collectors -> topic of six partitions -> one aggregator, two, one, two again -> HDFS and HBase

It is played once; each test looks at one thing that came of it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.needs import need
from tests.peers.harness import ROOT, Program, free_port, wait_until
from tests.peers.hbase import shared_hbase
from tests.peers.hdfs import shared_hdfs
from tests.peers.kafka import shared_kafka
from tests.peers.mosquitto import Mosquitto

pytestmark = pytest.mark.limit(300)
PARTITIONS, SENSORS, EACH = 6, 6, 50
Reading = tuple[str, int]
"""(sensor, number)."""


class Plant:
    """Everything, and what was seen of it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.stack = folder, stack
        with ThreadPoolExecutor() as pool:  # side by side, if it is the first test that wants them
            kafka, hdfs, hbase = pool.submit(shared_kafka), pool.submit(shared_hdfs), pool.submit(shared_hbase)
            self.kafka, self.hdfs, self.hbase = kafka.result(), hdfs.result(), hbase.result()
        self.name = f"scale-{uuid.uuid4().hex[:8]}"
        self.kafka.create_topic(self.name, PARTITIONS)
        self.texts: list[str] = []
        """Configurations of the aggregators with what they take from the environment, for who has another one."""
        self.brokers: list[Mosquitto] = [self._start(Mosquitto(folder / f"broker{plant}")) for plant in range(2)]
        self.collectors = [self.program("edge", "collector", plant) for plant in range(2)]
        self.sent: list[Reading] = []
        self.alone: set[Reading] = set()
        """What was in HBase while the second aggregator was dead."""
        self.shares = [0, 0]
        """Events that each aggregator had accepted before one was killed."""

    def _start(self, server: Any) -> Any:
        return self.stack.enter_context(server)

    def program(self, package: str, conf: str, index: int) -> Program:
        """Started with a file of deploy/scale and a state folder of its own."""
        folder = self.folder / f"{conf}{index}"
        env = {
            "STATE_DIRECTORY": str(folder / "state"), "KAFKA": self.kafka.bootstrap, "TOPIC": self.name,
            "GROUP": self.name, "TABLE": self.name, "NODE": f"node{index}",
            "THRIFT_HOST": "127.0.0.1", "THRIFT_PORT": str(self.hbase.port),
            "HDFS": f"{self.hdfs.url}/{self.name}", "BROKER": self.brokers[index].url, "WEB_PORT": str(free_port()),
        }  # fmt: skip
        text = (ROOT / "deploy" / "scale" / f"{conf}.conf").read_text()
        if package == "aggregator":
            self.texts.append(re.sub(r"\$\{env:(\w+):-.*?\}", lambda found: env[found[1]], text))
        program: Program = self._start(Program(package, text, folder, env=env, name=conf))
        return program

    def publish(self) -> None:
        """EACH more readings of every sensor of both plants, acknowledged by their brokers."""
        for plant, broker in enumerate(self.brokers):
            for sensor in range(SENSORS):
                topic = f"sensors/{plant}/{sensor}"
                first = sum(one == topic for one, _ in self.sent)
                numbers = range(first, first + EACH)
                broker.publish(topic, [json.dumps({"n": number}) for number in numbers])
                self.sent += [(topic, number) for number in numbers]

    def rows(self) -> list[Reading]:
        """What HBase holds."""
        found = self.hbase.rows(self.name)
        return [(key.split(b"|")[0].decode(), int(cells[b"d:n"])) for key, cells in found]

    def arrived(self) -> bool:
        return set(self.rows()) >= set(self.sent)


def identity(event: dict[str, Any]) -> tuple[str, str]:
    """Of an event in an Avro file: origin and number."""
    return event["headers"]["headrace.origin"], event["headers"]["headrace.number"]


def accepted(aggregator: Program) -> int:
    return aggregator.count("SOURCE.topic", "EventAcceptedCount")


def is_empty(aggregator: Program) -> bool:
    return not any(aggregator.count(f"CHANNEL.{name}", "ChannelSize") for name in ("to-hdfs", "to-hbase"))


def play(plant: Plant) -> None:
    """One aggregator; a second; the second SIGKILLed with something in hand; back again; an orderly end."""
    wait: Callable[..., None] = partial(wait_until, seconds=60)
    first = plant.program("aggregator", "aggregator", 0)
    plant.publish()
    wait(plant.arrived, what=first.log[-3000:])
    second = plant.program("aggregator", "aggregator", 1)
    first_before = accepted(first)
    wait(lambda: "given" in second.log, what=second.log[-3000:])
    plant.publish()
    wait(plant.arrived, what=second.log[-3000:])
    plant.shares = [accepted(first) - first_before, accepted(second)]
    plant.publish()
    wait(lambda: accepted(second) > plant.shares[1], what=second.log[-3000:])
    second.kill9()
    plant.publish()
    latest = set(plant.sent[-2 * SENSORS * EACH :])
    wait(lambda: set(plant.rows()) >= latest, what=first.log[-3000:])
    plant.alone = set(plant.rows())
    second.start()
    wait(plant.arrived, what=second.log[-3000:])
    for aggregator in (first, second):
        wait(partial(is_empty, aggregator), what=aggregator.log[-3000:])
        assert aggregator.stop() == 0


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    need("mosquitto", "mosquitto_pub", "java", "kafka", "hdfs", "hbase")
    with ExitStack() as stack:
        made = Plant(tmp_path_factory.mktemp("scale"), stack)
        play(made)
        yield made


@pytest.fixture(scope="module")
def files(plant: Plant) -> list[dict[str, Any]]:
    """Every event that HDFS holds under a final name, as `hdfs dfs -text` prints it."""
    text, decoder, found, at = plant.hdfs.text(f"/{plant.name}/*/*.avro").decode(), json.JSONDecoder(), [], 0
    while at < len(text):
        event, at = decoder.raw_decode(text, at)
        found.append(event)
        at += len(text[at:]) - len(text[at:].lstrip())
    return found


def test_the_topic_holds_each_reading_once(plant: Plant) -> None:
    """A read_committed consumer sees each once, those of a sensor in one partition and in order."""
    records = plant.kafka.consume(plant.name, committed=True)
    by_sensor: dict[bytes, list[tuple[int, int]]] = {}
    for one in records:
        body = json.loads(one.value[one.value.rindex(b"{") :])
        by_sensor.setdefault(one.key, []).append((one.partition, body["n"]))
    assert {key.decode(): [n for _, n in found] for key, found in by_sensor.items()} == {
        sensor: list(range(4 * EACH)) for sensor in {one for one, _ in plant.sent}
    }
    assert all(len({partition for partition, _ in found}) == 1 for found in by_sensor.values())


def test_a_second_aggregator_takes_its_share(plant: Plant) -> None:
    """Started with nothing changed elsewhere, it takes part of what comes; the first keeps the rest."""
    assert all(0 < share < 2 * SENSORS * EACH for share in plant.shares)
    assert sum(plant.shares) == 2 * SENSORS * EACH


def test_the_other_takes_over(plant: Plant) -> None:
    """With one aggregator dead, what is published then arrives whole."""
    assert plant.alone >= set(plant.sent[-2 * SENSORS * EACH :])


def test_hbase_holds_each_reading_once(plant: Plant) -> None:
    """After a kill, a takeover and a return: one row a reading, none missing."""
    assert Counter(plant.rows()) == Counter(plant.sent)


def test_hdfs_holds_each_identity(plant: Plant, files: list[dict[str, Any]]) -> None:
    """None is missing; what is there twice (of the batch under way at the kill) is so under one identity."""
    named: dict[tuple[str, str], set[Reading]] = {}
    for event in files:
        headers = event["headers"]
        reading = headers["topic"], json.loads(event["body"])["n"]
        named.setdefault(identity(event), set()).add(reading)
    assert Counter(reading for readings in named.values() for reading in readings) == Counter(plant.sent)
    assert len(files) - len(named) <= 2 * SENSORS * EACH


def test_the_audit_knows_of_every_reading(plant: Plant, files: list[dict[str, Any]]) -> None:
    """Given both aggregators it finds every reading at their sinks and none missing, and counts what is there twice."""
    command = [sys.executable, "-m", "aggregator", "audit", "--json"]
    for index, text in enumerate(plant.texts):
        (plant.folder / f"node{index}.conf").write_text(text)
        command += ["-f", str(plant.folder / f"node{index}.conf")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    found = {one["type"]: one["counts"] for one in json.loads(done.stdout)["destinations"]}
    nothing = dict.fromkeys(("waiting", "left out", "missing", "not known"), 0)
    twice = sum(count > 1 for count in Counter(map(identity, files)).values())
    assert found == {
        "hdfs": nothing | {"arrived": len(plant.sent), "repeated": twice},
        "hbase": nothing | {"arrived": len(plant.sent), "repeated": 0},
    }


def test_hdfs_is_healthy(plant: Plant) -> None:
    """fsck finds no file open for writing, and nothing damaged."""
    said = plant.hdfs.fsck(f"/{plant.name}")
    assert said.healthy, said.text
    assert not said.open_files
