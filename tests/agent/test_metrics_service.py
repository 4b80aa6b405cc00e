"""The metrics service: Flume's JSON, Prometheus text, health and readiness, and its bounds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

import pytest

from agent.config.fields import Config
from agent.errors import ConfigError
from agent.http import Page, Request
from agent.metrics import ChannelCounter, Metrics, SinkCounter, SourceCounter
from agent.service import Service
from agent.services import metrics as module
from agent.services.metrics import MetricsConfig, MetricsService
from tests.peers.harness import ROOT

T = TypeVar("T")


def counted() -> Metrics:
    metrics = Metrics()
    source = metrics.counter(SourceCounter, "r1")
    source.EventReceivedCount = 7
    channel = metrics.counter(ChannelCounter, "c1")
    channel.ChannelSize, channel.ChannelFillPercentage, channel.bytes = 3, 0.3, 245
    metrics.counter(SinkCounter, "k1")
    return metrics


def service(
    metrics: Metrics | None = None, ready: bool = True, port: int = 0, bind: str = "127.0.0.1"
) -> MetricsService:
    made = MetricsService("web", MetricsConfig(bind=bind, port=port))
    made.metrics, made.ready = metrics or counted(), lambda: ready
    return made


async def ask(port: int, request: str) -> tuple[str, str, str]:
    """(status line, headers, body) of one raw request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request.encode())
    data = (await asyncio.wait_for(reader.read(), 20)).decode()
    writer.close()
    head, _, body = data.partition("\r\n\r\n")
    status, _, headers = head.partition("\r\n")
    return status, headers, body


def get(
    path: str, made: MetricsService | None = None, accept: str = "*/*", method: str = "GET"
) -> tuple[str, str, str]:
    async def talk(port: int) -> tuple[str, str, str]:
        return await ask(port, f"{method} {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n")

    return served(made or service(), talk)


def served(made: MetricsService, talk: Callable[[int], Awaitable[T]]) -> T:
    async def main() -> T:
        async with made:
            serving = asyncio.create_task(made.run())
            try:
                return await talk(made.port)
            finally:
                serving.cancel()

    return asyncio.run(main())


def test_every_address_of_both_kinds() -> None:
    """bind = :: answers over IPv4 too, as a source does there."""
    assert get("/readyz", service(bind="::"))[0] == "HTTP/1.1 200 OK"


def test_ipv6_stands_in_brackets(caplog: pytest.LogCaptureFixture) -> None:
    """What it says at start is a URL."""
    caplog.set_level("INFO")

    async def nothing(port: int) -> int:
        return port

    port = served(service(bind="::1"), nothing)
    assert f"http://[::1]:{port}/ serves" in caplog.text


def test_metrics_are_flumes_json() -> None:
    """/metrics is one object of TYPE.name with members that are all strings, by Flume's names."""
    status, headers, body = get("/metrics")
    shown = json.loads(body)
    assert status == "HTTP/1.1 200 OK" and "application/json;charset=utf-8" in headers
    assert list(shown) == ["SOURCE.r1", "CHANNEL.c1", "SINK.k1"]
    assert shown["SOURCE.r1"]["EventReceivedCount"] == "7" and shown["SOURCE.r1"]["Type"] == "SOURCE"
    assert set(shown["CHANNEL.c1"]) == {"Type", "StartTime", "StopTime", *ChannelCounter.FLUME}
    assert shown["CHANNEL.c1"]["ChannelFillPercentage"] == "0.3"
    assert all(isinstance(value, str) for member in shown.values() for value in member.values())


def test_path_ignores_case() -> None:
    """Flume's server takes /Metrics too."""
    assert json.loads(get("/MeTrics?x=1")[2])


@pytest.mark.parametrize(("path", "accept"), [("/metrics", "text/plain"), ("/metrics/prometheus", "*/*")])
def test_prometheus_text(path: str, accept: str) -> None:
    """Prometheus text comes for Accept: text/plain and on its own path, with depth in events and bytes."""
    status, headers, body = get(path, accept=accept)
    assert status.endswith("200 OK") and "text/plain; version=0.0.4" in headers
    assert "# TYPE headrace_source_event_received_total counter" in body
    assert 'headrace_source_event_received_total{component="r1"} 7' in body
    assert "# TYPE headrace_channel_events gauge" in body
    assert 'headrace_channel_events{component="c1"} 3' in body
    assert 'headrace_channel_bytes{component="c1"} 245' in body
    assert 'headrace_channel_oldest_seconds{component="c1"} 0' in body


