"""Names the agent's host in each event (Flume's HostInterceptor)."""

from __future__ import annotations

import socket
from typing import ClassVar

from agent.config.fields import Config as AnyConfig
from agent.config.fields import key
from agent.event import Batch, Event
from agent.interceptor import Interceptor


class HostConfig(AnyConfig):
    hostHeader: str = key("hostHeader", "host", doc="header that takes the address or name")
    useIP: bool = key("useIP", True, doc="the IP address; false: the canonical host name")
    preserveExisting: bool = key("preserveExisting", False, doc="leave a header that is there")


class HostInterceptor(Interceptor):
    """The address or name is looked up once, at open; if that fails events pass unchanged, as in Flume."""

    Config: ClassVar[type[AnyConfig]] = HostConfig
    config: HostConfig
    host: str | None = None

    async def open(self) -> None:
        try:
            name = socket.gethostname()
            self.host = socket.gethostbyname(name) if self.config.useIP else socket.getfqdn(name)
        except OSError as error:
            self.log.warning("no %s header: this host's address is unknown (%s)", self.config.hostHeader, error)

    def intercept(self, batch: Batch) -> Batch:
        name, host = self.config.hostHeader, self.host
        if host is None:
            return batch
        if not self.config.preserveExisting:
            return batch.with_events([Event({**headers, name: host}, body) for headers, body in batch.events])
        if all(name in event.headers for event in batch.events):
            return batch
        return batch.with_events([Event({name: host, **headers}, body) for headers, body in batch.events])
