"""A real Kafka 4 on free ports of loopback: one broker that is its own controller (KRaft); and Kafka's own tools.

    with Kafka(folder) as kafka:                # formatted at the first start, a restart keeps the data
        kafka.create_topic("readings", 6)
        kafka.kill9(); kafka.start()            # a dead broker's session has to end first: 5 to 11 s
        kafka.consume("readings", committed=True)

`apart=True`: the controller is a process of its own and is not killed with the broker. One that is both and dies right
after a transaction may come back without having finished it (docs/kafka.md, "A hole in Kafka").

`shared_kafka()` is the one that every test of a run may use and nobody may stop; make topics with names of your own.
With `users` a second listener, `secured`, takes SASL/PLAIN (`tls`: over TLS, clients trust `ca`), and what those
users may do is up to `acl` or `allow`; the plain listener is the superuser's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from confluent_kafka import OFFSET_BEGINNING, Consumer, IsolationLevel, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    OffsetSpec,
    ResourcePatternType,
    ResourceType,
)

from tests.peers import jars
from tests.peers.harness import Server, answers, free_port, progress, wait_until
from tests.peers.shared import shared

TOOLS = "org.apache.kafka.tools"
CLUSTER = "AAAAAAAAAAAAAAAAAAAAAQ"
QUIET = "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"


def shared_kafka() -> Kafka:
    """The run's Kafka. Use topics of your own; whoever kills a broker starts an own one."""
    return shared("kafka", WarmKafka)


def secured_kafka() -> Kafka:
    """The run's Kafka with TLS, one user (alice, password alice-pw) and ACLs, which are by topic."""
    return shared(
        "kafka-secured", lambda folder: Kafka(folder, users={"alice": "alice-pw"}, tls=True, name="kafka-secured")
    )


class Record(NamedTuple):
    """What a consumer sees of a record; `headers` without order, `time` in ms since the epoch."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]
    time: int


class Tools:
    """What Kafka's own tools do with a server of its protocol on a port of loopback; and a client in Python."""

    port: int

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def classpath(self) -> str:
        """Of Kafka's jars."""
        return jars.jars("kafka")

    def _java(self, main: str, *args: str, stdin: bytes | None = None) -> str:
        command = ["java", "-Xmx192m", *jars.LEAN, QUIET, "-cp", self.classpath, main, *args]
        return jars.run(*command, stdin=stdin).decode()

    def tool(self, name: str, *args: str, stdin: bytes | None = None) -> str:
        """stdout of a tool such as TopicCommand or consumer.ConsoleConsumer, pointed at this broker."""
        return self._java(f"{TOOLS}.{name}", "--bootstrap-server", self.bootstrap, *args, stdin=stdin)

    def create_topic(self, topic: str, partitions: int = 1, **config: object) -> None:
        """Make a topic; keys of `config` are written with _ for the dot (a tool would take a second)."""
        settings = {key.replace("_", "."): str(value) for key, value in config.items()}
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        for answer in admin.create_topics([NewTopic(topic, partitions, 1, config=settings)]).values():
            answer.result(60)

    def delete_topic(self, topic: str) -> None:
        """Once nobody uses it."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        for answer in admin.delete_topics([topic]).values():
            answer.result(60)

    def acl(self, *args: str) -> None:
        """kafka-acls: acl("--add", "--allow-principal", "User:alice", "--operation", "Write", "--topic", "t")."""
        self.tool("AclCommand", *args)

    def allow(self, kind: str, name: str, *operations: str, user: str = "alice") -> None:
        """The same quickly: allow("topic", "t", "WRITE", "DESCRIBE"); also "group", "transactional_id", "broker"."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        bindings = [
            AclBinding(
                ResourceType[kind.upper()], name, ResourcePatternType.LITERAL, f"User:{user}", "*",
                AclOperation[operation], AclPermissionType.ALLOW,
            )
            for operation in operations
        ]  # fmt: skip
        for answer in admin.create_acls(bindings).values():
            answer.result(30)

    def deny(self, topic: str) -> None:
        """Take every ACL of a topic away."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        every = AclBindingFilter(
            ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, None, None, AclOperation.ANY, AclPermissionType.ANY
        )
        admin.delete_acls([every])[every].result(30)

    def console(self, topic: str, count: int, *args: str) -> list[str]:
        """What the console consumer prints of a topic from its beginning: `count` records, fewer if no more come."""
        more = ("--from-beginning", "--max-messages", str(count), "--timeout-ms", "15000", *args)
        return self.tool("consumer.ConsoleConsumer", "--topic", topic, *more).splitlines()

    def group(self, group: str) -> str:
        """What kafka-consumer-groups --describe says."""
        return self.tool("consumer.group.ConsumerGroupCommand", "--describe", "--group", group)

    # A client in Python, quick enough for many looks.

    def in_transaction(self, topic: str, partitions: int = 1) -> bool:
        """Whether the topic has records of a transaction that hasn't ended."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        asked = {TopicPartition(topic, number): OffsetSpec.latest() for number in range(partitions)}

        def end(level: IsolationLevel) -> int:
            return sum(told.result(20).offset for told in admin.list_offsets(asked, isolation_level=level).values())

        return end(IsolationLevel.READ_UNCOMMITTED) > end(IsolationLevel.READ_COMMITTED)

    def consume(self, topic: str, *, committed: bool = False, bootstrap: str = "") -> list[Record]:
        """Every record that the topic holds now, partition by partition; `committed`: as read_committed sees it."""
        client = Consumer(
            {
                "bootstrap.servers": bootstrap or self.bootstrap,
                "group.id": "harness",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "log_level": 0,
                "allow.auto.create.topics": False,
                "isolation.level": "read_committed" if committed else "read_uncommitted",
            }
        )
        try:
            partitions = client.list_topics(topic, timeout=20).topics[topic].partitions
            client.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions])
            found: list[Record] = []
            left = set(partitions)
            while left:
                first = client.consume(1, timeout=20) or _silent(topic, left)
                for message in first + client.consume(1000, timeout=0.01):  # it waits for all that it is asked for
                    if message.error() is not None:
                        left.discard(message.partition())  # the end of it
                    else:
                        found.append(_record(message))
            return sorted(found)
        finally:
            client.close()


