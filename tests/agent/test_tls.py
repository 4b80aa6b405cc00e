"""TLS on the Avro leg: stores, verification, protocols, clients' certificates."""

from __future__ import annotations

import asyncio
import builtins
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent import server
from agent.errors import ConfigError, DeliveryError
from agent.sinks.avro import AvroSink, AvroSinkConfig
from agent.sources.avro import AvroSourceConfig
from agent.tls import ClientTlsConfig, ServerTlsConfig, _openssl_name, client_context, server_context
from tests.agent.certificates import PASSWORD, Authority
from tests.agent.sinks.test_avro import make, receiver
from tests.contracts.channel import batch
from tests.contracts.source import Door

Keys = dict[str, Any]
Maker = Callable[[Authority], Keys]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    one = Authority(tmp_path_factory.mktemp("tls"))
    one.leaf("server", "localhost", "127.0.0.1")
    one.leaf("elsewhere", "other.example")
    one.leaf("collector", "collector.example")
    one.leaf("locked", "localhost", "127.0.0.1", password=PASSWORD)
    return one


def path(authority: Authority, name: str) -> str:
    return str(authority.folder / name)


def deliver(source_keys: Keys, sink_keys: Keys) -> list[str]:
    """Send one batch through a source and a sink with TLS; the bodies that arrived."""
    door = Door()

    async def steps() -> None:
        async with (
            asyncio.timeout(30),
            receiver(door, tls=True, **source_keys) as source,
            make(source.listener.port, tls=True, **sink_keys) as sink,
        ):
            await sink.send(batch("a", "x" * 100_000))
            await sink.send(batch("b"))

    asyncio.run(steps())
    return [body[:1] for body in door.bodies]


