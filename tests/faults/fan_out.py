"""The whole road to all four real stores: servers of its own, the programs between, and what each store holds.

    readings --MQTT QoS 1--> mosquitto --> collector --avro--> aggregator --> HDFS, HBase, Hive (in that HDFS), Kafka

Each sink has a file channel of its own in one store. A reading says its topic and its number, and is looked for by
these; what a store holds is asked of its own tools, of what is finished and committed alone.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.faults.audit import Sent
from tests.faults.crash_road import Call, Sensors
from tests.peers.harness import Program, Server, free_port, progress, wait_until
from tests.peers.hbase import Hbase
from tests.peers.hdfs import Hdfs
from tests.peers.hive import Metastore
from tests.peers.kafka import Kafka
from tests.peers.mosquitto import Mosquitto
from tests.peers.spark import spark

Reading = tuple[str, int]
"""(topic, number)."""
SINKS = ("hdfs", "hbase", "hive", "kafka")
TOPICS = 10
"""One after the other, and each is a partition of the Hive table: new ones are made as long as readings come."""
COLLECTOR = """\
c.sources = sensors
c.channels = kept
c.sinks = forward
c.sources.sensors.type = mqtt
c.sources.sensors.url = {url}
c.sources.sensors.topics = s/#
c.sources.sensors.clientId = collector
c.sources.sensors.batchDuration = 20
c.sources.sensors.channels = kept
c.channels.kept.type = file
c.channels.kept.path = {folder}/collector-store
c.sinks.forward.type = avro
c.sinks.forward.channel = kept
c.sinks.forward.hostname = 127.0.0.1
c.sinks.forward.port = {receiver}
c.sinks.forward.batch-size = {batch}
c.sinks.forward.backoff = 50
c.sinks.forward.maxBackoff = {longest}
"""
AGGREGATOR = """\
a.sources = r
a.channels = {sinks}
a.sinks = {sinks}
a.sources.r.type = avro
a.sources.r.bind = 127.0.0.1
a.sources.r.port = {receiver}
a.sources.r.channels = {sinks}
"""
EACH = """\
a.channels.{sink}.type = file
a.channels.{sink}.path = {folder}/aggregator-store
a.sinks.{sink}.type = {sink}
a.sinks.{sink}.channel = {sink}
a.sinks.{sink}.backoff = 100
a.sinks.{sink}.maxBackoff = 1000
"""
KEYS = {
    "hdfs": """\
a.sinks.hdfs.hdfs.path = {hdfs}/readings/%Y-%m-%d
a.sinks.hdfs.hdfs.fileType = DataStream
a.sinks.hdfs.hdfs.fileSuffix = .avro
a.sinks.hdfs.hdfs.inUsePrefix = _
a.sinks.hdfs.hdfs.rollInterval = 5
a.sinks.hdfs.hdfs.rollSize = 0
a.sinks.hdfs.hdfs.rollCount = 0
a.sinks.hdfs.hdfs.retryInterval = 1
a.sinks.hdfs.hdfs.callTimeout = 10000
a.sinks.hdfs.serializer = avro_event
a.sinks.hdfs.serializer.identity = true
""",
    "hbase": """\
a.sinks.hbase.thriftPort = {hbase}
a.sinks.hbase.table = readings
a.sinks.hbase.columnFamily = d
a.sinks.hbase.createTable = true
a.sinks.hbase.callTimeout = 12000
a.sinks.hbase.serializer = readings
""",
    "hive": """\
a.sinks.hive.hive.metastore = {metastore}
a.sinks.hive.hive.database = fan
a.sinks.hive.hive.table = readings
a.sinks.hive.hive.partition = %{{topic}}
a.sinks.hive.hive.columns = topic string, n bigint, value double
a.sinks.hive.hive.partitionColumns = part string
a.sinks.hive.createTable = true
a.sinks.hive.batchSize = 100
a.sinks.hive.rollInterval = 5
a.sinks.hive.serializer = JSON
""",
    "kafka": """\