def test_a_prometheus_family_is_declared_once() -> None:
    """Two channels share one HELP and one TYPE line, and the family's samples follow each other."""
    metrics = counted()
    metrics.counter(ChannelCounter, 'c"2').ChannelSize = 9
    lines = get("/metrics/prometheus", service(metrics))[2].splitlines()
    at = lines.index("# TYPE headrace_channel_events gauge")
    assert lines[at + 1 : at + 3] == [
        'headrace_channel_events{component="c1"} 3',
        'headrace_channel_events{component="c\\"2"} 9',
    ]
    assert sum("TYPE headrace_channel_events " in line for line in lines) == 1


def test_readyz_names_the_reasons() -> None:
    """Until every source listens /readyz is 503 and says which component waits for what."""
    metrics = counted()
    for counter in metrics.counters.values():
        counter.say("running")
    metrics.counter(SinkCounter, "k1").say("waiting: connection refused")
    status, _, body = get("/readyz", service(metrics, ready=False))
    assert status == "HTTP/1.1 503 Service Unavailable" and body == "sink k1: waiting: connection refused\n"
    assert get("/readyz")[2] == "ready\n"


def test_healthz_sees_a_stalled_store() -> None:
    """/healthz is 200, and 503 once a store's commit has been under way for more than a minute."""
    assert get("/healthz")[0].endswith("200 OK")
    metrics = counted()
    metrics.counter(ChannelCounter, "c1").gauges["stalled_seconds"] = lambda: 61.0
    status, _, body = get("/healthz", service(metrics))
    assert status.split()[1] == "503" and "channel c1" in body


def test_status_is_for_the_tool() -> None:
    """/status gives each component's state and numbers as JSON."""
    shown = json.loads(get("/status")[2])
    assert shown["ready"] is True
    assert [(c["kind"], c["name"]) for c in shown["components"]] == [
        ("source", "r1"),
        ("channel", "c1"),
        ("sink", "k1"),
    ]
    assert shown["components"][1]["ChannelSize"] == 3


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("TRACE", "/metrics", 403), ("OPTIONS", "/", 403), ("POST", "/metrics", 405), ("GET", "/nothing", 404)],
)
def test_refusals(method: str, path: str, status: int) -> None:
    """TRACE and OPTIONS are forbidden as in Flume, other methods not allowed, other paths not found."""
    assert get(path, method=method)[0].split()[1] == str(status)


def test_head_has_no_body() -> None:
    """HEAD answers the length and no body."""
    status, headers, body = get("/healthz", method="HEAD")
    assert status.endswith("200 OK") and "Content-Length: 6" in headers and body == ""


def test_index_links_every_page() -> None:
    """/ is a small page that links the others."""
    assert all(page in get("/")[2] for page in module.PAGES)


class Other(Service):
    """A service that has pages: /other/WHAT."""

    pages = ("/other",)

    def __init__(self) -> None:
        super().__init__("other", Config())
        self.asked: list[Request] = []
        self.open_streams = 0

    async def page(self, request: Request) -> Page | None:
        self.asked.append(request)
        match request.parts:
            case ("other", "stream"):
                return Page(200, "text/event-stream", self.ticks())
            case ("other", "short"):
                return Page(200, "text/event-stream", self.ticks(2))
            case ("other", "slow"):
                await asyncio.sleep(60)
            case ("other", "bug"):
                raise RuntimeError("a bug")
            case ("other", *_):
                return Page(200, "text/plain", "x" * 1_000_000)
        return None

    async def ticks(self, count: int | None = None) -> AsyncGenerator[str, None]:
        self.open_streams += 1
        try:
            at = 0
            while at != count:
                yield f"tick {at}\n" + "x" * 10_000
                at += 1
                await asyncio.sleep(0.001)
        finally:
            self.open_streams -= 1


def with_other() -> tuple[MetricsService, Other]:
    made, other = service(), Other()
    made.services = lambda: {"web": made, "other": other}
    return made, other


async def begin(port: int, path: str = "/other/stream") -> tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter]:
    """(status line, the rest, the way to the server) of a stream."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\n\r\n".encode())
    return await reader.readline(), reader, writer


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110 (of whatever it asks)
            await asyncio.sleep(0.005)


def test_pages_of_others() -> None:
    """A path that it doesn't know is offered to the other services, decoded, with the client's place."""
    made, other = with_other()
    status, headers, body = get("/other/%2525?a=1", made)
    assert status.endswith("200 OK") and "Content-Length: 1000000" in headers and len(body) == 1_000_000
    [request] = other.asked
    assert (request.parts, request.query, request.local) == (("other", "%25"), {"a": "1"}, True)


def test_its_own_pages_come_first() -> None:
    """Nobody else is asked for them."""
    made, other = with_other()
    assert get("/healthz", made)[2] == "alive\n" and not other.asked


def test_others_are_named() -> None:
    """The index links what others have, and a 404 names it."""
    assert '<a href="./other">/other</a>' in get("/", with_other()[0])[2]
    assert get("/nothing", with_other()[0])[2].endswith("/status, /other\n")


@pytest.mark.parametrize(("path", "status"), [("/other/slow", "503"), ("/other/bug", "500"), ("/other/%ff", "400")])
def test_pages_that_fail(path: str, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes too long or fails is an answer, too."""
    monkeypatch.setattr(module, "TIMEOUT", 0.1)
    assert get(path, with_other()[0])[0].split()[1] == status


