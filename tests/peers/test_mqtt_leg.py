"""The MQTT sink meets mosquitto: the forward leg to our own source, and single events for subscribers."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.errors import DeliveryError
from agent.event import Batch, Event
from agent.metrics import SinkCounter
from agent.sinks.mqtt import MqttConfig, MqttSink
from agent.store.streams import Identity, Transit
from tests.needs import need
from tests.peers.harness import Program, wait_until
from tests.peers.mosquitto import Mosquitto
from tests.peers.test_mqtt_source import Store, collecting, lines_of, until

BOTH = pytest.mark.parametrize("version", ["5", "3.1.1"])
ORIGIN, OTHER = bytes(range(16)), bytes(16)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    need("mosquitto", "mosquitto_pub", "mosquitto_sub")
    with Mosquitto(tmp_path / "broker") as server:
        yield server


@asynccontextmanager
async def forwarding(url: str, **keys: Any) -> AsyncIterator[MqttSink]:
    settings: dict[str, Any] = {
        "channel": "c1",
        "topic": "s/batches",
        "payload": "batch",
        "confirmTimeout": 5.0,
        **keys,
    }
    sink = MqttSink("k1", MqttConfig(url=url, **{**settings, **keys}))
    sink.counter = SinkCounter("k1")
    await sink.open()
    try:
        yield sink
    finally:
        await sink.close()


def batch_of(first: int, count: int) -> Batch:
    """A batch as it leaves a file channel: encoded, numbered, with the identity that another store gave."""
    block = Batch([Event({"n": str(number)}, b"%d" % number) for number in range(first, first + count)]).block
    transit = Transit(ORIGIN, "c1", first - 1, ((first, count),), 0)
    return Batch(None, block, count, transit, (Identity(OTHER, first + 1_000, count),))


class Batches(Store):
    """Keeps the batches too, as they came."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[Batch] = []

    async def process(self, batch: Batch, marks: Any = None) -> Any:
        kept = await super().process(batch, marks)
        self.batches.append(batch)
        return kept


@BOTH
def test_a_batch_arrives_as_it_is(broker: Mosquitto, version: str) -> None:
    """Block, transit numbers and identity of a forwarded batch are the receiver's; in order, with several under way."""

    async def run() -> None:
        store = Batches()
        async with collecting(store, broker.url, version=version), forwarding(broker.url, version=version) as sink:
            sent = [batch_of(1 + 100 * number, 100) for number in range(20)]
            await asyncio.gather(*(sink.send(batch) for batch in sent))
        assert [b.block for b in store.batches] == [b.block for b in sent]
        assert [(b.transit, b.identity) for b in store.batches] == [(b.transit, b.identity) for b in sent]

    asyncio.run(run())


def test_a_batch_is_an_avro_file(broker: Mosquitto) -> None:
    """A captured message is an Avro container that fastavro reads, labels in its metadata."""
    fastavro = pytest.importorskip("fastavro")
    capture = broker.folder / "captured"

    async def run() -> None:
        command = ["mosquitto_sub", "-p", str(broker.port), "-q", "1", "-t", "s/#", "-C", "1", "-N", "-W", "20"]
        with capture.open("wb") as out:
            subscriber = subprocess.Popen(command, stdout=out)  # noqa: ASYNC220
        await until(lambda: "SUBSCRIBE" in broker.log)
        async with forwarding(broker.url, confirmTimeout=0.2) as sink:
            with pytest.raises(DeliveryError):
                await sink.send(batch_of(1, 3))
        assert await asyncio.to_thread(subscriber.wait, 20) == 0

    asyncio.run(run())
    with capture.open("rb") as file:
        reader = fastavro.reader(file)
        assert reader.metadata["headrace.numbers"] == "1+3"
        assert [event["body"] for event in reader] == [b"1", b"2", b"3"]


@BOTH
def test_without_a_receiver_nothing_is_delivered(broker: Mosquitto, version: str) -> None:
    """The broker's acknowledgement moves nothing: DeliveryError, and after a receiver came the same batch goes."""

    async def run() -> None:
        store = Batches()
        async with forwarding(broker.url, version=version, confirmTimeout=0.3) as sink:
            with pytest.raises(DeliveryError):
                await sink.send(batch_of(1, 5))
            async with collecting(store, broker.url, version=version):
                for _ in range(20):
                    try:
                        await sink.send(batch_of(1, 5))
                        break
                    except DeliveryError:
                        continue
                await until(lambda: store.batches)
        assert store.bodies[:5] == ["1", "2", "3", "4", "5"]

    asyncio.run(run())


@BOTH
def test_a_full_receiver_is_waited_for(broker: Mosquitto, version: str) -> None:
    """A receiver without room says that it has the batch; the sink waits beyond its time-out and sends no copy."""

    async def run() -> None:
        store = Batches()
        async with (
            collecting(store, broker.url, version=version) as source,
            forwarding(broker.url, version=version, confirmTimeout=15.0) as sink,
        ):
            store.full = True
            sending = asyncio.create_task(sink.send(batch_of(1, 5)))
            await until(lambda: source.counter.ChannelWriteFail > 3)
            assert not sending.done()
            store.full = False
            await sending
        assert len(store.batches) == 1

    asyncio.run(run())


