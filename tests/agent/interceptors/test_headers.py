"""The interceptors that set a header: timestamp, host, static, uuid."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable

import pytest

from agent import clock
from agent.event import Batch, Event
from agent.interceptor import Interceptor
from agent.interceptors.host import HostConfig, HostInterceptor
from agent.interceptors.static import StaticConfig, StaticInterceptor
from agent.interceptors.timestamp import TimestampConfig, TimestampInterceptor
from agent.interceptors.uuid import UuidConfig, UuidInterceptor
from agent.store.streams import Identity


def timestamp(name: str, keep: bool) -> Interceptor:
    return TimestampInterceptor("i1", TimestampConfig(headerName=name, preserveExisting=keep))


def host(name: str, keep: bool) -> Interceptor:
    interceptor = HostInterceptor("i1", HostConfig(hostHeader=name, preserveExisting=keep))
    asyncio.run(interceptor.open())
    return interceptor


def static(name: str, keep: bool) -> Interceptor:
    return StaticInterceptor("i1", StaticConfig(header=name, preserveExisting=keep))


def uuid(name: str, keep: bool) -> Interceptor:
    return UuidInterceptor("i1", UuidConfig(headerName=name, preserveExisting=keep))


MAKERS = [timestamp, host, static, uuid]
Maker = Callable[[str, bool], Interceptor]


def batch(*headers: dict[str, str]) -> Batch:
    events = [Event(one, b"%d" % i) for i, one in enumerate(headers)]
    return Batch(events, identity=(Identity(b"o" * 16, 1, len(events)),))


@pytest.mark.parametrize("make", MAKERS)
def test_a_header_is_set_beside_the_others(make: Maker) -> None:
    """Bodies, other headers, identity and the given batch stay as they were."""
    before = batch({"a": "1"}, {})
    after = make("h", False).intercept(before)
    assert [set(event.headers) for event in after.events] == [{"a", "h"}, {"h"}]
    assert [event.body for event in after.events] == [b"0", b"1"]
    assert after.events[0].headers["a"] == "1" and after.identity == before.identity
    assert before.events[0].headers == {"a": "1"} and before.events[1].headers == {}


@pytest.mark.parametrize("make", MAKERS)
def test_what_is_there_may_stay(make: Maker) -> None:
    """preserveExisting = true keeps a header that is there and sets it elsewhere; false replaces it."""
    both = batch({"h": "mine"}, {})
    kept = [event.headers["h"] for event in make("h", True).intercept(both).events]
    assert kept[0] == "mine" and kept[1] != "mine"
    assert "mine" not in [event.headers["h"] for event in make("h", False).intercept(both).events]


@pytest.mark.parametrize("make", MAKERS)
def test_nothing_to_change_is_the_same_object(make: Maker) -> None:
    """A batch whose events all have the header is handed on as it is."""
    whole = batch({"h": "x"}, {"h": "y"})
    assert make("h", True).intercept(whole) is whole


def test_the_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """ms since the epoch; this host's address; `value`; a version 4 UUID behind its prefix."""
    monkeypatch.setattr(clock, "wall_ms", lambda: 1700000000123)
    one = batch({})
    assert timestamp("t", False).intercept(one).events[0].headers == {"t": "1700000000123"}
    assert host("h", False).intercept(one).events[0].headers == {"h": socket.gethostbyname(socket.gethostname())}
    assert StaticInterceptor("i1", StaticConfig()).intercept(one).events[0].headers == {"key": "value"}
    [event] = UuidInterceptor("i1", UuidConfig(prefix="p-")).intercept(one).events
    assert re.fullmatch(r"p-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", event.headers["id"])


def test_a_host_without_an_address(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Where the look-up fails events pass as they are, and one line says so."""

    def fails(name: str) -> str:
        raise OSError("no address")

    monkeypatch.setattr(socket, "gethostbyname", fails)
    whole = batch({})
    assert host("h", False).intercept(whole) is whole
    assert "no address" in caplog.text


def test_the_name_of_a_host() -> None:
    """useIP = false gives the canonical name."""
    interceptor = HostInterceptor("i1", HostConfig(useIP=False))
    asyncio.run(interceptor.open())
    assert interceptor.intercept(batch({})).events[0].headers == {"host": socket.getfqdn(socket.gethostname())}
