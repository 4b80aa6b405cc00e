"""Flume's AsyncHBaseSink: the same sink with the keys that Flume's has beside."""

from __future__ import annotations

from typing import ClassVar

from agent.config.fields import Config as AnyConfig
from agent.config.fields import Seconds, key
from aggregator.sinks.hbase import GATEWAY, HbaseConfig, HbaseSink


class AsynchbaseConfig(HbaseConfig):
    IGNORED: ClassVar[dict[str, str]] = {
        **HbaseConfig.IGNORED,
        "async.*": GATEWAY,
        "maxConsecutiveFails": "each failure makes a new connection",
    }
    callTimeout: Seconds = key(
        "callTimeout", Seconds(60.0), unit="ms", low=0.001, also=("timeout",), doc="bound on a batch's calls"
    )


class AsynchbaseSink(HbaseSink):
    """As hbase, with Flume's default of a minute for a batch."""

    Config: ClassVar[type[AnyConfig]] = AsynchbaseConfig
    config: AsynchbaseConfig
