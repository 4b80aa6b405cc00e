"""Java peers come from Maven Central: the jars of `tests/peers/NAME/pom.xml`, by way of the user's Maven repository.

They are copied once to ~/.cache/headrace/NAME-STAMP/lib, where the stamp changes with the pom. `python -m
tests.peers.jars` copies those of every pom here (`make peers`).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
import zlib
from pathlib import Path

from tests.peers.harness import progress

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headrace"
OPENS = ("java.lang", "java.lang.reflect", "java.net", "java.nio", "java.util", "sun.nio.ch", "jdk.internal.ref")
LEAN = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""For short-lived commands and servers of tests: they start sooner and take less of two cores."""


def names() -> list[str]:
    """Every peer that has a pom here."""
    return sorted(pom.parent.name for pom in HERE.glob("*/pom.xml"))


def folder(name: str) -> Path:
    """Where a peer's jars lie (`lib/*`), whether they are there or not."""
    return CACHE / f"{name}-{zlib.crc32((HERE / name / 'pom.xml').read_bytes()):08x}"


def is_here(name: str) -> bool:
    """Whether they have been copied."""
    return (folder(name) / "done").exists()


def jars(name: str) -> str:
    """The class path `.../lib/*` of a peer's jars. The first call takes up to a minute; AssertionError if it fails."""
    place = folder(name)
    if not is_here(name):
        CACHE.mkdir(parents=True, exist_ok=True)
        with (CACHE / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not is_here(name):
                _copy(name, place)
    return f"{place}/lib/*"


def _copy(name: str, place: Path) -> None:
    for old in CACHE.glob(f"{name}-????????"):
        shutil.rmtree(old, ignore_errors=True)
    progress(f"copying the jars of {name} to {place}")
    began = time.monotonic()
    command = [
        "mvn", "-q", "-B", "-f", str(HERE / name / "pom.xml"), "dependency:copy-dependencies",
        f"-DoutputDirectory={place / 'lib'}", "-DincludeScope=runtime",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    (place / "done").touch()
    progress(f"jars of {name}: {len(list((place / 'lib').iterdir()))}, {time.monotonic() - began:.0f} s")


def opened(*packages: str) -> list[str]:
    """--add-opens flags of java.base, by default for what Hadoop and its kin look into."""
    return [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in packages or OPENS]


def run(*command: str, timeout: float = 120, stdin: bytes | None = None) -> bytes:
    """What a command prints to stdout. AssertionError with all it said if it fails."""
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=timeout, check=False)
    said = (done.stdout + done.stderr).decode("utf-8", "replace")
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{said[-4000:]}"
    return done.stdout


if __name__ == "__main__":
    for one in sys.argv[1:] or names():
        jars(one)
