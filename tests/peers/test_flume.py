"""Both ends of the Avro wire against a real Flume 1.11: plain, deflate and TLS, and Flume's own clients.

One Java agent and one of ours serve all tests. For each variant V, in both directions:

    client -> Java avro source -> avro sink (V) -> our avro source -> file_roll         folder ours/V
    client -> our avro source -> file channel -> avro sink (V) -> Java avro source -> file_roll    folder java/V
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.avro.connection import OK
from tests.agent.avro.wire import connected
from tests.needs import need
from tests.peers import flume
from tests.peers.harness import Program, free_port, wait_until

VARIANTS = ("plain", "deflate", "tls")
PASSWORD = "changeit"


@dataclass
class Road:
    """The two agents. `ours`/`java`: ports of the sources that face the other agent; `feed_*`: where a test sends."""

    folder: Path
    ours: dict[str, int]
    java: dict[str, int]
    feed_java: dict[str, int]
    feed_ours: dict[str, int]
    stores: tuple[Path, Path]

    def out(self, who: str, variant: str) -> Path:
        return self.folder / "out" / who / variant

    def arrived(self, who: str, variant: str, test: str, count: int) -> list[flume.Read]:
        """What came of one test, once at least `count` events did."""

        def events() -> list[flume.Read]:
            found = flume.events_in(self.out(who, variant))
            return [(headers, body) for headers, body in found if headers.get("test") == test]

        wait_until(lambda: len(events()) >= count, 40, f"{count} events at {who}/{variant}")
        return events()

    def own_side(self, key: str, variant: str, end: str) -> str:
        """Keys of a variant for a source or a sink; the same for both agents."""
        store, trust = self.stores
        lines = {
            "plain": {},
            "deflate": {"compression-type": "deflate"},
            "tls": {"ssl": "true", "keystore": store, "keystore-password": PASSWORD, "keystore-type": "PKCS12"},
        }[variant]
        if variant == "tls" and end == "sink":
            lines = {"ssl": "true", "truststore": trust, "truststore-password": PASSWORD, "truststore-type": "PKCS12"}
        return "".join(f"{key}.{name} = {value}\n" for name, value in lines.items())


def _conf(road: Road, who: str, channel: str) -> str:
    """The configuration of one of the two agents."""
    inward, feeds, outward = (
        (road.ours, road.feed_ours, road.java) if who == "ours" else (road.java, road.feed_java, road.ours)
    )
    names = {kind: [f"{kind}-{v}" for v in VARIANTS] for kind in ("in", "feed", "out", "file")}
    text = [
        f"a1.sources = {' '.join(names['in'] + names['feed'])}",
        f"a1.channels = {' '.join(names['in'] + names['feed'])}",
        f"a1.sinks = {' '.join(names['out'] + names['file'])}",
    ]
    for v in VARIANTS:
        road.out(who, v).mkdir(parents=True)
        text += [
            f"a1.channels.in-{v}.type = memory",
            f"a1.channels.in-{v}.capacity = 10000",
            f"a1.channels.feed-{v}.type = {channel}",
            f"a1.channels.feed-{v}.capacity = 10000",
            *_source(f"a1.sources.in-{v}", f"in-{v}", inward[v]),
            road.own_side(f"a1.sources.in-{v}", v, "source"),
            *_source(f"a1.sources.feed-{v}", f"feed-{v}", feeds[v]),
            f"a1.sinks.out-{v}.type = avro",
            f"a1.sinks.out-{v}.channel = feed-{v}",
            f"a1.sinks.out-{v}.hostname = 127.0.0.1",
            f"a1.sinks.out-{v}.port = {outward[v]}",
            road.own_side(f"a1.sinks.out-{v}", v, "sink"),
            f"a1.sinks.file-{v}.type = file_roll",
            f"a1.sinks.file-{v}.channel = in-{v}",
            f"a1.sinks.file-{v}.sink.directory = {road.out(who, v)}",
            f"a1.sinks.file-{v}.sink.rollInterval = 0",
            f"a1.sinks.file-{v}.sink.serializer = avro_event",
        ]
    return "\n".join(text) + "\n"


def _source(key: str, channel: str, port: int) -> list[str]:
    return [f"{key}.type = avro", f"{key}.bind = 127.0.0.1", f"{key}.port = {port}", f"{key}.channels = {channel}"]


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    need("flume", "java", "javac", "mvn")
    folder = tmp_path_factory.mktemp("flume")
    ports = [{v: free_port() for v in VARIANTS} for _ in range(4)]
    road = Road(folder, ports[0], ports[1], ports[2], ports[3], flume.make_stores(folder))
    ours = Program("aggregator", _conf(road, "ours", "file"), folder / "ours")
    theirs = flume.Flume(_conf(road, "java", "memory"), folder / "java")
    with ours, theirs:
        yield road


def _client(port: int, variant: str, road: Road) -> dict[str, str]:
    """Properties of Flume's RpcClient."""
    common = {"hosts": "h1", "hosts.h1": f"127.0.0.1:{port}", "batch-size": "100"}
    if variant == "deflate":
        return {**common, "compression-type": "deflate"}
    if variant == "tls":
        trust = {"truststore": str(road.stores[1]), "truststore-password": PASSWORD, "truststore-type": "PKCS12"}
        return {**common, "ssl": "true", **trust}
    return common


