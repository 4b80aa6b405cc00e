"""Hostile peers on every port: memory stays bounded, the log stays short, and who means well is served meanwhile."""

from __future__ import annotations

import contextlib
import random
import resource
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.avro.connection import OK, ClientConnection
from agent.event import Batch, Event
from tests.agent.certificates import Authority
from tests.faults import hostile
from tests.faults.hostile import MIB, Attack, Villain, dial, rss
from tests.needs import need
from tests.peers.harness import Program, free_port, http_get, wait_until
from tests.peers.mosquitto import Mosquitto

pytestmark = pytest.mark.fault

MOST = 100
"""maxConnections."""
ROOM = 48 * MIB
"""What an attack may add to the program's memory; it offers up to 80 MiB, or announces gigabytes."""
LISTENERS = """\
r.sources = lines plain small tls
r.channels = ch
r.sinks = out
r.channels.ch.type = memory
r.channels.ch.capacity = 10000
r.sinks.out.type = null
r.sinks.out.channel = ch
r.sources.lines.type = netcat
r.sources.lines.bind = 127.0.0.1
r.sources.lines.port = {lines}
r.sources.lines.maxConnections = {most}
r.sources.lines.channels = ch
"""
AVRO = """\
r.sources.{name}.type = avro
r.sources.{name}.bind = 127.0.0.1
r.sources.{name}.port = {port}
r.sources.{name}.maxConnections = {most}
r.sources.{name}.maxFrameBytes = 8MiB
r.sources.{name}.maxBytesInFlight = 16MiB
r.sources.{name}.channels = ch
"""
KINDS = ["lines", "plain", "small", "tls", "metrics"]


class Line:
    """A good client of netcat: a line, and its OK."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), 20)

    def ask(self) -> bool:
        self.sock.sendall(b"a good line\n")
        return self.sock.recv(100) == b"OK\n"


class Caller:
    """A good client of an Avro source: a batch, and its OK."""

    def __init__(self, port: int, level: int | None = None, tls: ssl.SSLContext | None = None) -> None:
        plain = socket.create_connection(("127.0.0.1", port), 20)
        self.sock = tls.wrap_socket(plain, server_hostname="127.0.0.1") if tls else plain
        self.wire = ClientConnection(level=level)
        self.sock.sendall(b"".join(self.wire.hello()))
        while not self.wire.is_open:
            self.wire.receive(self.sock.recv(1 << 16))

    def ask(self) -> bool:
        block = Batch([Event({}, b"a good event")]).block
        self.sock.sendall(b"".join(self.wire.call(block, 1, {})[1]))
        while not (answers := self.wire.receive(self.sock.recv(1 << 16))):
            pass
        return answers[0].status == OK


class Getter:
    """A good client of the metrics service; each request is a connection."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self) -> bool:
        with contextlib.suppress(OSError):
            return http_get(self.port, "/healthz")[0] == 200
        return False


class Fortress:
    """An aggregator that listens on every port we have."""

    def __init__(self, folder: Path, most: int = MOST) -> None:
        self.authority = Authority(folder)
        keystore, _ = self.authority.leaf("server", "127.0.0.1")
        self.ports = {name: free_port() for name in KINDS}
        text = LISTENERS.format(lines=self.ports["lines"], most=most)
        text += "".join(AVRO.format(name=n, port=self.ports[n], most=most) for n in ("plain", "small", "tls"))
        text += "r.sources.small.compression-type = deflate\nr.sources.tls.ssl = true\n"
        text += f"r.sources.tls.keystore = {keystore}\n"
        self.program = Program("aggregator", text, folder / "aggregator")
        self.ports["metrics"] = self.program.monitoring

    def client(self, kind: str) -> Line | Caller | Getter:
        port = self.ports[kind]
        if kind == "lines":
            return Line(port)
        if kind == "metrics":
            return Getter(port)
        trusting = ssl.create_default_context(cafile=str(self.authority.pem)) if kind == "tls" else None
        return Caller(port, 6 if kind == "small" else None, trusting)


@pytest.fixture(scope="module")
def fortress(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fortress]:
    one = Fortress(tmp_path_factory.mktemp("fortress"))
    with one.program:
        for kind in KINDS:
            assert one.client(kind).ask()
        yield one


