"""Starts the named real thing for a test: a server, or one of our own programs, each in a folder of its own.

    class Mosquitto(Server):
        def command(self): return [find("mosquitto"), "-c", str(self.folder / "mosquitto.conf")]
        def ready(self): return answers(self.port)

    with Mosquitto("mosquitto", folder) as broker: ...          # stopped by pid, its log kept beside

A server is started when a test asks for it and says so in one line. `start` returns when `ready` is true and raises
with the end of the log if the process ends before. The logs of every server of a failed test are shown with it.

`Program` runs `python -m edge -f flow.conf` (or aggregator); the fixture `program` makes them and stops them.
"""

from __future__ import annotations

import atexit
import fcntl
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Self

ROOT = Path(__file__).resolve().parents[2]
LIVE: list[Server] = []
_progress: list[Callable[[str], None]] = []
_given: set[int] = set()
_ports: list[int] = []


def progress(text: str) -> None:
    """One line for who waits; shown although pytest captures."""
    for show in _progress or [print]:
        show(text)


def free_port() -> int:
    """A TCP port nobody listens on, below the range from which the kernel takes ports for outgoing connections.

    Nobody else is given it as long as this process lives: the server that wants it may be down for a while.
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        if port in _given or not _reserved(port):
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port


def _reserved(port: int) -> bool:
    """Whether this process has it now among all that run tests: one byte of a file, locked until the process ends."""
    if not _ports:
        path = Path(tempfile.gettempdir()) / f"headrace-test-ports-{os.getuid()}"
        _ports.append(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    try:
        fcntl.lockf(_ports[0], fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    return True


def answers(port: int, host: str = "127.0.0.1") -> bool:
    """Whether somebody accepts connections there."""
    try:
        socket.create_connection((host, port), 1).close()
    except OSError:
        return False
    return True


def wait_until(true: Callable[[], object], seconds: float = 30, what: str = "") -> None:
    """Poll until it is true; AssertionError names `what` didn't come true. A bound, never a measurement."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:g} s: {what or true}")
        time.sleep(0.03)


