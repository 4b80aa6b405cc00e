"""The little HTTP: what a head means, and from where it came."""

from __future__ import annotations

import pytest

from agent.http import Page, Request, head_of, is_loopback, parse


def asked(line: str, **headers: str) -> Request:
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return parse("\r\n".join([line, *lines, "", ""]))


def test_a_request() -> None:
    """Method, path without slashes at its end, its parts, the query, headers by small names."""
    request = asked("GET /topics/a.b/?last=3&from HTTP/1.1", Last_Event_ID=" 0:1 ", HOST="x")
    assert (request.method, request.path, request.parts) == ("GET", "/topics/a.b", ("topics", "a.b"))
    assert request.query == {"last": "3", "from": ""}
    assert (request.headers["last-event-id"], request.headers["host"]) == ("0:1", "x")


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("/", ()),
        ("/a%2Fb/c", ("a/b", "c")),
        ("/%2566", ("%66",)),
        ("/a+b", ("a+b",)),
        ("/s%C3%BCd", ("süd",)),
        ("//a", ("", "a")),
    ],
)
def test_decoded_once(path: str, parts: tuple[str, ...]) -> None:
    """An encoded slash divides nothing, what was encoded twice stays encoded once."""
    assert asked(f"GET {path} HTTP/1.1").parts == parts


def test_a_plus_in_a_query() -> None:
    """It is one, as in the offset of a time."""
    assert asked("GET /?from=2026-11-27T12:00+01:00&a%26b=%3D HTTP/1.1").query == {
        "from": "2026-11-27T12:00+01:00", "a&b": "=",
    }  # fmt: skip


@pytest.mark.parametrize(
    "line", ["GET /", "GET / HTTP/2", "GET / x HTTP/1.1", "", "GET /%FF HTTP/1.1", "GET /?%C3=1 HTTP/1.1"]
)
def test_what_is_none(line: str) -> None:
    """Three words, version 1, UTF-8 under what is percent-encoded."""
    with pytest.raises(ValueError, match=r"speaks HTTP/1\.1|must be UTF-8"):
        asked(line)


@pytest.mark.parametrize(
    ("host", "by_address"),
    [
        ("localhost:41415", True),
        ("127.0.0.1:41415", True),
        ("[::1]:41415", True),
        ("192.0.2.7", True),
        ("headrace.localhost", True),
        ("", True),
        ("evil.example:41415", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("[evil]", False),
    ],
)
def test_a_foreign_name(host: str, by_address: bool) -> None:
    """Only an address and localhost can't be made to lead here by somebody else."""
    assert asked("GET / HTTP/1.1", Host=host).by_address is by_address


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("192.0.2.7", False),
        ("::ffff:192.0.2.7", False),
        ("fe80::1%eth0", False),
        ("", False),
    ],
)
def test_this_machine(address: str, local: bool) -> None:
    """Loopback of both kinds, also an IPv4 one on an IPv6 socket."""
    assert is_loopback(address) is local


@pytest.mark.parametrize(
    ("accept", "preferred"),
    [
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html"),
        ("*/*", "*/*"),
        ("application/json, text/html", "application/json"),
        ("Text/HTML;q=1", "text/html"),
        ("image/png", ""),
    ],
)
def test_what_is_preferred(accept: str, preferred: str) -> None:
    """The first that is named of those that there are."""
    assert asked("GET / HTTP/1.1", Accept=accept).prefers("text/html", "application/json", "*/*") == preferred


def test_guards() -> None:
    """No answer is taken for something else, runs a script or stands in a frame."""
    head = head_of(Page(200, "text/html", "ü")).decode()
    assert "X-Content-Type-Options: nosniff" in head
    assert "Content-Security-Policy: default-src 'none'; frame-ancestors 'none'" in head
    assert "Content-Length: 2\r\n" in head