class Reader:
    """A topic that grows, read from its beginning as read_committed sees it: `found` so far, each partition in order.

    It goes on when the server was killed. `consume` doesn't end while records come.
    """

    def __init__(self, server: Tools, topic: str, partitions: int) -> None:
        settings = {"group.id": "reader", "enable.auto.commit": False, "isolation.level": "read_committed"}
        self.client = Consumer({"bootstrap.servers": server.bootstrap, "log_level": 0, **settings})
        self.client.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(partitions)])
        self.found: list[Record] = []

    def read(self) -> int:
        """How many there are by now."""
        self.found += [_record(one) for one in self.client.consume(1000, timeout=0.1) if one.error() is None]
        return len(self.found)

    def wait(self, count: int, seconds: float = 120) -> None:
        """Until so many are there; AssertionError if they don't come."""
        wait_until(lambda: self.read() >= count, seconds, f"{count} records")

    def close(self) -> None:
        self.client.close()


class Controller(Server):
    """The part that keeps a cluster's metadata."""

    start_seconds = 90.0

    def __init__(self, folder: Path, port: int, classpath: str) -> None:
        super().__init__("kafka-controller", folder)
        self.port, self.classpath = port, classpath
        self.file = folder / "controller.properties"

    def configure(self) -> None:
        settings = {
            "process.roles": "controller",
            "node.id": 2,
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{self.port}",
            "listeners": f"CONTROLLER://127.0.0.1:{self.port}",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": self.folder / "controller",
            "broker.session.timeout.ms": 2000,
        }
        self.file.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        if not (self.folder / "controller").exists():
            storage = ["kafka.tools.StorageTool", "format", "--standalone", "-t", CLUSTER, "-c", str(self.file)]
            jars.run("java", *jars.LEAN, QUIET, "-cp", self.classpath, *storage)

    def command(self) -> Sequence[str]:
        log = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
        return ["java", "-Xmx192m", *jars.LEAN, log, "-cp", self.classpath, "kafka.Kafka", str(self.file)]

    def ready(self) -> bool:
        return answers(self.port)

    def stop(self) -> int:
        self.kill9()
        return 0


