"""Both programs without an argument, in one folder, on their own ports (in a network namespace of their own)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.needs import need
from tests.peers.harness import ROOT

INSIDE = """
import atexit, fcntl, json, socket, struct, subprocess, sys, time, urllib.request
with socket.socket() as sock:
    fcntl.ioctl(sock, 0x8914, struct.pack("16sH14s", b"lo", 0x1 | 0x40, b""))  # SIOCSIFFLAGS: UP, RUNNING

def start(package):
    one = subprocess.Popen([sys.executable, "-m", package], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    atexit.register(one.kill)
    return one

def banner(process):
    lines = []
    while not lines or "next" not in lines[-1]:
        lines.append(process.stdout.readline())
        assert lines[-1], process.stderr.read()
    return lines

def status(port):
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/status") as answer:
                return json.load(answer)
        except OSError:
            time.sleep(0.05)  # thousands of tries would once come from the port that they go to, and meet themselves

aggregator = start("aggregator")
found = {"aggregator": banner(aggregator), "ready": aggregator.stdout.readline(), "pid": aggregator.pid}
again = start("aggregator")
found["errors"] = again.communicate(timeout=60)[1].splitlines()
found["again"] = again.returncode
collector = start("edge")
found["collector"] = banner(collector)
found["status"] = [[part["name"] for part in status(port)["components"]] for port in (41415, 41416)]
for process in (collector, aggregator):
    process.terminate()
    process.communicate(timeout=60)
found["codes"] = [collector.returncode, aggregator.returncode]
print(json.dumps(found))
"""


def test_both_programs_without_an_argument(tmp_path: Path) -> None:
    """They say what listens where, keep apart under ./headrace-data, and end clean; a second aggregator gives one error
    that names the first and 1."""
    need("mount-namespace")
    done = subprocess.run(
        ["unshare", "-rn", sys.executable, "-c", INSIDE],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path, capture_output=True, text=True, timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    shown = "".join(found["aggregator"])
    assert "127.0.0.1:41414" in shown and "http://127.0.0.1:41415/" in shown and "headrace-data/events.db" in shown
    assert found["ready"].startswith("ready, agent aggregator")
    assert "mqtt://127.0.0.1:1883  sensors/#" in "".join(found["collector"])
    assert found["again"] == 1 and len(found["errors"]) == 1
    assert f"127.0.0.1:41414 is taken by process {found['pid']}" in found["errors"][0]
    assert found["status"] == [
        ["to-files", "to-table", "to-topic", "files", "table", "topic", "collectors", "topics"],
        ["store", "forward", "sensors"],
    ]
    assert found["codes"] == [0, 0]
    assert {path.name for path in (tmp_path / "headrace-data").iterdir()} >= {"aggregator", "collector"}
