"""A real HDFS on free ports of loopback: one NameNode, one or more DataNodes, in one folder; and Hadoop's own tools.

    with Hdfs(folder) as hdfs:                  # formatted at the first start, a restart keeps the data
        hdfs.put("/in.txt", b"...")             # FsShell: 1.5 s a command
        hdfs.kill_namenode(); hdfs.start_namenode()         # SIGKILL; returns when it serves again
        assert not hdfs.fsck().open_files

`shared_hdfs()` is the one that every test of a run may use and nobody may stop. Its hdfs-site differs from Hadoop's
defaults where tests would wait: heartbeats every second (a DataNode that died is dead after 14 s, a lease is recovered
in one to three), no 30 s of safe mode after a restart, blocks of any size.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from tests.peers import jars
from tests.peers.harness import LIVE, Server, free_port, http_get, progress, wait_until
from tests.peers.shared import shared

NAMENODE = "org.apache.hadoop.hdfs.server.namenode.NameNode"
DATANODE = "org.apache.hadoop.hdfs.server.datanode.DataNode"
LOG = """log4j.rootLogger={level},c
log4j.appender.c=org.apache.log4j.ConsoleAppender
log4j.appender.c.target=System.err
log4j.appender.c.layout=org.apache.log4j.PatternLayout
log4j.appender.c.layout.ConversionPattern=%d{{ISO8601}} %p %c{{2}}: %m%n
"""


def shared_hdfs() -> Hdfs:
    """The run's HDFS, of one DataNode. Use a folder of your own in it; whoever kills a server starts an own one."""
    return shared("hdfs", Hdfs)


def site(path: Path, properties: dict[str, object]) -> None:
    """Write a Hadoop configuration file."""
    lines = (f"<property><name>{name}</name><value>{value}</value></property>\n" for name, value in properties.items())
    path.write_text(f"<configuration>\n{''.join(lines)}</configuration>\n")


class Fsck(NamedTuple):
    """What fsck says of a path."""

    healthy: bool
    open_files: list[str]
    text: str


class Node(Server):
    """A NameNode or DataNode; it serves once its log has said so since it was started."""

    start_seconds = 90.0

    def __init__(self, name: str, folder: Path, main: str, conf: Path, said: str) -> None:
        super().__init__(name, folder)
        self.main, self.said, self.began = main, said.encode(), 0
        self.classpath = f"{conf}:{jars.jars('hdfs')}"

    def configure(self) -> None:
        self.began = self.log_file.stat().st_size if self.log_file.exists() else 0

    def command(self) -> Sequence[str]:
        return ["java", "-Xmx192m", *jars.LEAN, *jars.opened("java.lang"), "-cp", self.classpath, self.main]

    def ready(self) -> bool:
        return self.said in self.log_file.read_bytes()[self.began :]


