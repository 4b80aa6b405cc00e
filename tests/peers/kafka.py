"""A real Kafka broker (KRaft, one node) and its own tools; its jars come by tests/peers/jars.py.

    kafka = shared_kafka()                       # the run's broker: take a topic name of your own, never stop it
    with Kafka(tmp_path / "kafka") as kafka:     # one to kill: kill9() and start() keep its data
        kafka.create_topic("t", partitions=3)
        kafka.records("t", isolation="read_committed")

`Kafka(folder, secured=True)` has a second listener, SASL_SSL with PLAIN and ACLs that deny by default (`bootstrap`
is that one; user alice, password alice-pw, certificate `ca`); the helpers here go by the plain listener, which may do
everything.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from tests.peers.harness import Server, answers, free_port
from tests.peers.jars import LEAN, jars, run
from tests.peers.shared import shared

CLUSTER = "AAAAAAAAAAAAAAAAAAAAAQ"
QUIET = (
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
)
SETTINGS = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={folder}/data
num.partitions=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
"""
PLAIN = """\
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
"""
SECURED = """\
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller},SASL_SSL://127.0.0.1:{secure_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},SASL_SSL://127.0.0.1:{secure_port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL
listener.name.sasl_ssl.ssl.keystore.type=PEM
listener.name.sasl_ssl.ssl.keystore.location={folder}/broker.pem
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
user_alice="alice-pw";
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
"""
SECONDS = 30.0


