"""The topics service's configuration: what is judged, and what it comes to."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from agent.config.reading import read
from agent.errors import ConfigError
from aggregator.services.topics import TopicsCounter
from aggregator.topics.configuration import TopicsConfig
from tests.aggregator.topics.talking import Scene, batch, make, produce, run


def judged(**keys: str) -> list[tuple[str, str]]:
    """(key, what is wrong); `__` in a key stands for its dot."""
    reading = read(TopicsConfig, {name.replace("__", "."): value for name, value in keys.items()}, "topics")
    return [(fault.key, fault.text) for fault in reading.faults]


def test_nothing_has_to_be_said(tmp_path: Path) -> None:
    """Without a key it is loopback, Kafka's port, Kafka's week."""
    config = read(TopicsConfig, {}, "topics").config
    assert config
    assert (config.bind, config.port, config.partitions, config.auto_create) == ("127.0.0.1", 9092, 1, True)
    assert make(tmp_path).config.options().retention_ms == -1
    assert make(tmp_path, retention__hours="168").config.options().retention_ms == 7 * 86_400_000


SECURE = {"ssl": "true", "keystore": "k.pem", "sasl__users": "users"}


@pytest.mark.parametrize(
    "keys",
    [
        {"bind": "192.0.2.1", **SECURE},
        {"bind": "0.0.0.0", "advertisedHost": "pi.local", **SECURE},
        {"bind": "192.0.2.1", "ssl": "true", "keystore": "k", "clientAuth": "require", "truststore": "t"},
        {"bind": "192.0.2.1", "allowInsecure": "true"},
        {"bind": "::1"},
        {"bind": "localhost"},
        {"topic__plant__line1__retention__ms": "1000", "topic__a__cleanup__policy": "compact,delete"},
        {"topic__a__delete__retention__ms": "5", "acl__alice": "read:plant.*, group:g", "acl__*": "read:x"},
    ],
)
def test_what_is_taken(keys: dict[str, str]) -> None:
    """TLS and users, or their absence in words; keys of topics, also of topics with dots in their names."""
    assert judged(**keys) == []


@pytest.mark.parametrize(
    ("keys", "key", "text"),
    [
        ({"bind": "192.0.2.1"}, "bind", "isn't loopback: it takes ssl = true and sasl.users"),
        ({"bind": "192.0.2.1", "ssl": "true", "keystore": "k"}, "bind", "isn't loopback"),
        ({"bind": "192.0.2.1", "sasl__users": "users"}, "bind", "isn't loopback"),
        ({"bind": "0.0.0.0", **SECURE}, "advertisedHost", "must be an address that clients can connect to"),
        ({"bind": "::", "allowInsecure": "true"}, "advertisedHost", "must be an address"),
        ({"advertisedHost": "0.0.0.0"}, "advertisedHost", "must be an address"),
        ({"maxRequestBytes": "100MiB"}, "maxBytesInFlight", "must be at least maxRequestBytes"),
        ({"topic__a__retention__ms": "soon"}, "topic.a.retention.ms", "'soon' is wrong: it takes a whole number"),
        ({"topic__a__retention__mss": "1"}, "topic.a.retention.mss", "is topic.NAME.KEY, where KEY is Kafka's"),
        ({"topic__retention__ms": "1"}, "topic.retention.ms", "is topic.NAME.KEY"),
        ({"topic__a/b__retention__ms": "1"}, "topic.a/b.retention.ms", "'a/b' is no name of a topic"),
        ({"acl__alice": "reed:x"}, "acl.alice", "'reed:x' is no right"),
        ({"acl__alice": ""}, "acl.alice", "is empty"),
        ({"retention__hours": "-2"}, "retention.hours", "-1"),
        ({"ssl": "true"}, "keystore", "is missing"),
    ],
)
def test_what_is_refused(keys: dict[str, str], key: str, text: str) -> None:
    """With the key, and what it takes."""
    found = judged(**keys)
    assert [one for one, _ in found] == [key]
    assert text in found[0][1]


def test_the_longest_key_of_a_topic_is_meant() -> None:
    """`delete.retention.ms` of topic a, not `retention.ms` of topic a.delete."""
    raw = {"topic.a.delete.retention.ms": "5", "topic.a.b.retention.ms": "6", "topic.a.retention.ms": "7"}
    config = read(TopicsConfig, raw, "topics").config
    assert config
    assert config.by_topic() == {"a": {"delete.retention.ms": "5", "retention.ms": "7"}, "a.b": {"retention.ms": "6"}}


def test_keys_of_a_topic_that_exists_are_set_at_start(tmp_path: Path) -> None:
    """Those of the configuration; what else was set for it stays."""

    async def before(scene: Scene) -> None:
        await scene.log.create("t", 1, {"retention.ms": "5", "max.message.bytes": "1000"})

    async def after(scene: Scene) -> None:
        assert scene.log.topics["t"].config == {"retention.ms": "7", "max.message.bytes": "1000"}

    run(before, tmp_path)
    run(after, tmp_path, topic__t__retention__ms="7", topic__u__retention__ms="8")


def test_an_acl_for_nobody_is_said_at_start(tmp_path: Path) -> None:
    """With users, a right of somebody who isn't one of them is a mistake."""
    (tmp_path / "users").write_text("alice = secret\n")
    (tmp_path / "users").chmod(0o600)

    async def steps(scene: Scene) -> None:
        raise AssertionError("it opened")

    with pytest.raises(ConfigError, match=r"acl\.bob: is no user of the users file"):
        run(steps, tmp_path, sasl__users=str(tmp_path / "users"), acl__bob="admin")


def test_a_port_that_is_taken_leaves_nothing_open(tmp_path: Path) -> None:
    """It says so, and the log can be opened by the next try."""

    async def steps(scene: Scene) -> None:
        assert scene.service.listener
        second = make(tmp_path / "second", port=str(scene.service.listener.port))
        for _ in range(2):
            with pytest.raises(ConfigError, match="can't listen on"):
                await second.open()
            await second.close()
            second = make(tmp_path / "second", port=str(scene.service.listener.port))

    run(steps, tmp_path)


def test_it_says_where_and_what(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """At start: the folder, how many topics, what clients connect to; and that anyone may read along."""
    caplog.set_level(logging.INFO)

    async def steps(scene: Scene) -> None:
        await asyncio.sleep(0)

    run(steps, tmp_path, bind="0.0.0.0", advertisedHost="pi.local", advertisedPort="9999", allowInsecure="true")
    assert f"0 topics in {tmp_path / 'log'}; clients connect to pi.local:9999" in caplog.text
    assert "not encrypted (allowInsecure)" in caplog.text


def test_it_counts(tmp_path: Path) -> None:
    """Connections, requests, bytes, and what the log holds."""

    async def steps(scene: Scene) -> None:
        await scene.log.create("t", 1)
        client = await scene.client()
        await produce(client, "t", batch(b"x" * 1000))
        counter = scene.service.metrics.counter(TopicsCounter, "topics")
        got = {name: counter.value(name) for name in TopicsCounter.OURS}
        assert (got["OpenConnectionCount"], got["requests"], got["refused"]) == (1, 1, 0)
        assert got["log_bytes"] == len(batch(b"x" * 1000))
        assert got["received_bytes"] > got["log_bytes"] > got["sent_bytes"] > 0
        client.writer.write(b"\xff\xff\xff\xff")
        assert await client.is_closed()
        assert counter.value("refused") == 1

    run(steps, tmp_path)
