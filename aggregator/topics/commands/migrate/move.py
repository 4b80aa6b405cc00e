"""`topics migrate`: the course of it.

A pass takes what groups have committed, copies up to the end of the source as it is then, and sets the groups over
there: in this order, so that a group never is ahead of what was copied. With --follow passes follow each other until
Ctrl-C, and then there is a last one. At the end both sides are compared, and it says whether it is time to switch.
"""

from __future__ import annotations

import argparse
import re
import signal
import time

from agent.errors import ConfigError, DeliveryError
from agent.options import FATAL, OK
from aggregator.topics.commands.cluster import Cluster
from aggregator.topics.commands.migrate import targets
from aggregator.topics.commands.migrate.check import Check, lines
from aggregator.topics.commands.migrate.copier import Copier
from aggregator.topics.commands.migrate.journal import PREFIX, Journal, Known
from aggregator.topics.commands.migrate.offsets import Groups
from aggregator.topics.commands.migrate.progress import Progress

INTERVAL = 3.0
"""Seconds between two passes; what comes meanwhile is copied as well."""


def run(given: argparse.Namespace) -> int:
    """Copy; returns the exit code."""
    topics, groups = _pattern("--topics", given.topics), _pattern("--groups", given.groups)
    source, target = Cluster.named(given.server, given.config), Cluster.named(given.to, given.to_config)
    move = Move(source, target, topics, groups)
    try:
        move.prepare(given.replication_factor)
        if given.follow:
            move.follow()
        move.copy()
        return move.end(given.check)
    except KeyboardInterrupt:
        move.progress.note("stopped; run it again: it goes on where it stopped")
        return FATAL
    finally:
        move.close()


def _pattern(option: str, text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise ConfigError(f"{option} {text}: it is no regular expression: {error}") from None


class Move:
    """Of the topics and groups whose whole names match. Raises DeliveryError, ConfigError."""

    def __init__(self, source: Cluster, target: Cluster, topics: re.Pattern[str], groups: re.Pattern[str]) -> None:
        if source.id == target.id:
            raise ConfigError(f"{source.servers} and {target.servers} are one cluster")
        self.source, self.target, self._wanted = source, target, topics
        self.topics = self._topics()
        if not self.topics:
            raise DeliveryError(f"{source.servers}: there is no topic to copy")
        self.places = [(topic, index) for topic, count in self.topics.items() for index in range(count)]
        self.progress = Progress()
        self.groups = Groups(source, target, groups)
        self.targets = targets.Targets(source, target)
        self.journal = Journal(target, source.id)
        self.copier = Copier(source, target, self.journal, self.progress.add)
        self._stopping = False

    def _topics(self) -> dict[str, int]:
        """Partitions by name."""
        found = self.source.topics()
        return {name: count for name, count in found.items() if self._wanted.fullmatch(name)
                and not name.startswith(PREFIX)}  # fmt: skip

    def close(self) -> None:
        """What isn't committed is undone."""
        self.copier.close()
        self.progress.clear()

    # -- before

    def prepare(self, replication: int) -> None:
        """Have every topic at the target, or refuse."""
        there = self.target.topics()
        targets.check_partitions(self.topics, there)
        self.journal.create(replication)
        self.copier.open()
        known = self.journal.load()
        old = [place for place in self.places if place[0] in there]
        empty = targets.check_contents(known, self.target.ends(old), self.source.ends(old))
        new = {topic: count for topic, count in self.topics.items() if topic not in there}
        self.targets.make(new, replication, like=self.journal.topic)
        for topic in self.topics.keys() - new.keys():
            self.targets.set_for_the_copy(topic)
        for note in self.targets.notes:
            self.progress.note(note)
        self._begin(known, empty | new.keys())

    def _begin(self, known: Known, fresh: set[str]) -> None:
        known = {topic: runs for topic, runs in known.items() if topic not in fresh}
        runs, starts = targets.runs_by_place(known, self.topics), self.source.starts(self.places)
        for (topic, index), its in runs.items():
            start = starts[topic, index]
            if len(its) and its.reached < start:
                came = f"was copied up to {its.reached} and begins at {start} now"
                self.progress.note(f"{topic}-{index} {came}: what was between is gone at the source")
        self.copier.begin(sorted(fresh), runs, starts)

    # -- passes

    def follow(self) -> None:
        """Until Ctrl-C; another one ends it at once."""
        before = signal.signal(signal.SIGINT, self._stop)
        try:
            while not self._stopping:
                self.copy()
                until = time.monotonic() + INTERVAL
                while not self._stopping and time.monotonic() < until:
                    self.copier.follow()
        finally:
            signal.signal(signal.SIGINT, before)
        self.progress.note("the last pass")

    def _stop(self, *_: object) -> None:
        self._stopping = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def copy(self) -> None:
        """One pass."""
        taken = self.groups.taken(self.places)
        self.copier.copy(self.source.ends(self.places, committed=True))
        self.groups.carry(taken, self.copier.runs, self.copier.reached)

    # -- after

    def end(self, check: bool) -> int:
        """Compare both sides and say whether it is time to switch; the exit code."""
        reasons = [] if not check or self._compare() else ["the two sides differ"]
        for topic in self.topics:
            self.targets.set_as_the_source(topic)
        reasons += [f"group {name}: {why}" for name, why in self.groups.failed.items()] + self._unfinished()
        self.progress.clear()
        for name, why in self.groups.left_alone.items():
            print(f"note: group {name} {why}")
        for name in self.groups.active():
            print(f"note: group {name} still reads at the source; what it reads from now on it will read again")
        if reasons:
            print(f"don't switch yet: {'; '.join(reasons)}")
            return FATAL
        print(f"switch over now: bootstrap.servers={self.target.servers} for producers and consumers; once they run, "
              f"topic {self.journal.topic} there can be deleted")  # fmt: skip
        return OK

    def _compare(self) -> bool:
        with Check(self.source, self.target, self.progress.say) as check:
            found = {place: check.partition(place, self.copier.runs[place], self.copier.reached[place])
                     for place in self.places}  # fmt: skip
        self.progress.clear()
        for line in lines(found):
            print(line)
        return all(one.same for one in found.values())

    def _unfinished(self) -> list[str]:
        """What the source has that was not copied, and why."""
        if self._topics() != self.topics:
            return ["the source has other topics or partitions now; run it again"]
        stable, ends = self.source.ends(self.places, committed=True), self.source.ends(self.places)
        left = self.copier.left(stable)
        found = [f"{left:,} offsets were written since; stop the producers and run it again"] if left else []
        for (topic, index), end in ends.items():
            if stable[topic, index] < end:
                found.append(f"{topic}-{index} has an open transaction at {stable[topic, index]}")
        return found
