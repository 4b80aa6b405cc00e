"""What a test needs of the machine: `need("mosquitto")` skips by name where it can't be had, and fails when CI=true."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.peers import jars

PREFIX = "peer not here: "
SBIN = os.pathsep.join(("/usr/sbin", "/usr/local/sbin", "/sbin"))
DEBIAN = {
    "mosquitto": "mosquitto",
    "mosquitto_pub": "mosquitto-clients",
    "mosquitto_sub": "mosquitto-clients",
    "nc": "netcat-openbsd",
    "kcat": "kcat",
    "java": "default-jdk-headless",
    "javac": "default-jdk-headless",
    "mvn": "maven",
    "strace": "strace",
    "openssl": "openssl",
    "mariadbd": "mariadb-server",
    "postgresql": "postgresql",
}


def need(*names: str) -> None:
    """Skip the test (with CI=true: fail it) unless each of these is here.

    A name is a program on PATH, a peer whose jars come by Maven (a folder of tests/peers with a pom), or one of
    `mount-namespace`, `root`.
    """
    for name in names:
        reason = missing(name)
        if reason and os.environ.get("CI") == "true":
            pytest.fail(f"{PREFIX}{name} ({reason})", pytrace=False)
        elif reason:
            pytest.skip(f"{PREFIX}{name} ({reason})")


@cache
def missing(name: str) -> str:
    """Why this can't be had, in a few words; empty if it is here."""
    check = CHECKS.get(name)
    if check:
        return check()
    if name in jars.names():
        return _maven(name)
    if find(name):
        return ""
    return f"apt-get install {DEBIAN[name]}" if name in DEBIAN else "no such program on PATH"


def find(program: str) -> str | None:
    """Where a program lies; servers of Debian are often in an sbin folder that isn't on PATH."""
    return shutil.which(program) or shutil.which(program, path=SBIN)


def _maven(name: str) -> str:
    if missing("java"):
        return missing("java")
    return "" if jars.is_here(name) or not missing("mvn") else "its jars are not here: make peers"


def _mount_namespace() -> str:
    unshare = find("unshare")
    if not unshare:
        return "no unshare on PATH"
    flags = [] if os.geteuid() == 0 else ["--map-root-user"]
    tried = subprocess.run([unshare, "--mount", *flags, "true"], capture_output=True, text=True, check=False)
    return "" if tried.returncode == 0 else f"unshare --mount: {tried.stderr.strip() or tried.returncode}"


def _root() -> str:
    return "" if os.geteuid() == 0 else "not root"


def _postgresql() -> str:
    """Debian keeps the server off PATH, one folder a version (tests/peers/postgresql.py)."""
    here = any(Path("/usr/lib/postgresql").glob("*/bin/postgres")) or find("postgres")
    return "" if here else f"apt-get install {DEBIAN['postgresql']}"


CHECKS: dict[str, Callable[[], str]] = {
    "mount-namespace": _mount_namespace,
    "root": _root,
    "postgresql": _postgresql,
}
