"""A real HBase 2 on free ports of loopback: ZooKeeper, master and region server in one process, and a Thrift gateway.

    with Hbase(folder) as hbase:                # on local files; a restart keeps the data
        hbase.create("readings", "d")
        hbase.kill_master(); hbase.start_master()       # SIGKILL; returns when it serves again
        hbase.kill_gateway(); hbase.start_gateway()
        assert hbase.count("readings") == 1000  # HBase's own RowCounter, 4 s; `rows` scans

`shared_hbase()` is the one that every test of a run may use and nobody may stop; take a table of your own.
The gateway's own client gives up after some seconds (HBase's defaults retry for minutes, and a disabled table would
hold a call as long).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import happybase

from tests.peers import jars
from tests.peers.harness import LIVE, Server, free_port, wait_until
from tests.peers.hdfs import LOG, site
from tests.peers.shared import shared

MASTER = "org.apache.hadoop.hbase.master.HMaster"
GATEWAY = "org.apache.hadoop.hbase.thrift.ThriftServer"
ROW_COUNTER = "org.apache.hadoop.hbase.mapreduce.RowCounter"
OPENS = (
    *jars.opened("java.lang", "java.lang.reflect", "java.nio", "sun.nio.ch", "jdk.internal.ref"),
    "--add-exports=java.base/jdk.internal.misc=ALL-UNNAMED",
)
COUNTERS = "log4j.logger.org.apache.hadoop.mapreduce.Job=INFO\n"
"""What a job counted is in its log."""
GIVES_UP = {
    "hbase.client.retries.number": 3,
    "hbase.client.pause": 200,
    "hbase.client.operation.timeout": 8000,
    "hbase.client.meta.operation.timeout": 8000,
    "hbase.rpc.timeout": 5000,
    "zookeeper.recovery.retry": 1,
}
"""For the gateway; docs/hbase.md recommends the same."""
Row = tuple[bytes, dict[bytes, bytes]]


def shared_hbase() -> Hbase:
    """The run's HBase."""
    return shared("hbase", Hbase)


class Part(Server):
    """Master or gateway: a Java class with a configuration folder."""

    start_seconds = 90.0

    def __init__(self, name: str, folder: Path, heap: str, conf: Path, said: str, args: Sequence[str]) -> None:
        super().__init__(name, folder)
        self.heap, self.conf, self.said, self.args, self.began = heap, conf, said.encode(), args, 0
        self.classpath = f"{conf}:{jars.jars('hbase')}"

    def configure(self) -> None:
        self.began = self.log_file.stat().st_size if self.log_file.exists() else 0

    def command(self) -> Sequence[str]:
        return ["java", f"-Xmx{self.heap}", *jars.LEAN, *OPENS, "-cp", self.classpath, *self.args]

    def ready(self) -> bool:
        return self.said in self.log_file.read_bytes()[self.began :]


