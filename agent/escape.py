"""Flume's escape sequences: a pattern such as `plant/%{topic}/%Y-%m-%d`, filled in for each event.

    %{name}   the header `name`, nothing if it is missing        %[localhost] %[IP] %[FQDN]   this host
    %t        the `timestamp` header as it is (ms)               %s   the same in seconds, rounded if asked for
    %a %A Tue Tuesday      %b %B Nov November      %c Tue Nov 14 23:13:20 2023      %D 11/14/23
    %d %e day, 2 digits or plain    %m %n month    %H %k hour 0-23    %I %l hour 1-12    %j day of the year
    %M minute   %S second   %p AM or PM   %y %Y year, 2 or 4 digits   %z +0100   %% %   any other letter: nothing

Flume 1.11: org.apache.flume.formatter.output.BucketPath; the table was compared with its output. Time is local.
Where it stops at an event without a `timestamp`, and tries that one for ever, the time of writing counts here.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping
from datetime import datetime, tzinfo
from functools import lru_cache

from agent import clock
from agent.event import stamp_in

TAG = re.compile(r"%(\w|%)|%\{([\w.-]+)\}|%\[(\w+)\]", re.ASCII)
HOSTS: dict[str, Callable[[], str]] = {
    "localhost": socket.gethostname,
    "ip": lambda: socket.gethostbyname(socket.gethostname()),
    "fqdn": socket.getfqdn,
}
STRFTIME = {letter: f"%{letter}" for letter in "aAbBdjHImMpSyYz"} | {"c": "%a %b %-d %H:%M:%S %Y", "D": "%m/%d/%y"}
PLAIN: dict[str, Callable[[datetime], int]] = {
    "e": lambda when: when.day,
    "n": lambda when: when.month,
    "k": lambda when: when.hour,
    "l": lambda when: when.hour % 12 or 12,
}
LATEST_MS = 253_402_214_400_000
"""31 December 9999, the last day a calendar here knows."""


class Escape:
    """A compiled pattern. `rounding`: of a time in ms, for all letters but %t. ValueError from the constructor: an
    unknown %[function]."""

    def __init__(self, pattern: str, zone: tzinfo | None = None, rounding: Callable[[int], int] | None = None) -> None:
        self.pattern, self.zone, self.rounding = pattern, zone, rounding
        self.parts: list[tuple[str, str]] = []
        """(kind, text): kind is `text`, `header` or `time`."""
        self.missed = 0
        """Events so far whose `timestamp` was missing or unreadable."""
        at = 0
        for match in TAG.finditer(pattern):
            self._text(pattern[at : match.start()])
            letter, header, host = match.groups()
            if host:
                self._text(_host(host))
            elif header:
                self.parts.append(("header", header))
            elif letter == "%":
                self._text("%")
            else:
                self.parts.append(("time", letter))
            at = match.end()
        self._text(pattern[at:])

    def _text(self, text: str) -> None:
        if text:
            self.parts.append(("text", text))

    @property
    def fixed(self) -> str | None:
        """The text, if it is the same for every event."""
        return None if any(kind != "text" for kind, _ in self.parts) else "".join(text for _, text in self.parts)

    def expand(self, headers: Mapping[str, str], now: int | None = None) -> str:
        """The text for one event. Header values come as they are: whoever makes a path of it must look at them. `now`:
        the time (ms) that counts instead of the header `timestamp`."""
        out, when, second = [], None, 0
        for kind, text in self.parts:
            if kind == "text":
                out.append(text)
            elif kind == "header":
                out.append(headers.get(text, ""))
            else:
                if when is None:
                    when = self._when(headers) if now is None else now
                    second = (self.rounding(when) if self.rounding else when) // 1000
                out.append(str(when) if text == "t" else time_text(second, text, self.zone))
        return "".join(out)

    def _when(self, headers: Mapping[str, str]) -> int:
        stamp = stamp_in(headers, LATEST_MS)
        if stamp is not None:
            return stamp
        self.missed += 1
        return clock.wall_ms()


def _host(function: str) -> str:
    try:
        return HOSTS[function.lower()]()
    except KeyError:
        raise ValueError(f"%[{function}] is no escape; there are %[localhost], %[IP] and %[FQDN]") from None


@lru_cache(maxsize=4096)
def time_text(second: int, letter: str, zone: tzinfo | None) -> str:
    """What `%letter` is at a second since the epoch."""
    if letter == "s":
        return str(second)
    when = datetime.fromtimestamp(second, zone).astimezone(zone)
    if letter in PLAIN:
        return str(PLAIN[letter](when))
    return when.strftime(STRFTIME[letter]) if letter in STRFTIME else ""
