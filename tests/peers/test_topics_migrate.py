"""`headrace-aggregator topics migrate`: from our own service to a real Kafka, and back the other way.

Records are compared one by one with what a consumer of the source sees; groups by what they read next.
"""

from __future__ import annotations

import random
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import pytest
from confluent_kafka import Consumer, IsolationLevel, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, OffsetSpec

from aggregator.topics import record_batch
from aggregator.topics.commands.cluster import Cluster
from aggregator.topics.commands.migrate.move import Move
from aggregator.topics.wire.api import Api, Body, encode_request
from aggregator.topics.wire.tables.records import PRODUCE
from tests.needs import need
from tests.peers.harness import progress, wait_until
from tests.peers.kafka import Tools, shared_kafka
from tests.peers.topics import Topics
from tests.peers.topics_command import Sent, dotted, name, produce, read, run, sent, start, stored, write

NOW = int(time.time() * 1000) - 60_000
COMPRESSIONS = ("none", "gzip", "snappy", "lz4", "zstd")


class Road(NamedTuple):
    source: Tools
    target: Tools

    @property
    def line(self) -> list[str]:
        return ["migrate", "--server", self.source.bootstrap, "--to", self.target.bootstrap]

    def migrate(self, topic: str, *more: str, wrong: int = 0) -> str:
        """One topic, and the groups that begin with its name."""
        return run(*self.line, "--topics", topic, "--groups", f"{topic}.*", *more, wrong=wrong)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topics]:
    with Topics(tmp_path_factory.mktemp("topics"), partitions="1") as one:
        yield one


@pytest.fixture(scope="module")
def out(ours: Topics) -> Road:
    need("kafka")
    return Road(ours, shared_kafka())


@pytest.fixture(params=["to kafka", "from kafka"])
def road(request: pytest.FixtureRequest, out: Road) -> Road:
    return out if request.param == "to kafka" else Road(out.target, out.source)


@pytest.fixture
def topic() -> str:
    return name()


def various(count: int, first: int = 0) -> list[Sent]:
    """Records with and without a key, a value and headers; one name of a header twice; times not in order."""
    return [
        Sent(
            None if n % 5 == 0 else b"k%d" % (n % 7),
            None if n % 7 == 3 else b"" if n % 7 == 4 else b"value %d" % n,
            [("a", b"%d" % n), ("a", None), ("b\u00e9", b"")] if n % 2 else [],
            NOW + (n * 37) % 1000,
        )
        for n in range(first, first + count)
    ]


def transactional(server: Tools, topic: str, **more: Any) -> Producer:
    producer = Producer(
        {
            "bootstrap.servers": server.bootstrap,
            "log_level": 0,
            "transactional.id": topic,
            "linger.ms": 0,
            **dotted(more),
        }
    )
    producer.init_transactions(60)
    return producer


def with_holes(server: Tools, topic: str, rounds: int = 12, partitions: int = 1) -> int:
    """Transactions of several sizes, every third aborted; the number of records that stay in each partition."""
    producer, kept = transactional(server, topic), 0
    for number in range(rounds):
        producer.begin_transaction()
        for partition in range(partitions):
            write(producer, topic, various(1 + number % 4, kept), partition)
        if number % 3 == 1:
            producer.abort_transaction(60)
        else:
            producer.commit_transaction(60)
            kept += 1 + number % 4
    return kept


def setting(server: Tools, topic: str, key: str) -> str:
    admin = AdminClient({"bootstrap.servers": server.bootstrap, "log_level": 0})
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    return str(admin.describe_configs([resource])[resource].result(30)[key].value)


# -- records


def test_records_arrive_as_they_are(road: Road, topic: str) -> None:
    """Key, value, headers, time, partition and order, whatever they are and however they were compressed."""
    road.source.create_topic(topic, len(COMPRESSIONS) + 1)
    for partition, kind in enumerate(COMPRESSIONS):
        produce(road.source.bootstrap, topic, various(300, partition), partition, compression_type=kind)
    said = road.migrate(topic)
    wanted = {partition: various(300, partition) for partition in range(len(COMPRESSIONS))}
    assert stored(road.target.bootstrap, topic) == {**wanted, len(COMPRESSIONS): []}
    assert f"switch over now: bootstrap.servers={road.target.bootstrap}" in said


