"""A real mosquitto in a folder of its own, and its command-line publisher."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from agent.broker import SETTINGS
from tests.needs import find
from tests.peers.harness import Server, answers, free_port

VERSIONS = {"5": "mqttv5", "3.1.1": "mqttv311"}


class Mosquitto(Server):
    """Listens on `port` of loopback, drops nothing and keeps its state over a restart."""

    def __init__(self, folder: Path, *, name: str = "mosquitto", access: str = "allow_anonymous true") -> None:
        super().__init__(name, folder)
        self.port, self.access = free_port(), access

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def configure(self) -> None:
        text = SETTINGS.format(port=self.port, access=self.access, folder=self.folder) + "log_type all\nuser root\n"
        (self.folder / "mosquitto.conf").write_text(text)

    def command(self) -> Sequence[str]:
        return [find("mosquitto") or "mosquitto", "-c", str(self.folder / "mosquitto.conf")]

    def ready(self) -> bool:
        return answers(self.port)

    def publish(self, topic: str, lines: Sequence[str], version: str = "5", *options: str) -> None:
        """One message a line at QoS 1; returns when the broker has acknowledged all of them."""
        subprocess.run(
            [
                find("mosquitto_pub") or "mosquitto_pub", "-p", str(self.port), "-V", VERSIONS[version],
                "-q", "1", "-t", topic, *options, "-l",
            ],
            input="".join(f"{line}\n" for line in lines), text=True, check=True, timeout=60,
        )  # fmt: skip
