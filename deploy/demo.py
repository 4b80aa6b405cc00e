"""The whole road in half a minute: `make demo`.

    20 sensors --MQTT QoS 1--> broker --> collector (file channel) --Avro--> aggregator (file channel) --> events.db
                                                                                                      |--> Avro files
                                                                  a Kafka client in a group <-- topic <-'

Halfway the collector is killed with SIGKILL and started again; the consumer group pauses meanwhile, and goes on. A
reading counts as sent when its sensor has the broker's PUBACK; at the end each reading is looked for in what the
outputs really hold, and in what the group has read, by topic and payload. One sensor is stuck and says the same all the
time, so that a repeat can't be told by its content.

`KEEP=1` leaves it running until Ctrl-C and leaves the folder. `PEERS=1` puts a real HDFS, HBase and Kafka behind the
aggregator as well (deploy/demo_cluster.py). Exit code 1 if a reading is missing or there twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fastavro
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from agent.broker import EmbeddedBroker
from deploy.demo_group import Group

if TYPE_CHECKING:
    from deploy.demo_cluster import Cluster

SENSORS = int(os.environ.get("SENSORS", "20"))
READINGS = int(os.environ.get("READINGS", "12000"))
RATE = int(os.environ.get("RATE", "1500"))
"""Readings a second, of all sensors together."""
PATIENCE = 15.0
"""Seconds without a new arrival after which the rest counts as missing."""

COLLECTOR = """\
# Readings from the broker, kept in a file channel, forwarded to the aggregator.
collector.sources = sensors
collector.channels = kept
collector.sinks = forward
collector.sources.sensors.type = mqtt
collector.sources.sensors.url = mqtt://127.0.0.1:{broker}
collector.sources.sensors.topics = sensors/#
collector.sources.sensors.channels = kept
collector.channels.kept.type = file
collector.channels.kept.path = {folder}/collector
collector.sinks.forward.type = avro
collector.sinks.forward.hostname = 127.0.0.1
collector.sinks.forward.port = {avro}
collector.sinks.forward.backoff = 200ms
collector.sinks.forward.channel = kept
"""
AGGREGATOR = """\
# What the collector forwards goes into a table, Avro files and a topic; each has its own place in one store.
aggregator.sources = collectors
aggregator.channels = table files topic{more}
aggregator.sinks = table files topic{more}
aggregator.services = topics
aggregator.sources.collectors.type = avro
aggregator.sources.collectors.bind = 127.0.0.1
aggregator.sources.collectors.port = {avro}
aggregator.sources.collectors.channels = table files topic{more}
aggregator.channels.table.type = file
aggregator.channels.table.path = {folder}/aggregator
aggregator.channels.files.type = file
aggregator.channels.files.path = {folder}/aggregator
aggregator.sinks.table.type = sqlite
aggregator.sinks.table.database = {folder}/events.db
aggregator.sinks.table.channel = table
aggregator.sinks.files.type = file_roll
aggregator.sinks.files.sink.directory = {folder}/avro
aggregator.sinks.files.sink.serializer = avro_event
aggregator.sinks.files.channel = files
# The topic that any Kafka client reads; a reading's key is its MQTT topic.
aggregator.services.topics.type = topics
aggregator.services.topics.port = {kafka}
aggregator.services.topics.path = {folder}/topics
aggregator.services.topics.partitions = 3
aggregator.channels.topic.type = file
aggregator.channels.topic.path = {folder}/aggregator
aggregator.sinks.topic.type = topics
aggregator.sinks.topic.topic = readings
aggregator.sinks.topic.key = %{{topic}}
aggregator.sinks.topic.channel = topic
"""

NO_KILL = """\
-- no mosquitto here. The broker is amqtt, which loses what it holds for a client that is away, so the collector isn't
   killed this time. To see it killed: apt-get install mosquitto"""

Reading = tuple[str, bytes]
"""(topic, payload)."""


class NotReady(Exception):
    """A program did not start; the text has the end of its log."""


class Sensors:
    """Twenty MQTT clients; each publishes at its share of the rate and counts what the broker has acknowledged."""

    def __init__(self, port: int) -> None:
        self.port, self.published = port, 0
        self._readings: list[dict[int, Reading]] = [{} for _ in range(SENSORS)]
        self._acknowledged: list[list[int]] = [[] for _ in range(SENSORS)]
        self._clients = [self._client(index) for index in range(SENSORS)]

    def _client(self, index: int) -> mqtt.Client:
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"sensor-{index + 1:02}", protocol=mqtt.MQTTv311)
        client.max_inflight_messages_set(100)
        client.on_publish = lambda _c, _u, mid, _r, _p: self._acknowledged[index].append(mid)
        return client

    @property
    def count(self) -> int:
        """Readings that the broker has acknowledged."""
        return sum(map(len, self._acknowledged))

    @property
    def sent(self) -> Counter[Reading]:
        """The acknowledged readings themselves."""
        pairs = zip(self._readings, self._acknowledged, strict=True)
        return Counter(readings[mid] for readings, mids in pairs for mid in mids)

    def connect(self) -> None:
        for client in self._clients:
            client.connect("127.0.0.1", self.port)
            client.loop_start()

    def close(self) -> None:
        for client in self._clients:
            client.disconnect()
            client.loop_stop()

    async def run(self, total: int, rate: float) -> None:
        """Publish until `total` readings are out, `rate` a second."""
        began, first = time.monotonic(), self.published
        while self.published < total:
            due = min(total, first + int((time.monotonic() - began) * rate))
            while self.published < due:
                self._publish(self.published % SENSORS, self.published // SENSORS)
            await asyncio.sleep(0.02)

    def _publish(self, index: int, number: int) -> None:
        topic = f"sensors/s{index + 1:02}/temperature"
        said: dict[str, float] = {"value": round(20 + 5 * math.sin(number / 40 + index), 2), "n": self.published}
        payload = b'{"value": 21.5}' if index == 0 else json.dumps(said).encode()
        mid = self._clients[index].publish(topic, payload, qos=1).mid
        self._readings[index][mid] = (topic, payload)
        self.published += 1


class Program:
    """One of our programs as a process, its log in the folder."""

    def __init__(self, package: str, conf: str, folder: Path, monitoring: int) -> None:
        self.package, self.monitoring = package, monitoring
        self.conf, self.log = folder / f"{package}.conf", folder / f"{package}.log"
        self.conf.write_text(conf)
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start it and return when it is ready; NotReady if it isn't."""
        process = self.process = self._launch()
        for _ in range(600):
            if process.poll() is not None:
                break
            if await asyncio.to_thread(self._get, "/readyz") is not None:
                return
            await asyncio.sleep(0.05)
        raise NotReady(f"python -m {self.package} did not get ready:\n{self.log.read_text()[-3000:]}")

    def _launch(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as out:
            return subprocess.Popen(
                [sys.executable, "-m", self.package, "-f", str(self.conf), "-Dflume.monitoring.type=http",
                 f"-Dflume.monitoring.port={self.monitoring}"],
                stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def _get(self, path: str) -> bytes | None:
        request = urllib.request.Request(f"http://127.0.0.1:{self.monitoring}{path}")
        with contextlib.suppress(OSError, urllib.error.URLError), urllib.request.urlopen(request, timeout=2) as answer:
            return bytes(answer.read())
        return None

    def waiting(self) -> int | None:
        """Events in its channels, the fullest counts; None if it doesn't answer."""
        said = self._get("/metrics")
        if said is None:
            return None
        sizes = [int(float(v["ChannelSize"])) for k, v in json.loads(said).items() if k.startswith("CHANNEL.")]
        return max(sizes, default=0)

    def check(self) -> None:
        """NotReady if it ended by itself."""
        code = self.process.poll() if self.process else None
        if code is not None:
            raise NotReady(f"python -m {self.package} ended with {code}:\n{self.log.read_text()[-3000:]}")

    def kill(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM; SIGKILL if it takes longer than ten seconds."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()


class Display:
    """Lines that are drawn again in place on a terminal, and one plain line a second elsewhere."""

    WIDTH = 40

    def __init__(self) -> None:
        self.live = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        self.note = ""
        self._drawn, self._last = 0, 0.0

    def say(self, text: str) -> None:
        """One line that stays."""
        self._clear()
        print(text, flush=True)

    def show(self, sent: int, kept: int, arrived: int, collector: bool) -> None:
        kept, arrived = min(sent, kept), min(sent, arrived)  # on its way to us, a PUBACK may be overtaken
        state = "up" if collector else "DOWN"
        if self.live:
            self._clear()
            rows = [self._bar("sent", sent, 36), self._bar("kept", kept, 33), self._bar("arrived", arrived, 32),
                    f"  {'lag':8}{max(0, sent - arrived):>7,}   collector {state}   {self.note}"]  # fmt: skip
            print("\n".join(rows), flush=True)
            self._drawn = len(rows)
        elif time.monotonic() - self._last >= 1 or arrived == READINGS:
            self._last = time.monotonic()
            lag = max(0, sent - arrived)
            print(
                f"sent {sent:>6,}  kept {kept:>6,}  arrived {arrived:>6,}  lag {lag:>5,}  collector {state}", flush=True
            )

    def _bar(self, name: str, count: int, colour: int) -> str:
        full = min(self.WIDTH, count * self.WIDTH // READINGS)
        return f"  {name:8}{count:>7,}   \x1b[{colour}m{'━' * full}\x1b[90m{'━' * (self.WIDTH - full)}\x1b[0m"

    def _clear(self) -> None:
        if self._drawn:
            print(f"\x1b[{self._drawn}A\x1b[J", end="")
            self._drawn = 0


def in_table(database: Path) -> Counter[Reading]:
    """Every reading in the table, by topic and payload."""
    if not database.exists():
        return Counter()
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        rows = db.execute("select topic, body from events")
        return Counter((topic, body.encode() if isinstance(body, str) else body) for topic, body in rows)


def rows_in(database: Path) -> int:
    """How many rows the table has now; 0 while it doesn't exist."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
            return int(db.execute("select count(*) from events").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def in_files(folder: Path) -> Counter[Reading]:
    """Every reading in the Avro files, by topic and payload."""
    return Counter((event["headers"]["topic"], event["body"]) for event in _events(folder))


def _events(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(p for p in folder.rglob("[!.]*") if p.is_file() and p.stat().st_size):
        with path.open("rb") as file:
            for event in fastavro.reader(file):
                assert isinstance(event, dict)
                yield event


def audit(sent: Counter[Reading], outputs: dict[str, Counter[Reading]]) -> tuple[int, int, int, list[str]]:
    """(arrived in every output, missing in any, twice in any, a line for each output that isn't perfect)."""
    everywhere = sent
    for found in outputs.values():
        everywhere = everywhere & found
    arrived, missing = everywhere.total(), (sent - everywhere).total()
    twice = max((found - sent).total() for found in outputs.values())
    lines = [
        f"  {name}: {(sent - found).total():,} missing, {(found - sent).total():,} twice or never sent"
        for name, found in outputs.items()
        if found != sent
    ]
    return arrived, missing, twice, lines


def free_ports(count: int) -> list[int]:
    """TCP ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


class Demo:
    """The parts, and what is known of them between two looks."""

    def __init__(self, folder: Path, broker: int, cluster: Cluster | None) -> None:
        avro, web, edge, kafka = free_ports(4)
        self.folder, self.display, self.cluster = folder, Display(), cluster
        more = cluster.names if cluster else ""
        places = {"folder": folder, "broker": broker, "avro": avro, "more": more, "kafka": kafka}
        (folder / "avro").mkdir()
        conf = AGGREGATOR.format(**places) + (cluster.conf if cluster else "")
        self.aggregator = Program("aggregator", conf, folder, web)
        self.collector = Program("edge", COLLECTOR.format(**places), folder, edge)
        self.sensors, self.group = Sensors(broker), Group(kafka)
        self.up, self._inside, self.broker = False, 0, broker

    async def start(self) -> None:
        await self.aggregator.start()
        await asyncio.to_thread(self.group.start)
        await self.collector.start()
        self.up = True
        self.sensors.connect()

    async def watch(self) -> None:
        """Show where the readings are, ten times a second."""
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(0.1)

    def look(self) -> None:
        inside = self.collector.waiting() if self.up else None
        self._inside = self._inside if inside is None else inside
        arrived = rows_in(self.folder / "events.db")
        kept = arrived + self._inside + (self.aggregator.waiting() or 0)
        sent = self.sensors.count
        self.display.show(sent, kept, arrived, self.up)

    async def kill_halfway(self) -> None:
        """SIGKILL when half is sent, one second of darkness, and a start."""
        while self.sensors.count < READINGS // 2:  # noqa: ASYNC110 (counted by the clients' threads)
            await asyncio.sleep(0.01)
        self.up = False
        self.collector.kill()
        await asyncio.to_thread(self.group.pause)
        read = self.group.found.total()
        self.display.note = f"SIGKILL at {self.sensors.count:,}, group paused at {read:,}"
        if not self.display.live:
            self.display.say(
                f"-- collector killed with SIGKILL after {self.sensors.count:,} readings; the sensors go on\n"
                f"-- the consumer group pauses; it has read {read:,}"
            )
        await asyncio.sleep(1)
        await self.collector.start()
        self.up = True
        self.group.resume()
        self.display.note += ", both started again"
        if not self.display.live:
            self.display.say("-- collector started again; the group goes on")

    async def settle(self) -> None:
        """Return when every reading is acknowledged and in all outputs, or nothing has moved for a while."""
        before, since = (-1, -1, -1), time.monotonic()
        while time.monotonic() - since < PATIENCE:
            self.aggregator.check()
            self.collector.check()
            now = self.sensors.count, rows_in(self.folder / "events.db"), self.group.found.total()
            if min(now) >= self.sensors.published and not (self.aggregator.waiting() or self.collector.waiting()):
                return
            if now != before:
                before, since = now, time.monotonic()
            await asyncio.sleep(0.1)

    def outputs(self) -> dict[str, Counter[Reading]]:
        own = {
            "events.db": in_table(self.folder / "events.db"),
            "Avro files": in_files(self.folder / "avro"),
            "consumer group": self.group.found,
        }
        return own | self.cluster.outputs() if self.cluster else own

    async def finish_files(self) -> None:
        """Files on HDFS are seen when they are finished, which they are when the aggregator stops."""
        if self.cluster:
            self.aggregator.stop()
            self.display.say("-- counting what HDFS, HBase and Kafka hold")

    def stop(self) -> None:
        """Sensors first, so that nothing is on its way."""
        self.sensors.close()
        self.group.pause()
        self.collector.stop()
        self.aggregator.stop()


async def main(folder: Path, keep: bool, cluster: Cluster | None) -> int:
    task = asyncio.current_task()
    assert task
    for number in (signal.SIGINT, signal.SIGTERM):  # both end it with nothing left behind
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    async with EmbeddedBroker(folder=folder / "broker") as broker:
        demo = Demo(folder, broker.port, cluster)
        demo.display.say(
            f"broker {broker.port} · aggregator · collector · {SENSORS} sensors, {RATE:,} readings/s by MQTT"
        )
        kill = broker.kind == "mosquitto"
        if not kill:
            demo.display.say(NO_KILL)
        try:
            await demo.start()
            watch = asyncio.create_task(demo.watch(), name="display")
            parts = [demo.sensors.run(READINGS, RATE), *([demo.kill_halfway()] if kill else [])]
            await asyncio.gather(*parts)
            await demo.settle()
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            demo.look()
            await demo.finish_files()
            code = report(demo)
            if keep:
                await stay(demo)
            return code
        finally:
            demo.stop()


def report(demo: Demo) -> int:
    """Print the one line, and where to look; 1 if anything is missing or twice."""
    sent, outputs = demo.sensors.sent, demo.outputs()
    arrived, missing, twice, lines = audit(sent, outputs)
    unanswered = demo.sensors.published - sent.total()
    if unanswered:
        lines.append(f"  {unanswered:,} readings were never acknowledged by the broker")
    query = "select topic, count(*) as readings, max(time) as latest from events group by topic order by topic limit 3"
    tool = os.path.relpath(Path(sys.executable).parent / "sqlite-utils")
    look = [tool, f"{demo.folder}/events.db", query, "--table"]
    print(f"\nlook:  {tool} {demo.folder}/events.db \\\n         {query!r} --table".replace("'", '"'))
    print(subprocess.run(look, capture_output=True, text=True, check=True).stdout)
    if demo.cluster:
        print("held:  " + " · ".join(f"{name} {found.total():,}" for name, found in outputs.items()))
    print(f"group: {outputs['consumer group'].total():,} read by a Kafka client, in one group with a pause")
    print(f"{sent.total():,} sent · {arrived:,} arrived · {missing:,} missing · {twice:,} twice")
    print("\n".join(lines), end="\n" if lines else "", flush=True)
    return 1 if missing or twice or unanswered or sent.total() != READINGS else 0


async def stay(demo: Demo) -> None:
    """Go on with one reading a second and sensor until Ctrl-C."""
    if demo.cluster:
        await demo.aggregator.start()
    print(f"\nrunning on until Ctrl-C or SIGTERM; everything is in {demo.folder}")
    print(f"  metrics  http://127.0.0.1:{demo.collector.monitoring}/metrics (collector)")
    print(f"           http://127.0.0.1:{demo.aggregator.monitoring}/metrics (aggregator)")
    print(f"  topic    kcat -b {demo.group.servers} -t readings -o end")
    print(f"  publish  mosquitto_pub -p {demo.broker} -q 1 -t sensors/mine -m 21.5", flush=True)
    with contextlib.suppress(asyncio.CancelledError):
        await demo.sensors.run(sys.maxsize, SENSORS)


def cluster_of(folder: Path) -> contextlib.AbstractContextManager[Cluster | None]:
    """The servers of PEERS=1."""
    if os.environ.get("PEERS", "") in ("", "0"):
        return contextlib.nullcontext()
    sys.path.insert(0, str(Path(__file__).parents[1]))  # the harness is no installed package
    from deploy.demo_cluster import Cluster

    return Cluster(folder)


def run() -> int:
    keep = os.environ.get("KEEP", "") not in ("", "0")
    folder = Path(tempfile.mkdtemp(prefix="headrace-demo-"))
    try:
        with cluster_of(folder) as cluster:
            return asyncio.run(main(folder, keep, cluster))
    except asyncio.CancelledError:
        return 130
    except (NotReady, AssertionError) as error:
        print(error)
        return 1
    finally:
        if keep:
            print(f"left: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
            print("nothing is left behind; KEEP=1 make demo leaves it running")


if __name__ == "__main__":
    sys.exit(run())