def test_what_was_aborted_stays_behind(road: Road, topic: str) -> None:
    """Only what read_committed sees is copied."""
    road.source.create_topic(topic, 2)
    kept = with_holes(road.source, topic, partitions=2)
    road.migrate(topic)
    found = stored(road.target.bootstrap, topic)
    assert found == stored(road.source.bootstrap, topic) and len(found[0]) == len(found[1]) == kept


def test_both_sides_are_told(road: Road, topic: str) -> None:
    """Records and a checksum of each partition, which are equal."""
    road.source.create_topic(topic)
    produce(road.source.bootstrap, topic, various(30))
    row = next(line for line in road.migrate(topic).splitlines() if line.startswith(topic)).split()
    assert row[1:3] == ["0", "30"] and row[2:4] == row[4:6] and row[6] == "same"


def test_it_goes_on_where_it_stopped(road: Road, topic: str) -> None:
    """A second run copies what has come since, and nothing twice."""
    road.source.create_topic(topic)
    for first in (0, 100):
        produce(road.source.bootstrap, topic, various(100, first))
        road.migrate(topic)
    road.migrate(topic)
    assert stored(road.target.bootstrap, topic) == {0: various(200)}


def test_a_difference_ends_with_1(out: Road, topic: str) -> None:
    """Somebody has written between the copies."""
    out.source.create_topic(topic)
    produce(out.source.bootstrap, topic, various(10))
    out.migrate(topic)
    produce(out.target.bootstrap, topic, various(1))
    produce(out.source.bootstrap, topic, various(10, 10))
    said = out.migrate(topic, wrong=1)
    assert "1 others among them" in said and "don't switch yet: the two sides differ" in said
    assert "switch over now" in out.migrate(topic, "--no-check")


# -- topics


def test_settings_go_along(out: Road, topic: str) -> None:
    """What was set for the topic, and how long it keeps records whoever said so; not where a copy needs another."""
    out.source.create_topic(
        topic, 2, retention_ms=86_400_000, segment_ms=3_600_000, message_timestamp_type="LogAppendTime"
    )
    produce(out.source.bootstrap, topic, various(5))
    out.migrate(topic)
    keys = ("retention.ms", "segment.ms", "message.timestamp.type", "message.timestamp.after.max.ms")
    wanted = ["86400000", "3600000", "LogAppendTime", "3600000"]
    assert [setting(out.target, topic, key) for key in keys] == wanted
    assert stored(out.target.bootstrap, topic) == stored(out.source.bootstrap, topic)


def test_times_that_kafka_refuses(out: Road, topic: str) -> None:
    """Those of a machine whose clock is hours ahead are copied; so is one without a time, and the year 1970."""
    ahead = [Sent(None, b"x", [], time) for time in (NOW + 50_000_000, -1, 1)]
    out.source.create_topic(topic)
    produce(out.source.bootstrap, topic, ahead)
    out.migrate(topic, "--no-check")  # a copy from 1970 is beyond what is kept
    assert setting(out.target, topic, "message.timestamp.after.max.ms") == "3600000"
    assert stored(out.target.bootstrap, topic) == {0: ahead}


def test_other_partitions_are_refused(road: Road, topic: str) -> None:
    """By name, before anything is copied."""
    road.source.create_topic(topic, 2)
    road.target.create_topic(topic, 3)
    produce(road.source.bootstrap, topic, various(3))
    said = road.migrate(topic, wrong=1)
    assert said.startswith(f"topic {topic} has 3 partitions at the target and 2 at the source: ")
    assert not any(stored(road.target.bootstrap, topic).values())


def test_what_others_wrote_is_refused(road: Road, topic: str) -> None:
    """An existing topic is taken if it is empty."""
    road.source.create_topic(topic)
    road.target.create_topic(topic)
    produce(road.source.bootstrap, topic, various(3))
    produce(road.target.bootstrap, topic, various(1))
    assert f"topic {topic} has records at the target that are not from here" in road.migrate(topic, wrong=1)
    assert stored(road.target.bootstrap, topic) == {0: various(1)}


