"""The topics service, ruled by the admin clients and tools that people have: those of confluent-kafka, aiokafka and
kafka-python, kcat, and Kafka's own command-line tools.
"""

from __future__ import annotations

import asyncio
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import aiokafka
import kafka
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource as AioResource
from aiokafka.admin.config_resource import ConfigResourceType
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
)

from tests.needs import need
from tests.peers.harness import wait_until
from tests.peers.topics import Topics

GROUPS = "consumer.group.ConsumerGroupCommand"


@pytest.fixture(scope="module")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topics]:
    with Topics(tmp_path_factory.mktemp("topics"), partitions="1") as one:
        yield one


@pytest.fixture
def topic() -> str:
    return f"t-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def admin(topics: Topics) -> AdminClient:
    return AdminClient({"bootstrap.servers": topics.bootstrap, "log_level": 0})


def fill(topics: Topics, topic: str, count: int, partition: int = 0) -> None:
    """So many records, each a byte."""
    producer = Producer({"bootstrap.servers": topics.bootstrap, "log_level": 0})
    for _ in range(count):
        producer.produce(topic, b"x", partition=partition)
    assert producer.flush(30) == 0


@contextmanager
def member(topics: Topics, topic: str, count: int, group: str = "") -> Iterator[Consumer]:
    """A consumer of a group that has read and committed `count` records."""
    consumer = Consumer(
        {
            "bootstrap.servers": topics.bootstrap,
            "group.id": group or topic,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )
    try:
        consumer.subscribe([topic])
        assert len(consumer.consume(count, timeout=30)) == count
        consumer.commit(asynchronous=False)
        yield consumer
    finally:
        consumer.close()


def read(topics: Topics, topic: str, count: int, group: str = "") -> None:
    """A group without members that has committed `count` records."""
    with member(topics, topic, count, group):
        pass


def committed(admin: AdminClient, group: str) -> dict[int, int]:
    """By partition; of a group with one topic."""
    found = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group].result(30)
    return {one.partition: one.offset for one in found.topic_partitions}


def settings(admin: AdminClient, topic: str) -> dict[str, str]:
    """What is set for a topic itself."""
    (answer,) = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, topic)]).values()
    return {name: entry.value for name, entry in answer.result(30).items() if not entry.is_default}


# -- confluent-kafka


def test_a_topic_is_set_key_by_key(topics: Topics, admin: AdminClient, topic: str) -> None:
    """Keys are set, added to and deleted one at a time; the others stay."""
    topics.create_topic(topic, retention_ms=100_000, segment_ms=5000)
    operations = [
        ("retention.ms", "90000000", AlterConfigOpType.SET),
        ("segment.ms", None, AlterConfigOpType.DELETE),
        ("cleanup.policy", "compact", AlterConfigOpType.APPEND),
    ]
    entries = [ConfigEntry(name, value, incremental_operation=how) for name, value, how in operations]
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=entries)
    admin.incremental_alter_configs([resource])[resource].result(30)
    assert settings(admin, topic) == {"retention.ms": "90000000", "cleanup.policy": "delete,compact"}


def test_an_unknown_key_is_named(topics: Topics, admin: AdminClient, topic: str) -> None:
    """INVALID_CONFIG with a text that has the key in it."""
    with pytest.raises(KafkaException) as caught:
        admin.create_topics([NewTopic(topic, 1, 1, config={"no.such.key": "1"})])[topic].result(30)
    assert caught.value.args[0].code() == KafkaError.INVALID_CONFIG
    assert "no.such.key" in caught.value.args[0].str()


def test_a_topic_is_only_tried(admin: AdminClient, topic: str) -> None:
    """validate_only says that it could be created; it isn't."""
    admin.create_topics([NewTopic(topic, 3, 1)], validate_only=True)[topic].result(30)
    assert topic not in admin.list_topics(timeout=10).topics


def test_partitions_are_added(topics: Topics, admin: AdminClient, topic: str) -> None:
    """A topic that has records gets more, and keeps them."""
    topics.create_topic(topic)
    fill(topics, topic, 5)
    admin.create_partitions([NewPartitions(topic, 3)])[topic].result(30)
    fill(topics, topic, 4, partition=2)
    assert [record.partition for record in topics.consume(topic)] == [0] * 5 + [2] * 4


