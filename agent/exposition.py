"""The counters as others read them: Flume's JSON, Prometheus text, and what `headrace status` shows. No I/O.

Flume 1.11 (HTTPMetricsServer, JMXPollUtil): one object, `<TYPE>.<name>` -> members that are **all strings**.
Prometheus text format 0.0.4: `headrace_<kind>_<field>{component="..."}`, `_total` on what only grows.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from typing import Any

from agent import clock
from agent.metrics import Counter, Metrics
from agent.version import VERSION

GAUGES = {
    "OpenConnectionCount", "ChannelSize", "ChannelCapacity", "ChannelFillPercentage", "orphan_events", "bytes",
    "oldest_seconds", "log_bytes",
}  # fmt: skip
"""Fields that rise and fall; every other one only grows."""
NAMES = {
    "ChannelSize": "events", "ChannelCapacity": "capacity_events", "ChannelFillPercentage": "fill_percent",
    "OpenConnectionCount": "connections", "bytes": "bytes", "oldest_seconds": "oldest_seconds",
    "orphan_events": "orphan_events", "log_bytes": "log_bytes",
}  # fmt: skip
HELP = {
    "ChannelSize": "Events in the channel",
    "bytes": "Bytes of the events in the channel",
    "oldest_seconds": "Age of the oldest event in the channel",
    "ChannelFillPercentage": "Events in the channel in percent of its capacity",
    "dropped": "Events dropped on purpose",
    "repeats": "Events that were received before and not stored again",
    "dead_letters": "Events put aside because they can never be delivered",
    "salvage_missing": "Events that a damaged file lost",
    "orphan_events": "Events in the channel's store for channels that are no longer configured",
    "requests": "Requests of clients",
    "refused": "Connections that were closed for what they sent",
    "received_bytes": "Bytes of requests",
    "sent_bytes": "Bytes of answers",
    "log_bytes": "Bytes of the batches that are kept",
    "rejected": "Events that the destination will never take",
    "rolled_back": "Events put back into the channel after a failed try",
}
STALLED_SECONDS = 60.0
"""A store whose commit takes longer makes no progress: the watchdog isn't fed any more."""


def flume_json(metrics: Metrics) -> str:
    """Flume's `/metrics`."""
    return json.dumps({f"{c.kind}.{c.name}": _strings(c) for c in metrics.counters.values()})


def _strings(counter: Counter) -> dict[str, str]:
    out = {"Type": counter.kind, "StartTime": str(counter.StartTime), "StopTime": str(counter.StopTime)}
    for field in counter.FLUME:
        out[field] = _java(field, counter.value(field))
    return out


def _java(field: str, value: float) -> str:
    """A Java long, or the double that ChannelFillPercentage is; without a capacity Flume shows Double.MAX_VALUE."""
    if field != "ChannelFillPercentage":
        return str(int(value))
    return "1.7976931348623157E308" if value >= sys.float_info.max else str(float(value))


def prometheus(metrics: Metrics, ready: bool) -> str:
    """Prometheus text format 0.0.4."""
    families: dict[str, list[str]] = {}
    for counter in metrics.counters.values():
        label = f'{{component="{_escaped(counter.name)}"}}'
        for field in counter.FLUME + counter.OURS:
            name, head = _family(counter.kind, field)
            families.setdefault(name, [head]).append(f"{name}{label} {_number(counter.value(field))}")
    lines = [line for family in families.values() for line in family]
    lines += _alone("headrace_ready", "1 if every source listens", int(ready))
    lines += [*_states(metrics), *_alone("headrace_info", "The version that runs", 1, f'{{version="{VERSION}"}}')]
    return "\n".join(lines) + "\n"


def _family(kind: str, field: str) -> tuple[str, str]:
    gauge = field in GAUGES
    name = f"headrace_{kind.lower()}_{NAMES.get(field) or _snake(field) + '_total'}"
    text = HELP.get(field) or f"{field} of Flume's {kind.capitalize()}Counter"
    return name, f"# HELP {name} {text}\n# TYPE {name} {'gauge' if gauge else 'counter'}"


def _alone(name: str, text: str, value: float, label: str = "") -> Iterable[str]:
    return f"# HELP {name} {text}\n# TYPE {name} gauge", f"{name}{label} {_number(value)}"


def _states(metrics: Metrics) -> Iterable[str]:
    yield "# HELP headrace_running 1 if the component does its work\n# TYPE headrace_running gauge"
    for counter in metrics.counters.values():
        label = f'kind="{counter.kind.lower()}",component="{_escaped(counter.name)}"'
        yield f"headrace_running{{{label}}} {int(works(counter))}"


def _snake(field: str) -> str:
    """EventPutSuccessCount -> event_put_success."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", field.removesuffix("Count")).lower()


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(float(value))


def works(counter: Counter) -> bool:
    """Whether a component is in its normal state."""
    return counter.state.split(":")[0] in ("running", "done", "stopped")


def complaints(metrics: Metrics) -> list[str]:
    """Why the agent isn't ready, one phrase a component; what `/readyz` says."""
    return [f"{c.kind.lower()} {c.name}: {c.state}" for c in metrics.counters.values() if not works(c)]


def stalls(metrics: Metrics) -> list[str]:
    """Stores that make no progress. A channel over a store shows how long its commit has been under way in the gauge
    `stalled_seconds`; a channel without one can't stall."""
    waits = {c.name: c.gauges["stalled_seconds"]() for c in metrics.counters.values() if "stalled_seconds" in c.gauges}
    return [f"channel {name}: a commit takes {wait:.0f} s" for name, wait in waits.items() if wait > STALLED_SECONDS]


def status(metrics: Metrics, ready: bool) -> dict[str, Any]:
    """What `/status` serves and `headrace status` prints."""
    return {
        "version": VERSION,
        "time_ms": clock.wall_ms(),
        "ready": ready,
        "components": [_component(counter) for counter in metrics.counters.values()],
    }


def _component(counter: Counter) -> dict[str, Any]:
    return {
        "kind": counter.kind.lower(),
        "name": counter.name,
        "state": counter.state,
        "since_ms": counter.since_ms,
        "works": works(counter),
        **{field: counter.value(field) for field in counter.FLUME + counter.OURS},
    }
