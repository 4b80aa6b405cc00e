"""The states of a group, by their Kafka names, and the bounds of all groups."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """As DescribeGroups and ListGroups say it."""

    EMPTY = "Empty"
    PREPARING = "PreparingRebalance"
    COMPLETING = "CompletingRebalance"
    STABLE = "Stable"
    DEAD = "Dead"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds, and Kafka's broker settings that matter here.

    members: of a group; and as many ids given out. groups: in memory; those that only have offsets don't count.
    group_bytes: what is kept of one group's members, metadata and assignments (Kafka: message.max.bytes of its own
    topic); bytes: of all groups. initial_delay: Kafka's is 3 s, meant for many machines. empty_seconds: how long a
    group without members and offsets is remembered (Kafka: offsets.retention.check.interval.ms). pending_seconds: the
    longest that an id given out is waited for (Kafka: the session); clients come at once.
    """

    members: int = 500
    groups: int = 1000
    group_bytes: int = 2 << 20
    bytes: int = 64 << 20
    session_seconds: tuple[float, float] = (6, 1800)
    initial_delay: float = 0.2
    empty_seconds: float = 600
    pending_seconds: float = 60
