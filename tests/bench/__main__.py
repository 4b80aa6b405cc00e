"""python -m tests.bench [FIGURE ...]: measure, print, and write docs/performance.md.

--runs N      median of so many (3)
--no-flume    only our side
--no-write    leave docs/performance.md alone
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.bench import device, drain, hbase, hdfs, kafka, latency, memory, mqtt, outage, throughput, topics
from tests.bench.figure import Figure, Say
from tests.bench.report import PAGE, show, update
from tests.needs import missing

Measure = Callable[[Path, int, bool, Say], list[Figure]]
SIXTH, EIGHTH = (1 / 6, "1/6"), (1 / 8, "1/8")

FIGURES: dict[str, Measure] = {
    "file-100": partial(throughput.measure, batch=100, least=6, cpu=SIXTH),
    "file-1000": partial(throughput.measure, batch=1000, least=8, cpu=EIGHTH),
    "file-8x100": partial(throughput.measure, batch=100, connections=8, least=10),
    "memory-100": partial(throughput.measure, channel="memory", batch=100, least=1.5),
    "memory-1000": partial(throughput.measure, channel="memory", batch=1000, least=1.5),
    "latency": latency.calls,
    "start": latency.first_event,
    "rss": memory.measure,
    "device": device.measure,
    "mqtt": mqtt.measure,
    "drain": drain.measure,
    "hdfs-avro": partial(hdfs.measure, kind="avro", least=6),
    "hdfs-text": partial(hdfs.measure, kind="text"),
    "hdfs-gzip": partial(hdfs.measure, kind="gzip"),
    "hbase-100": partial(hbase.measure, batch=100),
    "hbase-1000": partial(hbase.measure, batch=1000),
    "kafka": kafka.measure,
    "topics": topics.measure,
    "topics-sink": topics.sink,
    "outage": outage.measure,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=", ".join(FIGURES))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--no-flume", action="store_true")
    parser.add_argument("--no-write", action="store_true")
    given = parser.parse_args()
    if unknown := set(given.figures) - FIGURES.keys():
        parser.error(f"no figure {', '.join(sorted(unknown))}; there are {', '.join(FIGURES)}")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    flume = not given.no_flume and _flume_here()
    began, found, failed = time.monotonic(), list[Figure](), list[str]()
    for name in given.figures or FIGURES:
        with tempfile.TemporaryDirectory(prefix=f"bench-{name}-") as folder:
            try:
                figures = FIGURES[name](Path(folder), given.runs, flume, partial(_say, began))
            except (AssertionError, OSError, subprocess.SubprocessError) as error:
                failed.append(name)
                print(f"{name} could not be measured: {error}", file=sys.stderr)
                continue
        found += figures
        if not given.no_write:
            update(PAGE, figures)
    print(show(found))
    if not given.no_write:
        print(f"written to {PAGE}")
    if failed:
        raise SystemExit(f"not measured: {', '.join(failed)}")


def _say(began: float, text: str) -> None:
    print(f"{time.monotonic() - began:5.0f} s  {text}", file=sys.stderr, flush=True)


def _flume_here() -> bool:
    why = missing("java") or missing("flume")
    if why:
        print(f"no Flume to compare with: {why}", file=sys.stderr)
    return not why


if __name__ == "__main__":
    main()