def test_records_are_deleted(topics: Topics, admin: AdminClient, topic: str) -> None:
    """What is below the offset is gone, and the first offset is the new one."""
    topics.create_topic(topic)
    fill(topics, topic, 5)
    answer = admin.delete_records([TopicPartition(topic, 0, 3)])
    assert [one.result(30).low_watermark for one in answer.values()] == [3]
    assert [record.offset for record in topics.consume(topic)] == [3, 4]


def test_a_group_is_described_while_it_reads(topics: Topics, admin: AdminClient, topic: str) -> None:
    """State, assignor, and the member with its client, address and partitions."""
    topics.create_topic(topic, 2)
    fill(topics, topic, 5)
    with member(topics, topic, 5):
        told = admin.describe_consumer_groups([topic])[topic].result(30)
        (one,) = told.members
        assert (told.state.name, told.partition_assignor) == ("STABLE", "range")
        assert (one.client_id, one.host) == ("rdkafka", "/127.0.0.1")
        assert {place.partition for place in one.assignment.topic_partitions} == {0, 1}


def test_groups_are_listed_by_state(topics: Topics, admin: AdminClient, topic: str) -> None:
    """A group that reads is among the stable ones, one that doesn't among the empty ones."""
    topics.create_topic(topic)
    fill(topics, topic, 3)
    read(topics, topic, 3, f"{topic}-away")
    with member(topics, topic, 3, f"{topic}-here"):
        found = admin.list_consumer_groups().result(30).valid
    states = {one.group_id: one.state.name for one in found if one.group_id.startswith(topic)}
    assert states == {f"{topic}-away": "EMPTY", f"{topic}-here": "STABLE"}


def test_a_groups_place_is_moved(topics: Topics, admin: AdminClient, topic: str) -> None:
    """A group without members goes on from the offset that an administrator sets."""
    topics.create_topic(topic)
    fill(topics, topic, 10)
    read(topics, topic, 10)
    place = ConsumerGroupTopicPartitions(topic, [TopicPartition(topic, 0, 7)])
    admin.alter_consumer_group_offsets([place])[topic].result(30)
    with member(topics, topic, 3) as consumer:
        (where,) = consumer.position(consumer.assignment())
        assert where.offset == 10


def test_a_group_that_reads_is_not_deleted(topics: Topics, admin: AdminClient, topic: str) -> None:
    """NON_EMPTY_GROUP; when its member has left it is, with its place."""
    topics.create_topic(topic)
    fill(topics, topic, 3)
    with member(topics, topic, 3), pytest.raises(KafkaException) as caught:
        admin.delete_consumer_groups([topic])[topic].result(30)
    assert caught.value.args[0].code() == KafkaError.NON_EMPTY_GROUP
    admin.delete_consumer_groups([topic])[topic].result(30)
    assert topic not in [one.group_id for one in admin.list_consumer_groups().result(30).valid]
    assert committed(admin, topic) == {}


# -- aiokafka


def aio(topics: Topics, steps: Any) -> Any:
    """The result of `await steps(client)`."""

    async def run() -> Any:
        client = AIOKafkaAdminClient(bootstrap_servers=topics.bootstrap)
        await client.start()
        try:
            return await steps(client)
        finally:
            await client.close()

    return asyncio.run(run())


def test_aiokafka_rules_topics(topics: Topics, topic: str) -> None:
    """Created, enlarged, set, seen, trimmed and deleted."""

    async def steps(client: AIOKafkaAdminClient) -> list[Any]:
        await client.create_topics([aiokafka.admin.NewTopic(topic, 2, 1)])
        await client.create_partitions({topic: aiokafka.admin.NewPartitions(3)})
        fill(topics, topic, 5)
        resource = AioResource(ConfigResourceType.TOPIC, topic, {"retention.ms": "77777777"})
        await client.alter_configs([resource])
        (answer,) = await client.describe_configs([resource])
        entries = {entry[0]: entry[1] for entry in answer.resources[0][4]}
        (described,) = await client.describe_topics([topic])
        place = aiokafka.TopicPartition(topic, 0)
        trimmed = await client.delete_records({place: aiokafka.admin.RecordsToDelete(4)})
        await client.delete_topics([topic])
        return [
            len(described["partitions"]),
            entries["retention.ms"],
            trimmed[place],
            topic in await client.list_topics(),
        ]

    assert aio(topics, steps) == [3, "77777777", 4, False]


