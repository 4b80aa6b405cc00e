"""The topics service with TLS, users and rights, met by clients that do SASL each in their own way."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiokafka
import kafka
import kafka.errors
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer

from tests.agent.certificates import Authority
from tests.peers.harness import wait_until
from tests.peers.topics import Topics

MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def topics(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Topics]:
    """alice may do everything under `a.`, and nothing else; bob has no right."""
    folder = tmp_path_factory.mktemp("topics")
    pem, _ = authority.leaf("server", "localhost", "127.0.0.1")
    (folder / "users").write_text("alice = alice-pw\nbob = bob-pw\n")
    (folder / "users").chmod(0o600)
    keys = {
        "ssl": "true", "keystore": str(pem), "sasl__users": str(folder / "users"),
        "acl__alice": "read:a.*, write:a.*, create:a.*, group:a.*",
    }  # fmt: skip
    with Topics(folder, **keys) as one:
        yield one


@pytest.fixture
def ca(authority: Authority) -> Path:
    return authority.pem


def settings(topics: Topics, ca: Path, mechanism: str = "PLAIN", user: str = "alice", word: str = "") -> dict[str, Any]:
    """Of confluent-kafka."""
    return {
        "bootstrap.servers": topics.bootstrap,
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": str(ca),
        "sasl.mechanism": mechanism,
        "sasl.username": user,
        "sasl.password": word or f"{user}-pw",
        "log_level": 0,
    }


def error_of(producer: Producer, topic: str) -> int | None:
    """The code with which a record is refused."""
    told: list[KafkaError | None] = []
    producer.produce(topic, b"x", on_delivery=lambda error, _: told.append(error))
    assert producer.flush(30) == 0
    return told[0].code() if told[0] else None


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_confluent_kafka(topics: Topics, ca: Path, mechanism: str) -> None:
    """Writes and reads as the user that it is."""
    topic = f"a.confluent-{mechanism.lower()}"
    common = settings(topics, ca, mechanism)
    assert error_of(Producer(common), topic) is None
    consumer = Consumer({**common, "group.id": "a.g", "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    assert [message.value() for message in consumer.consume(1, timeout=30)] == [b"x"]
    consumer.close()


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_wrong_password(topics: Topics, ca: Path, mechanism: str) -> None:
    """The client is told that authentication failed."""
    failed: list[KafkaError] = []
    producer = Producer({**settings(topics, ca, mechanism, word="guess"), "error_cb": failed.append})
    wait_until(lambda: producer.poll(0.1) or failed, 30, "an error of the client")
    assert failed[0].code() == KafkaError._AUTHENTICATION
    topics.wait_log("authentication failed: wrong user name or password; closed")


def test_a_topic_without_a_right(topics: Topics, ca: Path) -> None:
    """Writing is refused with the code that says so, and it isn't shown."""
    producer = Producer(settings(topics, ca))
    assert error_of(producer, "b.t") == KafkaError.TOPIC_AUTHORIZATION_FAILED
    assert error_of(producer, "a.shown") is None
    assert "a.shown" in producer.list_topics(timeout=10).topics
    assert "a.shown" not in Producer(settings(topics, ca, user="bob")).list_topics(timeout=10).topics


def test_a_group_without_a_right(topics: Topics, ca: Path) -> None:
    """Its members are told."""
    consumer = Consumer({**settings(topics, ca), "group.id": "b.g"})
    consumer.subscribe(["a.t"])
    message = consumer.poll(30)
    assert message.error().code() == KafkaError.GROUP_AUTHORIZATION_FAILED
    consumer.close()


def test_without_tls_or_a_name_nobody_is_let_in(topics: Topics, ca: Path) -> None:
    """A client that speaks plain TCP, and one that says nothing of itself."""
    for protocol in ("PLAINTEXT", "SSL"):
        client = {"bootstrap.servers": topics.bootstrap, "security.protocol": protocol, "log_level": 0}
        with pytest.raises(KafkaException):
            Producer({**client, "ssl.ca.location": str(ca)}).list_topics(timeout=2)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_aiokafka(topics: Topics, ca: Path, mechanism: str) -> None:
    """Writes and reads."""
    common: dict[str, Any] = {
        "bootstrap_servers": topics.bootstrap,
        "security_protocol": "SASL_SSL",
        "ssl_context": ssl.create_default_context(cafile=ca),
        "sasl_mechanism": mechanism,
        "sasl_plain_username": "alice",
        "sasl_plain_password": "alice-pw",
    }
    topic = f"a.aiokafka-{mechanism.lower()}"

    async def steps() -> bytes:
        async with aiokafka.AIOKafkaProducer(**common) as producer:
            await producer.send_and_wait(topic, b"x")
        async with (
            asyncio.timeout(40),
            aiokafka.AIOKafkaConsumer(topic, **common, group_id="a.h", auto_offset_reset="earliest") as consumer,
        ):
            value: bytes = (await consumer.getone()).value
            return value

    assert asyncio.run(steps()) == b"x"


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_kafka_python(topics: Topics, ca: Path, mechanism: str) -> None:
    """Writes; with a wrong password it is told so."""
    common: dict[str, Any] = {
        "bootstrap_servers": topics.bootstrap,
        "security_protocol": "SASL_SSL",
        "ssl_cafile": str(ca),
        "sasl_mechanism": mechanism,
        "sasl_plain_username": "alice",
    }
    producer = kafka.KafkaProducer(**common, sasl_plain_password="alice-pw")
    assert producer.send(f"a.kafka-python-{mechanism.lower()}", b"x").get(30).offset == 0
    producer.close()
    with pytest.raises(kafka.errors.KafkaError):
        kafka.KafkaProducer(**common, sasl_plain_password="guess", bootstrap_timeout_ms=2000)
