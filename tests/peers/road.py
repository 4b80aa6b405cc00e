"""The whole road as a test uses it: broker, collector, forward leg, aggregator, its table and its Avro files."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import fastavro

from tests.peers.harness import Program, free_port, wait_until
from tests.peers.mosquitto import Mosquitto

COLLECTOR = """\
c.sources = in
c.channels = ch
c.sinks = out
c.sources.in.type = mqtt
c.sources.in.url = {broker}
c.sources.in.topics = sensors/#
c.sources.in.version = {version}
c.sources.in.clientId = {name}
c.sources.in.batchDuration = 20ms
c.sources.in.channels = ch
c.channels.ch.type = file
c.channels.ch.path = {store}
c.sinks.out.channel = ch
c.sinks.out.backoff = 50ms
c.sinks.out.maxBackoff = 500ms
"""
AVRO_OUT = """\
c.sinks.out.type = avro
c.sinks.out.hostname = 127.0.0.1
c.sinks.out.port = {avro}
"""
MQTT_OUT = """\
c.sinks.out.type = mqtt
c.sinks.out.url = {broker}
c.sinks.out.topic = forward/{name}
c.sinks.out.payload = batch
c.sinks.out.version = {version}
c.sinks.out.confirmTimeout = 5s
"""
AGGREGATOR = """\
r.sources = in
r.channels = table files
r.sinks = table files
r.sources.in.channels = table files
r.channels.table.type = file
r.channels.table.path = {store}
r.channels.files.type = file
r.channels.files.path = {store}
r.sinks.table.type = sqlite
r.sinks.table.database = {folder}/events.db
r.sinks.table.channel = table
r.sinks.files.type = file_roll
r.sinks.files.sink.directory = {folder}/avro
r.sinks.files.sink.rollInterval = 1
r.sinks.files.sink.serializer = avro_event
r.sinks.files.channel = files
"""
AVRO_IN = """\
r.sources.in.type = avro
r.sources.in.bind = 127.0.0.1
r.sources.in.port = {avro}
"""
MQTT_IN = """\
r.sources.in.type = mqtt
r.sources.in.url = {broker}
r.sources.in.topics = forward/#
r.sources.in.version = {version}
r.sources.in.clientId = aggregator
r.sources.in.batchDuration = 20ms
"""
Reading = tuple[str, str]
"""(topic, payload)."""


class Road:
    """Everything in one folder; the parts are started by the test."""

    def __init__(self, folder: Path, leg: str = "avro", version: str = "5") -> None:
        self.folder, self.leg = folder, leg
        self.broker = Mosquitto(folder / "broker")
        self.avro = free_port()
        self.places = {"broker": self.broker.url, "avro": self.avro, "version": version}
        self.aggregator = self.receiver("aggregator")
        self.collector = self.sender("collector")

    def sender(self, name: str, store: str = "") -> Program:
        """A collector of this name, with a store of its own."""
        conf = COLLECTOR + (AVRO_OUT if self.leg == "avro" else MQTT_OUT)
        folder = self.folder / name
        text = conf.format(**self.places, name=name, store=store or folder / "store")
        return Program("edge", text, folder, name=name)

    def receiver(self, name: str, **places: object) -> Program:
        """An aggregator of this name, with store and outputs of its own."""
        folder = self.folder / name
        conf = AGGREGATOR + (AVRO_IN if self.leg == "avro" else MQTT_IN)
        text = conf.format(**{**self.places, **places}, store=folder / "store", folder=folder)
        return Program("aggregator", text, folder, name=name)

    def publish(self, sensor: str, payloads: list[str], version: str = "5") -> Counter[Reading]:
        """One sensor's readings by mosquitto_pub at QoS 1; what the broker has acknowledged."""
        self.broker.publish(f"sensors/{sensor}", payloads, version)
        return Counter((f"sensors/{sensor}", payload) for payload in payloads)

    def table(self, name: str = "aggregator") -> list[Reading]:
        """The table's readings in the order of arrival."""
        database = self.folder / name / "events.db"
        if not database.exists():
            return []
        try:
            with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
                return list(db.execute("select topic, body from events order by rowid"))
        except sqlite3.OperationalError:
            return []

    def files(self, name: str = "aggregator") -> list[Reading]:
        """The Avro files' readings, file by file."""
        found: list[Reading] = []
        for path in sorted((self.folder / name / "avro").rglob("*")):
            if path.is_file() and not path.name.startswith((".", "_")) and path.stat().st_size:
                with path.open("rb") as file, suppress(EOFError):  # its last block may be on its way
                    found.extend((e["headers"].get("topic", ""), e["body"].decode()) for e in _reader(file))
        return found

    def settle(self, sent: Counter[Reading], seconds: float = 60) -> None:
        """Return when both outputs hold each reading once; AssertionError with what is missing or twice."""
        wait_until(
            lambda: len(self.table()) >= sent.total() and len(self.files()) >= sent.total(), seconds,
            f"{sent.total()} readings in both outputs",
        )  # fmt: skip
        assert differences(sent, Counter(self.table())) == {}
        assert differences(sent, Counter(self.files())) == {}


def _reader(file: object) -> Iterator[Mapping[str, dict[str, str]]]:
    return fastavro.reader(file)  # type: ignore[no-any-return,arg-type]


def differences(sent: Counter[Reading], found: Counter[Reading]) -> dict[str, list[Reading]]:
    """What is missing and what is there too often; empty if nothing is."""
    missing, extra = sent - found, found - sent
    return {name: sorted(c.elements())[:5] for name, c in (("missing", missing), ("twice", extra)) if c}


@contextmanager
def running(road: Road) -> Iterator[Road]:
    """Broker, aggregator and collector, stopped at the end whatever was done to them."""
    with road.broker, road.aggregator, road.collector:
        yield road
