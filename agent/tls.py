"""TLS contexts from Flume's keys (FlumeUserGuide, "SSL/TLS support"; SSLUtil in flume-ng-sdk).

A store is a PEM file (certificates and, in a keystore, the private key), or PKCS12, which is what keytool writes since
Java 9. Its first bytes tell which, whatever `keystore-type` says (Java does the same); Java's old JKS format is refused
with the command that converts it. Where a key is absent the environment is asked, as in Flume: FLUME_SSL_KEYSTORE_PATH,
_PASSWORD, _TYPE, FLUME_SSL_TRUSTSTORE_*, FLUME_SSL_INCLUDE_PROTOCOLS and so on.

Not as in Flume: a client verifies the host name (`verifyHostname = false` turns it off), and a server may ask for
certificates of clients (`clientAuth`).
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from agent.config.fields import Config, Secret, key
from agent.errors import ConfigError

VERSIONS = {
    "TLSv1": ssl.TLSVersion.TLSv1,
    "TLSv1.1": ssl.TLSVersion.TLSv1_1,
    "TLSv1.2": ssl.TLSVersion.TLSv1_2,
    "TLSv1.3": ssl.TLSVersion.TLSv1_3,
}
USUAL = ("TLSv1.2", "TLSv1.3")
NEVER = ("SSLv2Hello", "SSLv2", "SSLv3")
"""Names that Flume's users exclude, and that OpenSSL doesn't speak any more."""
MAX_STORE = 1 << 20
"""Bytes of a store."""
JKS_MAGIC = (b"\xfe\xed\xfe\xed", b"\xce\xce\xce\xce")


class TlsConfig(Config):
    """Keys of both ends."""

    tls: bool = key("ssl", False, doc="TLS")
    keystore: str = key("keystore", "", doc="certificate and private key: PEM or PKCS12")
    keystore_password: Secret = key("keystore-password", Secret(""), doc="its password")
    keystore_type: str = key(
        "keystore-type", "", choices=("PEM", "PKCS12", "JKS"), doc="accepted; its first bytes tell"
    )
    truststore: str = key("truststore", "", doc="certificates that are trusted: PEM or PKCS12")
    truststore_password: Secret = key("truststore-password", Secret(""), doc="its password")
    truststore_type: str = key(
        "truststore-type", "", choices=("PEM", "PKCS12", "JKS"), doc="accepted; its first bytes tell"
    )
    include_protocols: list[str] = key(
        "include-protocols", [], doc="only these of TLSv1.2, TLSv1.3 (and TLSv1, TLSv1.1)"
    )
    exclude_protocols: list[str] = key("exclude-protocols", [], doc="not these")
    include_ciphers: list[str] = key(
        "include-cipher-suites", [], doc="only these suites up to TLS 1.2, Java's names or OpenSSL's"
    )
    exclude_ciphers: list[str] = key("exclude-cipher-suites", [], doc="not these")

    def problems(self) -> list[tuple[str, str]]:
        found = super().problems()
        if self.tls:
            for name in ("include-protocols", "exclude-protocols"):
                unknown = [one for one in self._listed(name) if one not in (*VERSIONS, *NEVER)]
                found += [(name, f"{one!r} is none of {', '.join(VERSIONS)}") for one in unknown]
            if not found:
                try:
                    self.versions()
                except ConfigError as error:
                    found.append(("include-protocols", str(error)))
        return found

    def versions(self) -> tuple[ssl.TLSVersion, ssl.TLSVersion]:
        """Lowest and highest TLS version. ConfigError if there is a gap between them, or none."""
        wanted = self._listed("include-protocols") or list(USUAL)
        without = self._listed("exclude-protocols")
        on = [i for i, name in enumerate(VERSIONS) if name in wanted and name not in without]
        if not on or on != list(range(on[0], on[-1] + 1)):
            raise ConfigError(f"include-protocols and exclude-protocols must leave neighbours of {', '.join(VERSIONS)}")
        versions = list(VERSIONS.values())
        return versions[on[0]], versions[on[-1]]

    def _listed(self, name: str) -> list[str]:
        """A list of the configuration, or of the environment."""
        own = {
            "include-protocols": self.include_protocols,
            "exclude-protocols": self.exclude_protocols,
            "include-cipher-suites": self.include_ciphers,
            "exclude-cipher-suites": self.exclude_ciphers,
        }[name]
        variable = "FLUME_SSL_" + name.replace("cipher-suites", "ciphersuites").replace("-", "_").upper()
        return own or os.environ.get(variable, "").split()


class ServerTlsConfig(TlsConfig):
    """Keys of a source."""

    client_auth: str = key(
        "clientAuth", "none", choices=("none", "want", "require"), doc="certificates of clients; needs a truststore"
    )

    def problems(self) -> list[tuple[str, str]]:
        found = super().problems()
        if self.tls and not _store(self, "keystore"):
            found.append(("keystore", "is missing: with ssl = true a source needs its certificate and private key"))
        if self.tls and self.client_auth != "none" and not _store(self, "truststore"):
            found.append(("truststore", f"is missing: clientAuth = {self.client_auth} needs the certificates to trust"))
        return found


class ClientTlsConfig(TlsConfig):
    """Keys of a sink."""

    trust_all_certs: bool = key("trust-all-certs", False, doc="verify nothing: anybody in between can read and change")
    verify_hostname: bool = key("verifyHostname", True, doc="the certificate must carry the hostname")


class PemTlsConfig(Config):
    """Keys of a client that knows by its url whether to speak TLS; only PEM files."""

    pem_truststore: str = key("ssl.truststore", "", doc="PEM file of the CAs to trust; default: the system's")
    pem_keystore: str = key("ssl.keystore", "", doc="PEM file with our certificate and key")
    pem_password: Secret = key("ssl.keyPassword", Secret(""), doc="password of the key in ssl.keystore")


@dataclass(frozen=True)
class Store:
    """A keystore or truststore as PEM."""

    key: bytes
    certificates: bytes
    password: str


def server_context(config: ServerTlsConfig) -> ssl.SSLContext:
    """What a source listens with. ConfigError names the store and what is wrong with it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _set_up(context, config)
    path = _store(config, "keystore")
    if not path:
        raise ConfigError("ssl = true needs a keystore")
    _load_own(context, config, path)
    if config.client_auth != "none":
        trusted = _store(config, "truststore")
        context.load_verify_locations(cadata=_trusted(config, trusted))
        context.verify_mode = ssl.CERT_REQUIRED if config.client_auth == "require" else ssl.CERT_OPTIONAL
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def client_context(config: ClientTlsConfig) -> ssl.SSLContext:
    """What a sink connects with; without a truststore the system's certificates are trusted. ConfigError as above."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _set_up(context, config)
    if config.trust_all_certs or not config.verify_hostname:
        context.check_hostname = False
    if config.trust_all_certs:
        context.verify_mode = ssl.CERT_NONE
    elif path := _store(config, "truststore"):
        context.load_verify_locations(cadata=_trusted(config, path))
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    else:
        context.load_default_certs()
    if path := config.keystore:
        _load_own(context, config, path)
    return context


def pem_context(config: PemTlsConfig) -> ssl.SSLContext:
    """TLS that verifies certificate and host name. ConfigError names the file that can't be read."""
    try:
        context = ssl.create_default_context(cafile=config.pem_truststore or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"ssl.truststore {config.pem_truststore}: {error}") from None
    if config.pem_keystore:
        try:
            context.load_cert_chain(config.pem_keystore, password=str(config.pem_password) or None)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"ssl.keystore {config.pem_keystore}: {error}") from None
    return context


