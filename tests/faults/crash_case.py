"""One crash point: leave the victim the store that it wants, kill it there, start it again, and count."""

from __future__ import annotations

from functools import partial
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.faults.crash_points import POINTS, Step
from tests.faults.crash_road import Road, Victim, finished, together
from tests.peers.harness import free_port, wait_until

_case = count(1)


class Cases:
    """`with Cases(folder, leg) as cases`: one road for many cases; a new one after a case that failed."""

    def __init__(self, folder: Path, leg: str) -> None:
        self.folder, self.leg = folder, leg
        self.road: Road | None = None

    def run(self, point: str) -> None:
        """AssertionError if something acknowledged is missing or twice, or if the point wasn't reached."""
        case = f"case{next(_case)}"
        if self.road is None:
            self.road = Road(self.folder / case, self.leg).__enter__()
        try:
            run(self.road, point, case)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End what runs."""
        if self.road:
            road, self.road = self.road, None
            road.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def run(road: Road, point: str, case: str) -> None:
    """Kill at the point, start again, count."""
    step, _ = POINTS[point]
    victim = road.collector if step.on == "collector" else road.aggregator
    prepare(road, victim, step, case)
    victim.point = point
    victim.launch()
    senders = together(partial(load, road, case, step.by or road.leg))
    nudge(road, victim, case)
    victim.killed_at(point)
    victim.point = ""
    victim.start()
    finished(senders)
    senders = together(partial(road.frames.send, case, 1000, 2), partial(road.lines, case, 1000, 5))
    road.sensors.burst(case, 1000, 2)
    finished(senders)
    road.sensors.settled()
    road.drained()
    road.check()


def nudge(road: Road, victim: Victim, case: str) -> None:
    """Small loads until the victim has ended: a commit may carry along what a step waits for, so it comes with a later
    one."""
    for turn in range(6):
        try:
            victim.wait_exit(3)
            return
        except AssertionError:
            road.sensors.burst(case, 2000 + 10 * turn, 2)


def damage(store: Path) -> None:
    """Spoil the file's header: SQLite says it is no database, and every row is still there."""
    assert not (store / "headrace.db-wal").exists()
    with (store / "headrace.db").open("r+b") as file:
        file.write(b"\xff" * 16)


def prepare(road: Road, victim: Victim, step: Step, case: str) -> None:
    """End the victim and leave it the store that the step wants."""
    if step.state == "damaged":
        hold(road, victim, case)
        damage(road.store_of(victim))
    elif step.state == "new":
        victim.stop()
        road.keys[f"{victim.name}_store"] = f"{victim.name}-store-{case}"
        road.write()
    else:
        victim.kill9()
    if step.state == "killed":
        victim.point = step.first
        victim.launch()
        road.sensors.burst(case, 100, 4)
        victim.killed_at(step.first)


def hold(road: Road, victim: Victim, case: str) -> None:
    """Have events in the victim's store that it can't deliver, and stop it."""
    victim.kill9()
    victim.point = ""
    road.write(receiver=free_port(), outputs="/dev/null/no")  # for the victim only: the other one runs
    victim.start()
    road.sensors.burst(case, 100, 4)
    channel = "kept" if victim is road.collector else "to-table"
    wait_until(lambda: victim.count(f"CHANNEL.{channel}", "ChannelSize") >= 20, what=f"{victim.name} holds events")
    victim.stop()
    road.write()


def load(road: Road, case: str, by: str) -> None:
    """What comes in until the kill."""
    if by == "mqtt":
        road.sensors.burst(case, 0, 8)
    elif by == "avro":
        road.frames.send(case, 0, 6)
    else:
        road.lines(case, 0, 10)
