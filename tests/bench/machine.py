"""What the kernel counts: CPU and memory of a process, sectors of a device; and what machine this is."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
SECTOR = 512
"""Bytes; what /sys/block/*/stat counts in, whatever the device."""


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, all threads (those that ended too)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def memory_mb(pid: int, what: str) -> float:
    """VmRSS (now) or VmHWM (the most so far), in MB of 10^6 bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise LookupError(f"no {what} in the status of process {pid}")


def sectors_written(device: str) -> int:
    """Sectors of a block device (`loop0`) written since it was set up."""
    return int(Path(f"/sys/block/{device}/stat").read_text().split()[6])


@cache
def interpreter() -> str:
    """The Python that our programs and the driver run with: `BENCH_PYTHON`, else this one, unless it was built without
    optimisation (a quarter slower) and the distribution's is there."""
    given = os.environ.get("BENCH_PYTHON")
    plain = "--enable-optimizations" not in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    system = Path("/usr/bin/python3")
    if not given and plain and system.exists() and _ask(system, "sys.version_info >= (3, 11)") == "True":
        given = str(system)
    return given or sys.executable


def _ask(python: str | Path, what: str) -> str:
    """The value of an expression there."""
    done = subprocess.run(
        [python, "-c", f"import platform, sqlite3, sys; print({what})"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def cores() -> list[int]:
    """The cores this process may run on."""
    return sorted(os.sched_getaffinity(0))


def description() -> list[str]:
    """The machine in lines of `what: value`."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith(("model name", "Model"))
        ),
        platform.machine(),
    )
    return [
        f"CPU: {model}, {len(cores())} cores used",
        f"kernel: {platform.release()}",
        f"Python: {_ask(interpreter(), 'platform.python_version()')} ({interpreter()}), "
        f"SQLite: {_ask(interpreter(), 'sqlite3.sqlite_version')}",
        f"date: {datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
    ]