def _store(config: TlsConfig, kind: str) -> str:
    """The path of the keystore or truststore; empty if none is named anywhere."""
    own: str = getattr(config, kind)
    return own or os.environ.get(f"FLUME_SSL_{kind.upper()}_PATH", "")


def _password(config: TlsConfig, kind: str) -> str:
    own: str = getattr(config, f"{kind}_password")
    return own or os.environ.get(f"FLUME_SSL_{kind.upper()}_PASSWORD", "")


def _set_up(context: ssl.SSLContext, config: TlsConfig) -> None:
    context.minimum_version, context.maximum_version = config.versions()
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    include = [_openssl_name(name) for name in config._listed("include-cipher-suites")]
    exclude = [_openssl_name(name) for name in config._listed("exclude-cipher-suites")]
    if include or exclude:
        names = [name for name in include or ["DEFAULT"] if name not in exclude] + [f"!{name}" for name in exclude]
        try:
            context.set_ciphers(":".join(names))
        except ssl.SSLError:
            raise ConfigError(f"include-/exclude-cipher-suites leave no suite that OpenSSL knows: {names}") from None


def _openssl_name(name: str) -> str:
    """TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 -> ECDHE-RSA-AES128-GCM-SHA256; other names as they are."""
    if "_WITH_" not in name:
        return name
    exchange, _, cipher = name.removeprefix("TLS_").removeprefix("SSL_").partition("_WITH_")
    cipher = cipher.replace("AES_128", "AES128").replace("AES_256", "AES256").replace("_CBC", "")
    cipher = cipher.replace("POLY1305_SHA256", "POLY1305").replace("_", "-")
    return cipher if exchange == "RSA" else f"{exchange.replace('_', '-')}-{cipher}"


