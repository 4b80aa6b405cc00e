"""Programs are killed at random times under load, and the broker is stopped; then the outputs are counted.

HEADRACE_SEED repeats a run's choices (they are printed), HEADRACE_KILLS says how many kills a leg (`make soak`: 500).
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.crash_road import Road, Victim
from tests.faults.kills_load import Load
from tests.needs import need
from tests.peers.harness import progress, wait_until

pytestmark = [pytest.mark.fault, pytest.mark.peer]
KILLS = int(os.environ.get("HEADRACE_KILLS", "40"))
SEED = int(os.environ.get("HEADRACE_SEED", "0")) or random.SystemRandom().randrange(1, 1_000_000)
SHORTEST, LONGEST = 0.1, 3.0
"""Seconds from a start to the kill; a program is ready after about half a second, so some die before."""


@contextmanager
def under_load(folder: Path, leg: str, version: str = "5") -> Iterator[tuple[Road, Load]]:
    need("mosquitto")
    with Road(folder, leg, batch=50, version=version) as road, Load(road, folder / "feeder") as load:
        yield road, load


def settle(road: Road, load: Load) -> None:
    """Everybody runs, all that was sent arrives."""
    for program in (road.collector, road.aggregator):
        if not program.running:
            program.launch()
    load.stop()
    road.sensors.settled(60)
    road.drained(90)


def kill(road: Road, kills: int, dice: random.Random) -> None:
    """Kill one of the two at a random time after its start, or sometimes both at once, and start it again at once."""
    started: dict[Victim, float] = dict.fromkeys((road.collector, road.aggregator), time.monotonic())
    for done in range(1, kills + 1):
        victims = dice.choices(([road.collector], [road.aggregator], list(started)), (4, 4, 1))[0]
        end = started[victims[0]] + dice.uniform(SHORTEST, LONGEST)
        time.sleep(max(0.0, end - time.monotonic()))
        for victim in victims:
            assert victim.running, f"{victim.name} ended by itself:\n{victim.log[-3000:]}"
            victim.kill9()
        for victim in victims:
            victim.launch()
            started[victim] = time.monotonic()
        if done % 20 == 0:
            progress(f"{done} kills, {len(road.sent):,} readings acknowledged, {road.in_table():,} arrived")


@pytest.mark.limit(120 + 4 * KILLS)
@pytest.mark.parametrize(("leg", "version"), [("avro", "5"), ("mqtt", "5"), ("mqtt", "3.1.1")])
def test_random_kills(tmp_path: Path, leg: str, version: str) -> None:
    """After kills of collector and aggregator at random times nothing acknowledged is missing and nothing is twice."""
    progress(f"{KILLS} kills on the {leg} leg, HEADRACE_SEED={SEED}")
    dice = random.Random(f"{SEED} {leg} {version}")
    with under_load(tmp_path, leg, version) as (road, load):
        kill(road, KILLS, dice)
        settle(road, load)
        try:
            road.check()
        except AssertionError as error:
            raise AssertionError(f"HEADRACE_SEED={SEED}: {error}") from None
        progress(f"{len(road.sent):,} acknowledged, 0 missing, 0 twice")


@pytest.mark.limit(180)
@pytest.mark.parametrize("leg", ["avro", "mqtt"])
def test_the_broker_stops_and_starts(tmp_path: Path, leg: str) -> None:
    """A broker that stops and starts under load costs nothing that it kept, and everybody comes back by himself."""
    with under_load(tmp_path, leg) as (road, load):
        for _ in range(4):
            time.sleep(1.0)
            before = len(road.sent)
            road.broker.restart()
            wait_until(lambda before=before: len(road.sent) > before + 200, 30, "the load goes on")  # type: ignore[misc]
        settle(road, load)
        for program in (road.collector, road.aggregator):
            assert program.log.count("ready, agent") == 1, f"{program.name} was started again"
        road.check()
