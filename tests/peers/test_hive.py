"""hive: rows that real readers see once, on metastore 4.0.1 by HiveServer2 and on metastore 3.1.3 by Spark SQL."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.event import Batch
from tests.aggregator.metastore.fake import FakeMetastore
from tests.aggregator.sinks.test_hive import PARTITIONED, Kept, event, make
from tests.needs import need
from tests.peers.harness import ROOT, Program, free_port, wait_until
from tests.peers.hdfs import shared_hdfs
from tests.peers.hive import Metastore, shared_hive
from tests.peers.spark import spark

CONF = """\
a.sources = r
a.channels = c
a.sinks = k
a.sources.r.type = netcat
a.sources.r.bind = 127.0.0.1
a.sources.r.port = {port}
a.sources.r.channels = c
a.channels.c.type = file
a.channels.c.path = {folder}/store
a.sinks.k.type = hive
a.sinks.k.channel = c
a.sinks.k.hive.metastore = {metastore}
a.sinks.k.hive.database = {database}
a.sinks.k.hive.table = readings
a.sinks.k.hive.partition = plant/1,%H
a.sinks.k.useLocalTimeStamp = true
a.sinks.k.serializer = JSON
a.sinks.k.batchSize = 1000
a.sinks.k.backoff = 100
a.sinks.k.maxBackoff = 500
a.sinks.k.callTimeout = 3000
"""
MAKE = """\
a.sinks.k.createTable = true
a.sinks.k.hive.columns = id bigint, value double
a.sinks.k.hive.partitionColumns = plant, hour int
"""


def send(port: int, *lines: str) -> None:
    """Lines to the netcat source, each answered OK: they are in the channel."""
    with socket.create_connection(("127.0.0.1", port), 30) as connection, connection.makefile("rwb") as file:
        for start in range(0, len(lines), 100):
            some = lines[start : start + 100]
            file.write("".join(f"{line}\n" for line in some).encode())
            file.flush()
            for _ in some:
                assert file.readline() == b"OK\n"


def readings(first: int, count: int) -> list[str]:
    return [json.dumps({"id": number, "value": number / 2}) for number in range(first, first + count)]


class Agent:
    """An aggregator with a netcat source and the sink."""

    def __init__(self, make: Callable[..., Program], folder: Path, metastore: str, database: str, more: str) -> None:
        self.port = free_port()
        conf = CONF.format(port=self.port, folder=folder, metastore=metastore, database=database) + more
        self.program = make("aggregator", conf)

    def delivered(self) -> int:
        return self.program.count("SINK.k", "EventDrainSuccessCount")


def is_done(program: Program, sink: str, channel: str) -> bool:
    """Whether it has delivered, and nothing is left or under way."""
    tried, done = (program.count(f"SINK.{sink}", f"EventDrain{what}Count") for what in ("Attempt", "Success"))
    return 0 < tried == done and program.count(f"CHANNEL.{channel}", "ChannelSize") == 0


@pytest.fixture
def agent(program: Callable[..., Program], tmp_path: Path) -> Callable[..., Agent]:
    return lambda metastore, database, more=MAKE: Agent(program, tmp_path, metastore, database, more)


@pytest.fixture
def metastore3(tmp_path: Path) -> Iterator[Metastore]:
    """Not started."""
    need("hive3", "java")
    metastore = Metastore(tmp_path / "metastore", "3")
    yield metastore
    metastore.stop()


def files_of(metastore: Metastore, database: str) -> list[Path]:
    folder = Path(metastore.warehouse.removeprefix("file://"))
    return [path for path in (folder / f"{database}.db").rglob("*") if path.is_file()]


def opened(metastore: Metastore, database: str) -> list[Path]:
    """Files that readers don't see."""
    return [path for path in files_of(metastore, database) if path.name.startswith((".", "_"))]


@pytest.mark.limit(300)
def test_rows_are_seen_once_their_file_is_finished(agent: Callable[..., Agent]) -> None:
    """HiveServer2 counts none of an open file, and all of them after the roll, in the partition they belong to."""
    need("hive4", "java")
    hive = shared_hive()
    one = agent(hive.metastore.url, "seen", MAKE + "a.sinks.k.rollInterval = 0\na.sinks.k.rollCount = 500\n")
    send(one.port, *readings(0, 400))
    wait_until(lambda: one.delivered() == 400, 60, "400 rows delivered")
    assert opened(hive.metastore, "seen")
    assert hive.query("select count(*) from seen.readings") == [(0,)]
    send(one.port, *readings(400, 100))
    wait_until(lambda: not opened(hive.metastore, "seen"), 60, "the file is finished")
    found = hive.query("select count(*), count(distinct id), sum(value), min(plant) from seen.readings")
    assert found == [(500, 500, sum(range(500)) / 2, "plant/1")]


