"""Addresses and reasons as people read them."""

from __future__ import annotations

import asyncio

import pytest

from agent.ports import reason, spelled
from tests.peers.harness import free_port


@pytest.mark.parametrize(("host", "text"), [("h", "h:1"), ("::1", "[::1]:1"), ("127.0.0.1", "127.0.0.1:1")])
def test_an_ipv6_address_stands_in_brackets(host: str, text: str) -> None:
    """Where an address has colons, the port stays apart from it."""
    assert spelled(host, 1) == text


@pytest.mark.parametrize(
    ("host", "says"), [("127.0.0.1", "Connection refused"), ("no.invalid", "not known|resolution")]
)
def test_why_a_connection_failed(host: str, says: str) -> None:
    """The operating system's words, not asyncio's."""
    with pytest.raises(OSError) as caught:
        asyncio.run(asyncio.wait_for(asyncio.open_connection(host, free_port()), 30))
    assert "Connect call" not in reason(caught.value)
    assert any(word in reason(caught.value) for word in says.split("|"))


def test_why_each_address_of_a_name_failed() -> None:
    """A name with several addresses has a reason for each."""
    error = OSError(
        "Multiple exceptions: [Errno 111] Connect call failed ('::1', 1), [Errno 113] Connect call failed ('h', 1)"
    )
    assert reason(error) == "Multiple exceptions: Connection refused ('::1', 1), No route to host ('h', 1)"