@BOTH
def test_a_batch_that_came_again_is_confirmed(broker: Mosquitto, version: str) -> None:
    """The receiver was killed between its commit and its answer: the redelivery is answered, and stored once."""

    async def run() -> None:
        store = Batches()
        async with forwarding(broker.url, version=version, confirmTimeout=60.0) as sink:
            store.break_after = 1
            async with collecting(store, broker.url, version=version):
                sending = asyncio.create_task(sink.send(batch_of(1, 5)))
                await until(lambda: store.events)
            store.break_after = 1 << 30
            async with collecting(store, broker.url, version=version):
                await sending
        assert store.bodies == ["1", "2", "3", "4", "5"]

    asyncio.run(run())


def test_a_broken_batch_goes_to_the_dead_letters(broker: Mosquitto) -> None:
    """A container that is ours and cut off is buried; an Avro file of somebody else is a reading."""

    async def run() -> None:
        from agent.avro import container
        from agent.mqtt import leg

        whole, foreign = leg.pack(batch_of(1, 3), "t", "r"), container.write(b"", 0)
        store = Batches()
        files = [broker.folder / "cut", broker.folder / "foreign"]
        async with collecting(store, broker.url):
            for file, content in zip(files, (whole[:-20], foreign), strict=True):
                file.write_bytes(content)
                command = ["mosquitto_pub", "-p", str(broker.port), "-q", "1", "-t", "s/x", "-f", str(file)]
                await asyncio.to_thread(subprocess.run, command, check=True, timeout=20)
            await until(lambda: store.events and store.letters)
        assert store.events[0].body == foreign
        assert store.letters[0].body == whole[:-20]

    asyncio.run(run())


@BOTH
def test_events_for_subscribers(broker: Mosquitto, version: str) -> None:
    """payload = event: one message each, topic from headers, in order; user properties and content type in MQTT 5."""

    async def run() -> None:
        store = Store()
        keys = {"payload": "event", "topic": "s/%{site}/x", "version": version}
        async with collecting(store, broker.url, version=version), forwarding(broker.url, **keys) as sink:
            headers = {"site": "a", "unit": "C", "contentType": "text/plain", "timestamp": "5"}
            await sink.send(Batch([Event(headers, b"%d" % number) for number in range(500)]))
            await until(lambda: len(store.events) == 500)
        assert store.bodies == [f"{number}" for number in range(500)]
        got = store.events[0].headers
        assert got == {**headers, "topic": "s/a/x"} if version == "5" else got["topic"] == "s/a/x"

    asyncio.run(run())


def test_an_event_without_subscriber_waits(broker: Mosquitto) -> None:
    """MQTT 5 tells that nobody has subscribed: that is no delivery."""

    async def run() -> None:
        async with forwarding(broker.url, payload="event", topic="nobody/here", version="5") as sink:
            with pytest.raises(DeliveryError, match="no subscriber"):
                await sink.send(Batch([Event({}, b"1")]))

    asyncio.run(run())


COLLECTOR = """\
a.sources = r
a.channels = c
a.sinks = k
a.sources.r.type = mqtt
a.sources.r.url = {url}
a.sources.r.topics = s/#
a.sources.r.version = {version}
a.sources.r.batchDuration = 20
a.sources.r.channels = c
a.channels.c.type = file
a.channels.c.path = {folder}/collector-store
a.sinks.k.type = mqtt
a.sinks.k.channel = c
a.sinks.k.url = {url}
a.sinks.k.topic = up/batches
a.sinks.k.payload = batch
a.sinks.k.version = {version}
a.sinks.k.backoff = 50
a.sinks.k.confirmTimeout = 3000
"""
AGGREGATOR = """\
b.sources = r
b.channels = c
b.sinks = k
b.sources.r.type = mqtt
b.sources.r.url = {url}
b.sources.r.topics = up/batches
b.sources.r.version = {version}
b.sources.r.clientId = aggregator
b.sources.r.channels = c
b.channels.c.type = file
b.channels.c.path = {folder}/aggregator-store
b.sinks.k.type = file_roll
b.sinks.k.channel = c
b.sinks.k.sink.directory = {folder}/out
b.sinks.k.sink.rollInterval = 0
"""


@pytest.mark.limit(240)
@BOTH
def test_kills_on_both_ends(broker: Mosquitto, program: Callable[..., Program], tmp_path: Path, version: str) -> None:
    """Collector, aggregator and broker are stopped in turn under load: every reading arrives once, in order."""
    (tmp_path / "out").mkdir()
    keys = {"url": broker.url, "version": version, "folder": tmp_path}
    aggregator = program("aggregator", AGGREGATOR.format(**keys))
    collector = program("edge", COLLECTOR.format(**keys))
    sent = 0
    for step in ("kill collector", "kill aggregator", "restart broker", "kill both", "end"):
        for sensor in range(2):
            broker.publish(f"s/{sensor}", [f"{sensor} {sent + number}" for number in range(400)], version)
        sent += 400
        if step in ("kill collector", "kill both"):
            collector.kill9()
        if step in ("kill aggregator", "kill both"):
            aggregator.kill9()
        if step == "restart broker":
            broker.restart()
        for one in (collector, aggregator):
            if not one.running:
                one.start()
    wait_until(lambda: len(lines_of(tmp_path / "out")) >= 2 * sent, 90, "all readings arrived")
    found = lines_of(tmp_path / "out")
    for sensor in range(2):
        assert [line for line in found if line[0] == str(sensor)] == [f"{sensor} {number}" for number in range(sent)]
