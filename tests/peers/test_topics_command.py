"""`headrace-aggregator topics ls|tail|create|delete|groups|reset-offsets` on our own service and on a real Kafka."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Producer
from confluent_kafka.admin import AdminClient, ConfigResource

from tests.needs import need
from tests.peers.kafka import Tools, secured_kafka, shared_kafka
from tests.peers.topics import Topics
from tests.peers.topics_command import COMMAND, ENVIRONMENT, Sent, dotted, name, produce, read, run, start, write

NOW = int(time.time()) * 1000 - 6 * 3_600_000
"""Six hours ago, a whole second; Kafka takes no time that lies an hour ahead."""


@pytest.fixture(scope="module", params=["ours", "kafka"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tools]:
    if request.param == "ours":
        with Topics(tmp_path_factory.mktemp("topics"), partitions="1") as one:
            yield one
    else:
        need("kafka")
        yield shared_kafka()


@pytest.fixture
def topic(server: Tools) -> str:
    """With two partitions."""
    made = name()
    server.create_topic(made, 2)
    return made


@pytest.fixture
def at(server: Tools) -> tuple[str, str]:
    return "--server", server.bootstrap


def records(count: int, first: int = 0) -> list[Sent]:
    """A record each second."""
    return [Sent(b"k%d" % n, b'{"n": %d}' % n, [], NOW + 1000 * n) for n in range(first, first + count)]


def printed(numbers: list[int]) -> list[str]:
    """As `tail` prints those records."""
    return [f"k{n}\t{iso(NOW + 1000 * n)}\t" + f'{{"n": {n}}}' for n in numbers]


def iso(ms: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(ms // 1000))


def columns(text: str) -> list[dict[str, str]]:
    """Rows of a table by the names of its columns; a cell has no two spaces."""
    head, *rows = [re.split(r" {2,}", line.strip()) for line in text.splitlines() if "  " in line]
    return [dict(zip(head, row, strict=False)) for row in rows]


def committed(server: Tools, group: str) -> dict[int, int]:
    """Offsets by partition."""
    admin = AdminClient({"bootstrap.servers": server.bootstrap, "log_level": 0})
    found = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group].result(30)
    return {one.partition: one.offset for one in found.topic_partitions if one.offset >= 0}


@contextmanager
def member(server: Tools, group: str, topic: str) -> Iterator[None]:
    """Somebody in a group who has read one record and committed."""
    settings = {"group_id": group, "auto_offset_reset": "earliest", "enable_auto_commit": False, "client_id": "pump"}
    client = Consumer({"bootstrap.servers": server.bootstrap, "log_level": 0, **dotted(settings)})
    client.subscribe([topic])
    assert client.consume(1, timeout=30)
    client.commit(asynchronous=False)
    try:
        yield
    finally:
        client.close()


# -- topics


def test_a_topic_is_created(server: Tools, at: tuple[str, str]) -> None:
    """With partitions and settings; a second time it is refused by name."""
    topic = name()
    assert run("create", topic, "-p", "3", "-c", "retention.ms=7000", *at) == f"created {topic} with 3 partitions\n"
    admin = AdminClient({"bootstrap.servers": server.bootstrap, "log_level": 0})
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    assert admin.describe_configs([resource])[resource].result(30)["retention.ms"].value == "7000"
    assert f"topic {topic}: " in run("create", topic, *at, wrong=1)


def test_a_topic_is_listed(server: Tools, topic: str, at: tuple[str, str]) -> None:
    """With partitions, records, bytes, and the times of its first and last record, wherever they are."""
    produce(server.bootstrap, topic, records(3))
    produce(server.bootstrap, topic, records(4, first=10), 1)
    (row,) = [row for row in columns(run("ls", *at)) if row["TOPIC"] == topic]
    assert (row["PARTITIONS"], row["RECORDS"]) == ("2", "7")
    assert int(row["BYTES"].replace(",", "")) > 100
    assert (row["FIRST"], row["LAST"]) == (iso(NOW), iso(NOW + 13_000))


def test_an_empty_topic_is_listed(topic: str, at: tuple[str, str]) -> None:
    """Without times."""
    (row,) = [row for row in columns(run("ls", *at)) if row["TOPIC"] == topic]
    assert (row["RECORDS"], row["FIRST"], row["LAST"]) == ("0", "-", "-")


def test_the_last_record_is_found_behind_much_else(server: Tools, topic: str, at: tuple[str, str]) -> None:
    """Ends of transactions and what they undid lie between it and the end of the log."""
    producer = Producer(
        {"bootstrap.servers": server.bootstrap, "log_level": 0, "transactional.id": topic, "linger.ms": 0}
    )
    producer.init_transactions(60)
    producer.begin_transaction()
    write(producer, topic, records(5))
    producer.commit_transaction(60)
    for _ in range(3):
        producer.begin_transaction()
        write(producer, topic, records(40, first=100))
        producer.abort_transaction(60)
    (row,) = [row for row in columns(run("ls", *at)) if row["TOPIC"] == topic]
    assert row["LAST"] == iso(NOW + 4000)
    assert run("tail", topic, "-n", "2", *at).splitlines() == printed([3, 4])


def test_a_topic_is_deleted(server: Tools, topic: str, at: tuple[str, str]) -> None:
    """With --yes at once; without it nobody could answer here, and nothing happens."""
    assert "--yes answers for you" in run("delete", topic, *at, wrong=2)
    assert topic in run("ls", *at)
    assert run("delete", topic, "--yes", *at) == f"deleted {topic}\n"
    assert topic not in run("ls", *at)
    assert run("delete", topic, "--yes", *at, wrong=1) == f"{server.bootstrap}: there is no topic {topic}\n"


@pytest.mark.parametrize(("answer", "gone"), [("y", True), ("n", False), ("", False)])
def test_deleting_asks(server: Tools, topic: str, at: tuple[str, str], answer: str, gone: bool) -> None:
    """At a terminal, with what would be lost; only a yes deletes."""
    produce(server.bootstrap, topic, records(3))
    person, terminal = pty.openpty()
    os.write(person, f"{answer}\n".encode())
    process = start("delete", topic, *at, stdin=terminal)
    said, _ = process.communicate(timeout=60)
    os.close(person)
    os.close(terminal)
    assert f"Delete {topic} (2 partitions, 3 records) at {server.bootstrap}?" in said
    assert process.returncode == (0 if gone else 1)
    assert (topic in run("ls", *at)) is not gone


# -- tail


def test_the_last_records_by_time(server: Tools, topic: str, at: tuple[str, str]) -> None:
    """Of all partitions together, the latest last."""
    produce(server.bootstrap, topic, records(9)[::2])
    produce(server.bootstrap, topic, records(9)[1::2], 1)
    assert run("tail", topic, "-n", "5", *at).splitlines() == printed([4, 5, 6, 7, 8])
    assert run("tail", topic, *at).splitlines() == printed([*range(9)])


def test_bytes_and_nothing(server: Tools, topic: str, at: tuple[str, str]) -> None:
    """A null key or value, and bytes that are no text."""
    produce(server.bootstrap, topic, [Sent(None, b"\x00\xff", [], NOW), Sent(b"\x1b", None, [], NOW)])
    assert run("tail", topic, *at).splitlines() == [f"NULL\t{iso(NOW)}\tbase64:AP8=", f"base64:Gw==\t{iso(NOW)}\tNULL"]


def test_following(server: Tools, topic: str, at: tuple[str, str]) -> None:
    """-f prints what is there and then each record as it comes, until Ctrl-C, which is a clean end."""
    produce(server.bootstrap, topic, records(2))
    process = start("tail", topic, "-f", "-n", "1", *at)
    assert process.stdout and process.stdout.readline() == printed([1])[0] + "\n"
    produce(server.bootstrap, topic, records(1, first=2), 1)
    assert process.stdout.readline() == printed([2])[0] + "\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0


def test_as_a_member_of_a_group(server: Tools, at: tuple[str, str]) -> None:
    """Each call goes on where the last one stopped; the last prints what is left and ends."""
    topic = name()
    server.create_topic(topic)
    produce(server.bootstrap, topic, records(9))
    line = ("tail", topic, "--group", topic, *at)
    assert run(*line, "-n", "3").splitlines() == printed([0, 1, 2])
    assert run(*line, "-n", "4").splitlines() == printed([3, 4, 5, 6])
    assert run(*line).splitlines() == printed([7, 8])
    assert committed(server, topic) == {0: 9}
    assert run(*line) == ""


def test_a_reader_that_has_seen_enough(server: Tools, topic: str, at: tuple[str, str]) -> None:
    """`| head -1` ends it without a word."""
    produce(server.bootstrap, topic, records(5000))
    line = f"{' '.join(COMMAND)} tail {topic} -n 5000 {' '.join(at)} | head -1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, printed([0])[0] + "\n", "")


def test_no_such_topic(at: tuple[str, str]) -> None:
    """It is said, and none is created."""
    topic = name()
    assert f"there is no topic {topic}" in run("tail", topic, *at, wrong=1)
    assert topic not in run("ls", *at)


# -- groups


def test_groups_are_listed(server: Tools, topic: str, at: tuple[str, str]) -> None:
    """With state, members and what they have left to read, in all topics and partitions."""
    produce(server.bootstrap, topic, records(5))
    read(server.bootstrap, topic, [topic], 2, reset="earliest")
    (row,) = [row for row in columns(run("groups", *at)) if row["GROUP"] == topic]
    assert (row["STATE"], row["MEMBERS"], row["LAG"]) == ("Empty", "0", "3")
    with member(server, topic, topic):
        (row,) = [row for row in columns(run("groups", *at)) if row["GROUP"] == topic]
    assert (row["STATE"], row["MEMBERS"], row["LAG"]) == ("Stable", "1", "2")


def test_a_group_by_partition(server: Tools, topic: str, at: tuple[str, str]) -> None:
    """Where it is, where the log ends, what is left, and who reads there; also where it has no place yet."""
    produce(server.bootstrap, topic, records(5))
    with member(server, topic, topic):
        text = run("groups", topic, *at)
    first, second = columns(text)
    assert text.startswith(f"{topic}: Stable, 1 members\n")
    assert [first[key] for key in ("TOPIC", "PARTITION", "OFFSET", "END", "LAG")] == [topic, "0", "1", "5", "4"]
    assert first["MEMBER"] == "pump at 127.0.0.1"
    assert [second[key] for key in ("PARTITION", "OFFSET", "END", "LAG")] == ["1", "-", "0", "-"]


def test_no_such_group(at: tuple[str, str]) -> None:
    """It is said."""
    assert "there is no group nobody" in run("groups", "nobody", *at, wrong=1)


@pytest.mark.parametrize(
    ("to", "place"),
    [("earliest", 0), ("latest", 9), ("7", 7), ("100", 9), (iso(NOW + 3000), 3), (iso(NOW + 2500), 2),
     (iso(NOW + 900_000), 9)],
    ids=["earliest", "latest", "offset", "offset beyond", "time", "time of a record", "time beyond"],
)  # fmt: skip
def test_a_group_is_moved(server: Tools, at: tuple[str, str], to: str, place: int) -> None:
    """To the named place, or the nearest that there is; without --execute it is only shown."""
    topic = name()
    server.create_topic(topic)
    produce(server.bootstrap, topic, records(9))
    read(server.bootstrap, topic, [topic], 5, reset="earliest")
    text = run("reset-offsets", topic, "--to", to, *at)
    (row,) = columns(text)
    assert (row["OFFSET"], row["NEW OFFSET"]) == ("5", str(place))
    assert "nothing was changed" in text and committed(server, topic) == {0: 5}
    run("reset-offsets", topic, "--to", to, "--execute", *at)
    assert committed(server, topic) == {0: place}


def test_a_new_group_gets_a_place(server: Tools, topic: str, at: tuple[str, str]) -> None:
    """In every partition of the topic that is named; without a topic there is nothing to move."""
    group = name()
    produce(server.bootstrap, topic, records(4), 1)
    assert f"group {group} has no offset anywhere" in run("reset-offsets", group, "--to", "latest", *at, wrong=1)
    run("reset-offsets", group, "--topic", topic, "--to", "latest", "--execute", *at)
    assert committed(server, group) == {0: 0, 1: 4}


def test_an_active_group_stays(server: Tools, topic: str, at: tuple[str, str]) -> None:
    """Its members would overwrite what was set."""
    produce(server.bootstrap, topic, records(5))
    with member(server, topic, topic):
        said = run("reset-offsets", topic, "--to", "latest", "--execute", *at, wrong=1)
        assert said == f"group {topic} is active (1 members): stop them first\n"
        assert committed(server, topic) == {0: 1}


# -- elsewhere


def test_a_secured_server(tmp_path: Path) -> None:
    """Over TLS, as a user, by settings as Java's tools take them; nobody is told how many bytes there are."""
    need("kafka")
    kafka, topic = secured_kafka(), name()
    kafka.create_topic(topic)
    kafka.allow("topic", topic, "READ", "DESCRIBE")
    produce(kafka.bootstrap, topic, records(3))
    file = tmp_path / "client.properties"
    login = "org.apache.kafka.common.security.plain.PlainLoginModule"
    file.write_text(
        f"bootstrap.servers={kafka.secured}\nsecurity.protocol=SASL_SSL\nsasl.mechanism=PLAIN\n"
        f'sasl.jaas.config={login} required username="alice" password="alice-pw";\n'
        f"ssl.truststore.type=PEM\nssl.truststore.location={kafka.ca}\n"
    )
    (row,) = [row for row in columns(run("ls", "--config", str(file))) if row["TOPIC"] == topic]
    assert (row["RECORDS"], row["BYTES"], row["LAST"]) == ("3", "-", iso(NOW + 2000))
    assert run("tail", topic, "--config", str(file)).splitlines() == printed([0, 1, 2])
    wrong = tmp_path / "wrong.properties"
    wrong.write_text(file.read_text().replace("alice-pw", "another"))
    assert f"{kafka.secured}: it can't be reached" in run("ls", "--config", str(wrong), wrong=1)


def test_the_collector_has_no_such_command() -> None:
    """Topics are the aggregator's."""
    done = subprocess.run(
        [sys.executable, "-m", "edge", "topics", "ls"], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
