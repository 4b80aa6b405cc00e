"""Settings of a client: Kafka's names in Java (`kafka.producer.*`, `kafka.consumer.*`) -> those of librdkafka.

Most names are one: librdkafka takes Java's as a second spelling. Here is what differs:

    max.request.size, buffer.memory, max.block.ms ...     another name, another unit, or nothing that it could mean
    sasl.jaas.config                                      user and password out of the line
    ssl.truststore.*, ssl.keystore.*                      PEM files and PEM text; a keystore may be PKCS12
    partition.assignment.strategy, *.sasl.login.class ..  Java classes
    compression.type, isolation.level ...                 as they are

A secret, a whole sasl.jaas.config too, may be `file:/path` of a file that holds it. Names of librdkafka itself work
too. Keys are spread over partitions as Java's client does (murmur2), so that a key stays where Flume put it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, Producer

from agent.errors import ConfigError

Settings = dict[str, object]

RENAMED = {
    "send.buffer.bytes": "socket.send.buffer.bytes",
    "receive.buffer.bytes": "socket.receive.buffer.bytes",
    "max.request.size": "message.max.bytes",
    "fetch.max.wait.ms": "fetch.wait.max.ms",
    "delivery.timeout.ms": "message.timeout.ms",
    "default.api.timeout.ms": "socket.timeout.ms",
    "ssl.keystore.certificate.chain": "ssl.certificate.pem",
    "ssl.keystore.key": "ssl.key.pem",
    "ssl.truststore.certificates": "ssl.ca.pem",
}
NOTHING = {
    "key.serializer", "value.serializer", "key.deserializer", "value.deserializer", "max.block.ms", "max.poll.records",
    "metric.reporters", "metrics.num.samples", "metrics.sample.window.ms", "metrics.recording.level",
    "interceptor.classes", "partitioner.class", "auto.include.jmx.reporter", "exclude.internal.topics",
    "ssl.truststore.type", "ssl.keystore.type", "ssl.protocol", "ssl.enabled.protocols", "ssl.provider",
    "ssl.keymanager.algorithm", "ssl.trustmanager.algorithm", "ssl.secure.random.implementation",
    "ssl.truststore.password", "security.providers", "leave.group.on.close", "partitioner.ignore.keys",
    "sasl.login.callback.handler.class", "sasl.login.class", "sasl.client.callback.handler.class",
    "partitioner.adaptive.partitioning.enable", "partitioner.availability.timeout.ms", "key.serializer.encoding",
}  # fmt: skip
"""Settings of Java's client without a meaning here; said once."""
FIXED = {
    "bootstrap.servers": "give kafka.bootstrap.servers",
    "group.id": "give kafka.consumer.group.id",
}
SECRETS = (
    "sasl.password", "sasl.jaas.config", "ssl.key.password", "ssl.keystore.password", "ssl.truststore.password",
    "ssl.keystore.key", "ssl.key.pem", "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.client.credentials.client.secret", "sasl.oauthbearer.assertion.private.key.pem",
    "sasl.oauthbearer.assertion.private.key.passphrase",
)  # fmt: skip
"""What no one else may read: never shown, and each may be `file:/path`."""
ASSIGNORS = {"RangeAssignor": "range", "RoundRobinAssignor": "roundrobin", "StickyAssignor": "cooperative-sticky",
             "CooperativeStickyAssignor": "cooperative-sticky"}  # fmt: skip
JAAS = re.compile(r'(\w+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|\'([^\']*)\'|([^\s;]+))')
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
MOST_BYTES = (1 << 20) + (64 << 10)
"""Of a record: an event of 1 MiB, as Java's client and our other legs take it, with its headers. librdkafka's own bound
lies below that; the topic's max.message.bytes (1,048,588 unless set) judges."""
JKS = b"\xfe\xed\xfe\xed"
log = logging.getLogger(__name__)


def producer_settings(servers: str, given: Mapping[str, str]) -> Settings:
    """For a producer: idempotent with acks = all unless `given` says otherwise. ConfigError names the setting."""
    own = {"partitioner": "murmur2_random", "message.max.bytes": MOST_BYTES, **_common(servers)}
    settings: Settings = {**own, **translated_names(given)}
    if str(settings.get("acks", "all")) in ("all", "-1"):
        settings = {"acks": "all", "enable.idempotence": True, **settings}
    elif "transactional.id" in settings:
        raise ConfigError(f"acks: a transaction needs all, not {settings['acks']}")
    elif "enable.idempotence" not in settings:
        settings["enable.idempotence"] = False
    if "transactional.id" in settings and str(settings["enable.idempotence"]).lower() == "false":
        raise ConfigError("enable.idempotence: a transaction needs true")
    return settings


def consumer_settings(servers: str, group: str, given: Mapping[str, str]) -> Settings:
    """For a member of a group that commits by itself. ConfigError names the setting."""
    return {**_common(servers), **translated_names(given), "group.id": group, "enable.auto.commit": False}


def _common(servers: str) -> Settings:
    return {"bootstrap.servers": servers, "client.id": "headrace", "log.connection.close": False}


