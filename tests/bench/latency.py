"""How long a source's peer waits: p99 of one call at a steady rate, and from the program's start to its first OK."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from pathlib import Path

from tests.bench.chain import WAIT_SECONDS, Chain, Load, headrace
from tests.bench.figure import Figure, Say, Target, middle
from tests.peers.flume import Flume
from tests.peers.harness import Program, free_port

RATE = 5_000
SECONDS = 12
NETCAT = """\
a1.sources = in
a1.channels = c
a1.sinks = out
a1.sources.in.type = netcat
a1.sources.in.bind = 127.0.0.1
a1.sources.in.port = {port}
a1.sources.in.channels = c
a1.channels.c.type = memory
a1.sinks.out.type = null
a1.sinks.out.channel = c
"""


def calls(folder: Path, runs: int, flume: bool, say: Say) -> list[Figure]:
    """appendBatch(100) into a file channel at 5,000 events/s."""
    found: dict[str, list[float]] = {}
    with ExitStack() as opened:
        chains = {
            who: opened.enter_context(Chain(who, folder / who)) for who in (["flume"] if flume else []) + ["headrace"]
        }
        for who, chain in chains.items():
            chain.drive(Load(20_000))
            found[who] = []
        for _ in range(runs):
            for who, chain in chains.items():
                run = chain.drive(Load(RATE * SECONDS, rate=RATE))
                found[who].append(run.p99_ms)
                say(f"at {RATE:,} events/s: {who} p50 {run.p50_ms:.2f} ms, p99 {run.p99_ms:.2f} ms")
    other = middle(found["flume"]) if flume else None
    return [
        Figure("p99 of appendBatch(100) at 5,000 events/s, file channel", "ms", middle(found["headrace"]), other,
               Target(1, False, True, "1"))
    ]  # fmt: skip


def first_event(folder: Path, runs: int, flume: bool, say: Say) -> list[Figure]:
    """From the start of the process to the first OK of netcat. The first start of each is not counted."""
    found: dict[str, list[float]] = {who: [] for who in (["flume"] if flume else []) + ["headrace"]}
    for turn in range(runs + 1):
        for who, times in found.items():
            port = free_port()
            text, home = NETCAT.format(port=port), folder / f"{who}-{turn}"
            server = Flume(text, home) if who == "flume" else headrace("edge", text, home)
            seconds = _until_ok(server, port)
            say(f"start to first event: {who} {seconds:.3f} s{'' if turn else ', not counted'}")
            if turn:
                times.append(seconds)
    other = middle(found["flume"]) if flume else None
    return [
        Figure("start to first event accepted", "s", middle(found["headrace"]), other, Target(0.2, False, True, "1/5"))
    ]


def _until_ok(server: Program | Flume, port: int) -> float:
    began = time.monotonic()
    server.launch()
    try:
        while time.monotonic() < began + WAIT_SECONDS:
            try:
                with socket.create_connection(("127.0.0.1", port), 5) as sock:
                    sock.sendall(b"first\n")
                    if sock.recv(16).startswith(b"OK"):
                        return time.monotonic() - began
            except OSError:
                time.sleep(0.002)
            assert server.running, f"{server.name} ended:\n{server.log[-2000:]}"
        raise AssertionError(f"{server.name} accepted nothing in {WAIT_SECONDS} s")
    finally:
        server.kill9()
