"""Escape sequences; the expected texts are those of Flume 1.11's BucketPath in the zone Europe/Rome."""

from __future__ import annotations

import socket
from zoneinfo import ZoneInfo

import pytest

from agent import clock
from agent.escape import Escape

HEADERS = {"topic": "v", "b": "v", "empty": "", "timestamp": "1700000000123"}


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("%a %A %b %B", "Tue Tuesday Nov November"),
        ("%c", "Tue Nov 14 23:13:20 2023"),
        ("%D", "11/14/23"),
        ("%d %e %j", "14 14 318"),
        ("%H %I", "23 11"),
        ("%k %l", "23 11"),
        ("%m %n %M %p %S", "11 11 13 PM 20"),
        ("%y %Y %z", "23 2023 +0100"),
        ("[%%] [%q] [%s] [%t]", "[%] [] [1700000000] [1700000000123]"),
        ("%{topic} %{nope}|%{empty} %{} %", "v | %{} %"),
        ("%Y%m%{b}/%x-%_", "202311v/-"),
        ("100%", "100%"),
    ],
)
def test_the_table(pattern: str, text: str) -> None:
    """Each escape gives what Flume gives."""
    assert Escape(pattern, ZoneInfo("Europe/Rome")).expand(HEADERS) == text


def test_hosts() -> None:
    """%[...] is this host, in any case; another function is named with those that there are."""
    assert (
        Escape("%[localhost]/%[FQDN]/%[fqdn]").fixed == f"{socket.gethostname()}/{socket.getfqdn()}/{socket.getfqdn()}"
    )
    with pytest.raises(ValueError, match=r"%\[nope\].*%\[localhost\], %\[IP\] and %\[FQDN\]"):
        Escape("%[nope]")


def test_fixed() -> None:
    """A pattern is fixed exactly if it is the same for every event."""
    assert Escape("a/b%%").fixed == "a/b%"
    assert Escape("a/%{b}").fixed is None
    assert Escape("a/%Y").fixed is None


@pytest.mark.parametrize("stamp", [None, "", "abc", "-1", "9" * 17, "²", "253402214400001"])
def test_without_a_usable_timestamp(stamp: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event without one goes by the time of writing, and is counted."""
    monkeypatch.setattr(clock, "wall_ms", lambda: 1700000000123)
    escape = Escape("%s", ZoneInfo("Europe/Rome"))
    assert escape.expand({} if stamp is None else {"timestamp": stamp}) == "1700000000"
    assert escape.missed == 1
