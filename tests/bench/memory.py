"""Resident memory of the chain's collector, idle and under load; Flume with the leanest heap that carries it."""

from __future__ import annotations

import time
from pathlib import Path

from tests.bench.chain import Chain, Load
from tests.bench.figure import Figure, Say, Target, middle
from tests.bench.machine import memory_mb

HEAP = "48m"
SETTLE_SECONDS = 2.0
LOADS = [Load(100_000), Load(100_000, connections=8)]


def measure(folder: Path, runs: int, flume: bool, say: Say) -> list[Figure]:
    """VmRSS after the start, and the most (VmHWM) after loads over one connection and over eight."""
    found: dict[str, list[tuple[float, float]]] = {who: [] for who in (["flume"] if flume else []) + ["headrace"]}
    for turn in range(runs):
        for who, sizes in found.items():
            with Chain(who, folder / f"{who}-{turn}", heap=HEAP) as chain:
                time.sleep(SETTLE_SECONDS)
                idle = memory_mb(chain.collector.pid, "VmRSS")
                for load in LOADS:
                    chain.drive(load)
                sizes.append((idle, memory_mb(chain.collector.pid, "VmHWM")))
            say(f"memory: {who} {sizes[-1][0]:.1f} MB idle, {sizes[-1][1]:.1f} MB at most under load")
    figures = []
    for at, (name, bound) in enumerate((("idle", 35), ("under load", 60))):
        other = middle(sizes[at] for sizes in found["flume"]) if flume else None
        ours = middle(sizes[at] for sizes in found["headrace"])
        figures.append(Figure(f"RSS of the collector, {name}", "MB", ours, other, Target(bound, False)))
    return figures
