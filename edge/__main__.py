"""The collector: `python -m edge`, `headrace-edge`."""

from __future__ import annotations

import sys

from agent.command import Program, run

COLLECTOR = Program(
    command="headrace-edge",
    package="edge",
    title="the collector: takes readings in next to the machines and forwards them",
    next_step="more sensors, another broker, another aggregator",
)


def main() -> int:
    """Run with the arguments of the process; returns the exit code."""
    return run(COLLECTOR, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