def crowd(port: int, rng: random.Random) -> hostile.Sockets:
    """Twice as many connections as there may be."""
    return dial(port, 2 * MOST)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attack", [*hostile.CLIENTS, crowd], ids=lambda attack: attack.__name__)
def test_hostile_client(fortress: Fortress, kind: str, attack: Attack) -> None:
    """During the attack a good client is answered; memory and log stay bounded; afterwards a new client gets in."""
    program, began = fortress.program, time.monotonic()
    good = fortress.client(kind)
    assert good.ask()
    before, lines = rss(program.pid), len(program.log.splitlines())
    found = attack(fortress.ports[kind], random.Random(f"{kind} {attack.__name__}"))
    try:
        if kind == "metrics":  # it has no connection from before: it gets in when the idle ones' time is over
            wait_until(good.ask, 15, "a good client's answer")
        else:
            assert all(good.ask() for _ in range(10))
        assert rss(program.pid) - before < ROOM
    finally:
        for sock in found:
            sock.close()
    wait_until(lambda: fortress.client(kind).ask(), 10, "a new client's answer")
    said = program.log.splitlines()[lines:]
    assert len(said) <= 5 + (time.monotonic() - began), said
    assert not [line for line in said if "Traceback" in line or " ERROR " in line], said


def test_failed_handshakes_leave_nothing(fortress: Fortress) -> None:
    """Wave after wave of connections that are reset in the middle of TLS: memory stays where the first one left it."""
    used = []
    for _ in range(5):
        hostile.reset(fortress.ports["tls"], random.Random(1))
        assert fortress.client("tls").ask()
        used.append(rss(fortress.program.pid))
    assert used[-1] - used[0] < 24 * MIB, used


FILES = 10_000


