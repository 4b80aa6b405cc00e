"""Events/s and CPU of the chain: file and memory channel, batches of 100 and 1000, one connection and eight."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from tests.bench.chain import Chain, Load, Run
from tests.bench.figure import Figure, Say, Target, middle

EVENTS = 100_000
WARM_UP = 60_000


def measure(
    folder: Path, runs: int, flume: bool, say: Say, *, channel: str = "file", batch: int = 100, connections: int = 1,
    least: float = 0.0, cpu: tuple[float, str] = (0.0, ""),
) -> list[Figure]:  # fmt: skip
    """End to end, and what is worth saying beside it. Each run of ours follows one of Flume's."""
    title = f"{channel} channel, batch {batch}" + (f", {connections} connections" if connections > 1 else "")
    found = drive(folder, runs, flume, say, title, channel, batch, connections)
    ours, theirs = found["headrace"], found.get("flume")

    def figure(name: str, unit: str, of: str, target: Target | None = None) -> Figure:
        other = middle(getattr(run, of) for run in theirs) if theirs else None
        return Figure(f"{title}: {name}", unit, middle(getattr(run, of) for run in ours), other, target)

    bound, text = cpu
    figures = [
        figure("end to end", "events/s", "end_to_end", Target(least, ratio=True)),
        figure("CPU at the collector", "us/event", "collector_us", Target(bound, False, True, text) if bound else None),
        figure("CPU at the receiver", "us/event", "receiver_us"),
        figure("accepted", "events/s", "accepted"),
        figure("p50 of a call", "ms", "p50_ms"),
        figure("p99 of a call", "ms", "p99_ms"),
    ]
    return figures if channel == "file" else figures[:3]


def drive(
    folder: Path, runs: int, flume: bool, say: Say, title: str, channel: str, batch: int, connections: int
) -> dict[str, list[Run]]:
    """Every run of both."""
    whom = ["flume", "headrace"] if flume else ["headrace"]
    found: dict[str, list[Run]] = {who: [] for who in whom}
    with ExitStack() as opened:
        chains = {who: opened.enter_context(Chain(who, folder / who, channel, batch)) for who in whom}
        for chain in chains.values():
            chain.drive(Load(WARM_UP, batch, connections))
        for _ in range(runs):
            for who, chain in chains.items():
                events = EVENTS if who == "flume" else 3 * EVENTS
                run = chain.drive(Load(events, batch, connections))
                found[who].append(run)
                say(
                    f"{title}: {who} {run.end_to_end:,.0f} events/s, "
                    f"CPU {run.collector_us:.1f} + {run.receiver_us:.1f} us"
                )
    return found