def _load_own(context: ssl.SSLContext, config: TlsConfig, path: str) -> None:
    store = _read(path, _password(config, "keystore"), "keystore")
    if not store.key:
        raise ConfigError(f"keystore {path} has no private key")
    with _in_memory(store.key + store.certificates) as name:
        try:
            context.load_cert_chain(name, password=lambda: store.password)
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(f"keystore {path} can't be used (keystore-password?): {error}") from None


def _trusted(config: TlsConfig, path: str) -> str:
    store = _read(path, _password(config, "truststore"), "truststore")
    if not store.certificates:
        raise ConfigError(f"truststore {path} has no certificate")
    return store.certificates.decode("ascii", "replace")


def _read(path: str, password: str, kind: str) -> Store:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_STORE)
    except OSError as error:
        raise ConfigError(f"{kind} {path} can't be read: {error.strerror}") from None
    if data.startswith(JKS_MAGIC):
        raise ConfigError(
            f"{kind} {path} is in Java's old JKS format; convert it with: keytool -importkeystore "
            f"-srckeystore {path} -destkeystore {path}.p12 -deststoretype PKCS12"
        )
    if b"-----BEGIN " in data:
        return _pem(data, password)
    return _pkcs12(data, password, path, kind)


def _pem(data: bytes, password: str) -> Store:
    """Keys and certificates apart, each whole: OpenSSL reads the first key."""
    keys: list[bytes] = []
    certificates: list[bytes] = []
    for part in data.split(b"-----BEGIN ")[1:]:
        whole = b"-----BEGIN " + part
        (keys if b"PRIVATE KEY-----" in part.split(b"\n", 1)[0] else certificates).append(whole.strip() + b"\n")
    return Store(b"".join(keys), b"".join(certificates), password)


def _pkcs12(data: bytes, password: str, path: str, kind: str) -> Store:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.serialization import pkcs12
    except ModuleNotFoundError:
        raise ConfigError(f"{kind} {path}: PKCS12 needs pip install 'headrace[tls]'; or convert it to PEM") from None
    try:
        found = pkcs12.load_pkcs12(data, password.encode() or None)
    except ValueError as error:
        raise ConfigError(f"{kind} {path} is neither PEM nor PKCS12, or {kind}-password is wrong: {error}") from None
    pem = serialization.Encoding.PEM
    private = b""
    if found.key:
        private = found.key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    chain = [found.cert, *found.additional_certs]
    return Store(private, b"".join(one.certificate.public_bytes(pem) for one in chain if one), "")


@contextmanager
def _in_memory(data: bytes) -> Iterator[str]:
    """A path that OpenSSL can read, of a file that is on no disk."""
    number = os.memfd_create("headrace-keystore", os.MFD_CLOEXEC)
    try:
        os.write(number, data)
        yield f"/proc/self/fd/{number}"
    finally:
        os.close(number)