@pytest.mark.limit(60)
def test_ten_thousand_connections(tmp_path: Path) -> None:
    """Ten thousand clients at once, each of them served, and who comes then is served too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES + 1000
    if hard != resource.RLIM_INFINITY and hard < wanted:
        need("root")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
    else:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    try:
        one = Fortress(tmp_path, most=FILES + 100)
        with one.program, ExitStack() as stack:
            good = one.client("lines")
            before, lines = rss(one.program.pid), len(one.program.log.splitlines())
            found = [stack.enter_context(sock) for sock in dial(one.ports["lines"], FILES)]
            wait_until(lambda: good.ask(), 20, "a good client's answer")
            for sock in found:
                sock.sendall(b"a line\n")
            assert all(sock.recv(10) == b"OK\n" for sock in found)
            assert one.client("lines").ask() and one.client("plain").ask()
            assert rss(one.program.pid) - before < FILES * 10_000
            assert not [line for line in one.program.log.splitlines()[lines:] if " WARN " in line or " ERROR " in line]
        assert "Traceback" not in one.program.log
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# ---- who we call


HEAD = """\
c.sources = lines {sources}
c.channels = ch {channels}
c.sinks = good {sinks}
c.channels.ch.type = memory
c.sinks.good.type = null
c.sinks.good.channel = ch
c.sources.lines.type = netcat
c.sources.lines.bind = 127.0.0.1
c.sources.lines.port = {lines}
c.sources.lines.channels = ch
"""
READER = """\
c.sources.{name}.type = mqtt
c.sources.{name}.url = mqtt://127.0.0.1:{port}
c.sources.{name}.topics = a
c.sources.{name}.clientId = {name}
c.sources.{name}.connectTimeout = 2s
c.sources.{name}.maxEventBytes = 100000
c.sources.{name}.batchSize = 50
c.sources.{name}.channels = ch
"""
SENDER = """\
c.sources.s-{name}.type = seq
c.sources.s-{name}.totalEvents = 500
c.sources.s-{name}.channels = {name}
c.channels.{name}.type = memory
c.channels.{name}.capacity = 1000
c.sinks.{name}.channel = {name}
c.sinks.{name}.backoff = 100ms
c.sinks.{name}.maxBackoff = 500ms
"""
AVRO_SENDER = """\
c.sinks.{name}.type = avro
c.sinks.{name}.hostname = 127.0.0.1
c.sinks.{name}.port = {port}
c.sinks.{name}.connect-timeout = 1000
c.sinks.{name}.request-timeout = 1000
"""
MQTT_SENDER = """\
c.sinks.{name}.type = mqtt
c.sinks.{name}.url = mqtt://127.0.0.1:{port}
c.sinks.{name}.topic = a
c.sinks.{name}.clientId = {name}
c.sinks.{name}.connectTimeout = 1s
c.sinks.{name}.confirmTimeout = 1s
"""


def besiege(
    program: Callable[..., Program], manners: list[hostile.Manner], sections: Callable[[str, int], str], sends: bool
) -> tuple[Program, dict[str, list[str]]]:
    """One agent that calls a villain of each manner for six seconds; the lines of its log by component."""
    lines = free_port()
    names = [manner.__name__.replace("_", "-") for manner in manners]
    sources = [f"s-{name}" for name in names] if sends else names
    sent = " ".join(names) if sends else ""
    with ExitStack() as stack:
        villains = [stack.enter_context(Villain(manner)) for manner in manners]
        text = HEAD.format(sources=" ".join(sources), channels=sent, sinks=sent, lines=lines)
        text += "".join(sections(name, villain.port) for name, villain in zip(names, villains, strict=True))
        agent = program("edge", text, start=False)
        agent.launch()
        wait_until(lambda: f"netcat.lines: listening on 127.0.0.1:{lines}" in agent.log, 20, "a listener")
        good = Line(lines)
        assert good.ask()
        before = rss(agent.pid)
        end = time.monotonic() + 6
        while time.monotonic() < end:
            assert good.ask()
            time.sleep(0.1)
        assert rss(agent.pid) - before < ROOM
        assert all(villain.met for villain in villains)
        assert max(villain.met for villain in villains) < 200
        if sends:
            for name in names:
                assert agent.count(f"CHANNEL.{name}", "ChannelSize") == 500, name
    said = {name: [line for line in agent.log.splitlines() if f".{name}: " in line] for name in names}
    assert "Traceback" not in agent.log
    return agent, said


def test_hostile_brokers_of_the_mqtt_source(program: Callable[..., Program]) -> None:
    """Whatever a broker sends, the source says it in a few lines and tries again, and the rest of the agent goes on."""
    manners = hostile.BROKERS
    _, said = besiege(program, manners, lambda name, port: READER.format(name=name, port=port), sends=False)
    for name, lines in said.items():
        assert 1 <= len(lines) <= 12, (name, lines)


def test_hostile_avro_servers(program: Callable[..., Program]) -> None:
    """Whatever a server answers, nothing is taken for delivered, and the sink says why in a few lines."""

    def sections(name: str, port: int) -> str:
        return SENDER.format(name=name) + AVRO_SENDER.format(name=name, port=port)

    _, said = besiege(program, hostile.AVRO_SERVERS, sections, sends=True)
    for name, lines in said.items():
        assert 1 <= len(lines) <= 12, (name, lines)


@pytest.mark.parametrize("payload", ["event", "batch"])
def test_hostile_brokers_of_the_mqtt_sink(program: Callable[..., Program], payload: str) -> None:
    """The same of brokers: nothing is taken for delivered without the acknowledgement of what was sent."""

    def sections(name: str, port: int) -> str:
        return (
            SENDER.format(name=name)
            + MQTT_SENDER.format(name=name, port=port)
            + f"c.sinks.{name}.payload = {payload}\n"
        )

    _, said = besiege(program, hostile.BROKERS, sections, sends=True)
    for name, lines in said.items():
        assert 1 <= len(lines) <= 12, (name, lines)


def test_the_source_gets_over_a_hostile_broker(program: Callable[..., Program], tmp_path: Path) -> None:
    """When a good broker stands where the hostile one was, the source works again by itself."""
    need("mosquitto", "mosquitto_pub")
    broker = Mosquitto(tmp_path / "broker")
    with Villain(hostile.mqtt_topic_beyond) as villain:
        broker.port = villain.port
        text = HEAD.format(sources="mq", channels="", sinks="", lines=free_port())
        agent = program("edge", text + READER.format(name="mq", port=villain.port), start=False)
        agent.launch()
        wait_until(lambda: villain.met >= 2, 20, "the source's second try")
    with broker:
        broker.wait_log("Sending SUBACK to mq")
        broker.publish("a", ["one", "two"])
        wait_until(lambda: agent.count("SOURCE.mq", "EventAcceptedCount") == 2, 20, "two readings")
