"""The kafka sink against a real Kafka."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from agent.avro import record
from agent.config.reading import read
from agent.errors import DeliveryError, Rejected
from agent.event import Batch, Event
from agent.store.streams import Identity, Transit, runs_of
from aggregator.sinks.kafka import KafkaConfig, KafkaSink
from tests.contracts.channel import batch
from tests.contracts.sink import FarSide, SinkContract
from tests.house.test_docs import fenced
from tests.needs import need
from tests.peers.harness import ROOT, Program, free_port, wait_until
from tests.peers.kafka import Kafka, Record, secured_kafka, shared_kafka

ORIGIN = bytes(range(16))


@pytest.fixture(autouse=True)
def _needs() -> None:
    need("kafka", "java")


@pytest.fixture
def topic() -> str:
    return f"t-{uuid.uuid4().hex}"


def make(servers: str, topic: str, **keys: str) -> KafkaSink:
    """A sink as a configuration makes it; `__` in a key stands for its dot."""
    raw = {"channel": "c1", "kafka.bootstrap.servers": servers, "kafka.topic": topic, "callTimeout": "10s"}
    reading = read(KafkaConfig, raw | {name.replace("__", "."): text for name, text in keys.items()}, "kafka")
    assert reading.config, reading.faults
    return KafkaSink("k1", reading.config)


def numbered(first: int, *events: Event) -> Batch:
    """As a file channel gives it."""
    runs = runs_of(range(first, first + len(events)))
    return Batch(
        list(events), transit=Transit(ORIGIN, "c1", first - 1, runs, 0),
        identity=(Identity(ORIGIN, first, len(events)),),
    )  # fmt: skip


def sent(kafka: Kafka, topic: str, *batches: Batch, **keys: str) -> list[Record]:
    """What the topic holds after one sink's life."""

    async def steps() -> None:
        async with make(kafka.bootstrap, topic, **keys) as sink:
            for one in batches:
                await sink.send(one)

    asyncio.run(steps())
    return kafka.consume(topic, committed=True)


@pytest.fixture(scope="module")
def own_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """One to kill."""
    need("kafka", "java")
    with Kafka(tmp_path_factory.mktemp("kafka") / "kafka", apart=True) as kafka:
        yield kafka


class Broker:
    """A topic of a broker that is SIGKILLed."""

    def __init__(self, kafka: Kafka, transactional: bool) -> None:
        self.kafka, self.topic = kafka, f"c-{uuid.uuid4().hex}"
        kafka.create_topic(self.topic)
        more = {"transactional": "true"} if transactional else {}
        self.sink = make(kafka.bootstrap, self.topic, callTimeout="3s", **more)

    async def arrived(self) -> list[str]:
        return [str(one.value, "utf-8") for one in self.kafka.consume(self.topic, committed=True)]

    async def go_away(self) -> None:
        self.kafka.kill9()

    async def come_back(self) -> None:
        await asyncio.to_thread(self.kafka.start)


class Contract(SinkContract):
    transactional = False

    @pytest.fixture(autouse=True)
    def _broker(self, own_kafka: Kafka) -> None:
        self.kafka = own_kafka

    @asynccontextmanager
    async def far_side(self) -> AsyncIterator[FarSide]:
        yield Broker(self.kafka, self.transactional)


@pytest.mark.limit(200)
class TestKafkaSink(Contract):
    """What every sink promises; the broker is SIGKILLed."""


@pytest.mark.limit(200)
class TestTransactionalKafkaSink(Contract):
    """The same with a transaction a batch."""

    transactional = True
    back_seconds = 100.0


# -- options, one by one


def test_key_partition_time_and_headers(topic: str) -> None:
    """The header key is the record's key; partition, time and record headers come from the headers that are named."""
    kafka = shared_kafka()
    kafka.create_topic(topic, 3)
    event = Event({"key": "k", "to": "2", "when": "1700000000000", "unit": "C"}, b"21.5")
    [found] = sent(
        kafka, topic, Batch([event]), partitionIdHeader="to", timestampHeader="when", header__unit="u", identity="false"
    )
    assert found == Record(2, 0, b"k", b"21.5", {"u": b"C"}, 1700000000000)


