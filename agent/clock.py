"""Three clocks, and when each is right.

wall: what a reading is stamped with; jumps when the machine learns the time. monotonic: time-outs. boot: ages of
stored rows; it goes on through a suspend and means nothing after a restart, hence the boot id beside it.
"""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path


def wall_ms() -> int:
    """Milliseconds since the epoch, as in Flume's `timestamp` header."""
    return time.time_ns() // 1_000_000


def boot_ns() -> int:
    """Nanoseconds since the machine started, suspend included (CLOCK_BOOTTIME)."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@cache
def boot_id() -> bytes:
    """The kernel's id of this start, 16 bytes; zeros where the kernel tells none."""
    try:
        return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", ""))
    except (OSError, ValueError):
        return bytes(16)
