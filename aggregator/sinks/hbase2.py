"""Flume's HBase2Sink: the same sink, since a Thrift gateway hides the version of its HBase."""

from __future__ import annotations

from aggregator.sinks.hbase import HbaseSink


class Hbase2Sink(HbaseSink):
    """As hbase; Flume's class names of hbase2 serializers are known."""