def http_get(port: int, path: str = "/metrics", accept: str = "application/json") -> tuple[int, bytes]:
    """(status, body) of a GET on loopback."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path, headers={"Accept": accept})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


class Server:
    """A process in a folder: `command` and `ready` are what a kind of server says of itself."""

    start_seconds = 60.0
    stop_seconds = 20.0

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.log_file = folder / f"{name}.log"
        self.env: dict[str, str] = {}
        self.process: subprocess.Popen[bytes] | None = None
        self._pid = 0
        """Of a process that another one started (tests/peers/shared.py)."""

    def command(self) -> Sequence[str]:
        """The program and its arguments."""
        raise NotImplementedError

    def ready(self) -> bool:
        """Whether it serves; asked again and again."""
        raise NotImplementedError

    def configure(self) -> None:
        """Write what the program reads, before each start."""

    @property
    def pid(self) -> int:
        """The process id; AssertionError if it doesn't run."""
        assert self.process is not None or self._pid, f"{self.name} is not started"
        return self.process.pid if self.process else self._pid

    def pids(self) -> list[int]:
        """Of every process that it is made of; a server of several parts names those too."""
        return [self.pid]

    def let_go(self) -> None:
        """It outlives who started it; whoever knows its pid ends it."""
        self._pid = self.pid
        if self.process:
            self.process.returncode = 0  # nobody here waits for it
            self.process = None
        if self in LIVE:
            LIVE.remove(self)

    @property
    def running(self) -> bool:
        if self.process is None:
            return self._pid > 0 and Path(f"/proc/{self._pid}").exists()
        return self.process.poll() is None

    @property
    def log(self) -> str:
        """All that it printed, over every start."""
        return self.log_file.read_text("utf-8", "replace") if self.log_file.exists() else ""

    def launch(self) -> None:
        """Start without waiting for it to be ready."""
        assert not self.running, f"{self.name} runs already"
        self.configure()
        progress(f"starting {self.name}")
        with self.log_file.open("ab") as out:
            self.process = self._popen(out)
        if self not in LIVE:
            LIVE.append(self)

    def _popen(self, out: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            list(self.command()), cwd=self.folder, env={**os.environ, **self.env},
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def start(self) -> Self:
        """Start it and return when it is ready."""
        self.launch()
        return self.wait_ready()

    def wait_ready(self) -> Self:
        """Return when it is ready; AssertionError with its log if it ends before, or takes too long."""
        end = time.monotonic() + self.start_seconds
        while True:
            code = self.process.poll() if self.process else None
            if code is not None:
                raise AssertionError(f"{self.name} ended with {code} before it was ready:\n{self.log[-4000:]}")
            if self.ready():
                return self
            if time.monotonic() > end:
                self.kill9()
                raise AssertionError(f"{self.name} not ready in {self.start_seconds:g} s:\n{self.log[-4000:]}")
            time.sleep(0.03)

    def wait_log(self, text: str, seconds: float = 30) -> None:
        """Return when the log holds this text."""
        wait_until(lambda: text in self.log, seconds, f"{text!r} in the log of {self.name}:\n{self.log[-4000:]}")

    def wait_exit(self, seconds: float = 30) -> int:
        """Its exit code, once it ended by itself."""
        assert self.process is not None
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {seconds:g} s:\n{self.log[-4000:]}") from None

    def signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def kill9(self) -> None:
        """SIGKILL to it and to what it started."""
        if self.process is None:
            return
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM, wait, and the exit code. AssertionError (after SIGKILL) if it doesn't end."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(self.stop_seconds)
        except subprocess.TimeoutExpired:
            self.kill9()
            raise AssertionError(f"{self.name} did not end after SIGTERM:\n{self.log[-4000:]}") from None

    def restart(self) -> Self:
        """Stop it unless it is dead, and start it again."""
        if self.running:
            self.stop()
        return self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            if self in LIVE:
                LIVE.remove(self)


class Program(Server):
    """`python -m edge` or `python -m aggregator` with a configuration text, in its own folder (its HOME too).

    Ready when `/readyz` answers 200 on `monitoring`, the port given with Flume's -D flags. `wrap` goes before the
    command (strace ...); `{folder}` and `{name}` of other placeholders are the caller's: the text is written as it is.
    """

    def __init__(
        self, package: str, conf: str, folder: Path, *, args: Sequence[str] = (), wrap: Sequence[str] = (),
        env: Mapping[str, str] | None = None, name: str = "",
    ) -> None:  # fmt: skip
        super().__init__(name or package, folder)
        self.package, self.conf, self.args, self.wrap = package, conf, args, wrap
        self.conf_file = folder / f"{self.name}.conf"
        self.monitoring = free_port()
        self.env = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "HOME": str(folder), **(env or {})}

    def configure(self) -> None:
        self.conf_file.write_text(self.conf)

    def command(self) -> list[str]:
        return [
            *self.wrap, sys.executable, "-m", self.package, "-f", str(self.conf_file),
            "-Dflume.monitoring.type=http", f"-Dflume.monitoring.port={self.monitoring}", *self.args,
        ]  # fmt: skip

    def ready(self) -> bool:
        try:
            return http_get(self.monitoring, "/readyz")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def metrics(self) -> dict[str, dict[str, str]]:
        """Flume's JSON: {"CHANNEL.c1": {"ChannelSize": "0", ...}, ...}."""
        found: dict[str, dict[str, str]] = json.loads(http_get(self.monitoring)[1])
        return found

    def count(self, component: str, field: str) -> int:
        """One number of the metrics, such as count("SINK.k1", "EventDrainSuccessCount")."""
        return int(float(self.metrics()[component][field]))


@atexit.register
def _leave_nothing() -> None:
    for server in LIVE:
        server.kill9()
