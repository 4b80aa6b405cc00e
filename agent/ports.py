"""Addresses and ports as they are said to people; who holds a TCP port, so that "address already in use" can name
the other program.

The kernel lists listening sockets in /proc/net/tcp and tcp6 (proc(5)): columns `local_address` (hexadecimal
address:port), `st` (0A is LISTEN) and `inode`; a process that holds the socket has `socket:[inode]` in its
/proc/PID/fd.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from pathlib import Path

LISTEN = "0A"


def spelled(host: str, port: int | str) -> str:
    """`host:port`, with brackets around an IPv6 address (RFC 3986, 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reason(error: OSError) -> str:
    """Why a connection failed: `Connection refused`, where asyncio writes `Connect call failed ('::1', 80, 0, 0)`."""
    text = error.strerror or str(error)
    if error.errno and text.startswith("Connect call failed"):
        return os.strerror(error.errno)
    return re.sub(r"\[Errno (\d+)\] Connect call failed", lambda found: os.strerror(int(found[1])), text)


def taken(host: str, port: int) -> str | None:
    """None if a listener could bind there, else who has it, as a phrase. Other errors are left to the source."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return None
    for family, kind, protocol, _, address in found:
        with socket.socket(family, kind, protocol) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                sock.bind(address)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return holder(port) or "another program"
    return None


def holder(port: int) -> str | None:
    """`process 123 (its command line)` of the listener on a port; None where /proc doesn't tell."""
    inodes = {f"socket:[{inode}]" for name in ("tcp", "tcp6") for inode in _listeners(Path("/proc/net") / name, port)}
    for process in Path("/proc").glob("[0-9]*") if inodes else ():
        try:
            if inodes.isdisjoint(os.readlink(entry) for entry in (process / "fd").iterdir()):
                continue
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
        except OSError:
            continue
        return f"process {process.name} ({command[:120]})"
    return None


def _listeners(table: Path, port: int) -> list[str]:
    try:
        rows = [line.split() for line in table.read_text().splitlines()[1:]]
    except OSError:
        return []
    return [row[9] for row in rows if row[3] == LISTEN and int(row[1].rpartition(":")[2], 16) == port]
