"""One side: a topics service of ours or a Kafka cluster, asked through librdkafka.

What a group has committed is asked for and set by a consumer of that group that never joins it: librdkafka 2.16's admin
client crashes when a broker tells it that it isn't the coordinator (yet).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, OffsetSpec  # type: ignore[attr-defined]

from agent.config import properties
from agent.config.problems import Report
from agent.errors import ConfigError, DeliveryError
from aggregator.kafka.client import consumer_settings, producer_settings, translated_names
from aggregator.kafka.member import CLIENT, DOWN, INTERNAL, LATER, Quiet, said
from aggregator.kafka.sender import PASSING
from aggregator.topics.commands import SERVER

Place = tuple[str, int]
"""A topic and a partition of it."""
READER = "headrace-topics"
"""Group of consumers that are in none."""
SECONDS = 20.0
"""The longest wait for an answer."""
GLANCE, CALM = 1.0, 0.1
log = logging.getLogger(__name__)


class Committed(NamedTuple):
    """A group's place in a partition, with what the group wrote beside it."""

    offset: int
    metadata: str = ""


class Cluster:
    """`servers` HOST:PORT,...; `given`: settings by Java's names. Its methods raise DeliveryError with the address."""

    def __init__(self, servers: str, given: Mapping[str, str] | None = None) -> None:
        self.servers, self.given = servers, dict(given or {})
        self._trouble, self._is_down = "", False

    @classmethod
    def named(cls, server: str | None, file: str | None) -> Cluster:
        """As the command line names it. ConfigError if the file can't be read."""
        given = _settings(file) if file else {}
        found, _ = given.pop("bootstrap.servers", ""), given.pop("group.id", "")
        try:
            translated_names(given)
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from None
        return cls(server or found or SERVER, given)

    # -- clients

    @cached_property
    def admin(self) -> AdminClient:
        """For questions and changes."""
        settings = consumer_settings(self.servers, READER, self.given)
        ours = {name: value for name, value in settings.items() if name.startswith(CLIENT)}
        client: AdminClient = self._made(AdminClient, ours)
        return client

    def consumer(self, group: str = READER, **more: object) -> Consumer:
        """Keys of `more` are written with _ for the dot."""
        settings = consumer_settings(self.servers, group, self.given)
        settings |= {"isolation.level": "read_committed", "allow.auto.create.topics": False}
        client: Consumer = self._made(Consumer, settings | _dotted(more))
        return client

    def reader(self) -> Consumer:
        """Of partitions that it is told, with a word at the end of each."""
        return self.consumer(enable_partition_eof=True, auto_offset_reset="earliest", fetch_wait_max_ms=100)

    def producer(self, **more: object) -> Producer:
        """A transactional one, if `more` says so."""
        given = {name.replace("_", "."): str(value) for name, value in more.items()}
        client: Producer = self._made(Producer, producer_settings(self.servers, given | self.given))
        return client

    def _made(self, kind: Any, settings: Mapping[str, object]) -> Any:
        try:
            return kind({**settings, "error_cb": self._error}, logger=Quiet(log))
        except KafkaException as error:
            raise ConfigError(f"{self.servers}: {said(error)}") from error

    def _error(self, error: KafkaError) -> None:
        """What is wrong with the brokers, for the next failure to tell."""
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._is_down = True
        else:
            self._trouble = error.str()

    @contextmanager
    def asked(self, what: str = "") -> Iterator[None]:
        """Around calls of the library."""
        try:
            yield
        except KafkaException as error:
            words = "it can't be reached" if error.args[0].code() in DOWN else said(error)
            trouble = self._trouble if error.args[0].code() in LATER else ""
            raise DeliveryError(": ".join(filter(None, (self.servers, what, words, trouble)))) from error

    # -- topics

    @property
    def id(self) -> str:
        """Of the cluster."""
        return str(self.metadata().cluster_id or "")

    def topics(self) -> dict[str, int]:
        """Partitions of each topic, by name; Kafka's own are left out."""
        found = self.metadata().topics
        return {name: len(found[name].partitions) for name in sorted(found) if name not in INTERNAL}

    def metadata(self) -> Any:
        """confluent_kafka.admin.ClusterMetadata. The library goes on asking when nobody listens; this doesn't."""
        end = time.monotonic() + SECONDS
        with self.asked():
            while True:
                try:
                    return self.admin.list_topics(timeout=GLANCE)
                except KafkaException as error:
                    self.admin.poll(0)
                    if error.args[0].code() not in LATER or self._is_down or time.monotonic() > end:
                        raise

    def places(self, topic: str) -> list[Place]:
        """Partitions of a topic. DeliveryError if there is no such topic."""
        partitions = self.topics().get(topic)
        if not partitions:
            raise DeliveryError(f"{self.servers}: there is no topic {topic}")
        return [(topic, index) for index in range(partitions)]

    def starts(self, places: Iterable[Place]) -> dict[Place, int]:
        """Offsets of the first record there is."""
        return self._offsets(places, OffsetSpec.earliest(), IsolationLevel.READ_UNCOMMITTED)  # type: ignore[no-untyped-call]

    def ends(self, places: Iterable[Place], committed: bool = False) -> dict[Place, int]:
        """Offset of the next record; `committed`: of the first that belongs to an open transaction."""
        level = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
        return self._offsets(places, OffsetSpec.latest(), level)  # type: ignore[no-untyped-call]

    def at_time(self, places: Iterable[Place], ms: int) -> dict[Place, tuple[int, int]]:
        """Offset and time of the first record that is as late, -1 and -1 where none is."""
        return self._asked(places, OffsetSpec.for_timestamp(ms), IsolationLevel.READ_COMMITTED)

    def _offsets(self, places: Iterable[Place], spec: OffsetSpec, level: IsolationLevel) -> dict[Place, int]:
        return {place: offset for place, (offset, _) in self._asked(places, spec, level).items()}

    def _asked(self, places: Iterable[Place], spec: OffsetSpec, level: IsolationLevel) -> dict[Place, tuple[int, int]]:
        wanted = {TopicPartition(*place): spec for place in places}
        if not wanted:
            return {}
        with self.asked():
            answers = self.admin.list_offsets(wanted, isolation_level=level, request_timeout=SECONDS)
            found = {(one.topic, one.partition): future.result() for one, future in answers.items()}
        return {place: (int(one.offset), int(one.timestamp)) for place, one in found.items()}

    def config(self, topic: str) -> dict[str, Any]:
        """Settings of a topic by name, as confluent_kafka.admin.ConfigEntry."""
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        with self.asked(f"topic {topic}"):
            found = self.admin.describe_configs([resource], request_timeout=SECONDS)
            return dict(found[resource].result())

    # -- groups

    def groups(self) -> list[str]:
        """Names of all consumer groups."""
        with self.asked():
            found = self.admin.list_consumer_groups(request_timeout=SECONDS).result()
        for error in found.errors:
            with self.asked("groups"):
                raise error
        return sorted(one.group_id for one in found.valid)

    def described(self, groups: list[str]) -> dict[str, Any]:
        """confluent_kafka.admin.ConsumerGroupDescription by name."""
        if not groups:
            return {}
        found = self.admin.describe_consumer_groups(groups, request_timeout=SECONDS)
        with self.asked("groups"):
            return {group: future.result() for group, future in found.items()}

    def committed(self, group: str, places: Iterable[Place]) -> dict[Place, Committed]:
        """Where a group is, of these partitions those where it has a place."""
        with self._outsider(group) as consumer, self.asked(f"group {group}"):
            found = _patiently(lambda: consumer.committed([TopicPartition(*place) for place in places], SECONDS))
        return {(one.topic, one.partition): Committed(one.offset, one.metadata or "") for one in found
                if one.offset >= 0}  # fmt: skip

    def commit(self, group: str, offsets: Mapping[Place, Committed]) -> None:
        """Set places of a group without members."""
        wanted = [TopicPartition(*place, at.offset, metadata=at.metadata) for place, at in offsets.items()]
        with self._outsider(group) as consumer, self.asked(f"group {group}"):
            _patiently(lambda: consumer.commit(offsets=wanted, asynchronous=False))

    @contextmanager
    def _outsider(self, group: str) -> Iterator[Consumer]:
        consumer = self.consumer(group)
        try:
            yield consumer
        finally:
            consumer.close()


def _patiently(ask: Any) -> list[TopicPartition]:
    """The answer, as soon as the group's coordinator has found itself. KafkaException."""
    end = time.monotonic() + SECONDS
    while True:
        try:
            found: list[TopicPartition] = ask()
            for one in found:
                if one.error:
                    raise KafkaException(one.error)
            return found
        except KafkaException as error:
            if error.args[0].code() not in PASSING or time.monotonic() > end:
                raise
        time.sleep(CALM)


def _dotted(settings: Mapping[str, object]) -> dict[str, object]:
    return {name.replace("_", "."): value for name, value in settings.items()}


def _settings(file: str) -> dict[str, str]:
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: the settings can't be read: {error.strerror}") from None
    report = Report([file])
    found = {entry.key: entry.value for entry in properties.parse(file, content, report)}
    report.finish()
    return found
