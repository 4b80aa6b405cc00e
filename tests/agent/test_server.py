"""The listener's parts that no source shows by itself."""

from __future__ import annotations

import asyncio
import logging
from typing import cast

import pytest

from agent.errors import ConfigError
from agent.server import LEAST_READ, Budget, IpFilter, Listener, Peer


class Waiting:
    """What the budget knows of a peer."""

    def __init__(self) -> None:
        self.held = self.busy = self.resumed = 0

    def resume(self) -> None:
        self.resumed += 1


def peers(count: int) -> list[Peer]:
    return [cast(Peer, Waiting()) for _ in range(count)]


def resumed(peer: Peer) -> int:
    return cast(Waiting, peer).resumed


def test_budget_pauses_all_while_channels_are_busy() -> None:
    """When calls that wait for channels fill it, nobody reads on; when they are kept, all may again."""

    async def steps() -> None:
        one, other = peers(2)
        budget = Budget(100)
        budget.count(one, 10, 100)
        assert not budget.allows(one)
        assert not budget.allows(other)
        budget.count(one, 10, 0)
        await asyncio.sleep(0)
        assert (resumed(one), resumed(other)) == (1, 1)
        assert budget.allows(one)
        assert budget.allows(other)

    asyncio.run(steps())


def test_budget_lets_one_begun_message_finish() -> None:
    """When begun messages alone fill it, the first may read on; then the next that has begun, not one that is idle."""

    async def steps() -> None:
        one, idle, other = peers(3)
        budget = Budget(100)
        budget.count(one, 60, 0)
        budget.count(other, 60, 0)
        assert budget.allows(one)
        assert not budget.allows(idle)
        assert not budget.allows(other)
        assert budget.room(one) == 100
        assert budget.room(idle) == LEAST_READ
        budget.count(one, 0, 80)
        await asyncio.sleep(0)
        assert (resumed(idle), resumed(other)) == (0, 0)
        budget.count(one, 0, 0)
        await asyncio.sleep(0)
        assert (resumed(idle), resumed(other)) == (1, 1)

    asyncio.run(steps())


def test_budget_passes_the_favour_on_when_its_peer_goes() -> None:
    """A favoured peer that is closed makes way for the next."""

    async def steps() -> None:
        one, other, third = peers(3)
        budget = Budget(100)
        for peer in (one, other, third):
            budget.count(peer, 150, 0)
        assert [budget.allows(peer) for peer in (one, other, third)] == [True, False, False]
        budget.forget(one)
        await asyncio.sleep(0)
        assert (resumed(other), resumed(third)) == (1, 0)
        assert budget.allows(other)
        assert budget.used == 300

    asyncio.run(steps())


def test_what_a_channel_still_takes_counts_after_its_peer_is_gone() -> None:
    """A client can't free its bytes by going away while they wait for a channel."""

    async def steps() -> None:
        (one,) = peers(1)
        budget = Budget(100)
        budget.count(one, 20, 70)
        budget.forget(one)
        assert budget.used == 70
        budget.count(one, 0, 0)
        assert budget.used == 0

    asyncio.run(steps())


@pytest.mark.parametrize("rule", ["deny", "deny:ip", "deny:ip:", "refuse:ip:*", "deny:mac:*", "deny:ip:10.0.0.0/8"])
def test_rules_that_are_none(rule: str) -> None:
    """A rule that can't be read is named."""
    with pytest.raises(ConfigError, match=rule):
        IpFilter(f"allow:ip:1.2.3.4, {rule}")


@pytest.mark.parametrize(
    ("rules", "address", "admitted"),
    [
        ("allow:ip:10.*, deny:ip:*", "10.1.2.3", True),
        ("allow:ip:10.*, deny:ip:*", "11.1.2.3", False),
        ("deny:ip:fe80*", "FE80::1", False),
        ("deny:name:*", "127.0.0.1", False),
        ("allow:name:localhost,deny:ip:*", "::1", True),
        ("", "1.2.3.4", True),
    ],
)
def test_rules(rules: str, address: str, admitted: bool) -> None:
    """The first rule that matches decides, whatever the case; loopback is also named localhost."""
    assert asyncio.run(IpFilter(rules).admits(address)) == admitted


def test_a_taken_port_is_a_config_error() -> None:
    """An address that can't be had is named, with the system's reason."""

    async def steps() -> None:
        log = logging.getLogger("test")

        def listener(bind: str, port: int) -> Listener:
            return Listener(log, cast("type[Peer]", Peer), bind=bind, port=port, max_connections=1, max_held=1)

        first = listener("127.0.0.1", 0)
        await first.open()
        with pytest.raises(ConfigError, match=f"127.0.0.1:{first.port}: Address already in use"):
            await listener("127.0.0.1", first.port).open()
        with pytest.raises(ConfigError, match=r"no\.such\.host\.invalid"):
            await listener("no.such.host.invalid", 0).open()
        await first.close()

    asyncio.run(steps())


def test_complaints_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """Many peers that do wrong at once are one line."""
    one = Listener(logging.getLogger("test"), Peer, bind="", port=0, max_connections=1, max_held=1)

    async def steps() -> None:
        for number in range(100):
            one.complain(f"peer {number} is odd")

    asyncio.run(steps())
    assert [record.getMessage() for record in caplog.records] == ["peer 0 is odd"]
