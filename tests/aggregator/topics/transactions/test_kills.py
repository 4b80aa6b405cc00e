"""SIGKILL at every statement of a transaction's life."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.fault
KEPT = {0: (["0", "0"], [0, 1]), 2: (["2", "2"], [20, 21])}
"""Of each transaction that is committed: its records in either partition, and its offsets."""


def wholes() -> list[Any]:
    """What may be seen: each transaction with all it has, or with nothing."""
    nothing: list[Any] = [[[], []], [None, None]]
    first = [[KEPT[0][0], KEPT[0][0]], KEPT[0][1]]
    both = [[[*KEPT[0][0], *KEPT[2][0]], [*KEPT[0][0], *KEPT[2][0]]], KEPT[2][1]]
    return [nothing, first, both]


def test_a_kill_leaves_a_transaction_whole_or_nothing(tmp_path: Path) -> None:
    """Killed before any statement of SQLite, a log shows each transaction in all its partitions and its group's
    offsets, or nowhere; what was answered is there; what was aborted or left open is never seen; and it goes on."""
    command = [sys.executable, "-m", "tests.aggregator.topics.transactions.crashing", str(tmp_path)]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    runs = [json.loads(line) for line in lines]
    stages = set()
    for run in runs:
        stage = wholes().index(run["before"])
        assert stage >= sum(f"end {number}" in run["answered"] for number in KEPT)
        assert stage <= sum(f"sent {number}" in run["answered"] for number in KEPT)
        assert (run["decided"], run["pending"]) == ([True, True], 0)
        values, offsets = run["before"]
        assert run["after"] == [[[*part, "last"] for part in values], offsets]
        stages.add(stage)
    assert stages == {0, 1, 2}
    assert runs[-1]["answered"][-1] == "bump" and len(runs) > 80
