"""Bytes that reach the device for a byte of event, by the write counter of a loop device with ext4 on it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from agent.avro import record
from agent.store import schema
from tests.bench.chain import Chain, Load
from tests.bench.driver import HEADERS
from tests.bench.figure import Figure, Say, Target, middle
from tests.bench.machine import SECTOR, sectors_written
from tests.needs import find, missing

DISK_BYTES = 2 << 30
WARM_UP = Load(60_000)
LOAD = Load(100_000)
PAGE_SIZES = (1024, 2048, 4096)
EVENT_BYTES = len(record.encode([(HEADERS, bytes(200))]))


class Disk(NamedTuple):
    """An ext4 of its own: where it is mounted, and its name in /sys/block."""

    place: Path
    device: str

    def written(self) -> int:
        """Bytes written so far, with everything that was waiting."""
        fd = os.open(self.place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
            subprocess.run(["sync", "-f", str(self.place)], check=True)
        finally:
            os.close(fd)
        return sectors_written(self.device) * SECTOR


@contextmanager
def disk(folder: Path) -> Iterator[Disk]:
    """Made in a sparse file, taken away afterwards."""
    image, place = folder / "disk.img", folder / "disk"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    _run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image))
    device = _run("losetup", "--find", "--show", str(image)).strip()
    try:
        _run("mount", device, str(place))
        try:
            yield Disk(place, Path(device).name)
        finally:
            _run("umount", str(place))
    finally:
        _run("losetup", "--detach", device)


def _run(program: str, *args: str) -> str:
    done = subprocess.run([find(program) or program, *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{program} {' '.join(args)}: {done.stderr}"
    return done.stdout


def measure(folder: Path, runs: int, flume: bool, say: Say) -> list[Figure]:
    """Flume, and us with each page size."""
    why = missing("root") or ("" if find("mkfs.ext4") and find("losetup") else "no mkfs.ext4 or losetup")
    if why:
        say(f"device bytes are not measured: {why}")
        return []
    with disk(folder) as on:
        found = [_ratio(on, folder, "flume", runs, 0, say)] if flume else []
        found += [_ratio(on, folder, "headrace", runs, size, say) for size in PAGE_SIZES]
    theirs = found.pop(0)[0] if flume else None
    figures = []
    for size, (written, cpu) in zip(PAGE_SIZES, found, strict=True):
        chosen = size == schema.PAGE_SIZE
        name = "device bytes an event byte" + ("" if chosen else f", pages of {size}")
        figures.append(Figure(name, "", written, theirs if chosen else None, Target(2.0, False) if chosen else None))
        figures.append(Figure(f"CPU at the collector with pages of {size}", "us/event", cpu))
    return figures


def _ratio(on: Disk, folder: Path, who: str, runs: int, page: int, say: Say) -> tuple[float, float]:
    """(bytes written for a byte of event, CPU us an event)."""
    wrap = [sys.executable, "-m", "tests.bench.paged", str(page)] if page else []
    name = f"{who}-{page}"
    ratios, used = [], []
    with Chain(who, folder / name, wrap=wrap, store=on.place / name) as chain:
        chain.drive(WARM_UP)
        for _ in range(runs):
            before = on.written()
            run = chain.drive(LOAD)
            ratios.append((on.written() - before) / (LOAD.events * EVENT_BYTES))
            used.append(run.collector_us)
            say(f"device: {name} {ratios[-1]:.2f} bytes a byte, CPU {used[-1]:.1f} us/event")
    return middle(ratios), middle(used)
