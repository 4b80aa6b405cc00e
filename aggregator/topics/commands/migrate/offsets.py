"""What consumer groups have committed, translated.

A group's place at the target is set if it has none there, or is behind, or if we set it: a group that has gone on over
there is not sent back when `migrate` runs again. What was written beside an offset (metadata) goes with it. The leader
epoch doesn't: it is one of the source.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent.errors import DeliveryError
from aggregator.topics.commands.cluster import Cluster, Committed, Place
from aggregator.topics.commands.groups import DEAD, EMPTY, state
from aggregator.topics.commands.migrate.runs import Runs, translated

Taken = Mapping[str, Mapping[Place, Committed]]
"""Of each group, where it is at the source."""


class Groups:
    """Those with these names."""

    def __init__(self, source: Cluster, target: Cluster, names: list[str]) -> None:
        self.source, self.target, self.names = source, target, names
        self.failures: dict[str, str] = {}
        """Groups that couldn't be set at last, and why."""
        self._ours: dict[tuple[str, Place], int] = {}
        """Offsets that we set."""

    def taken(self, places: list[Place]) -> Taken:
        """Where they are now. Whatever is before these places must be copied before they are carried over."""
        found = {name: self.source.committed(name, places) for name in self.names}
        return {name: offsets for name, offsets in found.items() if offsets}

    def active(self) -> list[str]:
        """Those that have members at the source."""
        return [name for name, one in self.source.described(self.names).items() if state(one) not in (EMPTY, DEAD)]

    def carry(self, taken: Taken, runs: Mapping[Place, Runs], reached: Mapping[Place, int]) -> None:
        """Set them at the target."""
        places = sorted({place for offsets in taken.values() for place in offsets})
        starts, ends = self.target.starts(places), self.target.ends(places)
        for name, offsets in taken.items():
            wanted = {
                place: Committed(translated(runs[place], at.offset, starts[place], ends[place]), at.metadata)
                for place, at in offsets.items()
                if at.offset <= reached[place]
            }
            self.failures.pop(name, None)
            try:
                self._set(name, wanted)
            except DeliveryError as error:
                self.failures[name] = str(error)

    def _set(self, name: str, wanted: Mapping[Place, Committed]) -> None:
        new = {place: at for place, at in wanted.items() if self._ours.get((name, place)) != at.offset}
        if not new:
            return
        there = self.target.committed(name, new)
        ahead = [place for place, at in new.items() if place in there and self._is_ahead(name, place, there, at)]
        self.target.commit(name, {place: at for place, at in new.items() if place not in ahead})
        self._ours |= {(name, place): at.offset for place, at in new.items() if place not in ahead}
        if ahead:
            where = ", ".join(f"{topic}-{index}" for topic, index in ahead[:3])
            raise DeliveryError(f"group {name} is further at the target ({where}) and was left there")

    def _is_ahead(self, name: str, place: Place, there: Mapping[Place, Committed], at: Committed) -> bool:
        now = there[place].offset
        return now > at.offset and now != self._ours.get((name, place))
