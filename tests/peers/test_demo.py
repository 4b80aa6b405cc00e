"""`make demo` as a person runs it, with fewer readings."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.needs import need
from tests.peers.harness import ROOT


def run_demo(folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """The demo with its temporary files in `folder`."""
    return subprocess.run(
        [sys.executable, "-m", "deploy.demo"], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder), "READINGS": "3000", "RATE": "1000", **env},
    )  # fmt: skip


def left_in(folder: Path) -> list[Path]:
    """All but the file by which processes that need ports agree on them."""
    return [path for path in folder.iterdir() if not path.name.startswith("headrace-test-ports-")]


def processes_with(text: str) -> list[str]:
    """Command lines that hold this text."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
    return [line for line in found if text in line]


def test_nothing_is_missing_twice_or_left(tmp_path: Path) -> None:
    """With a collector killed halfway every reading is in all outputs once, a group that was paused has read each once,
    and no file or process is left."""
    need("mosquitto")
    run = run_demo(tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "3,000 sent · 3,000 arrived · 0 missing · 0 twice" in run.stdout
    assert "SIGKILL" in run.stdout
    assert "the consumer group pauses" in run.stdout
    assert "group: 3,000 read by a Kafka client" in run.stdout
    assert not left_in(tmp_path)
    assert not processes_with(str(tmp_path))


def test_the_query_that_it_prints_was_run_as_printed(tmp_path: Path) -> None:
    """The sqlite-utils line is there, and its answer counts every reading of a sensor."""
    need("mosquitto")
    run = run_demo(tmp_path, READINGS="400", RATE="400")
    assert re.search(r"sqlite-utils \S+/events\.db", run.stdout), run.stdout + run.stderr
    assert re.search(r"sensors/s01/temperature +20 ", run.stdout)


@pytest.mark.limit(300)
def test_a_real_cluster_behind_the_aggregator(tmp_path: Path) -> None:
    """With PEERS=1 HDFS, HBase and Kafka each hold every reading once as well, and nothing is left running."""
    need("mosquitto", "java", "hdfs", "hbase", "kafka")
    run = run_demo(tmp_path, PEERS="1", READINGS="2000")
    assert run.returncode == 0, run.stdout + run.stderr
    assert (
        "held:  events.db 2,000 · Avro files 2,000 · consumer group 2,000 · HDFS 2,000 · HBase 2,000 · Kafka 2,000"
        in run.stdout
    )
    assert not left_in(tmp_path)
    assert not processes_with(str(tmp_path))
