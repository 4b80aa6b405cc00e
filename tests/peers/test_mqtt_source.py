"""The MQTT source meets real brokers: mosquitto, in both versions, and amqtt."""

from __future__ import annotations

import asyncio
import logging
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.broker import EmbeddedBroker
from agent.errors import ChannelFull
from agent.event import Batch, Event
from agent.metrics import SourceCounter
from agent.source import DeadLetter, Kept, Marks
from agent.sources.mqtt import MqttConfig, MqttSource
from tests.needs import need
from tests.peers.harness import Program, wait_until
from tests.peers.mosquitto import Mosquitto

BOTH = pytest.mark.parametrize("version", ["5", "3.1.1"])


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    need("mosquitto", "mosquitto_pub")
    with Mosquitto(tmp_path / "broker") as server:
        yield server


class Store:
    """Stands for the channels: keeps events and marks of each `process` together."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.letters: list[DeadLetter] = []
        self.marks: dict[str, bytes] = {}
        self.full = False
        self.break_after = 1 << 30
        """Batches after which a put is kept and then never returns."""

    async def process(self, batch: Batch, marks: Marks | None = None) -> Kept:
        if self.full:
            raise ChannelFull("full")
        self.events += batch.events
        self.marks.update(marks or {})
        self.break_after -= 1
        if self.break_after <= 0:
            await asyncio.Event().wait()
        return Kept(batch.count, 0)

    async def bury(self, letters: list[DeadLetter], marks: Marks | None = None) -> None:
        self.letters += letters
        self.marks.update(marks or {})

    @property
    def bodies(self) -> list[str]:
        return [event.body.decode() for event in self.events]


@asynccontextmanager
async def collecting(store: Store, url: str, **keys: Any) -> AsyncIterator[MqttSource]:
    """A source that runs, connected; when the block ends it is cancelled as a kill would end it."""
    settings: dict[str, Any] = {"channels": ["c1"], "topics": ["s/#"], "batchDuration": 0.05, **keys}
    source = MqttSource("r1", MqttConfig(url=url, **settings))
    source.process, source.bury, source.marks = store.process, store.bury, dict(store.marks)
    source.durable, source.counter = True, SourceCounter("r1")
    await source.open()
    task = asyncio.create_task(source.run())
    try:
        await until(lambda: source.ready)
        yield source
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await source.close()


async def until(true: Callable[[], object], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def publish(broker: Mosquitto, topic: str, lines: list[str], version: str = "5", *options: str) -> None:
    await asyncio.to_thread(broker.publish, topic, lines, version, *options)


COLLECTOR = """\
a.sources = r
a.channels = c
a.sinks = k
a.sources.r.type = mqtt
a.sources.r.url = {url}
a.sources.r.topics = s/#
a.sources.r.version = {version}
a.sources.r.batchDuration = 50
a.sources.r.channels = c
a.channels.c.type = file
a.channels.c.path = {folder}/store
a.sinks.k.type = file_roll
a.sinks.k.channel = c
a.sinks.k.sink.directory = {folder}/out
a.sinks.k.sink.rollInterval = 0
"""


def lines_of(folder: Path) -> list[str]:
    files = sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime_ns) if folder.exists() else []
    return [line for file in files for line in file.read_text().splitlines()]


@BOTH
def test_every_reading_once_and_in_order(
    broker: Mosquitto, program: Callable[..., Program], tmp_path: Path, version: str
) -> None:
    """mosquitto_pub -> collector -> file: every reading once, in order per sensor, with a SIGKILL in between."""
    (tmp_path / "out").mkdir()
    collector = program("edge", COLLECTOR.format(url=broker.url, version=version, folder=tmp_path), start=False)
    collector.start()
    for part in range(3):
        for sensor in range(3):
            broker.publish(f"s/{sensor}", [f"{sensor} {part * 500 + number}" for number in range(500)], version)
        if part == 0:
            collector.kill9()
        if part == 1:
            collector.start()
    wait_until(lambda: len(lines_of(tmp_path / "out")) >= 4_500, 60, "all readings arrived")
    found = lines_of(tmp_path / "out")
    for sensor in range(3):
        assert [line for line in found if line[0] == str(sensor)] == [f"{sensor} {number}" for number in range(1_500)]


@BOTH
@pytest.mark.parametrize("kept", [1, 2])
def test_a_redelivery_is_no_second_reading(broker: Mosquitto, version: str, kept: int) -> None:
    """Killed after the commit and before the PUBACK: what is stored is recognised; equal payloads are all kept."""

    async def run() -> None:
        store = Store()
        async with collecting(store, broker.url, version=version):
            pass
        await publish(broker, "s/constant", ["21.5"] * 10, version)
        store.break_after = kept
        async with collecting(store, broker.url, version=version, batchSize=5):
            await until(lambda: len(store.events) == kept * 5)
        store.break_after = 1 << 30
        async with collecting(store, broker.url, version=version, batchSize=3) as source:
            await publish(broker, "s/last", ["end"], version)
            await until(lambda: store.bodies[-1:] == ["end"])
            assert source.counter.repeats == 5
        assert store.bodies == ["21.5"] * 10 + ["end"]

    asyncio.run(run())


@BOTH
def test_a_broken_connection_repeats_nothing(broker: Mosquitto, version: str) -> None:
    """A broker that stops and starts again while readings wait: all of them once, in order."""

    async def run() -> None:
        store = Store()
        async with collecting(store, broker.url, version=version, batchSize=7):
            store.full = True
            await publish(broker, "s/a", [f"{number}" for number in range(50)], version)
            await asyncio.to_thread(broker.restart)
            store.full = False
            await publish(broker, "s/a", [f"{number}" for number in range(50, 100)], version)
            await until(lambda: store.bodies[-1:] == ["99"])
        assert store.bodies == [f"{number}" for number in range(100)]

    asyncio.run(run())


def test_a_killed_broker_comes_back(broker: Mosquitto) -> None:
    """SIGKILL to the broker loses its sessions; the source subscribes again by itself."""

    async def run() -> None:
        store = Store()
        async with collecting(store, broker.url):
            broker.kill9()
            await asyncio.to_thread(broker.start)
            await until(lambda: broker.log.count("SUBACK") >= 2)
            await publish(broker, "s/a", ["after"])
            await until(lambda: store.bodies == ["after"])

    asyncio.run(run())


@BOTH
def test_retained_messages_come_once(broker: Mosquitto, version: str) -> None:
    """A retained message is a reading once, not again at each start."""

    async def run() -> None:
        store = Store()
        await publish(broker, "s/kept", ["old"], version, "-r")
        async with collecting(store, broker.url, version=version):
            await until(lambda: store.bodies == ["old"])
        for number in range(2):
            async with collecting(store, broker.url, version=version):
                await publish(broker, "s/new", [f"{number}"], version)
                await until(lambda n=number: store.bodies[-1:] == [f"{n}"])  # type: ignore[misc]
        assert store.bodies == ["old", "0", "1"]

    asyncio.run(run())


@BOTH
def test_filters_that_are_gone_are_unsubscribed(broker: Mosquitto, version: str) -> None:
    """A session keeps old subscriptions; what the configuration no longer names doesn't come any more."""

    async def run() -> None:
        store = Store()
        async with collecting(store, broker.url, version=version, topics=["s/a", "s/b"]):
            await publish(broker, "s/a", ["1"], version)
            await until(lambda: store.bodies == ["1"])
        async with collecting(store, broker.url, version=version, topics=["s/b", "s/c"]):
            for topic in ("s/a", "s/b", "s/c"):
                await publish(broker, topic, [topic], version)
            await until(lambda: store.bodies[-1:] == ["s/c"])
        assert store.bodies == ["1", "s/b", "s/c"]

    asyncio.run(run())


