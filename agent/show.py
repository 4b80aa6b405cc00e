"""How the tool `headrace` prints what an agent or a store says: dictionaries in, lines out. No I/O."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

Status = Mapping[str, Any]
FLOW = {"source": "EventAcceptedCount", "sink": "EventDrainSuccessCount"}
"""The counter that shows a component's flow."""
ORDER = ("source", "channel", "sink")


def size(count: float) -> str:
    """`245 B`, `1.5 MiB`."""
    if count < 1024:
        return f"{count:.0f} B"
    power = min(int(math.log2(count)) // 10, 4)
    return f"{count / 1024**power:.1f} {'KMGT'[power - 1]}iB"


def age(seconds: float) -> str:
    """`12 s`, `3 min`, `5 h`, `2 days`: one unit, rounded down."""
    for limit, length, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{int(seconds / length)} {unit}"
    return f"{int(seconds / 86_400)} days"


def when(wall_ms: int) -> str:
    """Local time of milliseconds since the epoch."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(wall_ms / 1000))


def many(count: int, noun: str) -> str:
    """`1 event`, `1,204 events`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def status(now: Status, before: Status | None = None) -> Iterator[str]:
    """What flows and what doesn't, a line a component; `before` is an earlier answer, for rates."""
    yield f"headrace {now['version']}, {'ready' if now['ready'] else 'NOT READY'}"
    earlier = {(c["kind"], c["name"]): c for c in before["components"]} if before else {}
    seconds = (now["time_ms"] - before["time_ms"]) / 1000 if before else 0.0
    width = max((len(c["name"]) for c in now["components"]), default=0)
    for part in sorted(now["components"], key=lambda part: ORDER.index(part["kind"])):
        last = earlier.get((part["kind"], part["name"]))
        rate = _rate(part, last, seconds)
        yield f"  {part['kind']:8}{part['name']:{width}}  {rate:>16}  {_tale(part)}".rstrip()
    for part in now["components"]:
        if not part["works"]:
            since = age((now["time_ms"] - part["since_ms"]) / 1000)
            yield f"nothing flows through {part['kind']} {part['name']}: {part['state']} (for {since})"


def _rate(part: Mapping[str, Any], last: Mapping[str, Any] | None, seconds: float) -> str:
    field = FLOW.get(part["kind"])
    if field is None or last is None or seconds <= 0:
        return ""
    return f"{(part[field] - last[field]) / seconds:,.0f} events/s"


def _tale(part: Mapping[str, Any]) -> str:
    """The numbers that matter of one component."""
    if part["kind"] == "channel":
        held = f"{many(int(part['ChannelSize']), 'event')} inside, {size(part['bytes'])}"
        old = f", oldest {age(part['oldest_seconds'])}" if part["ChannelSize"] else ""
        return held + old + _extras(
            part, dead_letters="in the dead letters", salvage_missing="missing after damage",
            orphan_events="of channels no longer configured",
        )  # fmt: skip
    if part["kind"] == "source":
        return f"{many(part['EventAcceptedCount'], 'event')} in" + _extras(
            part, repeats="repeats", EventReadFail="unreadable", ChannelWriteFail="refused for want of room"
        )
    delivered = f"{many(part['EventDrainSuccessCount'], 'event')} out"
    return delivered + _extras(part, EventWriteFail="failed tries", rejected="rejected")


def _extras(part: Mapping[str, Any], **names: str) -> str:
    words = {**names, "dropped": "dropped"}
    return "".join(f", {int(part[field]):,} {noun}" for field, noun in words.items() if part[field])


def store(seen: Mapping[str, Any]) -> Iterator[str]:
    """What a store's file holds."""
    held = f"held by process {seen['held_by']}" if seen["held_by"] else "not held by an agent"
    yield f"{seen['file']}: format {seen['format'] // 1000}.{seen['format'] % 1000}, {held}"
    free = f", {size(seen['free_bytes'])} of it free" if seen["free_bytes"] else ""
    life = f"{many(seen['position'], 'event')} in its life"
    yield f"  {size(seen['file_bytes'])}{free}, and {size(seen['wal_bytes'])} of WAL; {life}"
    if seen["full"]:
        yield f"  FULL: {seen['full']}"
    yield "channels"
    for channel in seen["channels"]:
        yield _channel(channel)
    if seen["origins"]:
        yield "origins of its own (numbers given)"
        for one in seen["origins"]:
            yield f"  {one['origin']}  " + (f"1 to {one['last']:,}" if one["last"] else "none yet")
    if seen["streams"]:
        yield "streams received"
        yield from map(_stream, seen["streams"])
    if seen["marks"]:
        yield "marks of sources"
        yield from (f"  {source}: {', '.join(names)}" for source, names in seen["marks"].items())
    for lost in seen["lost"]:
        last = lost["first"] + lost["count"] - 1
        yield f"LOST {lost['origin']}  {lost['first']:,} to {last:,}: {lost['reason']}"
    letters = f"{many(seen['letters'], 'dead letter')}, {size(seen['letter_bytes'])}"
    yield f"{letters}: headrace dead-letters list" if seen["letters"] else "no dead letters"


def _channel(channel: Mapping[str, Any]) -> str:
    old = f", oldest {age(channel['oldest_seconds'])}" if channel["events"] else ""
    name, events = channel["name"], many(channel["events"], "event")
    apart = f", apart {_ranges(channel['finished'])}" if channel["finished"] else ""
    gone = "" if channel.get("configured", True) else f"  (no longer configured: headrace store forget {name})"
    return f"  {name}: {events}, {size(channel['bytes'])}{old}; cursor {channel['cursor']:,}{apart}{gone}"


def _stream(stream: Mapping[str, Any]) -> str:
    above = f", and {_ranges(stream['ranges'])}" if stream["ranges"] else ""
    return f"  {stream['origin']}/{stream['channel']}  all to {stream['settled']:,}{above}"


def _ranges(ranges: list[list[int]], most: int = 5) -> str:
    shown = ", ".join(f"{first:,}-{last:,}" for first, last in ranges[:most])
    return shown + (f" and {len(ranges) - most} more" if len(ranges) > most else "")


def letters(found: list[Mapping[str, Any]]) -> Iterator[str]:
    """Dead letters, a line each."""
    if not found:
        yield "no dead letters"
    for one in found:
        yield f"{one['id']:>6}  {when(one['wall_ms'])}  {one['source'] or one['channel']}: {one['reason']}"


def letter(one: Mapping[str, Any]) -> Iterator[str]:
    """One dead letter whole; `body` is hexadecimal."""
    came = f" from {one['origin']} number {one['number']:,}" if one["origin"] else ""
    yield f"{one['id']}: {when(one['wall_ms'])}, {one['source'] or one['channel']}{came}"
    yield f"  reason  {one['reason']}"
    yield from (f"  {key} = {value}" for key, value in one["headers"].items())
    body = bytes.fromhex(one["body"])
    text = body.decode("utf-8", "replace")
    yield f"  body, {size(len(body))}: {text if text.isprintable() else body.hex(' ')}"
