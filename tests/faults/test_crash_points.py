"""A program is killed at one step, at each on each leg: nothing acknowledged is missing, nothing is there twice."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from tests.faults.crash_points import POINTS, Step, points
from tests.faults.crash_road import Road, Victim, finished, together
from tests.needs import need
from tests.peers.harness import wait_until

pytestmark = [pytest.mark.fault, pytest.mark.peer]
_case = count(1)


@pytest.fixture(scope="module")
def road(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    need("mosquitto")
    with Road(tmp_path_factory.mktemp(f"crash-{request.param}"), request.param) as road:
        yield road


def damage(store: Path) -> None:
    """Spoil the file's header: SQLite says it is no database, and every row is still there."""
    assert not (store / "headrace.db-wal").exists()
    with (store / "headrace.db").open("r+b") as file:
        file.write(b"\xff" * 16)


def prepare(road: Road, victim: Victim, step: Step, case: str) -> None:
    """Stop the victim and leave it the store that the step wants."""
    other = road.collector if victim is road.aggregator else road.aggregator
    if not other.running:
        other.start()
    if step.state == "damaged":
        hold(road, victim, case)
    (victim.stop if step.state == "new" else victim.kill9)()
    if step.state == "new":
        road.keys[f"{victim.name}_store"] = f"{victim.name}-store-{case}"
        road.write()
    if step.state == "damaged":
        damage(road.store_of(victim))
    if step.state == "killed":
        victim.point = step.first
        victim.launch()
        road.sensors.burst(case, 100, 4)
        victim.killed_at(step.first)


def hold(road: Road, victim: Victim, case: str) -> None:
    """Have events in the victim's store that it can't deliver, and stop it."""
    victim.stop()
    if victim is road.collector:
        road.aggregator.stop()
    else:
        road.write(outputs="/dev/null/no")
    victim.point = ""
    victim.start()
    road.sensors.burst(case, 100, 4)
    channel = "kept" if victim is road.collector else "to-table"
    wait_until(lambda: victim.count(f"CHANNEL.{channel}", "ChannelSize") >= 20, what=f"{victim.name} holds events")
    victim.stop()
    road.write()
    if not road.aggregator.running and victim is road.collector:
        road.aggregator.start()


def load(road: Road, case: str, by: str) -> None:
    """What comes in until the kill."""
    if by == "mqtt":
        road.sensors.burst(case, 0, 8)
    elif by == "avro":
        road.frames.send(case, 0, 6)
    else:
        road.lines(case, 0, 10)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "point" in metafunc.fixturenames:
        cases = [(leg, name) for leg in ("avro", "mqtt") for name in points(leg)]
        metafunc.parametrize(("road", "point"), cases, indirect=["road"], scope="module", ids=lambda value: value)


@pytest.mark.limit(60)
def test_killed_at(road: Road, point: str) -> None:
    """Killed there and started again, everything acknowledged is in the table and the Avro files once."""
    step, _ = POINTS[point]
    case = f"case{next(_case)}"
    victim = road.collector if step.on == "collector" else road.aggregator
    prepare(road, victim, step, case)
    victim.point = point
    victim.launch()
    senders = together(partial(load, road, case, step.by or road.leg))
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