def test_headers(broker: Mosquitto) -> None:
    """topic, arrival time, content type and user properties become headers; a `timestamp` property wins."""

    async def run() -> None:
        store = Store()
        options = ["-D", "publish", "content-type", "text/plain", "-D", "publish", "user-property", "sensor", "s1"]
        async with collecting(store, broker.url):
            await publish(broker, "s/ä", ["1"], "5", *options, "-D", "publish", "message-expiry-interval", "60")
            await publish(broker, "s/b", ["2"], "5", "-D", "publish", "user-property", "timestamp", "17")
            await until(lambda: len(store.events) == 2)
        first, second = store.events
        assert first.headers.pop("timestamp").isdigit()
        assert first.headers == {"topic": "s/ä", "contentType": "text/plain", "sensor": "s1"}
        assert second.headers == {"topic": "s/b", "timestamp": "17"}

    asyncio.run(run())


def test_too_long_goes_to_the_dead_letters(broker: Mosquitto) -> None:
    """A payload above maxEventBytes is buried, acknowledged, and holds nobody up."""

    async def run() -> None:
        store = Store()
        async with collecting(store, broker.url, maxEventBytes=100):
            await publish(broker, "s/a", ["1", "x" * 200, "2"])
            await until(lambda: len(store.events) == 2)
            await until(lambda: store.letters)
        assert store.bodies == ["1", "2"]
        assert store.letters[0].body == b"x" * 200 and "maxEventBytes" in store.letters[0].reason

    asyncio.run(run())