def test_aiokafka_sees_groups(topics: Topics, topic: str) -> None:
    """Listed, described, and with their places."""
    topics.create_topic(topic)
    fill(topics, topic, 4)

    async def steps(client: AIOKafkaAdminClient) -> list[Any]:
        (answer,) = await client.describe_consumer_groups([topic])
        offsets = await client.list_consumer_group_offsets(topic)
        listed = await client.list_consumer_groups()
        return [(topic, "consumer") in listed, answer.groups[0][2], {one: at.offset for one, at in offsets.items()}]

    with member(topics, topic, 4):
        assert aio(topics, steps) == [True, "Stable", {(topic, 0): 4}]


# -- kafka-python


@pytest.fixture
def python(topics: Topics) -> Iterator[kafka.KafkaAdminClient]:
    with closing(kafka.KafkaAdminClient(bootstrap_servers=topics.bootstrap)) as client:
        yield client


def test_kafka_python_rules_topics(topics: Topics, python: kafka.KafkaAdminClient, topic: str) -> None:
    """Created, enlarged, set, seen, measured, trimmed and deleted."""
    python.create_topics([kafka.admin.NewTopic(topic, 2, 1)])
    python.create_partitions({topic: 3})
    fill(topics, topic, 5)
    python.alter_configs([kafka.admin.ConfigResource("TOPIC", topic, {"retention.ms": "77777777"})])
    told = python.describe_configs([kafka.admin.ConfigResource("TOPIC", topic)])["topic"][topic]
    assert {name: entry["value"] for name, entry in told.items()} == {"retention.ms": "77777777"}
    assert len(python.describe_topics([topic])[0]["partitions"]) == 3
    (folder,) = python.describe_log_dirs()[0]["log_dirs"]
    (mine,) = [one for one in folder["topics"] if one["name"] == topic]
    assert [one["partition_size"] > 0 for one in mine["partitions"]] == [True, False, False]
    place = kafka.TopicPartition(topic, 0)
    assert python.delete_records({place: 4})[place]["low_watermark"] == 4
    python.delete_topics([topic])
    assert topic not in python.list_topics()


def test_kafka_python_rules_groups(topics: Topics, python: kafka.KafkaAdminClient, topic: str) -> None:
    """Described while it reads; then its place is reset and dropped, and the group deleted."""
    topics.create_topic(topic)
    fill(topics, topic, 4)
    place = kafka.TopicPartition(topic, 0)
    with member(topics, topic, 4):
        assert python.describe_groups([topic])[topic]["group_state"] == "Stable"
        (refused,) = python.delete_group_offsets(topic, [place]).values()
        assert refused is kafka.errors.GroupSubscribedToTopicError
    assert python.list_group_offsets({topic: None})[topic][place].offset == 4
    assert python.reset_group_offsets(topic, {place: kafka.admin.OffsetSpec.EARLIEST})[place]["offset"] == 0
    assert python.list_group_offsets({topic: None})[topic][place].offset == 0
    python.delete_group_offsets(topic, [place])
    assert python.list_group_offsets({topic: None})[topic] == {}
    assert python.delete_groups([topic]) == {topic: "OK"}


# -- kcat


def test_two_members_of_kcat_share_a_topic(topics: Topics, admin: AdminClient, topic: str) -> None:
    """`kcat -G` twice: each reads one of two partitions, and the group's place is where they stopped."""
    need("kcat")
    topics.create_topic(topic, 2)
    shown = ["-u", "-q", "-f", "%p\\n", "-c", "10", "-X", "auto.offset.reset=earliest"]
    command = ["kcat", "-b", topics.bootstrap, "-G", topic, *shown, topic]
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for _ in range(2)]
    try:
        wait_until(lambda: _members(admin, topic) == 2, 60, "both have joined and have a partition")
        for partition in (0, 1):
            fill(topics, topic, 10, partition)
        read = [set(reader.communicate(timeout=60)[0].split()) for reader in readers]
    finally:
        for reader in readers:
            reader.kill()
    assert sorted(map(sorted, read)) == [[b"0"], [b"1"]]
    assert committed(admin, topic) == {0: 10, 1: 10}


def _members(admin: AdminClient, group: str) -> int:
    """Of a stable group, those that have something to read."""
    told = admin.describe_consumer_groups([group])[group].result(30)
    return sum(bool(one.assignment.topic_partitions) for one in told.members) if told.state.name == "STABLE" else 0


