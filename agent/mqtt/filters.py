"""Topic filters (MQTT 5, section 4.7): `+` is one level, `#` the rest, `$share/group/` shares among clients."""

from __future__ import annotations

from itertools import combinations


def fault(topic: str) -> str:
    """What is wrong with a filter; empty when nothing is."""
    levels = plain(topic).split("/")
    if not plain(topic) or len(topic.encode()) > 65_535 or "\0" in topic:
        return f"{topic!r} is no topic filter"
    if "#" in levels[:-1] or any(len(level) > 1 and ("#" in level or "+" in level) for level in levels):
        return f"{topic!r}: + and # stand for whole levels, and # only at the end"
    return ""


def plain(topic: str) -> str:
    """Without `$share/group/`."""
    return topic.split("/", 2)[2] if topic.startswith("$share/") and topic.count("/") >= 2 else topic


def overlapping(topics: list[str]) -> list[tuple[str, str]]:
    """Pairs that a common topic matches: the broker may send two copies of a message then."""
    return [(one, other) for one, other in combinations(topics, 2) if overlap(one, other)]


def overlap(one: str, other: str) -> bool:
    """Whether there is a topic that both match."""
    a, b = plain(one).split("/"), plain(other).split("/")
    if (a[0] in "#+") != (b[0] in "#+") and (a[0] + b[0]).strip("#+").startswith("$"):
        return False  # a wildcard in front never matches $SYS and the like
    for left, right in zip(a, b, strict=False):
        if "#" in (left, right):
            return True
        if left != right and "+" not in (left, right):
            return False
    # `a/#` matches `a` too.
    return len(a) == len(b) or ((longer := max(a, b, key=len))[min(len(a), len(b)) :] == ["#"] and longer[-1] == "#")
