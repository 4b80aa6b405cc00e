"""`type = metrics`: what the agent counts, over HTTP.

    GET /metrics             Flume's JSON (all strings); Prometheus text for `Accept: text/plain`
    GET /metrics/prometheus  Prometheus text
    GET /healthz             200 while the event loop and the stores make progress: restart the agent on 503
    GET /readyz              200 once every source listens, else 503 and the reasons
    GET /status              JSON for `headrace status`
    GET /                    a page of links

Other paths are offered to the agent's other services (`Service.page`): a topics service answers /topics.

As in Flume 1.11 (HTTPMetricsServer) its paths ignore case, TRACE and OPTIONS are 403, other paths 404. One request a
connection. There is no authentication, therefore loopback is the default.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import ClassVar

from agent import exposition, http
from agent.config.fields import Config as AnyConfig
from agent.config.fields import key
from agent.errors import ConfigError
from agent.http import HTML, JSON, TEXT, Page, Request
from agent.ports import spelled
from agent.service import Service

MAX_CONNECTIONS = 64
MAX_STREAMS = 32
"""Of these connections, those whose answer has no end."""
TIMEOUT = 10.0
"""Seconds that one client may take to send its request, a page to be made, and a client to take a piece of it."""
PAGES = ("/metrics", "/metrics/prometheus", "/healthz", "/readyz", "/status")


class MetricsConfig(AnyConfig):
    bind: str = key("bind", "127.0.0.1", doc="address to listen on; there is no authentication")
    port: int = key("port", 41415, low=0, high=65535, doc="port to listen on; 0 takes a free one")


class MetricsService(Service):
    """Serves the counters; bounded in connections, request size and time."""

    Config: ClassVar[type[AnyConfig]] = MetricsConfig
    config: MetricsConfig
    server: asyncio.Server
    open_connections = 0

    def __init__(self, name: str, config: AnyConfig) -> None:
        super().__init__(name, config)
        self.streams: set[asyncio.StreamWriter] = set()

    async def open(self) -> None:
        try:
            if self.config.bind == "::":  # asyncio would listen on IPv6 alone; sources take both there
                sock = socket.create_server(("::", self.config.port), family=socket.AF_INET6, dualstack_ipv6=True)
                self.server = await asyncio.start_server(self._serve, sock=sock, limit=http.MAX_HEAD)
            else:
                self.server = await asyncio.start_server(
                    self._serve, self.config.bind, self.config.port, limit=http.MAX_HEAD
                )
        except OSError as error:
            place = spelled(self.config.bind, self.config.port)
            raise ConfigError(f"{self.name} can't listen on {place}: {error.strerror or error}") from error
        place = spelled(self.config.bind, self.port)
        self.log.info("http://%s/ serves metrics, healthz, readyz and status", place)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        number: int = self.server.sockets[0].getsockname()[1]
        return number

    async def run(self) -> None:
        await asyncio.get_running_loop().create_future()  # serve_forever would wait for slow clients when cancelled

    async def close(self) -> None:
        if hasattr(self, "server"):
            self.server.close()
        for writer in self.streams:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open_connections += 1
        try:
            if self.open_connections <= MAX_CONNECTIONS:
                await self._talk(reader, writer)
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open_connections -= 1
            if writer.transport.get_write_buffer_size():
                asyncio.get_running_loop().call_later(TIMEOUT, writer.transport.abort)
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(TIMEOUT):
            head = await http.read_head(reader)
        page = await self._answer(head, _address(writer))
        if not isinstance(page.body, str) and len(self.streams) >= MAX_STREAMS:
            await page.body.aclose()
            page = http.text(503, f"{MAX_STREAMS} clients are reading streams; try later")
        await http.send(writer, http.head_of(page), TIMEOUT)
        if isinstance(page.body, str):
            await http.send(writer, b"" if head.startswith("HEAD ") else page.body.encode(), TIMEOUT)
        elif head.startswith("HEAD "):
            await page.body.aclose()
        else:
            await self._stream(reader, writer, page.body)

    async def _stream(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: AsyncGenerator[str, None]
    ) -> None:
        """Until the body ends, or the client goes or takes nothing."""
        self.streams.add(writer)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._pour(writer, body), name=f"{self.name} streams"),
                    group.create_task(_gone(reader), name=f"{self.name} watches a client"),
                ]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    task.cancel()
        finally:
            self.streams.discard(writer)

    async def _pour(self, writer: asyncio.StreamWriter, body: AsyncGenerator[str, None]) -> None:
        try:
            async with aclosing(body):
                async for chunk in body:
                    await http.send(writer, chunk.encode(), TIMEOUT)
        except (TimeoutError, ConnectionError):
            pass
        except Exception:
            self.log.exception("a stream ended")

    async def _answer(self, head: str, address: str) -> Page:
        if not head:
            return http.text(431, f"a request may have {http.MAX_HEAD} bytes")
        try:
            request = http.parse(head, address)
        except ValueError as error:
            return http.text(400, str(error))
        if request.method in ("TRACE", "OPTIONS"):
            return http.text(403, "forbidden")
        if request.method not in ("GET", "HEAD"):
            return http.text(405, "only GET and HEAD")
        try:
            async with asyncio.timeout(TIMEOUT):
                return self._own(request) or await self._others(request)
        except TimeoutError:
            return http.text(503, f"it takes longer than {TIMEOUT:g} s")
        except Exception:
            self.log.exception("could not show %s", request.path)
            return http.text(500, "see the log")

    def _own(self, request: Request) -> Page | None:
        path, prefers_text = request.path.lower(), _prefers_text(request)
        if path == "/metrics" and not prefers_text:
            return Page(200, JSON, exposition.flume_json(self.metrics))
        if path in ("/metrics", "/metrics/prometheus"):
            return Page(200, TEXT, exposition.prometheus(self.metrics, self.ready()))
        pages: dict[str, Callable[[], Page]] = {
            "": self._index,
            "/healthz": self._health,
            "/readyz": self._readiness,
            "/status": lambda: Page(200, JSON, json.dumps(exposition.status(self.metrics, self.ready()))),
        }
        return pages[path]() if path in pages else None

    async def _others(self, request: Request) -> Page:
        """What another service has under this path."""
        for service in self._services():
            if page := await service.page(request):
                return page
        return http.text(404, f"there is {', '.join(self._paths())}")

    def _services(self) -> list[Service]:
        return [one for one in self.services().values() if isinstance(one, Service)]

    def _paths(self) -> list[str]:
        return list(dict.fromkeys([*PAGES, *(path for one in self._services() for path in one.pages)]))

    def _index(self) -> Page:
        links = "".join(f'<li><a href=".{path}">{path}</a>' for path in self._paths())
        return Page(200, HTML, f"<!doctype html><title>Headrace</title><h1>Headrace</h1><ul>{links}</ul>")

    def _health(self) -> Page:
        stalls = exposition.stalls(self.metrics)
        return http.text(503, "\n".join(stalls)) if stalls else http.text(200, "alive")

    def _readiness(self) -> Page:
        if self.ready():
            return http.text(200, "ready")
        return http.text(503, "\n".join(exposition.complaints(self.metrics) or ["starting or stopping"]))


def _address(writer: asyncio.StreamWriter) -> str:
    """Where the client is; empty if it is gone already."""
    name = writer.get_extra_info("peername")
    return str(name[0]) if name else ""


async def _gone(reader: asyncio.StreamReader) -> None:
    """Done when the client has closed; what it still sends is not looked at."""
    try:
        while await reader.read(http.MAX_HEAD):
            pass
    except ConnectionError:
        pass


def _prefers_text(request: Request) -> bool:
    """Whether the client would rather have Prometheus text than JSON: it names text/plain before JSON or */*."""
    first = request.prefers("text/plain", "application/json", "*/*")
    return first == "text/plain" or bool(request.prefers("application/openmetrics-text"))
