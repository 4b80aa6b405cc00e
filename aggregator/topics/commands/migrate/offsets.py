"""What consumer groups have committed, translated.

A group's place at the target is set if it has none there, or is behind, or if we set it: a group that has gone on over
there is not sent back when `migrate` runs again. What was written beside an offset (metadata) goes with it. The leader
epoch doesn't: it is one of the source.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from confluent_kafka import KafkaError, KafkaException

from agent.errors import DeliveryError
from aggregator.topics.commands.cluster import Cluster, Committed, Place
from aggregator.topics.commands.groups import DEAD, EMPTY, state
from aggregator.topics.commands.migrate.runs import Runs, translated

Taken = Mapping[str, Mapping[Place, Committed]]
"""Of each group, where it is at the source."""
HAS_MEMBERS = (KafkaError.UNKNOWN_MEMBER_ID, KafkaError.ILLEGAL_GENERATION, KafkaError.REBALANCE_IN_PROGRESS)
"""What a commit from outside of a group is answered when it isn't empty."""
SHOWN = 3
"""Partitions of a message."""


class Groups:
    """Those whose whole name matches."""

    def __init__(self, source: Cluster, target: Cluster, names: re.Pattern[str]) -> None:
        self.source, self.target, self._wanted = source, target, names
        self.left_alone: dict[str, str] = {}
        """Groups that stay where they are at the target, and why."""
        self.failed: dict[str, str] = {}
        """Groups that couldn't be set."""
        self._ours: dict[tuple[str, Place], int] = {}
        """Offsets that we set."""

    @property
    def names(self) -> list[str]:
        """Of the groups that the source has now."""
        return [name for name in self.source.groups() if self._wanted.fullmatch(name)]

    def taken(self, places: Sequence[Place]) -> Taken:
        """Where they are now. Whatever is before these places must be copied before they are carried over."""
        found = {name: self.source.committed(name, places) for name in self.names}
        return {name: offsets for name, offsets in found.items() if offsets}

    def active(self) -> list[str]:
        """Those that have members at the source."""
        return [name for name, one in self.source.described(self.names).items() if state(one) not in (EMPTY, DEAD)]

    def carry(self, taken: Taken, runs: Mapping[Place, Runs], reached: Mapping[Place, int]) -> None:
        """Set them at the target."""
        places = {place for offsets in taken.values() for place in offsets}
        starts, ends = self.target.starts(places), self.target.ends(places)
        self.left_alone, self.failed = {}, {}
        for name, offsets in taken.items():
            beyond = [place for place, at in offsets.items() if at.offset > reached[place]]
            if beyond:
                self.failed[name] = f"is behind the end of {_named(beyond)} at the source"
            wanted = {
                place: Committed(translated(runs[place], at.offset, starts[place], ends[place]), at.metadata)
                for place, at in offsets.items()
                if place not in beyond
            }
            self._set(name, wanted)

    def _set(self, name: str, wanted: Mapping[Place, Committed]) -> None:
        new = {place: at for place, at in wanted.items() if self._ours.get((name, place)) != at.offset}
        if not new:
            return
        try:
            there = self.target.committed(name, new)
            ahead = [place for place, at in new.items() if self._is_ahead(name, place, there.get(place), at)]
            if ahead:
                self.left_alone[name] = f"has gone on at the target ({_named(ahead)}) and stays there"
            new = {place: at for place, at in new.items() if place not in ahead}
            self._commit(name, {place: at for place, at in new.items() if there.get(place) != at})
            self._ours |= {(name, place): at.offset for place, at in new.items()}
        except DeliveryError as error:
            cause = error.__cause__
            if isinstance(cause, KafkaException) and cause.args[0].code() in HAS_MEMBERS:
                self.left_alone[name] = "has members at the target and stays where they are"
            else:
                self.failed[name] = str(error)

    def _commit(self, name: str, offsets: Mapping[Place, Committed]) -> None:
        if offsets:
            self.target.commit(name, offsets)

    def _is_ahead(self, name: str, place: Place, there: Committed | None, at: Committed) -> bool:
        return there is not None and there.offset > at.offset and there.offset != self._ours.get((name, place))


def _named(places: Sequence[Place]) -> str:
    more = f" and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
    return ", ".join(f"{topic}-{index}" for topic, index in places[:SHOWN]) + more
