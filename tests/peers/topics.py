"""Our own topics service as a process, for tests with other people's clients.

with Topics(folder) as topics:              # `keys` go under a1.services.topics., `__` for a dot
    Producer({"bootstrap.servers": topics.bootstrap})
    topics.kill9(); topics.start()          # the log stays
    topics.console("t", 3); topics.tool("GetOffsetShell", "--topic", "t")
"""

from __future__ import annotations

from pathlib import Path

from tests.peers.harness import Program, free_port
from tests.peers.kafka import Tools


class Topics(Tools, Program):
    """`python -m aggregator` with nothing but the service."""

    def __init__(self, folder: Path, name: str = "topics", **keys: str) -> None:
        self.port = free_port()
        raw = {"type": "topics", "port": str(self.port), "path": str(folder / "log")} | keys
        lines = [f"a1.services.topics.{key.replace('__', '.')} = {value}\n" for key, value in raw.items()]
        super().__init__("aggregator", "a1.services = topics\n" + "".join(lines), folder, name=name)
