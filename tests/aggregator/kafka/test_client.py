"""Settings of Kafka's clients: Java's names in, librdkafka's out."""

from __future__ import annotations

from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer

from agent.errors import ConfigError
from aggregator.kafka.client import _say, consumer_settings, problems, producer_settings

PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"


def test_the_default_loses_nothing() -> None:
    """Idempotent, all replicas, and Java's place for a key."""
    found = producer_settings("h:1", {})
    assert (found["acks"], found["enable.idempotence"], found["partitioner"]) == ("all", True, "murmur2_random")


def test_fewer_acks_are_not_idempotent() -> None:
    """librdkafka refuses the two together, Flume's files say acks = 1."""
    assert producer_settings("h:1", {"acks": "1"})["enable.idempotence"] is False
    assert problems("kafka.producer.", {"acks": "1"}, Producer) == []


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({"max.request.size": "2000000"}, {"message.max.bytes": "2000000"}),
        ({"buffer.memory": "33554432"}, {"queue.buffering.max.kbytes": 32768}),
        ({"ssl.endpoint.identification.algorithm": ""}, {"ssl.endpoint.identification.algorithm": "none"}),
        ({"sasl.mechanism": "scram-sha-256"}, {"sasl.mechanisms": "SCRAM-SHA-256"}),
        ({"sasl.jaas.config": f'{PLAIN} username="a" password="p;\\"q";'}, {"sasl.password": 'p;"q'}),
        ({"linger.ms": "5"}, {"linger.ms": "5"}),
    ],
)  # fmt: skip
def test_names(given: dict[str, str], made: dict[str, object]) -> None:
    """Each of Java's settings under its name here, and librdkafka takes it."""
    found = producer_settings("h:1", given)
    assert {name: found[name] for name in made} == made
    assert problems("kafka.producer.", given, Producer) == []


def test_assignors_are_java_classes() -> None:
    """The class names of a consumer's assignors become librdkafka's words."""
    given = {"partition.assignment.strategy": "org.apache.kafka.clients.consumer.CooperativeStickyAssignor"}
    assert consumer_settings("h:1", "g", given)["partition.assignment.strategy"] == "cooperative-sticky"
    assert problems("kafka.consumer.", given, Consumer) == []


@pytest.mark.parametrize(("value", "said"), [("false", False), ("true", True)])
def test_auto_commit_is_off_whatever_is_set(value: str, said: bool, caplog: pytest.LogCaptureFixture) -> None:
    """As in Flume; `true` is said to have no effect."""
    _say.cache_clear()
    given = {"enable.auto.commit": value}
    assert consumer_settings("h:1", "g", given)["enable.auto.commit"] is False
    assert problems("kafka.consumer.", given, Consumer) == []
    assert ("enable.auto.commit has no effect" in caplog.text) is said


def test_no_reset_is_an_error_here() -> None:
    """Java's word for it is none, librdkafka's error."""
    given = {"auto.offset.reset": "none"}
    assert problems("kafka.consumer.", given, Consumer) == []
    assert consumer_settings("h:1", "g", given)["auto.offset.reset"] == "error"


def test_an_event_of_one_mebibyte_fits() -> None:
    """As with Java's client: librdkafka's own bound is 1,000,000 bytes."""
    producer = Producer({**producer_settings("127.0.0.1:1", {}), "log_level": 0})
    producer.produce("t", bytes(1 << 20), headers=[("headrace.origin", b"x" * 32)])
    producer.purge()


@pytest.mark.parametrize(
    ("given", "key", "text"),
    [
        ({"liner.ms": "5"}, "kafka.producer.liner.ms", "No such configuration property"),
        ({"sasl.mechanism": "GSSAPI"}, "kafka.producer.sasl.mechanism", "there are PLAIN"),
        ({"bootstrap.servers": "h:1"}, "kafka.producer.bootstrap.servers", "give kafka.bootstrap.servers"),
        ({"sasl.jaas.config": "x required;"}, "kafka.producer.sasl.jaas.config", "username and password"),
        ({"ssl.truststore.location": "/nowhere"}, "kafka.producer.ssl.truststore.location", "No such file"),
        ({"sasl.password": "file:/nowhere"}, "kafka.producer.sasl.password", "can't be read"),
        ({"transactional.id": "x", "acks": "1"}, "kafka.producer.acks", "needs all, not 1"),
        ({"transactional.id": "x", "enable.idempotence": "false"}, "kafka.producer.enable.idempotence", "needs true"),
        (
            {
                "linger.ms": "5",
                "transactional.id": "x",
                "transaction.timeout.ms": "30000",
                "delivery.timeout.ms": "31000",
            },
            "kafka.producer.transaction.timeout.ms",
            "message.timeout.ms",
        ),
    ],
)
def test_what_is_wrong_is_named(given: dict[str, str], key: str, text: str) -> None:
    """The key and the remedy, before any broker is asked."""
    [(named, said)] = problems("kafka.producer.", given, Producer)
    assert named == key and text in said


def test_a_password_may_lie_in_a_file(tmp_path: Path) -> None:
    """`file:/path`, whole jaas lines and private keys too."""
    (tmp_path / "key").write_text("-----BEGIN PRIVATE KEY-----\n")
    found = producer_settings("h:1", {"ssl.keystore.key": f"file:{tmp_path}/key"})["ssl.key.pem"]
    assert found == "-----BEGIN PRIVATE KEY-----"
    (tmp_path / "jaas").write_text(f'{PLAIN} username="alice" password="pw";\n')
    assert producer_settings("h:1", {"sasl.jaas.config": f"file:{tmp_path}/jaas"})["sasl.password"] == "pw"


def test_a_jks_store_is_refused_with_the_command_that_converts_it(tmp_path: Path) -> None:
    """Java's old format has no reader here."""
    (tmp_path / "trust.jks").write_bytes(b"\xfe\xed\xfe\xed")
    with pytest.raises(ConfigError, match="keytool -importkeystore"):
        producer_settings("h:1", {"ssl.truststore.location": str(tmp_path / "trust.jks")})