class Hbase(Server):
    """The gateway listens at `port`: buffered and binary, or `framed`, `compact`."""

    start_seconds = 90.0

    def __init__(self, folder: Path, *, framed: bool = False, compact: bool = False, name: str = "hbase") -> None:
        super().__init__(name, folder)
        self.port, self.framed, self.compact = free_port(), framed, compact
        self.ports = {part: free_port() for part in ("zookeeper", "master", "regionserver")}
        flags = [*(["-f", "framed"] if framed else []), *(["-c", "compact"] if compact else [])]
        bind = ["start", "--bind", "127.0.0.1", "-p", str(self.port), "--infoport", "-1", *flags]
        initialized = "Master has completed initialization"
        self.master = Part("master", folder, "512m", folder / "conf", initialized, [MASTER, "start"])
        self.gateway = Part("gateway", folder, "256m", folder / "conf-gateway", "starting HBase", [GATEWAY, *bind])

    # A server of two processes.

    @property
    def parts(self) -> list[Part]:
        return [self.master, self.gateway]

    @property
    def pid(self) -> int:
        return self.master.pid

    def pids(self) -> list[int]:
        return [part.pid for part in self.parts if part.running]

    @property
    def running(self) -> bool:
        return any(part.running for part in self.parts)

    @property
    def log(self) -> str:
        return "".join(f"== {part.name}\n{part.log[-3000:]}\n" for part in self.parts)

    def let_go(self) -> None:
        for part in self.parts:
            part.let_go()

    def launch(self) -> None:
        self.configure()
        self.master.launch()

    def wait_ready(self) -> Self:
        self.master.wait_ready()
        self.start_gateway()
        return self

    def kill9(self) -> None:
        for part in self.parts:
            part.kill9()

    def stop(self) -> int:
        """SIGKILL: nobody wants what it holds any more."""
        self.kill9()
        return 0

    def __exit__(self, *_: object) -> None:
        self.kill9()
        LIVE[:] = [server for server in LIVE if server is not self and server not in self.parts]

    def configure(self) -> None:
        common = {
            "hbase.rootdir": f"file://{self.folder}/data",
            "hbase.tmp.dir": f"{self.folder}/tmp",
            "hbase.cluster.distributed": "false",
            "hbase.zookeeper.property.dataDir": f"{self.folder}/zookeeper",
            "hbase.zookeeper.property.clientPort": self.ports["zookeeper"],
            "hbase.zookeeper.quorum": "127.0.0.1",
            "hbase.wal.provider": "filesystem",
            "hbase.unsafe.stream.capability.enforce": "false",
            "hbase.regionserver.handler.count": 8,
        }
        for role in ("master", "regionserver"):
            common |= {
                f"hbase.{role}.port": self.ports[role],
                f"hbase.{role}.ipc.address": "127.0.0.1",
                f"hbase.{role}.info.port": -1,
            }
        for folder, level, more in (
            ("conf", "INFO", {}),
            ("conf-gateway", "INFO", GIVES_UP),
            ("conf-tools", "ERROR", {}),
        ):
            (self.folder / folder).mkdir(exist_ok=True)
            (self.folder / folder / "log4j.properties").write_text(LOG.format(level=level) + COUNTERS)
            site(self.folder / folder / "hbase-site.xml", common | more)

    # Failures.

    def kill_master(self) -> None:
        """SIGKILL to everything but the gateway."""
        self.master.kill9()

    def start_master(self) -> None:
        """Return when it has come up."""
        self.master.start()

    def kill_gateway(self) -> None:
        """SIGKILL."""
        self.gateway.kill9()

    def start_gateway(self) -> None:
        """Return when it answers."""
        self.gateway.start()
        wait_until(self.ready, 60, "the Thrift gateway answers")

    def ready(self) -> bool:
        """Whether the gateway answers a call."""
        try:
            with self.client(10) as client:
                client.tables()
        except Exception:
            return False
        return True

    # Tables.

    @contextmanager
    def client(self, seconds: float = 30) -> Iterator[Any]:
        """A happybase connection."""
        transport, protocol = "framed" if self.framed else "buffered", "compact" if self.compact else "binary"
        connection = happybase.Connection(
            "127.0.0.1", self.port, timeout=int(seconds * 1000), transport=transport, protocol=protocol
        )
        try:
            yield connection
        finally:
            connection.close()

    def create(self, table: str, *families: str) -> None:
        with self.client() as client:
            client.create_table(table, {family: {} for family in families})

    def disable(self, table: str) -> None:
        with self.client() as client:
            client.disable_table(table)

    def enable(self, table: str) -> None:
        with self.client() as client:
            client.enable_table(table)

    def rows(self, table: str) -> list[Row]:
        """Every row, in the order of keys."""
        with self.client() as client:
            return list(client.table(table).scan(batch_size=1000))

    def count(self, table: str) -> int:
        """Rows, by HBase's own RowCounter."""
        path = f"{self.folder}/conf-tools:{jars.jars('hbase')}"
        command = ["java", "-Xmx256m", *jars.LEAN, *OPENS, "-cp", path, ROW_COUNTER, table]
        said = jars.run("sh", "-c", 'exec "$@" 2>&1', "sh", *command).decode("utf-8", "replace")
        found = re.search(r"ROWS=(\d+)", said)
        return int(found[1]) if found else 0