def test_a_stream_ends() -> None:
    """What is streamed is sent without a length, and the connection ends with it."""
    status, headers, body = get("/other/short", with_other()[0])
    assert status.endswith("200 OK") and "Content-Length" not in headers
    assert body.replace("x", "") == "tick 0\ntick 1\n"


def test_head_of_a_stream() -> None:
    """It has no body, and doesn't last."""
    assert get("/other/stream", with_other()[0], method="HEAD")[2] == ""


def test_streams_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One above the bound is told so, and pages are still served; when a client goes, there is room again."""
    monkeypatch.setattr(module, "MAX_STREAMS", 1)
    made, other = with_other()

    async def talk(port: int) -> None:
        _, _, first = await begin(port)
        await until(lambda: other.open_streams)
        refused, reader, _ = await begin(port)
        assert refused.split()[1] == b"503" and b"1 clients are reading" in await reader.read()
        assert (await ask(port, "GET /healthz HTTP/1.1\r\n\r\n"))[2] == "alive\n"
        first.close()
        await until(lambda: not made.streams and not other.open_streams)
        status, _, last = await begin(port)
        assert status.split()[1] == b"200"
        last.close()

    served(made, talk)


def test_a_client_that_reads_nothing_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its stream ends when it has taken nothing for the timeout; no more is held for it than one piece."""
    monkeypatch.setattr(module, "TIMEOUT", 0.3)
    made, other = with_other()

    async def talk(port: int) -> None:
        _, reader, writer = await begin(port)
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await until(lambda: made.streams)
        [stream] = made.streams
        most = 0
        async with asyncio.timeout(20):
            while made.streams:
                most = max(most, stream.transport.get_write_buffer_size())
                await asyncio.sleep(0.005)
        assert not other.open_streams and most < 200_000
        writer.close()

    served(made, talk)


def test_closing_ends_streams() -> None:
    """The service doesn't wait for who reads a stream."""
    made, other = with_other()

    async def talk(port: int) -> None:
        _, reader, writer = await begin(port)
        await until(lambda: other.open_streams)
        await made.close()
        await until(lambda: not made.streams and not other.open_streams)
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    served(made, talk)


def test_other_bytes_are_answered_400() -> None:
    """What is no HTTP gets a 400."""
    assert served(service(), lambda port: ask(port, "\0\1\2\r\n\r\n"))[0].split()[1] == "400"


def test_an_endless_request_is_cut() -> None:
    """A request longer than the bound gets 431 before it is all read."""
    assert served(service(), lambda port: ask(port, "GET / HTTP/1.1\r\nX: " + "x" * 20_000))[0].split()[1] == "431"


def test_a_slow_client_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that doesn't finish its request within the limit is closed without an answer."""
    monkeypatch.setattr(module, "TIMEOUT", 0.05)
    assert served(service(), lambda port: ask(port, "GET / HT")) == ("", "", "")


def test_connections_are_bounded_and_others_served_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle connections up to the bound keep their place, one more is closed; when they go, others are served."""
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 2)

    async def talk(port: int) -> tuple[bytes, str]:
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        refused = await reader.read()
        for _, held in [*idle, (reader, writer)]:
            held.close()
            await held.wait_closed()
        while True:
            status = (await ask(port, "GET /healthz HTTP/1.1\r\n\r\n"))[0]
            if status:
                return refused, status

    refused, status = served(service(), talk)
    assert refused == b"" and status.endswith("200 OK")


def test_a_taken_port_is_named() -> None:
    """A port that somebody has is an error with the address."""

    async def main() -> None:
        async with service() as first:
            with pytest.raises(ConfigError, match=f"127.0.0.1:{first.port}"):
                await service(port=first.port).open()

    asyncio.run(main())


def test_every_metric_of_the_documentation_is_there() -> None:
    """Each metric that docs/operations.md names is in the Prometheus text."""
    page = (ROOT / "docs" / "operations.md").read_text()
    named = set(re.findall(r"`(headrace_\w+)`", page))
    shown = set(re.findall(r"^(headrace_\w+)", get("/metrics/prometheus")[2], re.MULTILINE))
    assert len(named) > 20 and named <= shown
