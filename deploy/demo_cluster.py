"""`make demo PEERS=1`: the same road, with a real HDFS, HBase and Kafka behind the aggregator.

They are the servers that the tests use (tests/peers: Java, by way of Maven), each on free ports in the demo's folder.
Every sink has a file channel of its own, so one that is slow holds back no other. What each holds at the end is asked
of the servers themselves: `hdfs dfs -text`, a scan, a read_committed consumer.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from tests.needs import missing
from tests.peers.harness import Server
from tests.peers.hbase import Hbase
from tests.peers.hdfs import Hdfs
from tests.peers.kafka import Kafka

Reading = tuple[str, bytes]
"""(topic, payload)."""
NAMES = " hdfs hbase kafka"
SINKS = """\
aggregator.channels.hdfs.type = file
aggregator.channels.hdfs.path = {folder}/aggregator
aggregator.channels.hbase.type = file
aggregator.channels.hbase.path = {folder}/aggregator
aggregator.channels.kafka.type = file
aggregator.channels.kafka.path = {folder}/aggregator
aggregator.sinks.hdfs.type = hdfs
aggregator.sinks.hdfs.channel = hdfs
aggregator.sinks.hdfs.hdfs.path = {hdfs}/readings/%Y-%m-%d
aggregator.sinks.hdfs.hdfs.fileType = DataStream
aggregator.sinks.hdfs.hdfs.fileSuffix = .avro
aggregator.sinks.hdfs.hdfs.inUsePrefix = _
aggregator.sinks.hdfs.hdfs.rollInterval = 5
aggregator.sinks.hdfs.hdfs.rollSize = 0
aggregator.sinks.hdfs.hdfs.rollCount = 0
aggregator.sinks.hdfs.hdfs.batchSize = 1000
aggregator.sinks.hdfs.serializer = avro_event
aggregator.sinks.hbase.type = hbase
aggregator.sinks.hbase.channel = hbase
aggregator.sinks.hbase.thriftPort = {hbase}
aggregator.sinks.hbase.table = readings
aggregator.sinks.hbase.columnFamily = d
aggregator.sinks.hbase.createTable = true
aggregator.sinks.hbase.batchSize = 1000
aggregator.sinks.hbase.serializer = readings
aggregator.sinks.hbase.serializer.sensorHeader = topic
aggregator.sinks.kafka.type = kafka
aggregator.sinks.kafka.channel = kafka
aggregator.sinks.kafka.kafka.bootstrap.servers = {kafka}
aggregator.sinks.kafka.kafka.topic = readings
aggregator.sinks.kafka.allowTopicOverride = false
aggregator.sinks.kafka.header.topic = topic
aggregator.sinks.kafka.flumeBatchSize = 1000
aggregator.sinks.kafka.transactional = true
"""


class Cluster:
    """`with Cluster(folder) as cluster`: three servers that are ready; AssertionError says why one isn't."""

    names = NAMES

    def __init__(self, folder: Path) -> None:
        for name in ("java", "hdfs", "hbase", "kafka"):
            assert not missing(name), f"{name}: {missing(name)}"
        self.folder, self._running = folder, ExitStack()

    def __enter__(self) -> Cluster:
        with ExitStack() as started:

            def start(server: Server) -> None:
                started.callback(server.__exit__)
                server.start()

            self.hdfs, self.hbase = Hdfs(self.folder / "hdfs"), Hbase(self.folder / "hbase")
            self.kafka = Kafka(self.folder / "kafka")
            for server in (self.hdfs, self.hbase, self.kafka):
                start(server)
            self.kafka.create_topic("readings", 3)
            self._running = started.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    @property
    def conf(self) -> str:
        """The channels and sinks NAMES of the aggregator's configuration."""
        return SINKS.format(folder=self.folder, hdfs=self.hdfs.url, hbase=self.hbase.port, kafka=self.kafka.bootstrap)

    def outputs(self) -> dict[str, Counter[Reading]]:
        """What each server holds, by topic and payload."""
        return {"HDFS": self._in_hdfs(), "HBase": self._in_hbase(), "Kafka": self._in_kafka()}

    def _in_hdfs(self) -> Counter[Reading]:
        """Of the finished files; those that are open have names with `_`."""
        lines = self.hdfs.text("/readings/*/[!_]*").splitlines()
        events = map(json.loads, lines)
        return Counter((event["headers"]["topic"], event["body"].encode("latin-1")) for event in events)

    def _in_hbase(self) -> Counter[Reading]:
        found: Counter[Reading] = Counter()
        for key, cells in self.hbase.rows("readings"):
            said = [b'"%s": %s' % (name, cells[b"d:" + name]) for name in (b"value", b"n") if b"d:" + name in cells]
            found[key.split(b"|")[0].decode(), b"{%s}" % b", ".join(said)] += 1
        return found

    def _in_kafka(self) -> Counter[Reading]:
        records = self.kafka.consume("readings", committed=True)
        return Counter((one.headers["topic"].decode(), one.value or b"") for one in records)
