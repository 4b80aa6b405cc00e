"""The aggregator: `python -m aggregator`, `headrace-aggregator`."""

from __future__ import annotations

import sys

from agent.command import Program, run

AGGREGATOR = Program(
    command="headrace-aggregator",
    package="aggregator",
    title="the aggregator: receives from collectors and fans out to its outputs",
    hints=(
        "kcat -u -C -b 127.0.0.1:9092 -t readings -f '%k %s\\n'",
        'python -c "from kafka import KafkaConsumer as K; [print(r.key.decode(), r.value.decode()) for r in '
        "K('readings', bootstrap_servers='127.0.0.1:9092', auto_offset_reset='earliest')]\"  # pip: kafka-python",
    ),
    commands={"topics": "aggregator.topics.commands.command"},
    next_step="take collectors from other machines, another folder, more outputs",
)


def main() -> int:
    """Run with the arguments of the process; returns the exit code."""
    return run(AGGREGATOR, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
