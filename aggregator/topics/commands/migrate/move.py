"""`topics migrate`: the course of it.

A pass takes what groups have committed, copies up to the end of the source as it is then, and sets the groups over
there: in this order, so that a group never is ahead of what was copied. With --follow passes follow each other until
Ctrl-C; the last one is compared.
"""

from __future__ import annotations

import argparse
import re
import signal
import time
from collections.abc import Mapping

from agent.errors import ConfigError, DeliveryError
from agent.options import FATAL, OK
from aggregator.topics.commands.cluster import Cluster, Place
from aggregator.topics.commands.migrate import targets
from aggregator.topics.commands.migrate.check import Check, Compared
from aggregator.topics.commands.migrate.copier import Copier
from aggregator.topics.commands.migrate.journal import PREFIX, Journal
from aggregator.topics.commands.migrate.offsets import Groups
from aggregator.topics.commands.migrate.progress import Progress
from aggregator.topics.commands.migrate.runs import Runs
from aggregator.topics.commands.shown import table

INTERVAL = 3.0
"""Seconds between two passes."""
GLANCE = 0.1


def run(given: argparse.Namespace) -> int:
    """Copy; returns the exit code."""
    topics, groups = _pattern("--topics", given.topics), _pattern("--groups", given.groups)
    source, target = Cluster.named(given.server, given.config), Cluster.named(given.to, given.to_config)
    move = Move(source, target, topics, groups)
    try:
        move.prepare(given.replication_factor)
        move.copy(given.follow)
        return move.end(given.check)
    finally:
        move.close()


def _pattern(option: str, text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise ConfigError(f"{option} {text}: it is no regular expression: {error}") from None


class Move:
    """Of the topics and groups whose whole names match."""

    def __init__(self, source: Cluster, target: Cluster, topics: re.Pattern[str], groups: re.Pattern[str]) -> None:
        self.source, self.target, self._wanted = source, target, topics
        self.progress = Progress()
        self.topics = self._topics()
        if not self.topics:
            raise DeliveryError(f"{source.servers}: there is no topic to copy")
        self.places = [(topic, index) for topic, count in self.topics.items() for index in range(count)]
        self.groups = Groups(source, target, [name for name in source.groups() if groups.fullmatch(name)])
        self.journal = Journal(target, source.id)
        if source.id == target.id:
            raise ConfigError(f"{source.servers} and {target.servers} are one cluster")
        self.copier = Copier(source, target, self.journal, self.progress.add)
        self.targets: targets.Targets | None = None
        self._stopping = False

    def _topics(self) -> dict[str, int]:
        found = self.source.topics()
        return {name: count for name, count in found.items() if self._wanted.fullmatch(name)
                and not name.startswith(PREFIX)}  # fmt: skip

    def prepare(self, replication: int) -> None:
        """Have every topic at the target, or refuse."""
        there = self.target.topics()
        targets.check_partitions(self.topics, there)
        self.journal.create(replication)
        self.copier.open()
        known = self.journal.load()
        old = [place for place in self.places if place[0] in there]
        fresh = targets.check_contents(known, self.target.ends(old), self.source.ends(old))
        fresh |= self.topics.keys() - there.keys()
        self.targets = targets.Targets(self.source, self.target, self.target.config(self.journal.topic).keys())
        self.targets.make({topic: count for topic, count in self.topics.items() if topic not in there}, replication)
        for topic in self.topics.keys() & there.keys():
            self.targets.set_for_the_copy(topic)
        for note in self.targets.notes:
            self.progress.note(note)
        known = {topic: runs for topic, runs in known.items() if topic not in fresh}
        self._begin(fresh, targets.runs_by_place(known, self.topics))

    def _begin(self, fresh: set[str], runs: Mapping[Place, Runs]) -> None:
        starts = self.source.starts(self.places)
        for (topic, index), its in runs.items():
            if len(its) and its.reached < starts[topic, index]:
                self.progress.note(f"{topic}-{index}: what was before offset {starts[topic, index]} is gone at the "
                                   f"source; it was copied up to {its.reached}")  # fmt: skip
        self.copier.begin(sorted(fresh), runs, starts)

    def copy(self, follow: bool) -> None:
        """A pass; with `follow` many, until Ctrl-C, and then a last one."""
        if follow:
            self._follow()
        self._pass()

    def _follow(self) -> None:
        before = signal.signal(signal.SIGINT, self._stop)
        try:
            while not self._stopping:
                self._pass()
                until = time.monotonic() + INTERVAL
                while not self._stopping and time.monotonic() < until:
                    time.sleep(GLANCE)
        finally:
            signal.signal(signal.SIGINT, before)  # a second Ctrl-C ends it at once
        self.progress.note("the last pass")

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _pass(self) -> None:
        taken = self.groups.taken(self.places)
        self.copier.copy(self.source.ends(self.places, committed=True))
        self.groups.carry(taken, self.copier.runs, self.copier.reached)

    # -- the end

    def end(self, check: bool) -> int:
        """Compare both sides and say whether it is time to switch."""
        same = not check or self._compare()
        assert self.targets
        for topic in self.topics:
            self.targets.set_as_the_source(topic)
        self.progress.clear()
        for failure in self.groups.failures.values():
            print(f"note: {failure}")
        for name in self.groups.active():
            print(f"note: group {name} still reads at the source; what it reads from now on it will read again")
        reasons = ([] if same else ["the two sides differ"]) + self._unfinished()
        if reasons:
            print(f"don't switch yet: {'; '.join(reasons)}")
            return FATAL
        print(f"switch over now: bootstrap.servers={self.target.servers} for producers and consumers; once they run, "
              f"topic {self.journal.topic} there can be deleted")  # fmt: skip
        return OK

    def _compare(self) -> bool:
        check, same = Check(self.source, self.target), True
        rows: list[tuple[str, ...]] = [HEAD]
        try:
            for place in self.places:
                self.progress.say(f"comparing {place[0]}-{place[1]}")
                policy = self.target.config(place[0])["cleanup.policy"].value
                runs, reached = self.copier.runs[place], self.copier.reached[place]
                found = check.partition(place, runs, reached, "compact" in str(policy))
                rows.append(_row(place, found))
                same &= found.same
        finally:
            check.close()
        self.progress.clear()
        for line in table(rows, right=(1, 2, 4)):
            print(line)
        return same

    def _unfinished(self) -> list[str]:
        """What the source has that was not copied, and why."""
        if self._topics() != self.topics:
            return ["there are other topics or partitions now; run it again"]
        stable, ends = self.source.ends(self.places, committed=True), self.source.ends(self.places)
        left = self.copier.left(stable)
        found = [f"{left:,} offsets were written since; stop the producers and run it again"] if left else []
        for (topic, index), end in ends.items():
            if stable[topic, index] < end:
                found.append(f"{topic}-{index} has an open transaction at {stable[topic, index]}")
        return found

    def close(self) -> None:
        self.copier.close()
        self.progress.clear()


HEAD = ("TOPIC", "PARTITION", "RECORDS", "CHECKSUM", "RECORDS THERE", "CHECKSUM THERE", "")


def _row(place: Place, found: Compared) -> tuple[str, ...]:
    counts = {"differ": found.differing, "missing there": found.missing, "others among them": found.foreign,
              "dropped by retention or compaction": found.gone}  # fmt: skip
    remarks = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    figures = [f"{side.records:,}\0{side.checksum:016x}".split("\0") for side in (found.source, found.target)]
    return (place[0], str(place[1]), *figures[0], *figures[1], remarks or "same")