def test_key_of_another_header(topic: str) -> None:
    """keyHeader names the header that is the record's key: `topic` keeps a sensor's readings in one partition."""
    events = Batch([Event({"topic": "s1", "key": "k"}, b"a"), Event({}, b"b")])
    found = sent(shared_kafka(), topic, events, keyHeader="topic", allowTopicOverride="false")
    assert [(one.key, one.value) for one in found] == [(b"s1", b"a"), (None, b"b")]


def test_default_partition(topic: str) -> None:
    """defaultPartitionId goes for events without the partition header."""
    kafka = shared_kafka()
    kafka.create_topic(topic, 3)
    found = sent(
        kafka, topic, Batch([Event({}, b"a"), Event({"p": "0"}, b"b")]), defaultPartitionId="1", partitionIdHeader="p"
    )
    assert {(one.partition, one.value) for one in found} == {(1, b"a"), (0, b"b")}


def test_flume_event_format(topic: str) -> None:
    """The value is Flume's event in Avro, with all its headers."""
    [found] = sent(shared_kafka(), topic, Batch([Event({"x": "1"}, b"body")]), useFlumeEventFormat="true")
    assert found.value and record.decode(found.value, 1) == [({"x": "1"}, b"body")]


def test_topic_of_an_event(topic: str) -> None:
    """A pattern and topicHeader name the topic of each event, unless allowTopicOverride is false."""
    kafka = shared_kafka()
    events = Batch([Event({"s": topic}, b"a"), Event({"to": f"{topic}-x"}, b"b"), Event({"s": topic}, b"c")])
    for one in (f"p-{topic}", f"{topic}-x"):
        kafka.create_topic(one)
    sent(kafka, f"p-{topic}", batch("warm"))
    asyncio.run(_send(make(kafka.bootstrap, "p-%{s}", topicHeader="to"), events))
    assert [one.value for one in kafka.consume(f"p-{topic}")] == [b"warm", b"a", b"c"]
    assert [one.value for one in kafka.consume(f"{topic}-x")] == [b"b"]
    only = Batch([Event({"topic": "elsewhere"}, b"d")])
    assert sent(kafka, f"p-{topic}", only, allowTopicOverride="false")[-1].value == b"d"


async def _send(sink: KafkaSink, one: Batch) -> None:
    async with sink:
        await sink.send(one)


def test_identity_in_record_headers(topic: str) -> None:
    """identity = true adds who kept the event first and its number."""
    found = sent(shared_kafka(), topic, numbered(7, Event({}, b"a"), Event({}, b"b")), identity="true")
    assert [one.headers["headrace.number"] for one in found] == [b"7", b"8"]
    assert found[0].headers["headrace.origin"] == ORIGIN.hex().encode()


@pytest.mark.parametrize("keys", [{"acks": "1"}, {"compression__type": "zstd"}, {"acks": "0"}])
def test_producer_settings_are_passed_on(topic: str, keys: dict[str, str]) -> None:
    """kafka.producer.*, Flume's acks = 1 among them."""
    found = sent(shared_kafka(), topic, batch(*"abc"), **{f"kafka__producer__{name}": v for name, v in keys.items()})
    assert [one.value for one in found] == [b"a", b"b", b"c"]


@pytest.mark.parametrize(
    ("event", "keys", "reason"),
    [
        (Event({}, b"x" * 60_000), {}, "MESSAGE|size|large"),
        (Event({"topic": "no/topic"}, b"x"), {}, "is no topic"),
        (Event({"p": "7"}, b"x"), {"partitionIdHeader": "p"}, "partition"),
        (Event({"p": "seven"}, b"x"), {"partitionIdHeader": "p"}, "not a number"),
    ],
)
def test_an_events_own_fault(topic: str, event: Event, keys: dict[str, str], reason: str) -> None:
    """Too large, an illegal topic, no such partition: Rejected, and the sink goes on with others."""
    kafka = shared_kafka()
    kafka.create_topic(topic, max_message_bytes=20_000)

    async def steps() -> None:
        async with make(kafka.bootstrap, topic, **keys) as sink:
            await sink.send(batch("before"))
            with pytest.raises(Rejected, match=f"(?i){reason}"):
                await sink.send(Batch([event]))
            await sink.send(batch("behind"))

    asyncio.run(steps())
    assert [one.value for one in kafka.consume(topic)] == [b"before", b"behind"]


