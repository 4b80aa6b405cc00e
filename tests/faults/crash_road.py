"""The whole road for tests that kill: broker, collector, aggregator, and senders that know what they were told is kept.

    sensors --MQTT QoS 1--> mosquitto -->.
    a headrace sink --labelled batches--> collector --avro or mqtt--> aggregator --> Avro files, SQLite table
    nc --lines--------------------------->'

One sensor always says the same, so that only the count of its readings tells a repeat from a reading.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from agent.errors import DeliveryError
from agent.event import Batch, Event
from agent.metrics import SinkCounter
from agent.sinks.avro import AvroSink, AvroSinkConfig
from agent.store.streams import Transit
from tests.faults.audit import Sent, audit, of_files, of_table, same_identities
from tests.faults.crash_agent import HIT
from tests.peers.harness import Program, free_port, wait_until
from tests.peers.mosquitto import Mosquitto

CONSTANT = "21.5"
"""The payload of the sensor that is stuck."""

COLLECTOR = """\
c.sources = sensors frames lines
c.channels = kept
c.sinks = forward
c.sources.sensors.type = mqtt
c.sources.sensors.url = {url}
c.sources.sensors.topics = s/#
c.sources.sensors.clientId = collector
c.sources.sensors.version = {version}
c.sources.sensors.batchDuration = 20
c.sources.sensors.channels = kept
c.sources.frames.type = avro
c.sources.frames.bind = 127.0.0.1
c.sources.frames.port = {frames}
c.sources.frames.channels = kept
c.sources.lines.type = netcat
c.sources.lines.bind = 127.0.0.1
c.sources.lines.port = {lines}
c.sources.lines.channels = kept
c.channels.kept.type = file
c.channels.kept.path = {folder}/{collector_store}
c.channels.kept.minimumRequiredSpace = 1048576
c.sinks.forward.channel = kept
c.sinks.forward.backoff = 50
c.sinks.forward.maxBackoff = 200
"""
FORWARD = {
    "avro": """\
c.sinks.forward.type = avro
c.sinks.forward.hostname = 127.0.0.1
c.sinks.forward.port = {receiver}
c.sinks.forward.batch-size = {batch}
""",
    "mqtt": """\
c.sinks.forward.type = mqtt
c.sinks.forward.url = {url}
c.sinks.forward.topic = up/batches
c.sinks.forward.payload = batch
c.sinks.forward.version = {version}
c.sinks.forward.batchSize = {batch}
c.sinks.forward.confirmTimeout = 1000
""",
}
RECEIVE = {
    "avro": """\
a.sources.r.type = avro
a.sources.r.bind = 127.0.0.1
a.sources.r.port = {receiver}
""",
    "mqtt": """\