class Record(NamedTuple):
    """One record as a consumer gets it."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes
    headers: dict[str, bytes]
    timestamp: int
    """Milliseconds since the epoch."""


class Kafka(Server):
    """Keeps its data over SIGKILL and start; a start after SIGKILL may take 15 s."""

    start_seconds = 90.0
    stop_seconds = 40.0

    def __init__(
        self, folder: Path, *, name: str = "kafka", secured: bool = False, settings: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(name, folder)
        self.port, self.controller, self.secure_port = free_port(), free_port(), free_port()
        self.secured, self.settings = secured, dict(settings or {})
        self.ca = folder / "cert.pem"
        self.libs = jars("kafka")

    @property
    def bootstrap(self) -> str:
        """Where clients of the test connect."""
        return f"127.0.0.1:{self.secure_port if self.secured else self.port}"

    @property
    def plain(self) -> str:
        """The listener without TLS and ACLs."""
        return f"127.0.0.1:{self.port}"

    # -- the broker

    def configure(self) -> None:
        places = {
            "port": self.port, "controller": self.controller, "secure_port": self.secure_port, "folder": self.folder,
        }  # fmt: skip
        text = (SETTINGS + (SECURED if self.secured else PLAIN)).format(**places)
        text += "".join(f"{key}={value}\n" for key, value in self.settings.items())
        (self.folder / "server.properties").write_text(text)
        if self.secured and not self.ca.exists():
            self._make_certificate()
        if not (self.folder / "data" / "meta.properties").exists():
            self.tool("kafka.tools.StorageTool", "format", "--standalone", "-t", CLUSTER, "-c", "server.properties")

    def _make_certificate(self) -> None:
        names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
        key, plain = self.folder / "key.pem", self.folder / "key8.pem"
        run(
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(self.ca),
            "-days", "30", "-subj", "/CN=localhost", "-addext", names,
        )  # fmt: skip
        run("openssl", "pkcs8", "-topk8", "-nocrypt", "-in", str(key), "-out", str(plain))
        (self.folder / "broker.pem").write_text(plain.read_text() + self.ca.read_text())

    def command(self) -> Sequence[str]:
        return ["java", "-Xmx512m", *LEAN, *QUIET, "-cp", self.libs, "kafka.Kafka", "server.properties"]

    def ready(self) -> bool:
        """The listeners are opened last; the first answer may still be that the topics are being loaded."""
        return answers(self.port)

    # -- Kafka's own tools

    def tool(self, main: str, *arguments: str, seconds: float = 90, fails: bool = False) -> str:
        """What a command-line class of Kafka prints to stdout; AssertionError if it fails, unless it may."""
        command = [
            "java", "-Xmx256m", *LEAN, "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", self.libs, main,
            *arguments,
        ]  # fmt: skip
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=seconds, check=False)
        assert fails or done.returncode == 0, f"{main} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def consume(
        self, topic: str, isolation: str = "read_committed", most: int = 0, timeout_ms: int = 5000
    ) -> list[str]:
        """Values as lines, by kafka-console-consumer from the beginning: `most` of them, or until it is silent."""
        limit = ("--max-messages", str(most)) if most else ()
        return self.tool(
            "org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server", self.plain, "--topic", topic,
            "--from-beginning", "--timeout-ms", str(timeout_ms), "--isolation-level", isolation, *limit, fails=True,
        ).splitlines()  # fmt: skip

    def describe_group(self, group: str) -> str:
        """What kafka-consumer-groups says of a group."""
        return self.tool(
            "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", "--bootstrap-server", self.plain,
            "--describe", "--group", group, fails=True,
        )  # fmt: skip

    # -- quick ways, by confluent-kafka

    @property
    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.plain, "log_level": 0})

    def create_topic(self, name: str, partitions: int = 1, config: Mapping[str, str] | None = None) -> None:
        """Returns when the broker serves it."""
        new = NewTopic(name, num_partitions=partitions, replication_factor=1, config=dict(config or {}))
        admin = self.admin  # its answers end with it
        admin.create_topics([new])[name].result(SECONDS)
        end = time.monotonic() + SECONDS
        while len(admin.list_topics(name, SECONDS).topics[name].partitions) < partitions:
            assert time.monotonic() < end, f"topic {name} isn't there"
            time.sleep(0.05)

    def delete_topic(self, name: str) -> None:
        admin = self.admin
        admin.delete_topics([name])[name].result(SECONDS)

    def allow(self, topic: str, *operations: str, user: str = "alice") -> None:
        """ACLs on a topic of a secured broker, such as allow("t", "WRITE", "DESCRIBE")."""
        self._allow(_acls(ResourceType.TOPIC, topic, operations, user))

    def allow_other(self, kind: str, name: str, *operations: str, user: str = "alice") -> None:
        """ACLs on a "group", "transactional_id" or the "broker" (name kafka-cluster)."""
        self._allow(_acls(ResourceType[kind.upper()], name, operations, user))

    def _allow(self, bindings: list[AclBinding]) -> None:
        admin = self.admin
        for answer in admin.create_acls(bindings).values():
            answer.result(SECONDS)

    def deny(self, topic: str) -> None:
        """Take every ACL of a topic away."""
        every = AclBindingFilter(
            ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, None, None, AclOperation.ANY, AclPermissionType.ANY
        )
        admin = self.admin
        admin.delete_acls([every])[every].result(SECONDS)

    def records(self, topic: str, isolation: str = "read_committed") -> list[Record]:
        """Every record of a topic as it is now, partition by partition; [] if there is no such topic."""
        consumer = Consumer({
            "bootstrap.servers": self.plain, "group.id": "records", "isolation.level": isolation, "log_level": 0,
            "enable.partition.eof": True, "auto.offset.reset": "earliest", "enable.auto.commit": False,
            "allow.auto.create.topics": False,
        })  # fmt: skip
        try:
            about = consumer.list_topics(topic, SECONDS).topics[topic]
            if about.error:
                return []
            return [record for partition in sorted(about.partitions) for record in _all(consumer, topic, partition)]
        finally:
            consumer.close()

    def send(self, topic: str, values: Sequence[bytes], **fields: Any) -> None:
        """Produce values and wait until they are there; `fields` go to every record (key, headers, partition)."""
        producer = Producer({"bootstrap.servers": self.plain, "acks": "all", "linger.ms": 5, "log_level": 0})
        for value in values:
            producer.produce(topic, value, **fields)
            producer.poll(0)
        assert producer.flush(SECONDS) == 0


def _all(consumer: Consumer, topic: str, partition: int) -> list[Record]:
    found: list[Record] = []
    consumer.assign([TopicPartition(topic, partition, 0)])
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        for message in consumer.consume(1000, 1.0):
            error = message.error()
            if error is None:
                headers = {name: value or b"" for name, value in message.headers() or ()}
                found.append(Record(
                    partition, message.offset(), message.key(), message.value() or b"", headers, message.timestamp()[1],
                ))  # fmt: skip
            elif error.name() == "_PARTITION_EOF":
                return found
            elif not error.retriable():
                raise KafkaException(error)
    raise AssertionError(f"{topic}-{partition} has no end within {SECONDS:g} s; {len(found)} records so far")


def _acls(kind: ResourceType, name: str, operations: Sequence[str], user: str) -> list[AclBinding]:
    return [
        AclBinding(
            kind, name, ResourcePatternType.LITERAL, f"User:{user}", "*", AclOperation[operation],
            AclPermissionType.ALLOW,
        )
        for operation in operations
    ]  # fmt: skip


def shared_kafka() -> Kafka:
    """The run's broker, for tests that don't stop it; topics are made on first use."""
    return shared("kafka", Kafka)


def secured_kafka() -> Kafka:
    """The run's broker with TLS, passwords and ACLs. ACLs are by topic: take a topic name of your own."""
    return shared("kafka-secured", lambda folder: Kafka(folder, name="kafka-secured", secured=True))