class Hdfs(Server):
    """At `url`; `web` is the HTTP port of the NameNode (WebHDFS, JMX). A DataNode is known by its index.

    The user who runs it is HDFS's superuser.
    """

    start_seconds = 90.0

    def __init__(self, folder: Path, *, datanodes: int = 1, replication: int = 0, name: str = "hdfs") -> None:
        super().__init__(name, folder)
        self.port, self.web = free_port(), free_port()
        self.replication = replication or datanodes
        self.conf = folder / "conf"
        """A client's configuration folder too: core-site.xml, hdfs-site.xml."""
        self.namenode = Node("namenode", folder, NAMENODE, self.conf, "NameNode RPC up at")
        self.ports = [{part: free_port() for part in ("data", "http", "ipc")} for _ in range(datanodes)]
        self.datanodes = [
            Node(f"datanode{i}", folder, DATANODE, self._datanode_conf(i), "Successfully sent block report")
            for i in range(datanodes)
        ]

    @property
    def url(self) -> str:
        return f"hdfs://127.0.0.1:{self.port}"

    # A server of several processes.

    @property
    def nodes(self) -> list[Node]:
        return [self.namenode, *self.datanodes]

    @property
    def pid(self) -> int:
        return self.namenode.pid

    def pids(self) -> list[int]:
        return [node.pid for node in self.nodes if node.running]

    @property
    def running(self) -> bool:
        return any(node.running for node in self.nodes)

    @property
    def log(self) -> str:
        return "".join(f"== {node.name}\n{node.log[-3000:]}\n" for node in self.nodes)

    def let_go(self) -> None:
        for node in self.nodes:
            node.let_go()

    def launch(self) -> None:
        self.configure()
        if not (self.folder / "name" / "current").exists():
            progress(f"formatting {self.url}")
            command = ["java", *jars.LEAN, "-cp", self.namenode.classpath, NAMENODE, "-format", "-nonInteractive"]
            jars.run(*command, timeout=60)
        for node in self.nodes:
            node.launch()

    def wait_ready(self) -> Self:
        for node in self.nodes:
            node.wait_ready()
        wait_until(self.ready, 60, f"{self.url} with its DataNodes, out of safe mode")
        return self

    def ready(self) -> bool:
        """Whether every DataNode that runs is live and safe mode is over."""
        return self.live() >= sum(node.running for node in self.datanodes) and not self.safe_mode()

    def kill9(self) -> None:
        for node in self.nodes:
            node.kill9()

    def stop(self) -> int:
        """SIGKILL, which HDFS survives; an orderly end takes it seconds."""
        self.kill9()
        return 0

    def __exit__(self, *_: object) -> None:
        self.kill9()
        LIVE[:] = [server for server in LIVE if server is not self and server not in self.nodes]

    # Failures.

    def kill_namenode(self) -> None:
        """SIGKILL."""
        self.namenode.kill9()

    def start_namenode(self) -> None:
        """Return when it serves: the running DataNodes are live and safe mode is over (if one of them runs)."""
        self.namenode.start()
        if any(node.running for node in self.datanodes):
            wait_until(self.ready, 60, "the NameNode out of safe mode")

    def kill_datanode(self, index: int = 0) -> None:
        """SIGKILL; the NameNode takes it for live for 14 s more."""
        self.datanodes[index].kill9()

    def start_datanode(self, index: int = 0) -> None:
        """Return when it has told the NameNode its blocks."""
        self.datanodes[index].start()

    # Readiness by JMX.

    def jmx(self, bean: str) -> dict[str, Any]:
        """The attributes of a bean `Hadoop:service=NameNode,name=...`; none while it doesn't answer."""
        try:
            status, body = http_get(self.web, f"/jmx?qry=Hadoop:service=NameNode,name={bean}")
            beans = json.loads(body)["beans"] if status == 200 else []
        except (OSError, ValueError, KeyError):
            return {}
        return dict(beans[0]) if beans else {}

    def live(self) -> int:
        """DataNodes that the NameNode takes for live."""
        return int(self.jmx("FSNamesystemState").get("NumLiveDataNodes", 0))

    def safe_mode(self) -> bool:
        return bool(self.jmx("NameNodeInfo").get("Safemode", "down"))

    def configure(self) -> None:
        name = {
            "dfs.replication": self.replication,
            "dfs.namenode.name.dir": f"file://{self.folder}/name",
            "dfs.namenode.http-address": f"127.0.0.1:{self.web}",
            "dfs.namenode.safemode.extension": 0,
            "dfs.namenode.heartbeat.recheck-interval": 2000,
            "dfs.namenode.handler.count": 6,
            "dfs.namenode.fs-limits.min-block-size": 512,
            "dfs.heartbeat.interval": 1,
            "dfs.client.block.write.replace-datanode-on-failure.policy": "NEVER",
        }
        _conf(self.conf, "INFO", self.url, name)
        _conf(self.folder / "conf-quiet", "ERROR", self.url, name)
        for index, ports in enumerate(self.ports):
            data = {
                "dfs.datanode.data.dir": f"file://{self.folder}/data{index}",
                "dfs.datanode.hostname": "127.0.0.1",
                "dfs.datanode.address": f"127.0.0.1:{ports['data']}",
                "dfs.datanode.http.address": f"127.0.0.1:{ports['http']}",
                "dfs.datanode.ipc.address": f"127.0.0.1:{ports['ipc']}",
                "dfs.datanode.handler.count": 3,
                "dfs.block.scanner.volume.bytes.per.second": 0,
            }
            _conf(self._datanode_conf(index), "INFO", self.url, name | data)

    def _datanode_conf(self, index: int) -> Path:
        return self.folder / f"conf{index}"

    # Hadoop's own tools.

    def tool(self, main: str, *args: str, stdin: bytes | None = None, user: str = "") -> bytes:
        """stdout of a Java tool with this HDFS as its default. AssertionError with all it said if it fails."""
        env = ["env", f"HADOOP_USER_NAME={user}"] if user else []
        path = f"{self.folder}/conf-quiet:{jars.jars('hdfs')}"
        return jars.run(*env, "java", "-Xmx192m", *jars.LEAN, "-cp", path, main, *args, stdin=stdin)

    def fs(self, *args: str, stdin: bytes | None = None, user: str = "") -> bytes:
        """`hdfs dfs ...`, as the superuser unless a user is given."""
        return self.tool("org.apache.hadoop.fs.FsShell", *args, stdin=stdin, user=user)

    def text(self, *paths: str) -> bytes:
        """`hdfs dfs -text`: decoded by codec and file type; globs are allowed."""
        return self.fs("-text", *paths)

    def cat(self, *paths: str) -> bytes:
        return self.fs("-cat", *paths)

    def put(self, path: str, data: bytes) -> None:
        """Make or replace a file, with the folders above it."""
        self.fs("-mkdir", "-p", os.path.dirname(path) or "/")
        self.fs("-put", "-f", "-", path, stdin=data)

    def ls(self, path: str = "/") -> dict[str, int]:
        """Every file below a folder (or fitting a glob): path -> length."""
        lines = self.fs("-ls", "-R", path).decode().splitlines()
        files = (line.split(None, 7) for line in lines if line.startswith("-"))
        return {fields[7]: int(fields[4]) for fields in files}

    def admin(self, *args: str) -> str:
        """`hdfs dfsadmin ...`, such as admin("-safemode", "enter") or admin("-setQuota", "5", "/folder")."""
        return self.tool("org.apache.hadoop.hdfs.tools.DFSAdmin", *args).decode()

    def fsck(self, path: str = "/") -> Fsck:
        """Whether what lies there is healthy, and which files are still open for writing."""
        tool = "org.apache.hadoop.hdfs.tools.DFSck"
        text = self.tool(tool, path, "-files", "-blocks", "-openforwrite").decode("utf-8", "replace")
        opened = re.findall(r"^(/.*?) \d+ bytes.*OPENFORWRITE", text, re.MULTILINE)
        return Fsck("is HEALTHY" in text, opened, text)


def _conf(folder: Path, level: str, url: str, properties: dict[str, object]) -> None:
    """A configuration folder; the empty ones in it stand for web pages that the jars don't hold."""
    for empty in ("hdfs", "datanode"):
        (folder / "webapps" / empty).mkdir(parents=True, exist_ok=True)
    (folder / "log4j.properties").write_text(LOG.format(level=level))
    site(folder / "core-site.xml", {"fs.defaultFS": url})
    site(folder / "hdfs-site.xml", properties)