def test_a_full_channel_keeps_the_session(broker: Mosquitto) -> None:
    """While the channel is full the socket is paused, pings go on, and the broker never drops the connection."""

    async def run() -> None:
        store = Store()
        async with collecting(store, broker.url, keepAlive=1.0, batchSize=10) as source:
            store.full = True
            await publish(broker, "s/a", [f"{number}" for number in range(3_000)])
            before = broker.log.count("Received PINGREQ")
            await until(lambda: broker.log.count("Received PINGREQ") >= before + 8)
            assert source.counter.state.startswith("waiting")
            store.full = False
            await until(lambda: len(store.events) == 3_000)
            assert source.counter.state == "running"
        assert store.bodies == [f"{number}" for number in range(3_000)]
        assert broker.log.count("Sending CONNACK to headrace-r1") == 1

    asyncio.run(run())


def test_falls_back_to_an_old_broker(tmp_path: Path) -> None:
    """amqtt refuses MQTT 5 in words of 3.1.1; the source goes on with 3.1.1 and remembers it in its mark."""

    async def run() -> None:
        store = Store()
        async with EmbeddedBroker(tmp_path, kind="amqtt") as server, collecting(store, server.url):
            command = ["mosquitto_pub", "-V", "mqttv311", "-p", str(server.port), "-q", "1", "-t", "s/a", "-m", "1"]
            await asyncio.to_thread(subprocess.run, command, check=True, timeout=20)
            await until(lambda: store.bodies == ["1"])
        assert store.marks["session"][0] == 3

    need("mosquitto_pub")
    asyncio.run(run())


def test_a_wrong_password_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One line names the cause, and the source goes on trying."""
    need("mosquitto", "mosquitto_passwd")
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-c", "-b", str(passwords), "alice", "right"], check=True)

    async def run(server: Mosquitto) -> None:
        store = Store()
        keys = {"username": "alice", "password": "wrong"}
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3), collecting(store, server.url, **keys):
                pass
        async with collecting(store, server.url, username="alice", password="right"):
            pass

    caplog.set_level(logging.INFO)
    with Mosquitto(tmp_path / "broker", access=f"password_file {passwords}") as server:
        asyncio.run(run(server))
    said = [record.message for record in caplog.records if "refuses us" in record.message]
    assert len(said) == 1 and "username" in said[0]


@BOTH
def test_two_clients_of_one_name_are_told(broker: Mosquitto, caplog: pytest.LogCaptureFixture, version: str) -> None:
    """When another client takes the session over, the log names the clientId that they share (3.1.1: after a while)."""

    async def run() -> None:
        keys = {"clientId": "same", "version": version}
        async with collecting(Store(), broker.url, **keys), collecting(Store(), broker.url, **keys):
            await until(lambda: any("share the clientId same" in record.message for record in caplog.records))

    caplog.set_level(logging.INFO)
    asyncio.run(run())