def test_a_missing_topic_waits() -> None:
    """Without auto.create.topics.enable a topic that isn't there is the destination's fault."""
    kafka = secured_kafka()  # ACLs: alice may not make topics
    with pytest.raises(DeliveryError) as raised:
        asyncio.run(_send(make(kafka.secured, f"t-{uuid.uuid4().hex}", **_alice(kafka)), batch("a")))
    assert not isinstance(raised.value, Rejected)


def _alice(kafka: Kafka) -> dict[str, str]:
    login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    return {
        "kafka__producer__security.protocol": "SASL_SSL",
        "kafka__producer__sasl.mechanism": "PLAIN",
        "kafka__producer__sasl.jaas.config": f'{login} username="alice" password="alice-pw";',
        "kafka__producer__ssl.truststore.location": str(kafka.ca),
        "kafka__producer__ssl.truststore.type": "PEM",
    }


def test_authorization_that_is_denied_waits_and_goes_on_when_granted(topic: str) -> None:
    """TLS and a password as in Flume's file; no right to write is the destination's fault."""
    kafka = secured_kafka()
    kafka.create_topic(topic)

    async def steps() -> None:
        async with make(kafka.secured, topic, **_alice(kafka)) as sink:
            with pytest.raises(DeliveryError, match=r"(?i)authorization") as raised:
                await sink.send(batch("a"))
            assert not isinstance(raised.value, Rejected)
            kafka.allow("topic", topic, "WRITE", "DESCRIBE")
            async with asyncio.timeout(60):
                while True:
                    try:
                        return await sink.send(batch("a"))
                    except DeliveryError:
                        await asyncio.sleep(0.1)

    asyncio.run(steps())
    assert [one.value for one in kafka.consume(topic)] == [b"a"]


# -- transactions


def test_a_repeat_is_cut_by_the_next_sink(topic: str) -> None:
    """Another process with the same transactional.id knows what is there, however the channel splits it now."""
    kafka = shared_kafka()
    kafka.create_topic(topic)
    events = [Event({}, b"%d" % number) for number in range(1, 11)]
    keys = {"transactional": "true", "transactional.id": topic}
    sent(kafka, topic, numbered(1, *events[:4]), numbered(5, *events[4:7]), **keys)
    found = sent(kafka, topic, numbered(3, *events[2:6]), numbered(7, *events[6:]), **keys)
    assert [one.value for one in found] == [event.body for event in events]


def test_a_second_sink_of_one_name_fences_the_first(topic: str) -> None:
    """Both go on in turn, and what one says names the key."""
    kafka = shared_kafka()
    kafka.create_topic(topic)

    async def steps() -> None:
        keys = {"transactional": "true", "transactional.id": topic}
        async with make(kafka.bootstrap, topic, **keys) as one, make(kafka.bootstrap, topic, **keys) as other:
            await other.send(numbered(1, Event({}, b"a")))
            with pytest.raises(DeliveryError, match=r"another sink uses the transactional\.id"):
                await one.send(numbered(2, Event({}, b"b")))

    asyncio.run(steps())


# -- whole agents

FLOW = """\
a.sources = r
a.channels = c
a.sinks = k
a.sources.r.type = netcat
a.sources.r.bind = 127.0.0.1
a.sources.r.port = {port}
a.sources.r.channels = c
a.channels.c.type = file
a.channels.c.path = {store}
a.sinks.k.type = org.apache.flume.sink.kafka.KafkaSink
a.sinks.k.channel = c
a.sinks.k.kafka.bootstrap.servers = {servers}
a.sinks.k.kafka.topic = {topic}
a.sinks.k.flumeBatchSize = 100
a.sinks.k.backoff = 100ms
a.sinks.k.maxBackoff = 1s
a.sinks.k.callTimeout = 3s
"""