# -- Kafka's own tools


def config(topics: Topics, *args: str) -> str:
    """kafka-configs"""
    return topics._java("kafka.admin.ConfigCommand", "--bootstrap-server", topics.bootstrap, *args)


def groups(topics: Topics, *args: str) -> str:
    return topics.tool(GROUPS, *args)


def columns(text: str) -> list[dict[str, str]]:
    """A table that a tool printed, a dict a row."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    return [dict(zip(lines[0], line, strict=False)) for line in lines[1:]]


@pytest.fixture
def jars() -> None:
    need("java", "kafka")


@pytest.mark.usefixtures("jars")
class TestKafkasTools:
    def test_topics(self, topics: Topics, admin: AdminClient, topic: str) -> None:
        """kafka-topics creates a topic with settings, enlarges and deletes it."""
        topics.tool("TopicCommand", "--create", "--topic", topic, "--partitions", "2", "--replication-factor", "1",
                    "--config", "retention.ms=5000000")  # fmt: skip
        topics.tool("TopicCommand", "--alter", "--topic", topic, "--partitions", "3")
        assert len(admin.list_topics(timeout=10).topics[topic].partitions) == 3
        assert settings(admin, topic) == {"retention.ms": "5000000"}
        topics.tool("TopicCommand", "--delete", "--topic", topic)
        assert topic not in topics.tool("TopicCommand", "--list").split()

    def test_topics_are_described(self, topics: Topics, topic: str) -> None:
        """kafka-topics --describe prints partitions with their leader, and what is set for the topic."""
        topics.create_topic(topic, 2, cleanup_policy="compact")
        first, *rest = topics.tool("TopicCommand", "--describe", "--topic", topic).splitlines()
        assert "PartitionCount: 2" in first and "cleanup.policy=compact" in first
        assert len(rest) == 2 and all("Leader: 1" in line and "Isr: 1" in line for line in rest)

    def test_console(self, topics: Topics, topic: str) -> None:
        """What the console producer is given, the console consumer prints, keys and order kept."""
        lines = [f"k{number}:v{number}" for number in range(50)]
        topics.tool("ConsoleProducer", "--topic", topic, "--reader-property", "parse.key=true", "--reader-property",
                    "key.separator=:", stdin="\n".join(lines).encode())  # fmt: skip
        printed = topics.console(topic, 50, "--group", topic, "--formatter-property", "print.key=true",
                                 "--formatter-property", "key.separator=:")  # fmt: skip
        assert printed == lines

    def test_perf(self, topics: Topics, topic: str) -> None:
        """What kafka-producer-perf-test sends, kafka-consumer-perf-test reads, in a group."""
        topics.create_topic(topic, 2)
        sent = topics.tool("ProducerPerformance", "--topic", topic, "--num-records", "20000", "--record-size", "100",
                           "--throughput", "-1")  # fmt: skip
        assert sent.startswith("20000 records sent")
        header, row = topics.tool("ConsumerPerformance", "--topic", topic, "--num-records", "20000", "--group",
                                  topic).splitlines()[-2:]  # fmt: skip
        assert row.split(", ")[header.split(", ").index("data.consumed.in.nMsg")] == "20000"

    def test_offsets(self, topics: Topics, topic: str) -> None:
        """kafka-get-offsets prints the end of each partition, and with --time -2 the beginning."""
        topics.create_topic(topic, 2)
        fill(topics, topic, 5, partition=1)
        assert topics.tool("GetOffsetShell", "--topic", topic).split() == [f"{topic}:0:0", f"{topic}:1:5"]
        first = topics.tool("GetOffsetShell", "--topic", topic, "--time", "-2").split()
        assert first == [f"{topic}:0:0", f"{topic}:1:0"]

    def test_a_group_that_reads(self, topics: Topics, topic: str) -> None:
        """kafka-consumer-groups --describe prints place, end, lag and member of each partition."""
        topics.create_topic(topic)
        fill(topics, topic, 5)
        with member(topics, topic, 5):
            fill(topics, topic, 2)
            (row,) = columns(topics.group(topic))
        places = row["CURRENT-OFFSET"], row["LOG-END-OFFSET"], row["LAG"]
        assert (places, row["HOST"], row["CLIENT-ID"]) == (("5", "7", "2"), "/127.0.0.1", "rdkafka")

    def test_members_of_a_group(self, topics: Topics, topic: str) -> None:
        """--members --verbose prints how many partitions a member has, and which."""
        topics.create_topic(topic, 2)
        fill(topics, topic, 5)
        with member(topics, topic, 5):
            (row,) = columns(groups(topics, "--describe", "--group", topic, "--members", "--verbose"))
        assert row["#PARTITIONS"] == "2"

    def test_the_state_of_a_group(self, topics: Topics, topic: str) -> None:
        """--state prints it, with the assignor and the number of members."""
        topics.create_topic(topic)
        fill(topics, topic, 5)
        with member(topics, topic, 5):
            told = groups(topics, "--describe", "--group", topic, "--state")
        assert "Stable" in told and "range" in told

    def test_groups_are_listed(self, topics: Topics, topic: str) -> None:
        """--list names every group, --list --state those with their states."""
        topics.create_topic(topic)
        fill(topics, topic, 1)
        read(topics, topic, 1)
        assert topic in groups(topics, "--list").split()
        assert {"GROUP": topic, "STATE": "Empty"}.items() <= next(
            row.items() for row in columns(groups(topics, "--list", "--state", "Empty")) if row["GROUP"] == topic
        )

    @pytest.mark.parametrize(
        ("to", "place"),
        [
            (["--to-earliest"], 0),
            (["--to-latest"], 9),
            (["--to-offset", "4"], 4),
            (["--shift-by", "-2"], 4),
            (["--to-datetime", "2026-01-01T00:00:00.000"], 0),
        ],
        ids=lambda value: value[0] if isinstance(value, list) else "",
    )
    def test_a_group_is_reset(self, topics: Topics, admin: AdminClient, topic: str, to: list[str], place: int) -> None:
        """--reset-offsets --execute moves the place of a group without members."""
        topics.create_topic(topic)
        fill(topics, topic, 6)
        read(topics, topic, 6)
        fill(topics, topic, 3)
        groups(topics, "--reset-offsets", "--group", topic, "--topic", topic, *to, "--execute")
        assert committed(admin, topic) == {0: place}

    def test_offsets_of_a_group_are_deleted(self, topics: Topics, admin: AdminClient, topic: str) -> None:
        """--delete-offsets drops those of one topic, --delete the group."""
        topics.create_topic(topic)
        fill(topics, topic, 1)
        read(topics, topic, 1)
        groups(topics, "--delete-offsets", "--group", topic, "--topic", topic)
        assert committed(admin, topic) == {}
        groups(topics, "--delete", "--group", topic)
        assert topic not in [one.group_id for one in admin.list_consumer_groups().result(30).valid]

    def test_settings_of_a_topic(self, topics: Topics, admin: AdminClient, topic: str) -> None:
        """kafka-configs adds and deletes keys of a topic, and prints what is set."""
        topics.create_topic(topic, segment_ms=5000)
        where = ["--entity-type", "topics", "--entity-name", topic]
        config(topics, *where, "--alter", "--add-config", "retention.ms=7000000", "--delete-config", "segment.ms")
        assert settings(admin, topic) == {"retention.ms": "7000000"}
        printed = config(topics, *where, "--describe")
        assert "retention.ms=7000000" in printed and "DYNAMIC_TOPIC_CONFIG:retention.ms=7000000" in printed
        assert "segment.ms" not in printed

    def test_settings_of_the_broker(self, topics: Topics) -> None:
        """kafka-configs --all prints them by Kafka's names."""
        printed = config(topics, "--entity-type", "brokers", "--entity-name", "1", "--describe", "--all")
        assert "num.partitions=1 " in printed and "log.retention.ms=604800000" in printed

    def test_folders(self, topics: Topics, topic: str) -> None:
        """kafka-log-dirs prints the bytes of each partition."""
        topics.create_topic(topic)
        fill(topics, topic, 3)
        printed = topics.tool("LogDirsCommand", "--describe", "--topic-list", topic)
        assert f'"partition":"{topic}-0"' in printed and str(topics.folder / "log") in printed

    def test_versions(self, topics: Topics) -> None:
        """kafka-broker-api-versions prints every API that is served with its versions."""
        printed = topics.tool("BrokerApiVersionsCommand")
        assert "IncrementalAlterConfigs(44): 0 to 1" in printed