def _check(events: list[flume.Read], test: str, count: int) -> None:
    """Each once, with its headers."""
    seen = [(headers["number"], body) for headers, body in events if headers == {"test": test, "number": body.decode()}]
    assert sorted(seen) == sorted((str(i), str(i).encode()) for i in range(count))


def _feed(port: int, test: str, count: int) -> None:
    """Send events with our own client, 100 at a time, like those of Send.java."""

    async def steps() -> None:
        async with asyncio.timeout(60), connected(port) as client:
            for start in range(0, count, 100):
                numbers = [str(i) for i in range(start, start + 100)]
                events = [({"test": test, "number": number}, number.encode()) for number in numbers]
                assert (await client.answer(client.post_events(events))).status == OK

    asyncio.run(steps())


@pytest.mark.parametrize("variant", VARIANTS)
def test_java_sink_to_our_source(road: Road, variant: str) -> None:
    """What a Java agent's avro sink sends to our source arrives once, with its headers."""
    _feed(road.feed_java[variant], "java-sink", 1000)
    _check(road.arrived("ours", variant, "java-sink", 1000), "java-sink", 1000)


@pytest.mark.parametrize("variant", VARIANTS)
def test_our_sink_to_java_source(road: Road, variant: str) -> None:
    """What our avro sink sends to a Java agent's source arrives once, in order, with its headers."""
    _feed(road.feed_ours[variant], "our-sink", 1000)
    events = road.arrived("java", variant, "our-sink", 1000)
    _check(events, "our-sink", 1000)
    assert [int(body) for _, body in events] == list(range(1000))


@pytest.mark.parametrize("variant", VARIANTS)
def test_java_rpc_client(road: Road, tmp_path: Path, variant: str) -> None:
    """Flume's RpcClient sends to our source with append and with appendBatch."""
    flume.send(_client(road.ours[variant], variant, road), tmp_path, "rpc", 300, 50)
    _check(road.arrived("ours", variant, "rpc", 300), "rpc", 300)


def test_avro_client_command(road: Road, tmp_path: Path) -> None:
    """`flume-ng avro-client` sends the lines of a file to our source, with its headers."""
    lines, headers = tmp_path / "lines", tmp_path / "headers"
    lines.write_text("".join(f"line {i}\n" for i in range(300)))
    headers.write_text("test = cli\n")
    flume.avro_client(road.ours["plain"], lines, headers)
    events = road.arrived("ours", "plain", "cli", 300)
    assert sorted(events, key=lambda event: int(event[1].split()[1])) == [
        ({"test": "cli"}, f"line {i}".encode()) for i in range(300)
    ]
