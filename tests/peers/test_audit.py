"""The audit reads what HDFS, Hive, HBase and Kafka really hold."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.aggregator.test_audit import counts, drained, found, spans
from tests.needs import need
from tests.peers.harness import Program
from tests.peers.hbase import shared_hbase
from tests.peers.hdfs import shared_hdfs
from tests.peers.hive import shared_hive
from tests.peers.kafka import shared_kafka

Start = Callable[..., Program]
FLOW = """\
a1.sources = r1
a1.channels = c1
a1.sinks = k1
a1.sources.r1.type = {source}
a1.sources.r1.batchSize = 10
a1.sources.r1.totalEvents = 100
a1.sources.r1.channels = c1
a1.channels.c1.type = file
a1.channels.c1.path = store
a1.sinks.k1.channel = c1
"""


def flow(source: str = "seq", **keys: object) -> str:
    return FLOW.format(source=source) + "".join(
        f"a1.sinks.k1.{name.replace('__', '.')} = {value}\n" for name, value in keys.items()
    )


def ran(program: Start, conf: str) -> Program:
    one = drained(program("aggregator", conf), "k1")
    one.stop()
    return one


def test_a_file_deleted_on_hdfs_is_named(program: Start) -> None:
    """Of files on HDFS all have arrived; one deleted there is named with its numbers."""
    need("hdfs", "java")
    hdfs = shared_hdfs()
    folder = f"/audit-{uuid.uuid4().hex}"
    keys = {"hdfs__path": f"{hdfs.url}{folder}", "hdfs__rollCount": 50, "hdfs__rollSize": 0}
    one = ran(program, flow(type="hdfs", hdfs__fileType="DataStream", **keys))
    assert counts(found(one)["a1.k1"]) == {"arrived": 100}
    gone = sorted(hdfs.ls(folder))[1]
    hdfs.fs("-rm", gone)
    about = found(one)["a1.k1"]
    assert spans(about, "missing") == [(51, 100)]
    assert [f["why"] for f in about["findings"] if f["kind"] == "missing"] == [f"{gone} is not there"]


def test_rows_of_hbase(program: Start) -> None:
    """Rows of the readings serializer are found by their identity column; a deleted one is missing."""
    need("hbase", "java")
    hbase, table = shared_hbase(), f"audit_{uuid.uuid4().hex}"
    keys = {"columnFamily": "d", "createTable": "true", "thriftPort": hbase.port}
    one = ran(program, flow(type="hbase", table=table, serializer="readings", **keys))
    assert counts(found(one)["a1.k1"]) == {"arrived": 100}
    with hbase.client() as client:
        (key,) = (key for key, cells in client.table(table).scan() if cells[b"d:headrace"].endswith(b":42"))
        client.table(table).delete(key)
    assert spans(found(one)["a1.k1"], "missing") == [(42, 42)]


def test_rows_of_hbase_without_identity(program: Start) -> None:
    """Rows of another serializer are not known, and the key is named that helps."""
    need("hbase", "java")
    hbase, table = shared_hbase(), f"audit_{uuid.uuid4().hex}"
    keys = {"columnFamily": "d", "createTable": "true", "thriftPort": hbase.port}
    about = found(ran(program, flow(type="hbase", table=table, **keys)))["a1.k1"]
    assert counts(about) == {"not known": 100}
    assert "serializer = readings" in about["notes"][0]


def test_records_of_kafka(program: Start) -> None:
    """Records of all partitions are found by their headers; those that Kafka no longer has are missing."""
    need("kafka", "java")
    kafka, topic = shared_kafka(), f"audit-{uuid.uuid4().hex}"
    kafka.create_topic(topic, 3)
    keys = {"kafka__bootstrap__servers": kafka.bootstrap, "kafka__topic": topic, "allowTopicOverride": "false"}
    one = ran(program, flow(type="kafka", identity="true", transactional="true", **keys))
    assert counts(found(one)["a1.k1"]) == {"arrived": 100}
    kafka.tool("TopicCommand", "--delete", "--topic", topic)
    assert spans(found(one)["a1.k1"], "missing") == [(1, 100)]


@pytest.mark.limit(300)
def test_files_of_a_hive_table(program: Start) -> None:
    """Files of a Hive table are found where the metastore says it lies; a deleted one is named with its numbers."""
    need("hive4", "java")
    metastore, database = shared_hive().metastore, f"audit_{uuid.uuid4().hex}"
    table = {"hive__database": database, "hive__table": "readings", "hive__columns": "id bigint"}
    rows = {"serializer": "DELIMITED", "serializer__fieldnames": "id", "rollCount": 50, "batchSize": 10}
    made = flow(type="hive", hive__metastore=metastore.url, createTable="true", **table, **rows)
    one = ran(program, made)
    assert counts(found(one)["a1.k1"]) == {"arrived": 100}
    folder = Path(metastore.warehouse.removeprefix("file://")) / f"{database}.db"
    gone = min(folder.rglob("*.avro"))
    gone.unlink()
    about = found(one)["a1.k1"]
    assert spans(about, "missing") == [(1, 50)]
    assert [f["why"] for f in about["findings"] if f["kind"] == "missing"] == [f"{gone} is not there"]
