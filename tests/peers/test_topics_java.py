"""The topics service, met by the command-line tools of a real Kafka 4 and so by its Java clients."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator

import pytest

from tests.needs import need
from tests.peers.topics import Topics

pytestmark = pytest.mark.limit(180)


@pytest.fixture(scope="module")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topics]:
    need("java", "kafka")
    with Topics(tmp_path_factory.mktemp("topics")) as one:
        yield one


@pytest.fixture
def topic() -> str:
    return f"t-{uuid.uuid4().hex[:8]}"


def test_console_producer_and_consumer(topics: Topics, topic: str) -> None:
    """Keys, values and compression; Java's producer is idempotent unless told otherwise, its consumer is in a group."""
    parse = ("--reader-property", "parse.key=true", "--reader-property", "key.separator=:")
    topics.tool("ConsoleProducer", "--topic", topic, *parse, "--compression-codec", "zstd", stdin=b"a:1\nb:2\nc:3\n")
    with_key = ("--formatter-property", "print.key=true", "--group", topic)
    assert topics.console(topic, 3, *with_key) == ["a\t1", "b\t2", "c\t3"]
    described = topics.group(topic)
    assert re.search(rf"{topic}\s+{topic}\s+0\s+3\s+3\s+0", described), described


def test_topics(topics: Topics, topic: str) -> None:
    """Created with a setting, described, given more partitions, listed, deleted."""
    named = ("--topic", topic)
    topics.tool("TopicCommand", "--create", *named, "--partitions", "3", "--config", "retention.ms=86400000")
    described = topics.tool("TopicCommand", "--describe", *named)
    assert "PartitionCount: 3" in described
    assert "retention.ms=86400000" in described
    topics.tool("TopicCommand", "--alter", *named, "--partitions", "5")
    assert topics.tool("TopicCommand", "--describe", *named).count("Leader: 1") == 5
    assert topic in topics.tool("TopicCommand", "--list").split()
    topics.tool("TopicCommand", "--delete", *named)
    assert topic not in topics.tool("TopicCommand", "--list").split()


def test_offsets(topics: Topics, topic: str) -> None:
    """The end of a topic, and a group's offsets set back to where it began."""
    topics.tool("ConsoleProducer", "--topic", topic, stdin=b"1\n2\n3\n4\n")
    assert topics.tool("GetOffsetShell", "--topic", topic).split() == [f"{topic}:0:4"]
    assert topics.console(topic, 4, "--group", topic) == ["1", "2", "3", "4"]
    back = ("--reset-offsets", "--group", topic, "--topic", topic, "--to-offset", "2", "--execute")
    topics.tool("consumer.group.ConsumerGroupCommand", *back)
    assert topics.console(topic, 2, "--group", topic) == ["3", "4"]
    deleted = topics.tool("consumer.group.ConsumerGroupCommand", "--delete", "--group", topic)
    assert "was successful" in deleted


def test_performance_tools(topics: Topics, topic: str) -> None:
    """A hundred thousand records of Java's producer, which waits for all acknowledgements, and as many read."""
    size = ("--num-records", "100000", "--record-size", "100", "--throughput", "-1")
    said = topics.tool("ProducerPerformance", "--topic", topic, *size, "--command-property", "acks=all")
    assert "100000 records sent" in said
    read = topics.tool("ConsumerPerformance", "--topic", topic, "--num-records", "100000", "--timeout", "30000")
    assert re.search(r", 100000, ", read), read


def test_versions(topics: Topics) -> None:
    """What the service serves is what Java understands: no API is unknown to it, each has a version it can use."""
    said = topics.tool("BrokerApiVersionsCommand")
    assert "Produce(0)" in said
    served = {name: line for line in said.splitlines() if (name := line.strip().partition(":")[0]).endswith(")")}
    usable = [name for name, line in served.items() if "usable:" in line]
    assert len(usable) >= 25
    assert not [line for line in said.splitlines() if line.strip().startswith("UNKNOWN")]