a.sources.r.type = mqtt
a.sources.r.url = {url}
a.sources.r.topics = up/batches
a.sources.r.clientId = aggregator
a.sources.r.version = {version}
a.sources.r.batchDuration = 20
""",
}
AGGREGATOR = """\
a.sources = r
a.channels = to-files to-table
a.sinks = files table
a.sources.r.channels = to-files to-table
a.channels.to-files.type = file
a.channels.to-files.path = {folder}/{aggregator_store}
a.channels.to-files.minimumRequiredSpace = 1048576
a.channels.to-table.type = file
a.channels.to-table.path = {folder}/{aggregator_store}
a.channels.to-table.minimumRequiredSpace = 1048576
a.sinks.files.type = file_roll
a.sinks.files.channel = to-files
a.sinks.files.sink.directory = {outputs}/avro
a.sinks.files.sink.pathManager.extension = avro
a.sinks.files.sink.rollInterval = 3600
a.sinks.files.sink.serializer = avro_event
a.sinks.files.sink.serializer.identity = true
a.sinks.files.sink.batchSize = {batch}
a.sinks.files.backoff = 50
a.sinks.table.type = sqlite
a.sinks.table.channel = to-table
a.sinks.table.database = {outputs}/events.db
a.sinks.table.batchSize = {batch}
a.sinks.table.backoff = 50
"""


class Victim(Program):
    """One of our programs, killed by itself at `point` (tests/faults/crash_points.py), if that is set."""

    point = ""

    def command(self) -> list[str]:
        command = super().command()
        if self.point:
            at = command.index("-m")
            command[at : at + 2] = ["-m", "tests.faults.crash_agent", self.package, self.point]
        return command

    def killed_at(self, point: str, seconds: float = 20) -> None:
        """Wait for the kill; AssertionError if the program ends otherwise, or not at all."""
        try:
            code = self.wait_exit(seconds)
        except AssertionError:
            raise AssertionError(f"{point!r} was never reached in {self.name}:\n{self.log[-3000:]}") from None
        assert code == -signal.SIGKILL and f"{HIT}{point}" in self.log, f"{code} at {point!r}:\n{self.log[-2000:]}"


class Sensors:
    """Publishers of MQTT readings; a reading is kept when its PUBACK has come."""

    def __init__(self, broker: Mosquitto, sent: Sent) -> None:
        self.sent = sent
        self._open: dict[int, tuple[str, str]] = {}
        self._early: set[int] = set()
        """PUBACKs that came before `publish` returned."""
        self._lock = threading.Lock()
        self.client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self.client.max_inflight_messages_set(1000)
        self.client.reconnect_delay_set(1, 1)
        self.client.on_publish = self._published
        self.client.on_disconnect = self._broken
        self.client.connect("127.0.0.1", broker.port)
        self.client.loop_start()

    def publish(self, topic: str, payload: str) -> None:
        """Send one reading."""
        mid = self.client.publish(topic, payload, qos=1).mid  # not under our lock: paho has locks of its own
        with self._lock:
            if mid in self._early:
                self._early.discard(mid)
                self.sent.kept[topic, payload] += 1
            else:
                self._open[mid] = topic, payload

    def burst(self, case: str, first: int, count: int, sensors: int = 4) -> None:
        """`count` readings of each of some sensors, and of the one that is stuck."""
        for number in range(first, first + count):
            for sensor in range(sensors):
                self.publish(f"s/{case}/{sensor}", f"{case} {sensor} {number}")
            self.publish(f"s/{case}/stuck", CONSTANT)

    def settled(self, seconds: float = 30) -> None:
        """Return when every reading has its PUBACK."""
        wait_until(lambda: not self._open, seconds, "every PUBACK came")

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def _broken(self, *_: Any) -> None:
        """paho sends again what has no PUBACK, and a broker that has it already takes it for another reading."""
        with self._lock:
            self.sent.open.update(self._open.values())

    def _published(self, client: Any, data: Any, mid: int, *_: Any) -> None:
        with self._lock:
            if mid in self._open:
                self.sent.kept[self._open.pop(mid)] += 1
            else:
                self._early.add(mid)


class Frames:
    """A sender of labelled batches through the product's own Avro sink, which is not killed: it sends until OK."""

    def __init__(self, port: int, sent: Sent) -> None:
        self.port, self.sent = port, sent
        self.origin, self.number = os.urandom(16), 0

    def send(self, case: str, first: int, batches: int, size: int = 5) -> None:
        """Batches of `size`, each until it is answered OK."""
        asyncio.run(self._send(case, first, batches, size))

    async def _send(self, case: str, first: int, batches: int, size: int) -> None:
        sink = AvroSink("frames", AvroSinkConfig(channel="c", hostname="127.0.0.1", port=self.port))
        sink.counter = SinkCounter("frames")
        await sink.open()
        try:
            for at in range(first, first + batches * size, size):
                bodies = [f"{case} frame {number}" for number in range(at, at + size)]
                events = [Event({"topic": f"f/{case}"}, body.encode()) for body in bodies]
                labels = Transit(self.origin, "c", self.number, ((self.number + 1, size),), self.number)
                block = Batch(events).block
                await self._until_ok(sink, lambda block=block, labels=labels: Batch(None, block, size, labels))  # type: ignore[misc]
                self.number += size
                self.sent.kept.update((f"f/{case}", body) for body in bodies)
        finally:
            await sink.close()

    async def _until_ok(self, sink: AvroSink, batch: Callable[[], Batch]) -> None:
        async with asyncio.timeout(60):
            while True:
                try:
                    return await sink.send(batch())
                except DeliveryError:
                    await asyncio.sleep(0.03)


def lines(port: int, sent: Sent, bodies: Sequence[str], seconds: float = 20) -> None:
    """Send lines to a netcat source, once; those answered OK are kept, the others of a connection that broke open."""
    end, answered = time.monotonic() + seconds, b""
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as connection:
                connection.sendall("".join(f"{body}\n" for body in bodies).encode())
                while answered.count(b"OK\n") < len(bodies) and (data := connection.recv(4096)):
                    answered += data
            break
        except ConnectionRefusedError:
            assert time.monotonic() < end, f"nobody listens on {port}"
            time.sleep(0.03)
        except OSError:
            break
    kept = answered.count(b"OK\n")
    sent.kept.update(("", body) for body in bodies[:kept])
    sent.open.update(("", body) for body in bodies[kept:])


