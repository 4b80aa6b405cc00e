"""`type = topics`: an embedded log that any Kafka client reads and writes (docs/topics.md).

    a1.services = topics
    a1.services.topics.type = topics
    a1.services.topics.topic.readings.retention.ms = 86400000      # any of Kafka's keys of a topic

Clients are told `advertisedHost:advertisedPort` and go there, whatever they connected to first.

Off loopback it takes TLS and users (or clients' certificates); without them `allowInsecure = true` says in words that
anyone who reaches the port may read and write. With users, PLAIN is offered where there is TLS, or on loopback.

Keys of `topic.` are set when a topic is created, and for one that exists when the service starts.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from agent.component import Component
from agent.config.fields import Config as AnyConfig
from agent.errors import DeliveryError
from agent.http import Page, Request, text
from agent.metrics import Counter
from agent.ports import spelled
from agent.server import Listener
from agent.service import Service
from agent.tls import server_context
from aggregator.topics import expiry
from aggregator.topics.access import acl, users
from aggregator.topics.broker import Broker, Settings
from aggregator.topics.configuration import TopicsConfig
from aggregator.topics.errors import TopicsError
from aggregator.topics.groups.coordinator import Coordinator
from aggregator.topics.log.log import Log
from aggregator.topics.memory import keep_threshold
from aggregator.topics.server import Shared, TopicsPeer
from aggregator.topics.web.pages import PATH, Face

OPENING_SECONDS = 5.0
"""A sink or source waits so long for it."""


class TopicsCounter(Counter):
    kind = "TOPICS"
    OURS = ("dropped", "OpenConnectionCount", "requests", "refused", "received_bytes", "sent_bytes", "log_bytes")


class TopicsService(Service):
    """Opens the log, then listens. `broker` is for who lives in the same process."""

    Config: ClassVar[type[AnyConfig]] = TopicsConfig
    config: TopicsConfig
    log_: Log | None = None
    broker: Broker
    listener: Listener | None = None
    pages = (PATH,)

    def __init__(self, name: str, config: AnyConfig) -> None:
        super().__init__(name, config)
        self.opened = asyncio.Event()
        """Set while `broker` may be used."""

    async def open(self) -> None:
        keep_threshold()
        config = self.config
        known = users.read(config.users) if config.users else None
        rights = acl.Rights(config.acl, known.names if known else ())
        if config.synchronous == "NORMAL":
            self.log.warning("synchronous = NORMAL: a power cut may lose records that were acknowledged")
        log = Log(self.folder, config.options())
        await log.open()
        self.log_ = log
        listener = self.listener = self._listener()
        await listener.open()
        coordinator = Coordinator(asyncio.get_running_loop().call_later, log.groups)
        self.broker = Broker(log, coordinator, rights, known, self._settings(listener.port))
        await self.broker.transactions.open()
        self.shared = Shared(self.broker, config.max_request, tls=config.tls, loopback=config.loopback)
        await self._configure(log)
        self._count(log, listener)
        if not (config.loopback or config.tls):
            self.log.warning("not encrypted (allowInsecure): whoever is in between reads and writes all topics")
        place = spelled(self.broker.settings.host, self.broker.settings.port)
        self.log.info("%d topics in %s; clients connect to %s", len(log.topics), self.folder, place)
        self.opened.set()

    @property
    def folder(self) -> Path:
        """Where the log lies."""
        return Path(os.path.abspath(os.path.expanduser(self.config.path or f"~/.headrace/{self.agent}")))

    def _listener(self) -> Listener:
        config = self.config
        return Listener(
            self.log,
            lambda listener: TopicsPeer(listener, self.shared),
            bind=config.bind,
            port=config.port,
            max_connections=config.max_connections,
            max_held=config.max_held,
            context=server_context(config) if config.tls else None,
        )

    def _settings(self, port: int) -> Settings:
        config = self.config
        return Settings(
            host=config.advertised_host or config.bind,
            port=config.advertised_port or port,
            partitions=config.partitions,
            auto_create=config.auto_create,
            topics=config.by_topic(),
            answer_bytes=config.max_held,
        )

    async def _configure(self, log: Log) -> None:
        """Set the configuration's keys of topics that exist."""
        for name, wanted in self.broker.settings.topics.items():
            topic = log.topics.get(name)
            changes = {one: value for one, value in wanted.items() if topic and topic.config.get(one) != value}
            try:
                if changes:
                    await log.configure(name, dict(changes))
            except TopicsError as error:
                self.log.warning("topic %s: %s", name, error)

    def _count(self, log: Log, listener: Listener) -> None:
        counts, counter = self.shared.counts, self.metrics.counter(TopicsCounter, self.name)
        counter.gauges = {
            "OpenConnectionCount": lambda: listener.connections,
            "requests": lambda: counts.requests,
            "refused": lambda: counts.refused,
            "received_bytes": lambda: counts.received,
            "sent_bytes": lambda: counts.sent,
            "log_bytes": lambda: sum(part.size for topic in log.topics.values() for part in topic.partitions),
        }
        counter.start()
        counter.say("running")

    async def run(self) -> None:
        assert self.listener
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.listener.run(), name="serve topics")
                group.create_task(expiry.watch(self.broker.log, self.broker.coordinator), name="old offsets go")
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def page(self, request: Request) -> Page | None:
        """Topics for people (aggregator/topics/web)."""
        if request.parts[:1] != (PATH[1:],) or request.query.get("service", self.name) != self.name:
            return None
        if not self.opened.is_set():
            return text(503, f"the service {self.name} is not open")
        config = self.config
        in_words = config.allow_insecure or bool(config.acl)
        return await Face(self.broker, in_words=in_words, certificates=config.client_auth == "require").page(request)

    async def close(self) -> None:
        self.opened.clear()
        if hasattr(self, "broker"):
            self.broker.coordinator.close()
            await asyncio.sleep(0)  # who waited for a group is answered
        if self.listener:
            await self.listener.close()
        if hasattr(self, "broker"):
            await self.broker.transactions.close()
            self.metrics.counter(TopicsCounter, self.name).stop()
        if self.log_:
            await self.log_.close()


async def service_in(services: Mapping[str, Component], name: str) -> Broker:
    """What the agent's service of this name holds, or its only one of this type. DeliveryError."""
    found = [one for one in services.values() if isinstance(one, TopicsService) and name in ("", one.name)]
    if len(found) != 1:
        which = f"named {name}" if name else "(or a key `service` that says which)"
        raise DeliveryError(f"it needs one service of type topics {which}; there are {len(found)}")
    [service] = found
    if not service.opened.is_set():
        try:
            async with asyncio.timeout(OPENING_SECONDS):
                await service.opened.wait()
        except TimeoutError:
            raise DeliveryError(f"the service {service.name} is not open") from None
    return service.broker
