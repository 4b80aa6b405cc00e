"""The connection over paho, against a broker of a few lines that does what mosquitto happens not to do."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path

import paho.mqtt.client as paho
import pytest

from agent.errors import DeliveryError, Rejected
from agent.event import Batch, Event
from agent.metrics import SinkCounter
from agent.mqtt import packet
from agent.mqtt.connection import Closed, Connection, Refused
from agent.mqtt.packet import Publish, publish
from agent.mqtt.settings import Address, MqttKeys, tls_context
from agent.sinks.mqtt import MqttConfig, MqttSink

Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
CONNACK_5, CONNACK_3 = b"\x20\x03\0\0\0", b"\x20\x02\0\0"


async def packet_of(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """One packet of less than 16 kB."""
    first, length = await reader.readexactly(2)
    if length > 0x7F:
        length = (length & 0x7F) | (await reader.readexactly(1))[0] << 7
    return first, await reader.readexactly(length)


async def against(peer: Peer, then: Callable[[Address], Awaitable[None]], tls: ssl.SSLContext | None = None) -> None:
    """Run `then` while `peer` serves each connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await peer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        await then(Address("127.0.0.1", server.sockets[0].getsockname()[1], tls is not None))


def test_paho_has_the_hook() -> None:
    """paho makes its socket in `_create_socket`, which our client replaces: a new paho must still call it."""
    assert callable(paho.Client._create_socket)
    called = []

    class Client(paho.Client):
        def _create_socket(self) -> None:  # type: ignore[override]
            called.append(self)
            raise ConnectionRefusedError

    with pytest.raises(ConnectionRefusedError):
        Client(paho.CallbackAPIVersion.VERSION2).connect("127.0.0.1", 1)  # type: ignore[attr-defined]
    assert called


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1 with its key, in one PEM file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = tmp_path_factory.mktemp("tls") / "broker.pem"
    file.write_bytes(made.public_bytes(pem) + private)
    return file


def test_many_packets_in_one_tls_record(certificate: Path) -> None:
    """All packets of one TLS record are read at once: bytes that TLS holds decrypted wake nobody."""
    got: list[Publish] = []
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate)

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await packet_of(reader)
        writer.write(CONNACK_5)
        await packet_of(reader)
        writer.write(b"".join(publish(b"t", 1 + number, b"x" * 200, b"") for number in range(75)))
        await reader.read()

    async def client(to: Address) -> None:
        tls = tls_context(MqttKeys(url=f"mqtts://127.0.0.1:{to.port}", truststore=str(certificate)))
        async with asyncio.timeout(20), Connection(to, "c", version=5, tls=tls) as connection:
            connection.on_publish = got.extend
            connection.ping()
            while len(got) < 75:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    asyncio.run(against(peer, client, server))
    assert [message[1] for message in got] == [number.to_bytes(2, "big") for number in range(1, 76)]


