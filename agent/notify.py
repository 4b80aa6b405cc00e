"""What systemd is told of a `Type=notify` unit (sd_notify(3)): one datagram to the socket that $NOTIFY_SOCKET names.

READY when every source listens, RELOADING around a new configuration, STOPPING when the drain begins, WATCHDOG as
long as the agent makes progress. Without the variable nothing happens.
"""

from __future__ import annotations

import os
import socket
import time


def notify(*lines: str) -> bool:
    """Send `NAME=value` lines in one message; False if nobody listens. Never raises: the agent matters more."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect("\0" + address[1:] if address[0] == "@" else address)
            sock.send("\n".join(lines).encode())
    except OSError:
        return False
    return True


def ready(status: str) -> bool:
    """Everything listens (also ends RELOADING)."""
    return notify("READY=1", f"STATUS={status}")


def reloading() -> bool:
    """A new configuration is being taken up; `ready` ends it (Type=notify-reload wants the time)."""
    return notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping() -> bool:
    """The drain has begun."""
    return notify("STOPPING=1", "STATUS=draining")


def alive() -> bool:
    """Feed the watchdog."""
    return notify("WATCHDOG=1")


def watchdog_seconds() -> float | None:
    """How often systemd wants to hear from this process; None if it has no watchdog (sd_watchdog_enabled(3))."""
    micros, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not micros.isdigit() or int(micros) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(micros) / 1e6
