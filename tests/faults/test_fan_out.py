"""One stream of readings into HDFS, HBase, Hive and Kafka at once, while each server is killed in turn, and the
aggregator between them; then each store is counted with its own tools.

HEADRACE_SEED repeats a run's choices (they are printed), HEADRACE_READINGS says how many readings, HEADRACE_KILLS how
many kills of the aggregator (`make soak`: 200,000 and ten).
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.aggregator.test_audit import counts, spans
from tests.aggregator.test_audit import found as found_by_audit
from tests.faults.fan_out import SINKS, FanOut, Readings
from tests.needs import need
from tests.peers.harness import progress

READINGS = int(os.environ.get("HEADRACE_READINGS", "20000"))
KILLS = int(os.environ.get("HEADRACE_KILLS", "3"))
SEED = int(os.environ.get("HEADRACE_SEED", "0")) or random.SystemRandom().randrange(1, 1_000_000)
SECONDS = 4.0
"""In which the readings between two kills are published."""


def kill(road: FanOut, readings: Readings, name: str, dice: random.Random) -> None:
    """Kill it under load and start it again; the sinks that it has nothing to do with deliver meanwhile."""
    time.sleep(dice.uniform(0.2, SECONDS / 2))
    victim = road.victims()[name]
    progress(f"{len(road.sent):,} acknowledged; killing {name}")
    if name == "mosquitto":
        with readings.silence():
            victim.kill()
            victim.start()
    elif name == "aggregator":
        victim.kill()
        victim.start()
    else:
        before = road.delivered()
        victim.kill()
        road.go_on([sink for sink in road.sinks if sink not in victim.sinks], before)
        victim.start()
    readings.wait()
    road.go_on(victim.sinks, road.delivered())


def kill_all(road: FanOut, dice: random.Random) -> Readings:
    """Each server once and the aggregator KILLS times, in any order, as the readings go by."""
    order = [name for name in road.victims() if name != "aggregator"] + ["aggregator"] * KILLS
    dice.shuffle(order)
    readings = Readings(road.sensors, READINGS, READINGS / len(order) / SECONDS)
    try:
        for step, name in enumerate(order, 1):
            readings.release(READINGS * step // len(order))
            kill(road, readings, name, dice)
    finally:
        readings.over = True
    road.sensors.settled(60)
    return readings


def differences(wanted: Counter[tuple[str, int]], found: Counter[tuple[str, int]]) -> str:
    """Empty if there are none."""
    missing, more = wanted - found, found - wanted
    if not missing and not more:
        return ""
    return f"{missing.total()} missing {sorted(missing)[:5]}, {more.total()} too many {sorted(more)[:5]}"


def delete_a_file(road: FanOut) -> tuple[str, list[int]]:
    """(one of HDFS, which is gone then; the numbers of its events as the store that kept them first gave them)."""
    gone = min(road.hdfs.ls("/readings"))
    events = map(json.loads, road.hdfs.text(gone).splitlines())
    numbers = sorted(int(event["headers"]["headrace.number"]) for event in events)
    road.hdfs.fs("-rm", gone)
    return gone, numbers


@pytest.mark.fault
@pytest.mark.peer
@pytest.mark.limit(900 + READINGS // 100 + 30 * KILLS)
def test_each_store_holds_each_reading_once(tmp_path: Path) -> None:
    """HDFS, HBase, Hive and Kafka hold each reading once after all the kills, and HDFS is healthy, no file open. The
    audit says so too, and names the readings of a file that was deleted by hand."""
    need("mosquitto", "java", "hdfs", "hbase", "hive3", "kafka", "spark")
    progress(f"{READINGS:,} readings, {KILLS} kills of the aggregator, HEADRACE_SEED={SEED}")
    with FanOut(tmp_path, SINKS) as road:
        readings = kill_all(road, random.Random(SEED))
        progress("all is published")
        road.drained()
        road.aggregator.stop()
        wanted = Counter(map(readings.reading, range(READINGS)))
        assert not road.sent.open, "the broker was killed in a silence"
        found = {store: differences(wanted, held) for store, held in road.stored()}
        assert found == dict.fromkeys(SINKS, ""), f"HEADRACE_SEED={SEED}"
        road.reported()
        fsck = road.hdfs.fsck()
        assert fsck.healthy and not fsck.open_files, fsck.text[-2000:]
        progress("asking the audit")
        of_all = found_by_audit(road.aggregator)
        assert {name: counts(one) for name, one in of_all.items()} == {
            f"a.{sink}": {"arrived": READINGS} for sink in SINKS
        }
        gone, numbers = delete_a_file(road)
        about = found_by_audit(road.aggregator)["a.hdfs"]
        assert [one["why"] for one in about["findings"] if one["kind"] == "missing"] == [f"{gone} is not there"]
        assert [n for first, last in spans(about, "missing") for n in range(first, last + 1)] == numbers