@pytest.mark.limit(300)
def test_a_missing_table(agent: Callable[..., Agent]) -> None:
    """One line has the statement that makes it; once it was run the sink goes on."""
    need("hive4", "java")
    hive = shared_hive()
    more = MAKE.replace("createTable = true", "createTable = false") + "a.sinks.k.rollInterval = 1\n"
    one = agent(hive.metastore.url, "missing", more)
    send(one.port, *readings(0, 3))
    one.program.wait_log("there is no table missing.readings; make it: CREATE EXTERNAL TABLE")
    statement = re.search(r"make it: (CREATE .*? STORED AS AVRO)", one.program.log)
    assert statement
    hive.query("create database missing")
    hive.query(statement[1])
    wait_until(
        lambda: is_done(one.program, "k", "c") and not opened(hive.metastore, "missing"), 60, "the rows are seen"
    )
    assert one.program.log.count("there is no table") == 1
    assert hive.query("select count(*) from missing.readings") == [(3,)]


@pytest.mark.limit(300)
def test_a_field_that_does_not_fit(agent: Callable[..., Agent]) -> None:
    """It is a dead letter whose reason names the column; the rows around it are seen."""
    need("hive4", "java")
    hive = shared_hive()
    one = agent(hive.metastore.url, "letters", MAKE + "a.sinks.k.rollInterval = 1\n")
    send(one.port, *readings(0, 3), '{"id": "seven"}', *readings(3, 3))
    one.program.wait_log("column id takes bigint")
    wait_until(lambda: one.delivered() == 6 and not opened(hive.metastore, "letters"), 60, "the rows are seen")
    assert hive.query("select count(*) from letters.readings") == [(6,)]


@pytest.mark.limit(600)
def test_exactly_once_whatever_is_killed(agent: Callable[..., Agent], metastore3: Metastore, tmp_path: Path) -> None:
    """The metastore is down at start and in the middle, the aggregator is killed five times: Spark counts each once."""
    total = 3000
    more = MAKE + "a.sinks.k.rollInterval = 1\na.sinks.k.rollCount = 250\n"
    one = agent(metastore3.url, "killed", more)
    send(one.port, *readings(0, total))
    one.program.wait_log("can't be opened: metastore")
    metastore3.start()
    for round_ in range(5):
        wait_until(lambda: files_of(metastore3, "killed"), 60, "a first file")
        time.sleep(0.1 * round_)
        one.program.kill9()
        if round_ == 2:
            metastore3.kill9()
        one.program.start()
        if round_ == 2:
            metastore3.start()
        send(one.port, *readings(total, 500))
        total += 500
    wait_until(lambda: is_done(one.program, "k", "c") and not opened(metastore3, "killed"), 90, "all rows are seen")
    one.program.stop()
    script = 'print(spark.sql("select count(*), count(distinct id), min(id), max(id) from killed.readings").collect())'
    conf = {"spark.hadoop.hive.metastore.uris": metastore3.url, "spark.sql.catalogImplementation": "hive"}
    found = [int(number) for number in re.findall(r"=(\d+)", spark(script, tmp_path, conf, timeout=250))]
    assert found == [total, total, 0, total - 1]


@pytest.mark.limit(300)
def test_the_documentation_as_printed(program: Callable[..., Program], tmp_path: Path) -> None:
    """The configuration of docs/hive.md makes its table and its query answers; only ports and folder differ."""
    need("hive4", "java")
    hive = shared_hive()
    page = (ROOT / "docs" / "hive.md").read_text()
    conf, command, query = (
        found[1]
        for kind in ("properties", "sh", "sql")
        if (found := re.search(rf"```{kind}\n(.*?)```", page, re.DOTALL))
    )
    port = free_port()
    for printed, ours in (
        ("thrift://127.0.0.1:9083", hive.metastore.url),
        ("/var/lib/headrace", str(tmp_path)),
        ("6666", str(port)),
        ("rollInterval = 60", "rollInterval = 1"),
    ):
        assert printed in conf
        conf = conf.replace(printed, ours)
    one = program("aggregator", conf)
    line = re.search(r"echo '(.*)'", command)
    assert line
    send(port, line[1])
    wait_until(lambda: is_done(one, "hive", "kept"), 60, "the reading is delivered")
    wait_until(lambda: not opened(hive.metastore, "plant"), 60, "its file is finished")
    [(sensor, value, taken, _)] = hive.query(query)
    assert (sensor, value, str(taken)) == ("boiler", 71.5, "2026-11-25 02:00:54")


@pytest.mark.limit(200)
def test_a_table_in_hdfs(tmp_path: Path) -> None:
    """An open file of a sink that died without a word is taken over: its acknowledged rows are finished, no other."""
    need("hdfs", "java")
    hdfs = shared_hdfs()

    async def steps(server: FakeMetastore) -> None:
        sink = make(server, **PARTITIONED, **{"hive.location": f"{hdfs.url}/hive/t"})
        kept = Kept(sink)
        await sink.open()
        kept.receipt = await sink.send(Batch([event(1), event(2, "b:/c")]))
        await sink.send(Batch([event(3)]))
        again = make(server, **PARTITIONED)
        Kept(again, kept.receipt)
        await again.open()
        await again.send(Batch([event(3)]))
        await again.close()
        assert sink.output and sink.output.timer
        sink.output.timer.cancel()

    with FakeMetastore(tmp_path) as server:
        asyncio.run(steps(server))
    lines = hdfs.text("/hive/t/room=*/*.avro").decode().splitlines()
    assert sorted(json.loads(line)["id"]["long"] for line in lines) == [1, 2, 3]
    assert any("/room=b%3A%2Fc/" in path for path in hdfs.ls("/hive/t"))
    assert not hdfs.fsck("/hive").open_files
