"""Ten thousand connections to the topics service."""

from __future__ import annotations

import resource
import socket
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from confluent_kafka import Producer

from tests.bench.machine import memory_mb
from tests.peers.topics import Topics

pytestmark = pytest.mark.peer
CROWD = 10_000


@pytest.fixture
def files() -> Iterator[None]:
    """This process may hold that many sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CROWD + 500
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.fail(f"the limit of open files is {hard}; this needs {wanted}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def produce(producer: Producer, topic: str) -> None:
    failed: list[object] = []
    producer.produce(topic, b"x", on_delivery=lambda error, _: failed.append(error) if error else None)
    assert producer.flush(60) == 0
    assert not failed


@pytest.mark.usefixtures("files")
@pytest.mark.limit(240)
def test_a_crowd(tmp_path: Path) -> None:
    """Connections beyond maxConnections are closed at once, who was there goes on, memory stays bounded, and when the
    crowd is gone others come in again."""
    topic = f"t-{uuid.uuid4().hex}"
    with Topics(tmp_path, maxConnections="1000") as server, ExitStack() as crowd:
        server.create_topic(topic)
        known = Producer({"bootstrap.servers": server.bootstrap, "acks": "all"})
        produce(known, topic)
        before = memory_mb(server.pid, "VmRSS")
        for _ in range(CROWD):
            crowd.enter_context(socket.create_connection(("127.0.0.1", server.port), 60))
        produce(known, topic)
        assert memory_mb(server.pid, "VmRSS") < before + 60
        assert "connections (maxConnections)" in server.log
        crowd.close()
        produce(Producer({"bootstrap.servers": server.bootstrap, "acks": "all"}), topic)
        assert [one.value for one in server.consume(topic)] == [b"x"] * 3
