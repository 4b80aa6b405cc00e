"""The keys of the topics service, judged before anything opens, and what they come to."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from pathlib import Path

from agent.config.fields import Bytes, key
from agent.tls import ServerTlsConfig
from aggregator.topics.access import acl
from aggregator.topics.log import settings
from aggregator.topics.log.log import Options
from aggregator.topics.names import NAME

EVERYWHERE = ("", "0.0.0.0", "::", "*")
NO_BYTES = Bytes(0)
HOUR_MS = 3_600_000


class TopicsConfig(ServerTlsConfig):
    bind: str = key("bind", "127.0.0.1", doc="address to listen on")
    port: int = key("port", 9092, low=0, high=65535, doc="port to listen on; 0 takes a free one")
    advertised_host: str = key("advertisedHost", "", doc="what clients are told to connect to; else `bind`")
    advertised_port: int = key("advertisedPort", 0, low=0, high=65535, doc="what clients are told; 0: `port`")
    path: str = key("path", "", doc="folder of the log; else `~/.headrace/<agent>`")
    partitions: int = key("partitions", 1, low=1, high=1000, doc="of a topic that is created without a number")
    auto_create: bool = key("autoCreate", True, doc="a topic that a client names is created")
    retention_hours: float = key("retention.hours", 168.0, low=-1, doc="records are kept so long; -1: for ever")
    retention_bytes: Bytes = key("retention.bytes", Bytes(-1), low=-1, doc="of a partition; -1: no bound")
    topics: dict[str, str] = key("topic.*", {}, doc="`topic.NAME.KEY`: Kafka's keys of one topic, as retention.ms")
    max_bytes: Bytes = key(
        "maxBytes", NO_BYTES, low=0, doc="of the log's file; beyond, appends are refused; 0: the disk"
    )
    synchronous: str = key(
        "synchronous", "FULL", choices=("FULL", "NORMAL"), doc="NORMAL may lose acknowledged records in a power cut"
    )
    users: Path | None = key("sasl.users", None, doc="file of users: NAME = PASSWORD, or NAME = a SCRAM verifier")
    acl: dict[str, str] = key(
        "acl.*", {}, doc="`acl.USER`: read:TOPIC, write:, create:, group:, transaction:, admin; none: all may"
    )
    allow_insecure: bool = key(
        "allowInsecure", False, doc="off loopback without TLS and users: anyone reads and writes"
    )
    max_connections: int = key("maxConnections", 1000, low=1, high=1_000_000, doc="beyond, new ones are closed at once")
    max_request: Bytes = key("maxRequestBytes", Bytes(16 << 20), low=1 << 16, high=1 << 30, doc="largest request")
    max_held: Bytes = key(
        "maxBytesInFlight", Bytes(64 << 20), low=1 << 20, doc="requests of all connections, and again answers"
    )

    def problems(self) -> list[tuple[str, str]]:
        found = [*super().problems(), *self._topic_problems(), *acl.problems(self.acl)]
        if self.advertised_host in EVERYWHERE and (self.advertised_host or self.bind in EVERYWHERE):
            found.append(("advertisedHost", "must be an address that clients can connect to, as this machine's name"))
        if not self.loopback and not self.allow_insecure and not self._secure:
            text = f"{self.bind} isn't loopback: it takes ssl = true and sasl.users (or clientAuth = require); "
            found.append(("bind", text + "allowInsecure = true lets anyone who reaches it read and write"))
        if self.max_request > self.max_held:
            found.append(("maxBytesInFlight", f"must be at least maxRequestBytes ({self.max_request})"))
        return found

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches it."""
        try:
            return ipaddress.ip_address(self.bind).is_loopback
        except ValueError:
            return self.bind == "localhost"

    @property
    def _secure(self) -> bool:
        return self.tls and bool(self.users or self.client_auth == "require")

    def _topic_problems(self) -> Iterator[tuple[str, str]]:
        for name, value in self.topics.items():
            topic, its_key = _split(name)
            if not its_key:
                yield f"topic.{name}", "is topic.NAME.KEY, where KEY is Kafka's, as retention.ms or cleanup.policy"
            elif not NAME.fullmatch(topic):
                yield f"topic.{name}", f"{topic!r} is no name of a topic"
            elif wanted := settings.KEYS[its_key].fault(value):
                yield f"topic.{name}", f"{value!r} is wrong: it takes {wanted}"

    def options(self) -> Options:
        """Of the log."""
        hours = self.retention_hours
        return Options(
            synchronous=self.synchronous,
            retention_ms=-1 if hours < 0 else int(hours * HOUR_MS),
            retention_bytes=self.retention_bytes,
            max_bytes=self.max_bytes,
        )

    def by_topic(self) -> dict[str, dict[str, str]]:
        """The keys of each topic."""
        found: dict[str, dict[str, str]] = {}
        for name, value in self.topics.items():
            topic, its_key = _split(name)
            found.setdefault(topic, {})[its_key] = value
        return found


def _split(name: str) -> tuple[str, str]:
    """`plant.line1.retention.ms` -> topic and key; the longest key that there is."""
    found = [one for one in settings.KEYS if name.endswith(f".{one}")]
    longest = max(found, key=len, default="")
    return name.removesuffix(f".{longest}"), longest
