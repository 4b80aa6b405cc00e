"""Real Hive on free ports of loopback: a metastore (3.1.3 or 4.0.1, with Derby), and HiveServer2 4.0.1 with Tez local.

    with Metastore(folder, "4") as metastore:       # a restart keeps what it knows
        with HiveServer2(folder, metastore) as hive:
            hive.query("select count(*) from db.t")  # [(20000,)]; seconds a query
        metastore.kill9(); metastore.start()

HiveServer2 4 reads metastore 4.0.1 alone, Spark reads 3.1.3 alone. The warehouse is a local folder unless an HDFS
is given (`warehouse = hdfs.url + "/warehouse"`). `shared_metastore("3")`, `shared_hive()` are the run's, which nobody
may stop; use a database of your own in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.peers import jars
from tests.peers.harness import Server, answers, free_port
from tests.peers.hdfs import site
from tests.peers.shared import shared

LOG = """status=warn
appender.c.type=Console
appender.c.name=c
appender.c.target=SYSTEM_ERR
appender.c.layout.type=PatternLayout
appender.c.layout.pattern=%d{ISO8601} %p %c{2}: %m%n
rootLogger.level=warn
rootLogger.appenderRef.c.ref=c
"""
WITHOUT_HIVE = {
    "metastore.expression.proxy": "org.apache.hadoop.hive.metastore.DefaultPartitionExpressionProxy",
    "metastore.task.threads.always": "org.apache.hadoop.hive.metastore.events.EventCleanerTask",
    "metastore.task.threads.remote": "org.apache.hadoop.hive.metastore.txn.AcidHouseKeeperService",
}
"""Of 3.1.3, which comes without hive-exec: classes that it has."""
WITHOUT_COMPACTOR = {"metastore.compactor.initiator.on": False, "metastore.compactor.worker.threads": 0}
HIVE_OPENS = (
    "java.lang", "java.lang.invoke", "java.lang.reflect", "java.net", "java.util", "java.util.concurrent",
    "java.util.concurrent.atomic", "java.util.regex", "java.time", "java.io", "java.nio", "java.math", "java.text",
    "sun.nio.ch", "sun.util.calendar", "jdk.internal.ref",
)  # fmt: skip


def shared_metastore(version: str) -> Metastore:
    """The run's metastore "3" or "4"."""
    return shared(f"metastore{version}", lambda folder: Metastore(folder, version))


def shared_hive() -> HiveServer2:
    """The run's HiveServer2, on `shared_metastore("4")`."""
    metastore = shared_metastore("4")
    return shared("hiveserver2", lambda folder: HiveServer2(folder, metastore))


class Metastore(Server):
    """At thrift://127.0.0.1:`port`; `version` is "3" or "4"."""

    start_seconds = 110.0

    def __init__(self, folder: Path, version: str, *, warehouse: str = "") -> None:
        super().__init__(f"metastore{version}", folder)
        self.version, self.port = version, free_port()
        self.conf, self.lib = folder / "conf", jars.jars(f"hive{version}")
        self.warehouse = warehouse or f"file://{folder}/warehouse"

    @property
    def url(self) -> str:
        return f"thrift://127.0.0.1:{self.port}"

    def configure(self) -> None:
        self.conf.mkdir(exist_ok=True)
        (self.conf / "log4j2.properties").write_text(LOG)
        site(self.conf / "core-site.xml", {"fs.defaultFS": self.warehouse.rsplit("/", 1)[0] or "file:///"})
        site(
            self.conf / "metastore-site.xml",
            {
                "javax.jdo.option.ConnectionURL": f"jdbc:derby:;databaseName={self.folder}/derby;create=true",
                "javax.jdo.option.ConnectionDriverName": "org.apache.derby.jdbc.EmbeddedDriver",
                "datanucleus.schema.autoCreateAll": True,
                "metastore.schema.verification": False,
                "metastore.warehouse.dir": self.warehouse,
                "metastore.thrift.uris": self.url,
                "metastore.thrift.bind.host": "127.0.0.1",
                "metastore.server.min.threads": 4,
                **(WITHOUT_HIVE if self.version == "3" else WITHOUT_COMPACTOR),
            },
        )

    def command(self) -> Sequence[str]:
        return [
            "java", "-Xmx256m", *jars.LEAN, *jars.opened("java.lang", "java.net", "java.util"),
            f"-Dderby.stream.error.file={self.folder}/derby.log", "-cp", f"{self.conf}:{self.lib}",
            "org.apache.hadoop.hive.metastore.HiveMetaStore", "-p", str(self.port),
        ]  # fmt: skip

    def ready(self) -> bool:
        return answers(self.port)

    def stop(self) -> int:
        """SIGKILL, which Derby survives; an orderly end takes seconds."""
        self.kill9()
        return 0


