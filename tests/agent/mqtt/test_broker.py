"""EmbeddedBroker: a broker for a demo and for tests."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from agent.broker import EmbeddedBroker
from agent.errors import AgentError
from agent.mqtt.connection import Connection
from agent.mqtt.settings import address
from tests.needs import need


@pytest.mark.parametrize(("kind", "version"), [("mosquitto", 5), ("mosquitto", 3), ("amqtt", 3)])
def test_it_serves_and_leaves(tmp_path: Path, kind: str, version: int) -> None:
    """It answers on its port inside the block, and not after it; of mosquitto no process stays."""
    if kind == "mosquitto":
        need(kind)

    async def run() -> tuple[EmbeddedBroker, int]:
        async with EmbeddedBroker(tmp_path, kind=kind) as broker:
            async with Connection(address(broker.url), "c", version=version, clean=True):
                pass
            return broker, broker.pid

    broker, pid = asyncio.run(run())
    if pid != os.getpid():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    async def again() -> None:
        async with Connection(address(broker.url), "c", version=version, clean=True):
            pass

    with pytest.raises(OSError):
        asyncio.run(again())


def test_a_broker_that_cannot_start_is_told(tmp_path: Path) -> None:
    """A setting that mosquitto refuses ends in an error with its own words."""
    need("mosquitto")
    with pytest.raises(AgentError, match="no_such_setting"):
        asyncio.run(EmbeddedBroker(tmp_path, extra="no_such_setting 1\n").start())