class Kafka(Tools, Server):
    """At `bootstrap`; with `users` (name -> password) also at `secured`."""

    start_seconds = 90.0
    stop_seconds = 30.0

    def __init__(
        self, folder: Path, *, users: Mapping[str, str] | None = None, tls: bool = False, apart: bool = False,
        name: str = "kafka",
    ) -> None:  # fmt: skip
        super().__init__(name, folder)
        self.port, self.controller, self.secured_port = free_port(), free_port(), free_port()
        self.users, self.tls = dict(users or {}), tls
        self.ca = folder / "cert.pem"
        self.properties: dict[str, object] = {}
        """More of server.properties, for the next start."""
        self.apart = Controller(folder, self.controller, self.classpath) if apart else None

    @property
    def secured(self) -> str:
        """SASL_PLAINTEXT or SASL_SSL, mechanism PLAIN."""
        return f"127.0.0.1:{self.secured_port}"

    def configure(self) -> None:
        file = self.folder / "server.properties"
        if self.tls and not self.ca.exists():
            self._make_certificate()
        file.write_text("".join(f"{key}={value}\n" for key, value in (self._server() | self.properties).items()))
        if not (self.folder / "data").exists():
            progress("formatting kafka")
            how = "--no-initial-controllers" if self.apart else "--standalone"
            self._java("kafka.tools.StorageTool", "format", how, "-t", CLUSTER, "-c", str(file))

    def launch(self) -> None:
        if self.apart and not self.apart.running:
            self.apart.start()
        super().launch()

    def _make_certificate(self) -> None:
        key, plain = self.folder / "key.pem", self.folder / "key8.pem"
        jars.run(
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(self.ca),
            "-days", "30", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
        )  # fmt: skip
        jars.run("openssl", "pkcs8", "-topk8", "-nocrypt", "-in", str(key), "-out", str(plain))
        (self.folder / "broker.pem").write_text(plain.read_text() + self.ca.read_text())

    def _server(self) -> dict[str, object]:
        names = ["PLAINTEXT"] + (["SECURED"] if self.users else [])
        ports = {"PLAINTEXT": self.port, "SECURED": self.secured_port}
        listeners = ",".join(f"{name}://127.0.0.1:{ports[name]}" for name in names)
        settings: dict[str, object] = {
            "process.roles": "broker" if self.apart else "broker,controller",
            "node.id": 1,
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{self.controller}",
            "listeners": listeners if self.apart else f"{listeners},CONTROLLER://127.0.0.1:{self.controller}",
            "advertised.listeners": listeners,
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURED:"
            + ("SASL_SSL" if self.tls else "SASL_PLAINTEXT"),
            "log.dirs": self.folder / "data",
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,
            "broker.session.timeout.ms": 2000,
            "broker.heartbeat.interval.ms": 500,
        }
        for state in ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic"):
            settings |= {f"{state}.replication.factor": 1, f"{state}.num.partitions": 1}
        for state in ("transaction.state.log", "share.coordinator.state.topic"):
            settings[f"{state}.min.isr"] = 1
        return settings | self._security() if self.users else settings

    def _security(self) -> dict[str, object]:
        users = " ".join(f'user_{name}="{password}"' for name, password in self.users.items())
        login = "org.apache.kafka.common.security.plain.PlainLoginModule"
        stores = {
            "listener.name.secured.ssl.keystore.type": "PEM",
            "listener.name.secured.ssl.keystore.location": self.folder / "broker.pem",
        }
        return (stores if self.tls else {}) | {
            "listener.name.secured.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.secured.plain.sasl.jaas.config": f"{login} required {users};",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
        }

    def command(self) -> Sequence[str]:
        return [
            "java", "-Xmx384m", *jars.LEAN, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info", "-cp", self.classpath,
            "kafka.Kafka", str(self.folder / "server.properties"),
        ]  # fmt: skip

    def ready(self) -> bool:
        return answers(self.port)

    def stop(self) -> int:
        """SIGKILL, which Kafka survives; an orderly end takes it seconds."""
        self.kill9()
        return 0

    def __exit__(self, *_: object) -> None:
        try:
            super().__exit__()
        finally:
            if self.apart:
                self.apart.__exit__()


def _silent(topic: str, left: set[int]) -> list[Any]:
    raise AssertionError(f"nothing more comes of {topic}, partitions {sorted(left)}")


def _record(message: Any) -> Record:
    headers = dict(message.headers() or ())
    return Record(
        message.partition(), message.offset(), message.key(), message.value(), headers, message.timestamp()[1]
    )


class WarmKafka(Kafka):
    """Ready once its own topics are made, for which a busy machine takes longer than a client waits."""

    def wait_ready(self) -> Self:
        super().wait_ready()
        client = {"bootstrap.servers": self.bootstrap, "log_level": 0}
        producer = Producer({**client, "transactional.id": "harness"})
        consumer = Consumer({**client, "group.id": "harness", "enable.auto.commit": False})
        self.create_topic("harness")
        asked = [TopicPartition("harness", 0, 0)]
        wait_until(lambda: _works(producer.init_transactions, 10), 60, "Kafka's topic for transactions")
        wait_until(lambda: _works(consumer.commit, None, asked, False), 60, "Kafka's topic for offsets")
        consumer.close()
        return self


def _works(call: Any, *arguments: Any) -> bool:
    try:
        call(*arguments)
    except KafkaException:
        return False
    return True