def test_a_topic_that_was_deleted_is_copied_anew(road: Road, topic: str) -> None:
    """At the target; at the source a new topic of the same name is refused until the old copy is gone."""
    road.source.create_topic(topic)
    produce(road.source.bootstrap, topic, various(20))
    road.migrate(topic)
    road.target.delete_topic(topic)
    road.migrate(topic)
    assert stored(road.target.bootstrap, topic) == {0: various(20)}
    road.source.delete_topic(topic)
    road.source.create_topic(topic)
    produce(road.source.bootstrap, topic, various(5, 100))
    assert f"topic {topic} at the source is another one" in road.migrate(topic, wrong=1)
    road.target.delete_topic(topic)
    road.migrate(topic)
    assert stored(road.target.bootstrap, topic) == {0: various(5, 100)}


def test_a_header_that_no_client_reads(ours: Topics, out: Road, topic: str) -> None:
    """Its name isn't UTF-8: the copy ends with the record's place, and nothing of it is left at the target."""
    ours.create_topic(topic)
    batch = bytearray(record_batch.build([(NOW, b"k", b"v", [("name", b"x")])]))
    batch[batch.index(b"name")] = 0xFF
    batch[17:21] = google_crc32c.value(bytes(batch[21:])).to_bytes(4, "big")
    partitions = [{"index": 0, "records": bytes(batch)}]
    topics = [{"name": topic, "partition_data": partitions}]
    ask(ours.port, PRODUCE, 7, {"transactional_id": None, "acks": -1, "timeout_ms": 1000, "topic_data": topics})
    said = out.migrate(topic, wrong=1)
    assert f"offset 0 of {topic}-0 has a header whose name isn't UTF-8" in said
    assert stored(out.target.bootstrap, topic) == {0: []}


def ask(port: int, api: Api, version: int, body: Body) -> None:
    """Send one request and wait for the answer."""
    frame = b"".join(encode_request(api, version, 1, "test", body))
    with socket.create_connection(("127.0.0.1", port), 10) as peer:
        peer.sendall(len(frame).to_bytes(4, "big") + frame)
        assert peer.recv(4)


def test_what_compaction_left(out: Road, topic: str) -> None:
    """The service compacts a topic before the copy, and another one after it: what is left arrives, a group that was in
    the middle reads just the rest of it, and what is gone since is no difference."""
    before, after = f"{topic}-before", f"{topic}-after"
    for one in (before, after):
        out.source.create_topic(one, cleanup_policy="compact", min_cleanable_dirty_ratio="0.0")
        produce(out.source.bootstrap, one, keyed(0, 300), batch_num_messages=10)
    read(out.source.bootstrap, before, [before], 150, reset="earliest")
    out.migrate(after)
    for one in (before, after):
        wait_until(lambda one=one: len(placed(out.source, one)) < 300, 90, "compaction")
    left = placed(out.source, before)
    out.migrate(before)
    assert stored(out.target.bootstrap, before) == {0: [one for _, one in left]}
    assert setting(out.target, before, "cleanup.policy") == "compact"
    rest = [one for offset, one in left if offset >= 150]
    assert read(out.target.bootstrap, before, [before], len(rest)) == rest
    produce(out.source.bootstrap, after, keyed(300, 330))
    assert "dropped by retention or compaction since" in out.migrate(after)
    assert stored(out.target.bootstrap, after) == {0: keyed(0, 330)}


def keyed(first: int, last: int) -> list[Sent]:
    """Most keys come again and again, some once."""
    return [Sent(b"%d" % (n if n % 10 == 0 else n % 10), b"value %d" % n, [], NOW) for n in range(first, last)]


def test_one_cluster_is_refused(out: Road, topic: str) -> None:
    """A topic isn't copied onto itself."""
    line = ["migrate", "--server", out.source.bootstrap, "--to", out.source.bootstrap]
    assert "are one cluster" in run(*line, wrong=2)


def test_an_open_transaction_holds_it_back(out: Road, topic: str) -> None:
    """What lies behind it can't be copied yet, and it isn't time to switch."""
    out.source.create_topic(topic)
    produce(out.source.bootstrap, topic, various(3))
    producer = transactional(out.source, topic)
    producer.begin_transaction()
    write(producer, topic, various(2, 3))
    assert f"{topic}-0 has an open transaction at 3" in out.migrate(topic, wrong=1)
    assert stored(out.target.bootstrap, topic) == {0: various(3)}
    producer.commit_transaction(60)
    out.migrate(topic)
    assert stored(out.target.bootstrap, topic) == {0: various(5)}


