"""Keys that the MQTT source and sink share, and what follows from them: address, TLS context, client identifier."""

from __future__ import annotations

import re
import ssl
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from agent.config.fields import Config, Seconds, Secret, key
from agent.errors import ConfigError

PORTS = {"mqtt": 1883, "mqtts": 8883}


class Address(NamedTuple):
    """Where a broker listens."""

    host: str
    port: int
    tls: bool


class MqttKeys(Config):
    """How to reach a broker."""

    url: str = key("url", "mqtt://127.0.0.1:1883", doc="mqtt://host[:1883] or mqtts://host[:8883]")
    clientId: str = key("clientId", "", doc="name of the session at the broker; default: from machine and component")
    username: str = key("username", "", doc="name to log in with")
    password: Secret = key("password", Secret(""), doc="its password; better from a file or the environment")
    version: str = key("version", "", choices=("5", "3.1.1"), doc="default: 5, and 3.1.1 if the broker refuses that")
    keepAlive: Seconds = key("keepAlive", Seconds(60.0), unit="s", low=1.0, high=65535.0, doc="silence before a ping")
    connectTimeout: Seconds = key("connectTimeout", Seconds(20.0), unit="ms", low=0.01, doc="wait for the broker")
    truststore: str = key("ssl.truststore", "", doc="PEM file of the CAs to trust; default: the system's")
    keystore: str = key("ssl.keystore", "", doc="PEM file with our certificate and key")
    keyPassword: Secret = key("ssl.keyPassword", Secret(""), doc="password of the key in ssl.keystore")

    def problems(self) -> list[tuple[str, str]]:
        found = super().problems()
        try:
            tls = address(self.url).tls
        except ConfigError as error:
            return [*found, ("url", str(error))]
        if not tls and (self.truststore or self.keystore):
            found.append(("url", "ssl.* needs a url that starts with mqtts://"))
        if self.password and not self.username:
            found.append(("password", "needs a username"))
        return found


def address(url: str) -> Address:
    """Read a url; ConfigError says what it takes."""
    takes = f"{url!r} is not of the form mqtt://host[:port] or mqtts://host[:port]"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigError(takes) from None
    if parts.username or parts.password:
        raise ConfigError("name and password go to the keys username and password, not into the url")
    if parts.scheme not in PORTS or not parts.hostname or parts.path.strip("/") or parts.query:
        raise ConfigError(takes)
    return Address(parts.hostname, port or PORTS[parts.scheme], parts.scheme == "mqtts")


def tls_context(keys: MqttKeys) -> ssl.SSLContext | None:
    """TLS that verifies certificate and host name, None for mqtt://. ConfigError names the file that can't be read."""
    if not address(keys.url).tls:
        return None
    try:
        context = ssl.create_default_context(cafile=keys.truststore or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"ssl.truststore {keys.truststore}: {error}") from None
    if keys.keystore:
        try:
            context.load_cert_chain(keys.keystore, password=str(keys.keyPassword) if keys.keyPassword else None)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"ssl.keystore {keys.keystore}: {error}") from None
    return context


def client_id(keys: MqttKeys, kind: str, name: str) -> str:
    """The key, or a stable name for each component of each machine: headrace-<component>-<12 hex digits>.

    Stable whatever folder the agent starts in: another name would be another session, and what the broker keeps for
    the old one would stay there. Two agents of one machine whose components share kind and name need the key.
    """
    if keys.clientId:
        return keys.clientId
    try:
        machine = Path("/etc/machine-id").read_bytes().strip()
    except OSError:
        machine = b""
    seed = b"\0".join((machine, kind.encode(), name.encode()))
    return f"headrace-{re.sub('[^0-9A-Za-z_-]', '-', name)}-{blake2b(seed, digest_size=6).hexdigest()}"
