"""null takes everything."""

from __future__ import annotations

import asyncio
import logging

import pytest

from agent.event import Batch
from agent.sinks.null import NullConfig, NullSink


def test_it_counts_and_never_decodes(caplog: pytest.LogCaptureFixture) -> None:
    """A block that is no Avro at all is taken; one line each time logEveryNEvents more have gone."""
    sink = NullSink("k1", NullConfig(channel="c1", batchSize=7, logEveryNEvents=10))
    assert sink.batch_size == 7

    async def steps() -> None:
        async with sink:
            for _ in range(5):
                await sink.send(Batch(None, b"\xff", 6))

    with caplog.at_level(logging.INFO):
        asyncio.run(steps())
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == [
        "12 events so far",
        "24 events so far",
        "30 events so far",
    ]
