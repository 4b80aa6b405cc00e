"""`type = metrics`: what the agent counts, over HTTP.

    GET /metrics             Flume's JSON (all strings); Prometheus text for `Accept: text/plain`
    GET /metrics/prometheus  Prometheus text
    GET /healthz             200 while the event loop and the stores make progress: restart the agent on 503
    GET /readyz              200 once every source listens, else 503 and the reasons
    GET /status              JSON for `headrace status`
    GET /                    a page of links

As in Flume 1.11 (HTTPMetricsServer) paths ignore case, TRACE and OPTIONS are 403, other paths 404. One request a
connection. There is no authentication, therefore loopback is the default.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from typing import ClassVar

from agent import exposition
from agent.config.fields import Config, key
from agent.errors import ConfigError
from agent.ports import spelled
from agent.service import Service

MAX_REQUEST = 8192
"""Bytes of request line and headers."""
MAX_CONNECTIONS = 64
TIMEOUT = 10.0
"""Seconds that one client may take to send its request, and again to take its answer."""
JSON, TEXT, HTML = (
    "application/json;charset=utf-8",
    "text/plain; version=0.0.4; charset=utf-8",
    "text/html;charset=utf-8",
)
REASONS = {
    200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    431: "Request Header Fields Too Large", 500: "Internal Server Error", 503: "Service Unavailable",
}  # fmt: skip
PAGES = ("/metrics", "/metrics/prometheus", "/healthz", "/readyz", "/status")
INDEX = (
    "<!doctype html><title>Headrace</title><h1>Headrace</h1><ul>"
    + "".join(f'<li><a href=".{page}">{page}</a>' for page in PAGES)
    + "</ul>"
)

Answer = tuple[int, str, str]
"""Status, content type, body."""


class MetricsConfig(Config):
    bind: str = key("bind", "127.0.0.1", doc="address to listen on; there is no authentication")
    port: int = key("port", 41415, low=0, high=65535, doc="port to listen on; 0 takes a free one")


class MetricsService(Service):
    """Serves the counters; bounded in connections, request size and time."""

    Config: ClassVar[type[Config]] = MetricsConfig
    config: MetricsConfig
    server: asyncio.Server
    open_connections = 0

    async def open(self) -> None:
        try:
            if self.config.bind == "::":  # asyncio would listen on IPv6 alone; sources take both there
                sock = socket.create_server(("::", self.config.port), family=socket.AF_INET6, dualstack_ipv6=True)
                self.server = await asyncio.start_server(self._serve, sock=sock, limit=MAX_REQUEST)
            else:
                self.server = await asyncio.start_server(
                    self._serve, self.config.bind, self.config.port, limit=MAX_REQUEST
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

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open_connections += 1
        try:
            if self.open_connections <= MAX_CONNECTIONS:
                async with asyncio.timeout(TIMEOUT):
                    head = await _head(reader)
                async with asyncio.timeout(TIMEOUT):
                    writer.write(_response(*self._answer(head), head.startswith("HEAD ")))
                    await writer.drain()
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open_connections -= 1
            if writer.transport.get_write_buffer_size():
                asyncio.get_running_loop().call_later(TIMEOUT, writer.transport.abort)
            writer.close()

    def _answer(self, head: str) -> Answer:
        if not head:
            return 431, TEXT, f"a request may have {MAX_REQUEST} bytes\n"
        words = head.split("\r\n", 1)[0].split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return 400, TEXT, "this port speaks HTTP/1.1\n"
        method, target = words[0], words[1].partition("?")[0].lower()
        if method in ("TRACE", "OPTIONS"):
            return 403, TEXT, "forbidden\n"
        if method not in ("GET", "HEAD"):
            return 405, TEXT, "only GET and HEAD\n"
        try:
            return self._page(target.rstrip("/"), _accepts_text(head))
        except Exception:
            self.log.exception("could not show %s", target)
            return 500, TEXT, "see the log\n"

    def _page(self, target: str, text: bool) -> Answer:
        if target == "/metrics" and not text:
            return 200, JSON, exposition.flume_json(self.metrics)
        if target in ("/metrics", "/metrics/prometheus"):
            return 200, TEXT, exposition.prometheus(self.metrics, self.ready())
        pages: dict[str, Callable[[], Answer]] = {
            "": lambda: (200, HTML, INDEX),
            "/healthz": self._health,
            "/readyz": self._readiness,
            "/status": lambda: (200, JSON, json.dumps(exposition.status(self.metrics, self.ready()))),
        }
        page = pages.get(target)
        return page() if page else (404, TEXT, f"there is {', '.join(PAGES)}\n")

    def _health(self) -> Answer:
        stalls = exposition.stalls(self.metrics)
        return (503, TEXT, "\n".join(stalls) + "\n") if stalls else (200, TEXT, "alive\n")

    def _readiness(self) -> Answer:
        if self.ready():
            return 200, TEXT, "ready\n"
        return 503, TEXT, "\n".join(exposition.complaints(self.metrics) or ["starting or stopping"]) + "\n"


async def _head(reader: asyncio.StreamReader) -> str:
    """Request line and headers; empty if they are too long."""
    try:
        return (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.LimitOverrunError:
        return ""


def _accepts_text(head: str) -> bool:
    """Whether the client would rather have Prometheus text than JSON: it names text/plain before JSON or */*."""
    for line in head.split("\r\n")[1:]:
        name, _, value = line.partition(":")
        if name.strip().lower() == "accept":
            wanted = [part.partition(";")[0].strip().lower() for part in value.split(",")]
            first = next((w for w in wanted if w in ("text/plain", "application/json", "*/*")), "")
            return first == "text/plain" or "application/openmetrics-text" in wanted
    return False


def _response(status: int, kind: str, body: str, head_only: bool) -> bytes:
    data = body.encode()
    head = (
        f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n"
        "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (b"" if head_only else data)