a.sinks.kafka.kafka.bootstrap.servers = {kafka}
a.sinks.kafka.kafka.topic = readings
a.sinks.kafka.allowTopicOverride = false
a.sinks.kafka.transactional = true
a.sinks.kafka.identity = true
a.sinks.kafka.callTimeout = 10000
""",
}


class Victim(NamedTuple):
    """What can be killed: how, how it starts again (returning when it serves), and whose sinks wait meanwhile."""

    kill: Callable[[], object]
    start: Callable[[], object]
    sinks: Sequence[str] = ()


class Readings:
    """A thread that publishes readings 0, 1, 2 ... at `rate` a second, as far as `release` lets it."""

    def __init__(self, sensors: Sensors, total: int, rate: float) -> None:
        self.sensors, self.total, self.rate = sensors, total, rate
        self.released = self.published = 0
        self.going, self.over = threading.Event(), False
        self.going.set()
        self.call = Call(self._publish)

    def reading(self, number: int) -> Reading:
        return f"s/{number * TOPICS // self.total}", number

    def release(self, number: int) -> None:
        """Readings below `number` may go."""
        self.released = min(number, self.total)

    def wait(self) -> None:
        """Return when what was released is published."""
        wait_until(lambda: self.published == self.released or self.call.error, 120, "the readings are published")
        if self.call.error:
            raise self.call.error

    @contextmanager
    def silence(self) -> Iterator[None]:
        """Nothing is published meanwhile, and all that was has its PUBACK."""
        self.going.clear()
        time.sleep(0.2)  # one may be on its way
        self.sensors.settled()
        yield
        self.going.set()

    def _publish(self) -> None:
        while not self.over and self.published < self.total:
            time.sleep(0.01)
            for _ in range(max(1, int(self.rate / 100))):
                if self.going.is_set() and self.published < self.released:
                    topic, number = self.reading(self.published)
                    body = {"topic": topic, "n": number, "value": number / 4}
                    self.sensors.publish(topic, json.dumps(body))
                    self.published += 1


class FanOut:
    """`with FanOut(folder) as road`: everything runs. `sinks` leaves some out."""

    def __init__(self, folder: Path, sinks: Sequence[str] = SINKS) -> None:
        self.folder, self.sinks, self.sent = folder, sinks, Sent()
        self.broker, self.hdfs = Mosquitto(folder / "broker"), Hdfs(folder / "hdfs")
        self.hbase, self.kafka = Hbase(folder / "hbase"), Kafka(folder / "kafka", apart=True)
        self.metastore = Metastore(folder / "metastore", "3", warehouse=f"{self.hdfs.url}/warehouse")
        keys = {
            "folder": folder, "url": self.broker.url, "receiver": free_port(), "sinks": " ".join(sinks),
            "hdfs": self.hdfs.url, "hbase": self.hbase.port, "metastore": self.metastore.url,
            "kafka": self.kafka.bootstrap, "batch": 100, "longest": 500,
        }  # fmt: skip
        text = AGGREGATOR + "".join(EACH.replace("{sink}", sink) + KEYS[sink] for sink in sinks)
        self.collector = Program("edge", COLLECTOR.format(**keys), folder / "collector", name="collector")
        self.aggregator = Program("aggregator", text.format(**keys), folder / "aggregator", name="aggregator")
        self.aggregator.stop_seconds = 60.0
        self.programs = (self.aggregator, self.collector)

    def servers(self) -> list[Server]:
        """In the order in which they start."""
        of: dict[str, list[Server]] = {
            "hdfs": [self.hdfs], "hbase": [self.hbase], "hive": [self.hdfs, self.metastore], "kafka": [self.kafka],
        }  # fmt: skip
        wanted = [self.broker, *(server for sink in self.sinks for server in of[sink])]
        return list(dict.fromkeys(wanted))

    def victims(self) -> dict[str, Victim]:
        """All that is killed; the aggregator too."""
        hdfs, hbase = self.hdfs, self.hbase
        files = [sink for sink in ("hdfs", "hive") if sink in self.sinks]
        every = {
            "NameNode": Victim(hdfs.kill_namenode, hdfs.start_namenode, files),
            "DataNode": Victim(hdfs.kill_datanode, hdfs.start_datanode, files),
            "HBase": Victim(hbase.kill_master, hbase.start_master, ["hbase"]),
            "Thrift gateway": Victim(hbase.kill_gateway, hbase.start_gateway, ["hbase"]),
            "metastore": Victim(self.metastore.kill9, self.metastore.start, ["hive"]),
            "Kafka": Victim(self.kafka.kill9, self.kafka.start, ["kafka"]),
            "aggregator": Victim(self.aggregator.kill9, self.aggregator.start, self.sinks),
            "mosquitto": Victim(self._kill_broker, self.broker.start, self.sinks),
        }
        return {name: one for name, one in every.items() if one.sinks and set(one.sinks) <= set(self.sinks)}

    def __enter__(self) -> FanOut:
        with ExitStack() as opening:
            for server in (*self.servers(), *self.programs):
                opening.callback(server.kill9)
            if self.kafka.apart:
                opening.callback(self.kafka.apart.kill9)
            for server in self.servers():
                server.launch()
                if server is self.hdfs:
                    server.wait_ready()  # the metastore makes its warehouse when it starts
            for server in self.servers():
                server.wait_ready()
            if "kafka" in self.sinks:
                self.kafka.create_topic("readings", 3)
            for program in self.programs:
                program.start()
            self.sensors = Sensors(self.broker, self.sent)
            opening.callback(self.sensors.close)
            self._open = opening.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _kill_broker(self) -> None:
        """mosquitto acknowledges what only its memory has, and writes that every minute, or when it is told to: what
        comes after that is lost with it, and what it then delivered comes again. So this is done in a silence."""
        wait_until(lambda: self.accepted() == len(self.sent), 60, "the collector has all that was acknowledged")
        file, before = self.broker.folder / "mosquitto.db", time.time_ns()
        self.broker.signal(signal.SIGUSR1)
        wait_until(lambda: file.exists() and file.stat().st_mtime_ns >= before, 10, "mosquitto writes its state")
        self.broker.kill9()

    # Progress.

    def accepted(self) -> int:
        """Readings that the collector has taken in."""
        return self.collector.count("SOURCE.sensors", "EventAcceptedCount")

    def delivered(self) -> dict[str, int]:
        """Of each sink, since the aggregator's last start."""
        return {sink: self.aggregator.count(f"SINK.{sink}", "EventDrainSuccessCount") for sink in self.sinks}

    def waiting(self) -> dict[str, int]:
        """In each channel."""
        found = {sink: self.aggregator.count(f"CHANNEL.{sink}", "ChannelSize") for sink in self.sinks}
        return {"collector": self.collector.count("CHANNEL.kept", "ChannelSize"), **found}

    def go_on(self, sinks: Sequence[str], since: dict[str, int], seconds: float = 90) -> None:
        """Return when each of these sinks has delivered more, or all it can."""

        def moved(sink: str) -> bool:
            return self.delivered()[sink] > since[sink] or not self.waiting()[sink]

        for sink in sinks:
            what = f"{sink} delivers:\n{self.aggregator.log[-3000:]}"
            wait_until(partial(moved, sink), seconds, what)

    def drained(self, seconds: float = 120) -> None:
        """Return when nothing is on its way."""
        wait_until(lambda: self.accepted() >= len(self.sent), 60, "the collector has all that was acknowledged")
        wait_until(
            lambda: not any(self.waiting().values()), seconds, f"all is delivered:\n{self.aggregator.log[-4000:]}"
        )

    def reported(self) -> None:
        """A DataNode that starts while a lease is recovered may report the block as it was before, and the NameNode
        takes a whole block for corrupt until the next full report, six hours later: ask for one now."""
        self.hdfs.admin("-triggerBlockReport", f"127.0.0.1:{self.hdfs.ports[0]['ipc']}")
        wait_until(lambda: self.hdfs.jmx("FSNamesystem").get("CorruptBlocks") == 0, 30, "no block is corrupt")

    # The stores.

    def stored(self) -> Iterator[tuple[str, Counter[Reading]]]:
        """(store, what it holds), one store after the other."""
        for sink in self.sinks:
            progress(f"counting in {sink}")
            yield sink, getattr(self, f"in_{sink}")()

    def in_hdfs(self) -> Counter[Reading]:
        """By `hdfs dfs -text`, of finished files."""
        events = map(json.loads, self.hdfs.text("/readings/*/[!_]*").splitlines())
        return Counter(_said(event["body"]) for event in events)

    def in_hbase(self) -> Counter[Reading]:
        """By a scan, whose rows are as many as RowCounter's."""
        rows = self.hbase.rows("readings")
        assert len(rows) == self.hbase.count("readings")
        return Counter((cells[b"d:topic"].decode(), int(cells[b"d:n"])) for _, cells in rows)

    def in_hive(self) -> Counter[Reading]:
        """By Spark SQL."""
        script = """
import json
print(json.dumps(spark.sql("select topic, n from fan.readings").collect()))
"""
        conf = {
            "spark.hadoop.hive.metastore.uris": self.metastore.url,
            "spark.sql.catalogImplementation": "hive",
        }
        rows = json.loads(spark(script, self.folder, conf, timeout=300))
        return Counter((topic, number) for topic, number in rows)

    def in_kafka(self) -> Counter[Reading]:
        """By a read_committed consumer."""
        return Counter(_said(one.value or b"") for one in self.kafka.consume("readings", committed=True))


def _said(body: str | bytes) -> Reading:
    said = json.loads(body)
    return said["topic"], said["n"]