def test_it_is_not_time_while_the_source_is_written_to(
    out: Road, topic: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What came after the copy is counted, and a topic that came is named; both sides are equal all the same."""
    out.source.create_topic(topic)
    produce(out.source.bootstrap, topic, various(10))
    source, target = Cluster(out.source.bootstrap), Cluster(out.target.bootstrap)
    move = Move(source, target, re.compile(f"{topic}.*"), re.compile(topic))
    try:
        move.prepare(-1)
        move.copy()
        produce(out.source.bootstrap, topic, various(5, 10))
        assert move.end(check=True) == 1
        said = capsys.readouterr().out
        assert " same" in said and "don't switch yet: 5 offsets were written since" in said
        out.source.create_topic(f"{topic}-more")
        assert move.end(check=False) == 1
        assert "the source has other topics or partitions now; run it again" in capsys.readouterr().out
    finally:
        move.close()


# -- groups


def test_a_group_goes_on_exactly_where_it_stopped(road: Road, topic: str) -> None:
    """It has read half of a topic full of holes, and reads exactly the other half at the target."""
    road.source.create_topic(topic)
    kept = with_holes(road.source, topic, rounds=30)
    found = read(road.source.bootstrap, topic, [topic], kept // 2, reset="earliest")
    road.migrate(topic)
    found += read(road.target.bootstrap, topic, [topic], kept - kept // 2)
    assert found == stored(road.source.bootstrap, topic)[0]


def test_groups_at_every_place(out: Road, topic: str) -> None:
    """Wherever a group stopped, in a hole or at a record, at the beginning or the end, it reads just the rest; what it
    wrote beside its offset goes along."""
    out.source.create_topic(topic)
    with_holes(out.source, topic, rounds=8)
    end = ends(out.source, topic)[0]
    for offset in range(end + 1):
        commit(out.source, f"{topic}-{offset}", TopicPartition(topic, 0, offset, metadata=f"at {offset}"))
    out.migrate(topic)
    here, there = placed(out.source, topic), placed(out.target, topic)
    for offset in range(end + 1):
        [place] = committed(out.target, f"{topic}-{offset}", topic)
        rest = [one for at, one in there if at >= place.offset]
        assert (rest, place.metadata) == ([one for at, one in here if at >= offset], f"at {offset}")


def test_a_group_that_has_read_all_has_no_lag(road: Road, topic: str) -> None:
    """Nor before it reads on, although a transaction's end is the last thing in the target's partition."""
    road.source.create_topic(topic)
    produce(road.source.bootstrap, topic, various(7))
    read(road.source.bootstrap, topic, [topic], 7, reset="earliest")
    road.migrate(topic)
    lag = run("groups", topic, "--server", road.target.bootstrap).splitlines()[-1].split()
    assert lag[:5] == [topic, "0", "8", "8", "0"]


def test_a_group_that_has_gone_on_is_not_sent_back(out: Road, topic: str) -> None:
    """A later run leaves it where it is, and says so; a group that stayed is moved again."""
    out.source.create_topic(topic)
    produce(out.source.bootstrap, topic, various(20))
    for group in (f"{topic}-gone", f"{topic}-stayed"):
        read(out.source.bootstrap, group, [topic], 5, reset="earliest")
    out.migrate(topic)
    read(out.target.bootstrap, f"{topic}-gone", [topic], 10)
    read(out.source.bootstrap, f"{topic}-stayed", [topic], 3)
    assert f"note: group {topic}-gone has gone on at the target ({topic}-0) and stays there" in out.migrate(topic)
    assert read(out.target.bootstrap, f"{topic}-gone", [topic], 5) == various(20)[15:]
    assert read(out.target.bootstrap, f"{topic}-stayed", [topic], 12) == various(20)[8:]


def test_a_group_that_runs_at_the_target_is_left_alone(out: Road, topic: str) -> None:
    """And one that still runs at the source is named."""
    out.source.create_topic(topic)
    produce(out.source.bootstrap, topic, various(20))
    read(out.source.bootstrap, topic, [topic], 5, reset="earliest")
    out.migrate(topic)
    read(out.source.bootstrap, topic, [topic], 5)
    with member(out.target, topic, topic), member(out.source, topic, topic):
        said = out.migrate(topic)
    assert f"note: group {topic} has members at the target and stays where they are" in said
    assert f"note: group {topic} still reads at the source" in said


def ends(server: Tools, topic: str) -> tuple[int, int]:
    """Of partition 0: for who reads all, and for who reads what is committed."""
    admin = AdminClient({"bootstrap.servers": server.bootstrap, "log_level": 0})
    place = TopicPartition(topic, 0)
    levels = IsolationLevel.READ_UNCOMMITTED, IsolationLevel.READ_COMMITTED
    whole, stable = (
        admin.list_offsets({place: OffsetSpec.latest()}, isolation_level=level)[place].result(30).offset
        for level in levels
    )
    return whole, stable


def commit(server: Tools, group: str, place: TopicPartition) -> None:
    client = Consumer({"bootstrap.servers": server.bootstrap, "group.id": group, "log_level": 0})
    client.commit(offsets=[place], asynchronous=False)
    client.close()


def committed(server: Tools, group: str, topic: str, partitions: int = 1) -> list[TopicPartition]:
    """Places of a group, by partition; offset -1001 where it has none."""
    client = Consumer({"bootstrap.servers": server.bootstrap, "group.id": group, "log_level": 0})
    found = client.committed([TopicPartition(topic, partition) for partition in range(partitions)], 30)
    client.close()
    return found


def placed(server: Tools, topic: str) -> list[tuple[int, Sent]]:
    """Records of partition 0 that are committed, with their offsets."""
    settings = {"group_id": "look", "enable_partition_eof": True, "isolation_level": "read_committed"}
    client = Consumer({"bootstrap.servers": server.bootstrap, "log_level": 0, **dotted(settings)})
    client.assign([TopicPartition(topic, 0, 0)])
    found: list[tuple[int, Sent]] = []
    ended = False
    while not ended:
        messages = client.consume(100, 0.1)
        found += [(message.offset(), sent(message)) for message in messages if message.error() is None]
        ended = any(message.error() for message in messages)
    client.close()
    return found


@contextmanager
def member(server: Tools, group: str, topic: str) -> Iterator[None]:
    """Somebody in a group, who commits nothing."""
    settings = {"group_id": group, "auto_offset_reset": "earliest", "enable_auto_commit": False}
    client = Consumer({"bootstrap.servers": server.bootstrap, "log_level": 0, **dotted(settings)})
    client.subscribe([topic])
    assert client.consume(1, timeout=30)
    try:
        yield
    finally:
        client.close()


# -- while it runs


class Load(threading.Thread):
    """Writes to partitions of a topic until it is told to stop: every other transaction is aborted."""

    def __init__(self, server: Tools, topic: str, partitions: int) -> None:
        super().__init__()
        self.producer, self.topic, self.partitions = transactional(server, topic), topic, partitions
        self.kept = 0
        self.stop = threading.Event()

    def run(self) -> None:
        count = 0
        while not self.stop.wait(0.01):
            self.producer.begin_transaction()
            for partition in range(self.partitions):
                write(self.producer, self.topic, various(20, self.kept), partition)
            count += 1
            if count % 2:
                self.producer.abort_transaction(60)
            else:
                self.producer.commit_transaction(60)
                self.kept += 20

    def __enter__(self) -> Load:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.join()


def test_following(road: Road, topic: str) -> None:
    """--follow copies on and carries groups while the source is written to; after Ctrl-C it does the rest and says that
    it is time to switch."""
    road.source.create_topic(topic, 2)
    with Load(road.source, topic, 2) as load:
        process = start(*road.line, "--topics", topic, "--groups", f"{topic}.*", "--follow")
        wait_until(lambda: has(road.target, topic, 100), 60, "records at the target")
        found = read(road.source.bootstrap, topic, [topic], 30, reset="earliest")
        wait_until(lambda: max(at.offset for at in committed(road.target, topic, topic, 2)) > 0, 60, "the group there")
    process.send_signal(signal.SIGINT)
    said, wrong = process.communicate(timeout=90)
    assert process.returncode == 0, said + wrong
    assert "switch over now" in said
    check_copy(road, topic, load, found)


def check_copy(road: Road, topic: str, load: Load, found: list[Sent]) -> None:
    """All that was written and not aborted is at the target, once, in order; and the group that has read `found` at the
    source reads just the rest there."""
    whole = stored(road.source.bootstrap, topic)
    assert stored(road.target.bootstrap, topic) == whole and len(whole[0]) == len(whole[1]) == load.kept
    left = 2 * load.kept - len(found)
    found = found + read(road.target.bootstrap, topic, [topic], left, reset="earliest")
    assert sorted(found, key=str) == sorted([one for its in whole.values() for one in its], key=str)


def has(server: Tools, topic: str, count: int) -> bool:
    """Whether partition 0 ends so far; a topic that isn't there doesn't."""
    admin = AdminClient({"bootstrap.servers": server.bootstrap, "log_level": 0})
    return topic in admin.list_topics(timeout=20).topics and ends(server, topic)[1] >= count


def is_open(server: Tools, topic: str) -> bool:
    """Whether a transaction is."""
    whole, stable = ends(server, topic) if has(server, topic, 0) else (0, 0)
    return whole > stable


@pytest.mark.fault
@pytest.mark.limit(300)
def test_killed_again_and_again(road: Road, topic: str, kills: int = 6) -> None:
    """SIGKILL in the middle of a transaction and at any other moment, while the source is written to: the next run goes
    on, and in the end each record is there once, in order, and a group reads on exactly where it stopped."""
    seed = random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    progress(f"seed {seed}")
    road.source.create_topic(topic, 2)
    with Load(road.source, topic, 2) as load:
        for number in range(kills):
            process = start(*road.line, "--topics", topic, "--groups", f"{topic}.*", "--follow")
            if number % 2:
                time.sleep(chance.uniform(0.3, 3))
            else:
                wait_until(lambda: is_open(road.target, topic), 60, "a transaction")
            process.kill()
            _, wrong = process.communicate()
            assert process.returncode == -signal.SIGKILL, wrong
    found = read(road.source.bootstrap, topic, [topic], load.kept, reset="earliest")
    road.migrate(topic)
    check_copy(road, topic, load, found)


@pytest.mark.fault
def test_both_sides_are_killed(tmp_path: Path, topic: str) -> None:
    """While it follows, the target and the source are killed and started again: it goes on by itself."""
    with Topics(tmp_path / "source", "source") as source, Topics(tmp_path / "target", "target") as target:
        source.create_topic(topic)
        process, count = start(*Road(source, target).line, "--follow"), 0
        for server in (target, source, target):
            for _ in range(15):
                produce(source.bootstrap, topic, various(20, count))
                count += 20
            server.kill9()
            server.start()
        wait_until(lambda: has(target, topic, count), 90, "records at the target")
        process.send_signal(signal.SIGINT)
        said, wrong = process.communicate(timeout=90)
        assert process.returncode == 0, said + wrong
        assert stored(target.bootstrap, topic) == {0: various(count)}


class Killed(BaseException):
    """Stands for the end of the process: nothing that the copy has opened is closed."""


@pytest.mark.parametrize("step", ["sent", "acknowledged", "journal written", "committed"])
def test_stopped_at_each_step(out: Road, topic: str, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a transaction: when the next copy has ended, each record is there once, and known to the map."""
    out.source.create_topic(topic)
    produce(out.source.bootstrap, topic, various(40))
    first = Move(Cluster(out.source.bootstrap), Cluster(out.target.bootstrap), re.compile(topic), re.compile(topic))
    first.prepare(-1)
    commit = first.copier._commit

    def die(before: Callable[..., None] | None = None) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            if before:
                before(*arguments)
            raise Killed

        return call

    name, call = {
        "sent": ("_finish", die()), "acknowledged": ("_paired", die()), "journal written": ("_commit", die()),
        "committed": ("_commit", die(commit)),
    }[step]  # fmt: skip
    monkeypatch.setattr(first.copier, name, call)
    with pytest.raises(Killed):
        first.copy()
    out.migrate(topic)
    first.close()
    assert stored(out.target.bootstrap, topic) == {0: various(40)}


def test_another_one_takes_over(out: Road, topic: str) -> None:
    """Of two that copy from one source, the first ends; what it did stays."""
    out.source.create_topic(topic)
    produce(out.source.bootstrap, topic, various(10))
    first = start(*out.line, "--topics", topic, "--groups", topic, "--follow")
    wait_until(lambda: has(out.target, topic, 10), 60, "records at the target")
    produce(out.source.bootstrap, topic, various(10, 10))
    out.migrate(topic)
    produce(out.source.bootstrap, topic, various(10, 20))
    _, wrong = first.communicate(timeout=90)
    assert first.returncode == 1 and re.search("another migrate of the same source has taken over", wrong)
    out.migrate(topic)
    assert stored(out.target.bootstrap, topic) == {0: various(30)}
