"""The little of HTTP/1.1 that the metrics port speaks: one request without a body comes, one answer goes.

What comes is data of strangers, also of a browser that a page of another site sends here: nothing is decoded twice, an
encoded slash never becomes one that divides a path, and every answer says that it is no script, no style and no frame.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncGenerator, Mapping
from typing import NamedTuple
from urllib.parse import unquote

MAX_HEAD = 8192
"""Bytes of request line and headers."""
PIECE = 64 << 10
"""Bytes that are given to a connection at once."""
JSON, TEXT, HTML, EVENTS = (
    "application/json;charset=utf-8",
    "text/plain; version=0.0.4; charset=utf-8",
    "text/html;charset=utf-8",
    "text/event-stream",
)
REASONS = {
    200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    431: "Request Header Fields Too Large", 500: "Internal Server Error", 503: "Service Unavailable",
}  # fmt: skip
GUARDS = (
    "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
    "Content-Security-Policy: default-src 'none'; frame-ancestors 'none'\r\nConnection: close\r\n\r\n"
)


class Request(NamedTuple):
    """A request without its body."""

    method: str
    path: str
    """As it was sent, without query and without slashes at its end."""
    parts: tuple[str, ...]
    """What is between the slashes, percent-decoded."""
    query: Mapping[str, str]
    """Percent-decoded; a `+` is one, as in 2026-11-27T12:00+01:00. Of a name that comes twice the last."""
    headers: Mapping[str, str]
    """By names in small letters."""
    local: bool
    """The client is on this machine, or behind a proxy or tunnel that is."""

    def prefers(self, *kinds: str) -> str:
        """The one of these media types that the header Accept names first; empty if it names none."""
        wanted = [part.partition(";")[0].strip().lower() for part in self.headers.get("accept", "").split(",")]
        return next((one for one in wanted if one in kinds), "")

    @property
    def by_address(self) -> bool:
        """Whether it calls this server by an address or as localhost. A browser that was led here by a foreign name
        which resolves to this machine (DNS rebinding) does not."""
        host = self.headers.get("host", "").strip().lower()
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        return name in ("", "localhost") or name.endswith(".localhost") or _address(name) is not None


class Page(NamedTuple):
    """An answer. A body that is a generator is sent as it comes, until it ends or the client goes."""

    status: int
    kind: str
    body: str | AsyncGenerator[str, None]


def text(status: int, line: str) -> Page:
    """One line for people."""
    return Page(status, TEXT, line + "\n")


def parse(head: str, address: str = "") -> Request:
    """A request's head, from a client at this address. ValueError says what is wrong."""
    line, *lines = head.split("\r\n")
    words = line.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise ValueError("this port speaks HTTP/1.1")
    target, _, query = words[1].partition("?")
    path = target.rstrip("/")
    headers = {name.strip().lower(): value.strip() for name, _, value in (one.partition(":") for one in lines)}
    try:
        parts = tuple(unquote(part, errors="strict") for part in path.split("/")[1:])
        return Request(words[0], path, parts, _query(query), headers, is_loopback(address))
    except UnicodeDecodeError:
        raise ValueError("what is percent-encoded must be UTF-8") from None


def _query(text: str) -> dict[str, str]:
    pairs = (one.partition("=") for one in text.split("&") if one)
    return {unquote(name, errors="strict"): unquote(value, errors="strict") for name, _, value in pairs}


def is_loopback(address: str) -> bool:
    """Whether this address, as of `getpeername`, is this machine's own."""
    found = _address(address.partition("%")[0].removeprefix("::ffff:"))
    return found is not None and found.is_loopback


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def head_of(page: Page) -> bytes:
    """Status line and headers; a body whose length isn't known ends with the connection."""
    length = f"Content-Length: {len(page.body.encode())}\r\n" if isinstance(page.body, str) else ""
    return f"HTTP/1.1 {page.status} {REASONS[page.status]}\r\nContent-Type: {page.kind}\r\n{length}{GUARDS}".encode()


async def read_head(reader: asyncio.StreamReader) -> str:
    """Request line and headers; empty if they are longer than the reader's limit."""
    try:
        return (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.LimitOverrunError:
        return ""


async def send(writer: asyncio.StreamWriter, data: bytes, seconds: float) -> None:
    """Piece by piece; the loop gets its turn in between. TimeoutError: the client did not take one for so long."""
    for at in range(0, len(data), PIECE):
        writer.write(data[at : at + PIECE])
        async with asyncio.timeout(seconds):
            await writer.drain()
        await asyncio.sleep(0)
