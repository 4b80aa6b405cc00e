"""EmbeddedBroker: an MQTT broker for a demo, for tests and for a first try on one machine; on loopback only.

mosquitto if it is installed (a child process: MQTT 5 and 3.1.1), else amqtt (in this process: 3.1.1 only, about a
tenth of the speed). In production run mosquitto as a service, with deploy/mosquitto/headrace.conf.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from agent.errors import AgentError, ConfigError

SETTINGS = """\
listener {port} 127.0.0.1
{access}
persistence true
persistence_location {folder}/
autosave_interval 60
# mosquitto's own default drops what a client that is away has more than 1,000 of, and tells nobody.
max_queued_messages 0
max_inflight_messages 1000
"""


def find_mosquitto() -> str | None:
    """Path of the mosquitto program; Debian puts it where only root's PATH looks."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/local/sbin:/usr/sbin:/sbin")


def free_port() -> int:
    """A TCP port of loopback that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


class EmbeddedBroker:
    """`async with EmbeddedBroker(folder) as broker` listens on `broker.port`; nothing but its folder stays behind.

    `access` replaces the line that lets everybody in; `extra` are further lines of mosquitto's settings.
    """

    def __init__(
        self, folder: Path, port: int = 0, *, access: str = "allow_anonymous true", extra: str = "", kind: str = ""
    ) -> None:
        self.folder, self.port, self.access, self.extra = folder, port or free_port(), access, extra
        self.kind = kind or ("mosquitto" if find_mosquitto() else "amqtt")
        self._process: subprocess.Popen[bytes] | None = None
        self._amqtt: Any = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What mosquitto said, over every start."""
        file = self.folder / "mosquitto.log"
        return file.read_text("utf-8", "replace") if file.exists() else ""

    @property
    def pid(self) -> int:
        """mosquitto's process id; this process where amqtt serves."""
        return self._process.pid if self._process else os.getpid()

    async def start(self) -> None:
        """Listen; AgentError with the end of the log if it ends or isn't ready within 10 s."""
        self.folder.mkdir(parents=True, exist_ok=True)
        await (self._start_mosquitto() if self.kind == "mosquitto" else self._start_amqtt())

    async def stop(self) -> None:
        """SIGTERM, after which mosquitto writes its state; SIGKILL if it takes longer than 10 s."""
        if self._amqtt:
            await self._amqtt.shutdown()
            self._amqtt = None
        if self._process:
            self._process.terminate()
            try:
                await asyncio.to_thread(self._process.wait, 10)
            except subprocess.TimeoutExpired:
                pass
            finally:
                self.kill()

    def kill(self) -> None:
        """SIGKILL to mosquitto."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def _start_mosquitto(self) -> None:
        program, settings = find_mosquitto(), self.folder / "mosquitto.conf"
        assert program is not None, "mosquitto is not installed"
        text = SETTINGS.format(port=self.port, access=self.access, folder=self.folder.resolve()) + self.extra
        if os.getuid() == 0:
            text += "\nuser root\n"  # else it becomes user mosquitto, which can't write into our folder
        settings.write_text(text)
        command = [program, "-c", str(settings)]
        if guard := shutil.which("setpriv"):
            command = [guard, "--pdeathsig", "TERM", *command]  # if we are killed, it ends too
        with (self.folder / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220  (returns at once)
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        for _ in range(500):
            if self._process.poll() is not None:
                break
            if self._answers():
                return
            await asyncio.sleep(0.02)
        self.kill()
        raise AgentError(f"mosquitto does not start:\n{self.log[-2000:]}")

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    async def _start_amqtt(self) -> None:
        try:
            from amqtt.broker import Broker
        except ModuleNotFoundError:
            raise ConfigError("no MQTT broker: apt install mosquitto, or pip install amqtt") from None
        plugin = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
        listener = {"default": {"type": "tcp", "bind": f"127.0.0.1:{self.port}"}}
        self._amqtt = Broker({"listeners": listener, "plugins": plugin})
        await self._amqtt.start()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
