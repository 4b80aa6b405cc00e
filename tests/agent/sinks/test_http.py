"""http: one request an event, and what its status code decides."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from agent.config.reading import read
from agent.errors import DeliveryError
from agent.event import Batch, Event
from agent.metrics import SinkCounter
from agent.sinks.http import Client, HttpConfig, HttpSink
from tests.agent.certificates import Authority
from tests.contracts.channel import batch
from tests.contracts.sink import FarSide, SinkContract

WORKS = {"rollback.200": "false", "backoff.200": "false", "incrementMetrics.200": "true"}


class Web:
    """A real HTTP server in a thread: answers `status`, after `delay` seconds; keeps what `came` and was accepted."""

    def __init__(self, tls: Path | None = None) -> None:
        web = self
        self.status, self.delay, self.close = 200, 0.0, False
        self.bodies: list[bytes] = []
        self.came: list[bytes] = []
        self.arrivals = threading.Semaphore(0)
        self.headers: dict[str, str] = {}
        self.peers: set[int] = set()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                web.came.append(body)
                web.arrivals.release()
                time.sleep(web.delay)
                web.headers = dict(self.headers)
                web.peers.add(self.client_address[1])
                if web.status == 200:
                    web.bodies.append(body)
                self.send_response(web.status)
                self.send_header("Content-Length", "2")
                if web.close:
                    self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                """A client that has gone is no news."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.scheme = "https" if tls else "http"
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server.server_address[1]}/in?x=1"


@contextmanager
def serving(tls: Path | None = None) -> Iterator[Web]:
    web = Web(tls)
    try:
        yield web
    finally:
        web.server.shutdown()
        web.server.server_close()


def make(url: str, **keys: str) -> HttpSink:
    reading = read(HttpConfig, {"channel": "c1", "endpoint": url} | keys, "http")
    assert reading.config, reading.faults
    sink = HttpSink("k1", reading.config)
    sink.counter = SinkCounter("k1")
    return sink


def send(sink: HttpSink, *batches: Batch) -> None:
    async def steps() -> None:
        async with asyncio.timeout(30), sink:
            for one in batches:
                await sink.send(one)

    asyncio.run(steps())


class Far:
    """A server that goes away by refusing."""

    def __init__(self, web: Web) -> None:
        self.web, self.sink = web, make(web.url, **WORKS)

    async def arrived(self) -> list[str]:
        return [body.decode() for body in self.web.bodies]

    async def go_away(self) -> None:
        self.web.status = 503

    async def come_back(self) -> None:
        self.web.status = 200


class TestHttpSink(SinkContract):
    """The contract of sinks."""

    @asynccontextmanager
    async def far_side(self) -> AsyncIterator[FarSide]:  # type: ignore[override]
        with serving() as web:
            yield Far(web)


def test_a_request() -> None:
    """The body as it is, the two headers of the configuration, and one connection for all."""
    with serving() as web:
        send(make(web.url, contentTypeHeader="application/json", acceptHeader="*/*", **WORKS), *map(batch, "ab"))
        assert web.bodies == [b"a", b"b"] and len(web.peers) == 1
        assert (web.headers["Content-Type"], web.headers["Accept"]) == ("application/json", "*/*")


def test_with_flumes_defaults_200_puts_the_event_back(caplog: pytest.LogCaptureFixture) -> None:
    """As in Flume, for ever; the start warns of it and names the way out."""
    with serving() as web, pytest.raises(DeliveryError, match="answered 200, which rollback"):
        send(make(web.url), batch("a"))
    assert "Set rollback.200 = false" in caplog.text


@pytest.mark.parametrize(
    ("keys", "back"),
    [({}, True), ({"rollback.5XX": "false"}, False), ({"rollback.5XX": "false", "rollback.503": "true"}, True)],
)
def test_the_code_wins_over_its_hundred_and_that_over_the_default(keys: dict[str, str], back: bool) -> None:
    """For 503: put back, or consumed."""
    with serving() as web:
        web.status = 503
        sink = make(web.url, defaultBackoff="false", **keys)
        if back:
            with pytest.raises(DeliveryError, match="answered 503"):
                send(sink, batch("a"))
        else:
            send(sink, batch("a"))


def test_what_counts_as_delivered() -> None:
    """A code without incrementMetrics takes back the one that the runner will count."""
    with serving() as web:
        for counts, expected in (("true", 0), ("false", -1)):
            sink = make(web.url, **{**WORKS, "incrementMetrics.200": counts})
            send(sink, batch("a"))
            assert sink.counter.EventDrainSuccessCount == expected


def test_an_empty_body_is_not_posted(caplog: pytest.LogCaptureFixture) -> None:
    """It is consumed with a warning, as in Flume."""
    with serving() as web:
        send(make(web.url, **WORKS), Batch([Event({}, b"")]))
        assert not web.bodies and "without a body" in caplog.text


def test_a_server_that_answers_too_late() -> None:
    """requestTimeout: DeliveryError with the endpoint."""
    with serving() as web:
        web.delay = 1.0
        with pytest.raises(DeliveryError, match="/in"):
            send(make(web.url, requestTimeout="50ms", **WORKS), batch("a"))


def test_a_server_that_keeps_no_connection() -> None:
    """After `Connection: close` the next event has a new connection, whose answer may take requestTimeout."""
    with serving() as web:
        web.delay, web.close = 0.3, True
        send(make(web.url, connectTimeout="100ms", requestTimeout="10s", **WORKS), *map(batch, "ab"))
        assert web.came == [b"a", b"b"]


def test_what_is_given_up_is_not_posted_again() -> None:
    """A post that is cancelled on a kept connection breaks it; its thread doesn't take that for an idle one's end."""

    async def steps(web: Web, sink: HttpSink) -> None:
        async with asyncio.timeout(30), sink:
            await sink.send(batch("a"))
            web.delay = 0.5
            web.arrivals.acquire()
            sending = asyncio.create_task(sink.send(batch("b")))
            await asyncio.to_thread(web.arrivals.acquire)
            pool = sink.pool
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            await asyncio.to_thread(pool.shutdown)

    with serving() as web:
        asyncio.run(steps(web, make(web.url, **WORKS)))
        assert web.came == [b"a", b"b"]


def test_a_connection_that_comes_too_late_is_not_used() -> None:
    """Given up while it was being made: nothing is posted over it."""
    with serving() as web:
        sink = make(web.url, **WORKS)
        client = Client(sink.config, urlsplit(web.url), None)
        client.abort()
        with pytest.raises(DeliveryError):
            client.post(b"a")
        assert not web.came


def test_https_verifies_the_server(tmp_path: Path) -> None:
    """With the CA that signed its certificate it is posted to; without, nothing is sent."""
    ca = Authority(tmp_path)
    pem, _ = ca.leaf("server", "127.0.0.1")
    with serving(pem) as web:
        send(make(web.url, **WORKS, **{"ssl.truststore": str(ca.pem)}), batch("a"))
        assert web.bodies == [b"a"]
        with pytest.raises(DeliveryError, match=r"(?i)certificate"):
            send(make(web.url, **WORKS), batch("b"))
        assert web.bodies == [b"a"]


@pytest.mark.parametrize(
    "keys",
    [{"endpoint": "ftp://x/"}, {"endpoint": "http://me:pw@x/"}, {"rollback.2x": "true"}, {"ssl.truststore": "a"}],
)
def test_keys_that_are_wrong(keys: dict[str, str]) -> None:
    """Each is said before anything opens."""
    raw = {"channel": "c1", "endpoint": "http://x/"} | keys
    assert read(HttpConfig, raw, "http").config is None