STORES: list[tuple[str, Maker, Maker]] = [
    ("PEM", lambda a: {"keystore": path(a, "server.pem")}, lambda a: {"truststore": path(a, "ca.pem")}),
    (
        "PKCS12",
        lambda a: {"keystore": path(a, "server.p12"), "keystore_password": PASSWORD, "keystore_type": "JKS"},
        lambda a: {"truststore": path(a, "ca.p12"), "truststore_password": PASSWORD},
    ),
    (
        "PEM with a locked key",
        lambda a: {"keystore": path(a, "locked.pem"), "keystore_password": PASSWORD},
        lambda a: {"truststore": path(a, "ca.pem")},
    ),
    (
        "deflate inside TLS",
        lambda a: {"keystore": path(a, "server.pem"), "compression_type": "deflate"},
        lambda a: {"truststore": path(a, "ca.pem"), "compression_type": "deflate"},
    ),
    (
        "the leaf itself is trusted",
        lambda a: {"keystore": path(a, "server.pem")},
        lambda a: {"truststore": path(a, "server.pem")},
    ),
    (
        "another name, not verified",
        lambda a: {"keystore": path(a, "elsewhere.pem")},
        lambda a: {"truststore": path(a, "ca.pem"), "verify_hostname": False},
    ),
    ("nothing verified", lambda a: {"keystore": path(a, "elsewhere.pem")}, lambda a: {"trust_all_certs": True}),
    (
        "a client's certificate",
        lambda a: {
            "keystore": path(a, "server.pem"), "truststore": path(a, "ca.pem"), "client_auth": "require",
        },
        lambda a: {"truststore": path(a, "ca.pem"), "keystore": path(a, "collector.pem")},
    ),
    (
        "a client's certificate that is only wanted",
        lambda a: {"keystore": path(a, "server.pem"), "truststore": path(a, "ca.pem"), "client_auth": "want"},
        lambda a: {"truststore": path(a, "ca.pem")},
    ),
    (
        "TLS 1.2 with one suite",
        lambda a: {
            "keystore": path(a, "server.pem"), "include_protocols": ["TLSv1.2"],
            "include_ciphers": ["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"],
        },
        lambda a: {"truststore": path(a, "ca.pem"), "exclude_protocols": ["TLSv1.3", "SSLv3"]},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("what", "source", "sink"), STORES, ids=[one[0] for one in STORES])
def test_delivers(authority: Authority, what: str, source: Maker, sink: Maker) -> None:
    """A sink and a source with these stores reach each other."""
    assert deliver(source(authority), sink(authority)) == ["a", "x", "b"]


REFUSALS: list[tuple[str, Maker, Maker, str]] = [
    (
        "another host's certificate",
        lambda a: {"keystore": path(a, "elsewhere.pem")},
        lambda a: {"truststore": path(a, "ca.pem")},
        "not trusted: IP address mismatch",
    ),
    ("an unknown authority", lambda a: {"keystore": path(a, "server.pem")}, lambda a: {}, "not trusted"),
    (
        "no client's certificate",
        lambda a: {"keystore": path(a, "server.pem"), "truststore": path(a, "ca.pem"), "client_auth": "require"},
        lambda a: {"truststore": path(a, "ca.pem")},
        "TLS failed|closed the connection",
    ),
    (
        "no protocol in common",
        lambda a: {"keystore": path(a, "server.pem"), "include_protocols": ["TLSv1.3"]},
        lambda a: {"truststore": path(a, "ca.pem"), "include_protocols": ["TLSv1.2"]},
        "TLS failed|closed the connection",
    ),
]


@pytest.mark.parametrize(("what", "source", "sink", "says"), REFUSALS, ids=[one[0] for one in REFUSALS])
def test_refuses(authority: Authority, what: str, source: Maker, sink: Maker, says: str) -> None:
    """What isn't verified isn't sent to, and the error says why."""
    with pytest.raises(DeliveryError, match=says):
        deliver(source(authority), sink(authority))


def test_plain_client_at_a_tls_source(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sink without TLS at a source with it is a DeliveryError; the source serves others."""
    monkeypatch.setattr(server, "GRACE_SECONDS", 0.2)
    door = Door()

    async def steps() -> None:
        keystore = path(authority, "server.pem")
        async with asyncio.timeout(30), receiver(door, tls=True, keystore=keystore) as source:
            async with make(source.listener.port, connect_timeout=0.5) as plain:
                with pytest.raises(DeliveryError):
                    await plain.send(batch("a"))
            trust = path(authority, "ca.pem")
            async with make(source.listener.port, tls=True, truststore=trust) as sink:
                await sink.send(batch("b"))

    asyncio.run(steps())
    assert door.bodies == ["b"]


def test_a_connection_that_both_sides_end_at_once(authority: Authority) -> None:
    """A client that ends while the source closes leaves no error of the loop, and nothing that can't be cut off."""
    door = Door()
    complaints: list[str] = []

    async def steps() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(str(what)))
        keys = {"keystore": path(authority, "server.pem")}
        async with asyncio.timeout(30), receiver(door, tls=True, **keys) as source:
            sink = make(source.listener.port, tls=True, truststore=path(authority, "ca.pem"))
            await sink.open()
            await sink.send(batch("a"))
            await asyncio.gather(source.listener.close(), sink.close())

    asyncio.run(steps())
    assert complaints == []


def test_half_a_tls_handshake_counts_as_a_connection(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that connect and never shake hands are bounded by maxConnections, and closed in time."""
    monkeypatch.setattr(server, "HANDSHAKE_SECONDS", 0.3)
    door = Door()

    async def steps() -> None:
        keystore = path(authority, "server.pem")
        async with asyncio.timeout(30), receiver(door, tls=True, keystore=keystore, max_connections=2) as source:
            silent = [await asyncio.open_connection("127.0.0.1", source.listener.port) for _ in range(2)]
            reader, writer = await asyncio.open_connection("127.0.0.1", source.listener.port)
            assert await reader.read() == b""
            for one, _ in silent:
                assert await one.read() == b""
            assert source.listener.connections == 0
            for _, one in [*silent, (None, writer)]:
                one.close()

    asyncio.run(steps())


BAD_STORES = [
    ("missing", None, "can't be read: No such file"),
    ("jks", b"\xfe\xed\xfe\xed\0\0\0\2", "keytool -importkeystore -srckeystore .* -deststoretype PKCS12"),
    ("junk", b"hello", "neither PEM nor PKCS12"),
    ("no key", "ca.pem", "has no private key"),
    ("wrong password", "server.p12", "keystore-password is wrong"),
    ("locked", "locked.pem", "keystore-password"),
]


@pytest.mark.parametrize(("what", "content", "says"), BAD_STORES, ids=[one[0] for one in BAD_STORES])
def test_bad_keystores(authority: Authority, tmp_path: Path, what: str, content: bytes | str | None, says: str) -> None:
    """A keystore that can't be used is a ConfigError that names it and the way out."""
    store = tmp_path / "store"
    if isinstance(content, bytes):
        store.write_bytes(content)
    elif content:
        store = authority.folder / content
    with pytest.raises(ConfigError, match=says) as caught:
        server_context(ServerTlsConfig(tls=True, keystore=str(store), keystore_password="no"))  # type: ignore[arg-type]
    assert str(store) in str(caught.value)


def test_pkcs12_without_its_library(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """PKCS12 needs an extra, and the error names it."""
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("cryptography"):
            raise ModuleNotFoundError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"headrace\[tls\]"):
        server_context(ServerTlsConfig(tls=True, keystore=path(authority, "server.p12")))


def test_environment_is_asked(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """Absent keys are taken from Flume's environment variables."""
    monkeypatch.setenv("FLUME_SSL_KEYSTORE_PATH", path(authority, "server.p12"))
    monkeypatch.setenv("FLUME_SSL_KEYSTORE_PASSWORD", PASSWORD)
    monkeypatch.setenv("FLUME_SSL_TRUSTSTORE_PATH", path(authority, "ca.pem"))
    monkeypatch.setenv("FLUME_SSL_EXCLUDE_PROTOCOLS", "SSLv3 TLSv1.2")
    assert AvroSourceConfig(channels=["c"], bind="x", port=1, tls=True).problems() == []
    assert deliver({}, {}) == ["a", "x", "b"]
    assert client_context(ClientTlsConfig(tls=True)).minimum_version == ssl.TLSVersion.TLSv1_3


@pytest.mark.parametrize(
    ("include", "exclude", "key"),
    [(["TLSv1.9"], [], "include-protocols"), ([], ["nonsense"], "exclude-protocols"),
     ([], ["TLSv1.2", "TLSv1.3"], "include-protocols"), (["TLSv1", "TLSv1.3"], [], "include-protocols")],
)  # fmt: skip
def test_protocol_problems(include: list[str], exclude: list[str], key: str) -> None:
    """Protocols that don't exist, none, or a gap between them are named before anything opens."""
    config = ClientTlsConfig(tls=True, include_protocols=include, exclude_protocols=exclude)
    assert [name for name, _ in config.problems()] == [key]


@pytest.mark.parametrize(
    ("java", "openssl"),
    [
        ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-GCM-SHA256"),
        ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"),
        ("TLS_RSA_WITH_AES_256_CBC_SHA", "AES256-SHA"),
        ("TLS_RSA_WITH_AES_128_CBC_SHA256", "AES128-SHA256"),
        ("TLS_DHE_RSA_WITH_AES_256_GCM_SHA384", "DHE-RSA-AES256-GCM-SHA384"),
        ("ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256"),
    ],
)
def test_cipher_names(java: str, openssl: str) -> None:
    """Java's names of suites are OpenSSL's, which OpenSSL knows."""
    assert _openssl_name(java) == openssl
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).set_ciphers(openssl)


def test_unknown_suites() -> None:
    """Suites that nobody knows are a ConfigError."""
    with pytest.raises(ConfigError, match="cipher-suites"):
        client_context(ClientTlsConfig(tls=True, include_ciphers=["TLS_NO_WITH_SUCH"]))


def test_trust_all_certs_warns(caplog: pytest.LogCaptureFixture) -> None:
    """A sink that verifies nothing says so when it opens."""
    config = AvroSinkConfig(channel="c", hostname="h", port=1, tls=True, trust_all_certs=True)
    asyncio.run(AvroSink("k1", config).open())
    assert "h:1 is not verified" in caplog.text


def test_passwords_are_not_printed() -> None:
    """A config's repr shows no password."""
    from agent.config.fields import Secret

    assert "hidden" not in repr(ServerTlsConfig(keystore_password=Secret("hidden")))