def test_a_certificate_of_nobody_is_refused(certificate: Path) -> None:
    """Without the CA in ssl.truststore the connection fails."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate)

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def client(to: Address) -> None:
        tls = tls_context(MqttKeys(url=f"mqtts://127.0.0.1:{to.port}"))
        with pytest.raises(ssl.SSLCertVerificationError):
            async with Connection(to, "c", version=5, tls=tls):
                pass

    asyncio.run(against(peer, client, server))


def answering(connack: bytes) -> Peer:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await packet_of(reader)
        writer.write(connack)
        await reader.read()

    return peer


@pytest.mark.parametrize(
    ("version", "connack", "bad_version", "text"),
    [
        (5, b"\x20\x03\0\x84\0", True, "does not speak this version"),
        (5, b"\x20\x02\0\x01", True, "does not speak this version"),
        (5, b"\x20\x03\0\x86\0", False, "wrong username or password"),
        (3, b"\x20\x02\0\x05", False, "not authorised"),
        (3, b"\x20\x02\0\x04", False, "wrong username or password"),
    ],
)
def test_refusals_are_told(version: int, connack: bytes, bad_version: bool, text: str) -> None:
    """A CONNACK that says no is told in words; only a refused version is a reason to fall back."""

    async def client(to: Address) -> None:
        with pytest.raises(Refused, match=text) as caught:
            async with Connection(to, "c", version=version):
                pass
        assert caught.value.bad_version == bad_version

    asyncio.run(against(answering(connack), client))


@pytest.mark.parametrize("answer", [b"", b"\x20\x00", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x20\xff\xff\xff\xff\x7f"])
def test_what_is_no_broker_ends_the_connection(answer: bytes) -> None:
    """A peer that closes, or speaks something else, ends this connection with an error of ours."""

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await packet_of(reader)
        writer.write(answer)

    async def client(to: Address) -> None:
        from agent.errors import ProtocolError

        with pytest.raises((ProtocolError, OSError)):
            async with Connection(to, "c", version=5, timeout=5):
                pass

    asyncio.run(against(peer, client))


def test_the_brokers_reason_is_told() -> None:
    """DISCONNECT with 'session taken over' ends the connection with that text and code."""

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await packet_of(reader)
        writer.write(CONNACK_5 + b"\xe0\x02\x8e\x00")
        await reader.read()

    async def client(to: Address) -> None:
        async with Connection(to, "c", version=5) as connection:
            with pytest.raises(Closed, match="session taken over") as caught:
                await asyncio.shield(connection.lost)
            assert caught.value.code == 0x8E

    asyncio.run(against(peer, client))


def test_messages_in_one_piece_with_connack() -> None:
    """What a resumed session sends together with CONNACK is seen after the session is known."""
    order: list[str] = []

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await packet_of(reader)
        writer.write(b"\x20\x02\1\0" + publish(b"t", 1, b"x", None, flags=2 | packet.DUP))
        await reader.read()

    async def client(to: Address) -> None:
        connection = Connection(to, "c", version=3)
        connection.on_connected = lambda: order.append(f"present {connection.session_present}")
        connection.on_publish = lambda published: order.append(f"flags {published[0][0]}")
        async with connection:
            pass

    asyncio.run(against(peer, client))
    assert order == ["present True", f"flags {2 | packet.DUP}"]


def test_a_broker_that_falls_silent_is_left() -> None:
    """No answer to a ping within the keep-alive ends the connection."""

    async def client(to: Address) -> None:
        async with asyncio.timeout(20), Connection(to, "c", version=5, keep_alive=0.2) as connection:
            with pytest.raises(Closed, match="silent"):
                await asyncio.shield(connection.lost)

    asyncio.run(against(answering(CONNACK_5), client))


def sink_at(to: Address, **keys: str) -> MqttSink:
    sink = MqttSink("k1", MqttConfig(channel="c1", topic="t", url=f"mqtt://127.0.0.1:{to.port}", **keys))
    sink.counter = SinkCounter("k1")
    return sink


def test_the_brokers_largest_packet_bounds_the_batch() -> None:
    """Maximum Packet Size of CONNACK becomes the sink's byte bound, and what is above it alone is rejected."""

    async def client(to: Address) -> None:
        async with sink_at(to) as sink:
            with pytest.raises(Rejected, match="the broker takes"):
                await sink.send(Batch([Event({}, b"x" * 60_000)]))
            assert 0 < sink.max_bytes < 50_000

    limit = b"\x27" + (50_000).to_bytes(4, "big")
    asyncio.run(against(answering(b"\x20\x08\0\0\x05" + limit), client))


def test_no_more_in_flight_than_the_broker_takes() -> None:
    """Receive Maximum of CONNACK is kept: the fifth message leaves after the first PUBACK."""
    held: list[bytes] = []

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await packet_of(reader)
        writer.write(b"\x20\x06\0\0\x03\x21\0\x04")
        while True:
            first, body = await packet_of(reader)
            if first & 0xF0 == packet.PUBLISH:
                held.append(body[3:5])
                assert len(held) <= 4
            if len(held) == 4:
                await asyncio.sleep(0.05)
                writer.write(packet.pubacks(held))
                held.clear()

    async def client(to: Address) -> None:
        async with sink_at(to) as sink:
            await sink.send(Batch([Event({}, b"x")] * 12))

    asyncio.run(against(peer, client))


@pytest.mark.parametrize("code", [0x10, 0x80, 0x97])
def test_a_puback_that_says_no_is_no_delivery(code: int) -> None:
    """Reason codes from 0x10 on are a DeliveryError."""

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await packet_of(reader)
        writer.write(CONNACK_5)
        _, body = await packet_of(reader)
        writer.write(b"\x40\x03" + body[3:5] + bytes((code,)))
        await reader.read()

    async def client(to: Address) -> None:
        async with sink_at(to) as sink:
            with pytest.raises(DeliveryError):
                await sink.send(Batch([Event({}, b"x")]))

    asyncio.run(against(peer, client))