@pytest.mark.limit(200)
def test_a_broker_that_is_down_at_start(tmp_path: Path, topic: str) -> None:
    """The agent starts, says once what is wrong, takes events in, and delivers when the broker is there; killed in the
    middle and started again, nothing is missing."""
    port, kafka = free_port(), Kafka(tmp_path / "kafka", apart=True)
    flow = FLOW.format(port=port, store=tmp_path / "store", servers=kafka.bootstrap, topic=topic)
    with Program("aggregator", flow, tmp_path / "a") as program:
        _lines(port, ["a", "b"])
        program.wait_log("k waits: kafka:")
        with kafka:
            wait_until(lambda: program.count("SINK.k", "EventDrainSuccessCount") == 2, 60, program.log[-2000:])
            kafka.kill9()
            _lines(port, ["c"])
            kafka.start()
            wait_until(lambda: program.count("SINK.k", "EventDrainSuccessCount") == 3, 60, program.log[-2000:])
            assert {one.value for one in kafka.consume(topic)} == {b"a", b"b", b"c"}
        said = re.findall(r"k (?:waits: .*(?=; tries)|delivers again)", program.log)
        assert all(one != next_one for one, next_one in pairwise(said)), said


def _lines(port: int, lines: list[str]) -> None:
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.sendall("".join(f"{line}\n" for line in lines).encode())
        for _ in lines:
            assert peer.recv(3) == b"OK\n"


def test_a_record_that_is_too_large_is_a_dead_letter(tmp_path: Path, topic: str) -> None:
    """Its reason names what bounds a record; the events around it arrive, in order."""
    port, kafka = free_port(), shared_kafka()
    kafka.create_topic(topic, max_message_bytes=2_000)
    flow = FLOW.format(port=port, store=tmp_path / "store", servers=kafka.bootstrap, topic=topic)
    flow += "a.sources.r.max-line-length = 100000\na.sinks.k.transactional = true\n"
    with Program("aggregator", flow, tmp_path / "a") as program:
        _lines(port, ["a", "x" * 40_000, "b"])
        program.wait_log("is a dead letter now: kafka: ", 60)
        wait_until(lambda: len(kafka.consume(topic, committed=True)) == 2, 60, program.log[-2000:])
        assert "max.message.bytes of the topic" in program.log
    assert [one.value for one in kafka.consume(topic, committed=True)] == [b"a", b"b"]


def test_the_page(tmp_path: Path) -> None:
    """The configuration of docs/kafka.md makes the record that is shown; ports, folder and topic differ."""
    kafka, port, topic = shared_kafka(), free_port(), f"t-{uuid.uuid4().hex}"
    page = ROOT / "docs" / "kafka.md"
    [flow] = [text for text in fenced(page, "properties") if "out.sinks.topic.type" in text]
    [session, shown] = [fenced(page, language)[0] for language in ("sh", "text")]
    for old, new in {
        "6666": port, "127.0.0.1:9092": kafka.bootstrap, "= readings": f"= {topic}",
        "/var/lib/headrace/out": tmp_path / "store",
    }.items():  # fmt: skip
        assert old in flow
        flow = flow.replace(old, str(new))
    kafka.create_topic(topic)
    with Program("aggregator", flow, tmp_path / "a"):
        _lines(port, [session.split("'")[1]])
        assert kafka.console(
            topic, 1, "--formatter-property", "print.key=true", "--isolation-level", "read_committed"
        ) == [shown.rstrip("\n")]


def test_a_sink_that_is_at_least_once_says_so(topic: str, caplog: pytest.LogCaptureFixture) -> None:
    """One line at open."""
    caplog.set_level(logging.INFO)
    sent(shared_kafka(), topic, batch("a"))
    assert "at least once" in caplog.text