def problems(prefix: str, given: Mapping[str, str], kind: type[Producer] | type[Consumer]) -> list[tuple[str, str]]:
    """(key, what is wrong) of the settings under a prefix such as `kafka.producer.`; no broker is asked."""
    make: Callable[[], Settings] = (
        (lambda: producer_settings("127.0.0.1:1", given))
        if kind is Producer
        else (lambda: consumer_settings("127.0.0.1:1", "check", given))
    )
    try:
        settings = make()
    except ConfigError as error:
        name, _, text = str(error).partition(": ")
        return [(f"{prefix}{name}", text)]
    del settings["bootstrap.servers"]
    try:
        client = kind({**settings, "log_level": 0})
        client.close()
    except (KafkaException, ValueError, TypeError) as error:
        named = set(re.findall(r"[\"`]([a-z.]+)[\"`]", str(error)))
        name = next((name for name in given if named & {name, RENAMED.get(name)}), next(iter(given), ""))
        return [(f"{prefix}{name}", _reason(error))]
    return []


def _reason(error: Exception) -> str:
    said = error.args[0].str() if isinstance(error, KafkaException) else str(error)
    return said.removeprefix("Failed to create producer: ").removeprefix("Failed to create consumer: ")


def translated_names(given: Mapping[str, str]) -> Settings:
    """Settings as librdkafka names them. ConfigError `setting: what is wrong and what to do`."""
    out: Settings = {}
    for name, value in given.items():
        text = _revealed(name, value.strip())
        if name in FIXED:
            raise ConfigError(f"{name}: can't be set here: {FIXED[name]}")
        if name in NOTHING:
            _say(name, "it has no meaning here")
        elif name in SPECIAL:
            out |= SPECIAL[name](text)
        else:
            out[RENAMED.get(name, name)] = text
    return out


@cache
def _say(name: str, why: str) -> None:
    log.warning("the Kafka setting %s has no effect: %s", name, why)


def _revealed(name: str, text: str) -> str:
    if name not in SECRETS or not text.startswith("file:"):
        return text
    path = Path(text[5:]).expanduser()
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it isn't UTF-8"
        raise ConfigError(f"{name}: can't be read from {path}: {reason}") from None


def _jaas(text: str) -> Settings:
    """`...PlainLoginModule required username="alice" password="...";`"""
    found = {name: (quoted or single or bare) for name, quoted, single, bare in JAAS.findall(text)}
    if "Krb5LoginModule" in text:
        return _mechanism("GSSAPI")
    if "username" not in found or "password" not in found:
        raise ConfigError("sasl.jaas.config: has no username and password; a login module needs both here")
    unescaped = {name: re.sub(r"\\(.)", r"\1", value) for name, value in found.items()}
    return {"sasl.username": unescaped["username"], "sasl.password": unescaped["password"]}


def _mechanism(text: str) -> Settings:
    if text.upper() not in MECHANISMS:
        raise ConfigError(
            f"sasl.mechanism: {text} needs a library that this client comes without; there are {', '.join(MECHANISMS)}"
        )
    return {"sasl.mechanisms": text.upper()}


def _kind_of(name: str, text: str) -> str:
    """pem or pkcs12, by the first bytes of a store."""
    try:
        with Path(text).expanduser().open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise ConfigError(f"{name}: {text} can't be read: {error.strerror}") from None
    if start.startswith(JKS):
        to = "openssl pkcs12 -in new.p12 -nokeys -out ca.pem"
        raise ConfigError(f"{name}: {text} is a JKS store: keytool -importkeystore -srckeystore {text} "
                          f"-destkeystore new.p12 -deststoretype PKCS12, and for a truststore {to}")  # fmt: skip
    return "pkcs12" if start[:1] == b"\x30" else "pem"


def _truststore(text: str) -> Settings:
    if _kind_of("ssl.truststore.location", text) == "pkcs12":
        remedy = f"openssl pkcs12 -in {text} -nokeys -out ca.pem"
        raise ConfigError(f"ssl.truststore.location: {text} is PKCS12; this client takes PEM: {remedy}")
    return {"ssl.ca.location": str(Path(text).expanduser())}


def _keystore(text: str) -> Settings:
    path = str(Path(text).expanduser())
    if _kind_of("ssl.keystore.location", text) == "pkcs12":
        return {"ssl.keystore.location": path}
    return {"ssl.certificate.location": path, "ssl.key.location": path}


def _assignors(text: str) -> Settings:
    names = [one.strip().rpartition(".")[2] for one in text.split(",")]
    return {"partition.assignment.strategy": ",".join(ASSIGNORS.get(name, name) for name in names)}


def _auto_commit(text: str) -> Settings:
    if text.lower() != "false":
        _say("enable.auto.commit", "offsets are committed once the channel has the events")
    return {}


def _kilobytes(text: str) -> Settings:
    if not text.isdigit():
        raise ConfigError(f"buffer.memory: {text!r} is no number of bytes")
    return {"queue.buffering.max.kbytes": max(1, int(text) // 1024)}


SPECIAL: dict[str, Callable[[str], Settings]] = {
    "sasl.jaas.config": _jaas,
    "sasl.mechanism": _mechanism,
    "sasl.mechanisms": _mechanism,
    "ssl.truststore.location": _truststore,
    "ssl.keystore.location": _keystore,
    "partition.assignment.strategy": _assignors,
    "buffer.memory": _kilobytes,
    "enable.auto.commit": _auto_commit,
    "auto.offset.reset": lambda text: {"auto.offset.reset": "error" if text.lower() == "none" else text},
    "ssl.endpoint.identification.algorithm": lambda text: {
        "ssl.endpoint.identification.algorithm": text.lower() or "none"
    },
}
