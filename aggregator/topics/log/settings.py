"""What may be set: of the log as a whole, and of a topic by Kafka's names (org.apache.kafka TopicConfig).

A topic keeps what was set for it alone; the rest is the log's default. Kafka's keys that mean nothing to a log without
segments and replicas are taken and shown, because tools send them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from aggregator.topics.errors import Code, TopicsError

DAY_MS = 86_400_000
LONG = 1 << 63


class Options(NamedTuple):
    """Of the log; bytes, milliseconds, seconds."""

    synchronous: str = "FULL"
    retention_ms: int = 7 * DAY_MS
    """Default of a topic's retention.ms; -1: for ever."""
    retention_bytes: int = -1
    """Default of retention.bytes, of each partition; -1: no bound."""
    max_message_bytes: int = 1_048_588
    """Default of max.message.bytes."""
    max_bytes: int = 0
    """Of the file; appends are refused beyond it. 0: as the disk has room."""
    cache_bytes: int = 4 << 20
    """Newest batches held in memory, of all partitions together."""
    check_seconds: float = 30.0
    """Retention is looked at so often."""


class Key(NamedTuple):
    """A topic's key: Kafka's default, its type as DescribeConfigs names it, and what is wrong with a value, or ''."""

    default: str
    kind: str
    fault: Callable[[str], str]


def _whole(low: int, high: int = LONG - 1) -> Callable[[str], str]:
    def fault(text: str) -> str:
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(text) < 21 and low <= int(text) <= high):
            return f"a whole number from {low} to {high}"
        return ""

    return fault


def _one_of(*allowed: str, several: bool = False) -> Callable[[str], str]:
    def fault(text: str) -> str:
        values = [value.strip() for value in text.split(",")] if several else [text]
        return "" if all(value in allowed for value in values) else f"one of {', '.join(allowed)}"

    return fault


def _share(text: str) -> str:
    try:
        return "" if 0 <= float(text) <= 1 else "from 0 to 1"
    except ValueError:
        return "from 0 to 1"


_BOOLEAN = Key("false", "boolean", _one_of("true", "false"))
_MS = _whole(0)
KEYS: Mapping[str, Key] = {
    "cleanup.policy": Key("delete", "list", _one_of("delete", "compact", several=True)),
    "compression.type": Key("producer", "string", _one_of("producer", "uncompressed", "gzip", "snappy", "lz4", "zstd")),
    "delete.retention.ms": Key(str(DAY_MS), "long", _MS),
    "file.delete.delay.ms": Key("60000", "long", _MS),
    "flush.messages": Key(str(LONG - 1), "long", _whole(1)),
    "flush.ms": Key(str(LONG - 1), "long", _MS),
    "index.interval.bytes": Key("4096", "int", _whole(0, (1 << 31) - 1)),
    "max.compaction.lag.ms": Key(str(LONG - 1), "long", _whole(1)),
    "max.message.bytes": Key("1048588", "int", _whole(0, (1 << 31) - 1)),
    "message.timestamp.after.max.ms": Key(str(LONG - 1), "long", _MS),
    "message.timestamp.before.max.ms": Key(str(LONG - 1), "long", _MS),
    "message.timestamp.type": Key("CreateTime", "string", _one_of("CreateTime", "LogAppendTime")),
    "min.cleanable.dirty.ratio": Key("0.5", "double", _share),
    "min.compaction.lag.ms": Key("0", "long", _MS),
    "min.insync.replicas": Key("1", "int", _whole(1, (1 << 31) - 1)),
    "preallocate": _BOOLEAN,
    "retention.bytes": Key("-1", "long", _whole(-1)),
    "retention.ms": Key(str(7 * DAY_MS), "long", _whole(-1)),
    "segment.bytes": Key(str(1 << 30), "int", _whole(14, (1 << 31) - 1)),
    "segment.index.bytes": Key(str(10 << 20), "int", _whole(4, (1 << 31) - 1)),
    "segment.jitter.ms": Key("0", "long", _MS),
    "segment.ms": Key(str(7 * DAY_MS), "long", _whole(1)),
    "unclean.leader.election.enable": _BOOLEAN,
}


def check(config: Mapping[str, str]) -> None:
    """TopicsError INVALID_CONFIG that names the key and what it takes."""
    for name, value in config.items():
        if name not in KEYS:
            raise TopicsError(Code.INVALID_CONFIG, f"a topic has no key {name}")
        if wanted := KEYS[name].fault(value):
            raise TopicsError(Code.INVALID_CONFIG, f"{name} is {value!r}: it takes {wanted}")


def defaults(options: Options) -> dict[str, str]:
    """Every key with what it is for a topic that doesn't set it."""
    return {name: key.default for name, key in KEYS.items()} | {
        "retention.ms": str(options.retention_ms),
        "retention.bytes": str(options.retention_bytes),
        "max.message.bytes": str(options.max_message_bytes),
    }