class Road:
    """`with Road(folder, leg) as road`: everything runs. Stores and outputs lie in `folder`."""

    def __init__(self, folder: Path, leg: str, *, batch: int = 10, version: str = "5") -> None:
        self.folder, self.leg = folder, leg
        self.outputs = folder / "out"
        self.sent = Sent()
        self.broker = Mosquitto(folder / "broker")
        self.keys: dict[str, Any] = {
            "folder": folder, "outputs": self.outputs, "url": self.broker.url, "version": version, "batch": batch,
            "frames": free_port(), "lines": free_port(), "receiver": free_port(),
            "collector_store": "collector-store", "aggregator_store": "aggregator-store",
        }  # fmt: skip
        self.collector = Victim("edge", "", folder / "collector", name="collector")
        self.aggregator = Victim("aggregator", "", folder / "aggregator", name="aggregator")
        self.frames = Frames(self.keys["frames"], self.sent)

    def write(self, **keys: Any) -> None:
        """The configurations, with some values changed."""
        keys = {**self.keys, **keys}
        self.collector.conf = (COLLECTOR + FORWARD[self.leg]).format(**keys)
        self.aggregator.conf = (AGGREGATOR + RECEIVE[self.leg]).format(**keys)

    def store_of(self, program: Program) -> Path:
        """The folder of its store."""
        name: str = self.keys[f"{program.name}_store"]
        return self.folder / name

    def __enter__(self) -> Self:
        self._open = ExitStack()
        with self._open as opening:
            opening.enter_context(self.broker)
            self.write()
            for program in (self.aggregator, self.collector):
                opening.callback(program.kill9)
                program.launch()
            for program in (self.aggregator, self.collector):
                program.wait_ready()
            self.sensors = Sensors(self.broker, self.sent)
            opening.callback(self.sensors.close)
            self._open = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def lines(self, case: str, first: int, count: int) -> None:
        """Lines to the collector."""
        lines(self.keys["lines"], self.sent, [f"{case} line {number}" for number in range(first, first + count)])

    # -- the end

    def in_table(self) -> int:
        """Rows of the table."""
        file = self.outputs / "events.db"
        if not file.exists():
            return 0
        try:
            with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=20)) as database:
                (count,) = database.execute("SELECT count(*) FROM events").fetchone()
        except sqlite3.OperationalError:
            return 0
        return int(count)

    def drained(self, seconds: float = 30) -> None:
        """Return when all that was acknowledged is in the outputs and nothing is on its way; or after `seconds`, so
        that the audit says what is missing."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not (self.in_table() >= len(self.sent) and self._arrived() and self._empty()):
            time.sleep(0.03)

    def _arrived(self) -> bool:
        """Asked beside the number of rows: what nobody answered may be among them while the broker holds others."""
        return not audit("table", self.sent, of_table(self.outputs / "events.db")).missing

    def _empty(self) -> bool:
        try:
            return not (
                self.collector.count("CHANNEL.kept", "ChannelSize")
                or self.aggregator.count("CHANNEL.to-files", "ChannelSize")
                or self.aggregator.count("CHANNEL.to-table", "ChannelSize")
            )
        except (OSError, KeyError, ValueError):
            return False

    def check(self) -> None:
        """AssertionError unless everything acknowledged is there once, in both outputs, under the same identities."""
        table, files = of_table(self.outputs / "events.db"), of_files(self.outputs / "avro")
        found = [audit("table", self.sent, table), audit("Avro files", self.sent, files)]
        assert all(one.ok for one in found), "\n".join(map(str, found))
        assert same_identities(table, files), "the outputs do not hold the same events under the same identities"


class Call(threading.Thread):
    """A call in a thread of its own, which never keeps the process alive."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__(daemon=True, name=str(call))
        self.call = call
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.call()
        except BaseException as error:
            self.error = error

    def result(self, seconds: float = 40) -> None:
        """Wait for it; raises what it raised."""
        self.join(seconds)
        if self.error:
            raise self.error
        assert not self.is_alive(), f"{self.name} has not come to its end in {seconds:g} s"


def together(*calls: Callable[[], object]) -> list[Call]:
    """Start them all."""
    return [Call(call) for call in calls]


def finished(calls: Sequence[Call]) -> None:
    """Wait for them all."""
    for call in calls:
        call.result()