class HiveServer2(Server):
    """HiveQL on a metastore 4.0.1."""

    start_seconds = 110.0

    def __init__(self, folder: Path, metastore: Metastore) -> None:
        super().__init__("hiveserver2", folder)
        self.metastore, self.port = metastore, free_port()
        self.conf, self.lib = folder / "conf", jars.jars("hive4")

    def configure(self) -> None:
        self.conf.mkdir(exist_ok=True)
        (self.conf / "log4j2.properties").write_text(LOG)
        scratch = self.folder / "scratch"
        for each in (scratch, self.folder / "local"):
            each.mkdir(exist_ok=True)
            each.chmod(0o1777)
        site(self.conf / "core-site.xml", {"fs.defaultFS": "file:///"})
        keys = {
            "hive.metastore.uris": self.metastore.url,
            # It places new databases itself; by default in /user/hive/warehouse of whatever machine this is.
            "hive.metastore.warehouse.dir": self.metastore.warehouse,
            "hive.metastore.warehouse.external.dir": self.metastore.warehouse,
            "hive.server2.thrift.bind.host": "127.0.0.1",
            "hive.server2.thrift.port": self.port,
            "hive.server2.webui.port": -1,
            "hive.server2.enable.doAs": False,
            "hive.server2.authentication": "NONE",
            "hive.execution.engine": "tez",
            "hive.server2.tez.initialize.default.sessions": False,
            "tez.local.mode": True,
            "tez.runtime.optimize.local.fetch": True,
            "tez.ignore.lib.uris": True,
            "tez.staging-dir": f"file://{scratch}/tez",
            "hive.tez.container.size": 256,
            "hive.user.install.directory": f"file://{scratch}",
            "hive.exec.scratchdir": f"file://{scratch}",
            "hive.exec.local.scratchdir": self.folder / "local",
            "hive.query.results.cache.enabled": False,
            "hive.notification.event.poll.interval": "0s",
            "hive.server2.materializedviews.registry.impl": "DUMMY",
            "hive.support.concurrency": False,
            "hive.txn.manager": "org.apache.hadoop.hive.ql.lockmgr.DummyTxnManager",
        }
        for name in ("hive-site.xml", "tez-site.xml"):
            site(self.conf / name, keys)

    def command(self) -> Sequence[str]:
        return [
            "java", "-Xmx600m", "-Duser.timezone=Asia/Tokyo", *jars.LEAN, *jars.opened(*HIVE_OPENS),
            "--add-opens=java.sql/java.sql=ALL-UNNAMED", "-cp", f"{self.conf}:{self.lib}",
            "org.apache.hive.service.server.HiveServer2",
        ]  # fmt: skip

    def ready(self) -> bool:
        return answers(self.port)

    def stop(self) -> int:
        self.kill9()
        return 0

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement; its rows, if it has any."""
        from impala.dbapi import connect

        connection = connect("127.0.0.1", self.port, auth_mechanism="PLAIN", user="hive", password="x")
        try:
            cursor = connection.cursor()
            cursor.execute(statement)
            return [tuple(row) for row in cursor.fetchall()] if cursor.description else []
        finally:
            connection.close()
