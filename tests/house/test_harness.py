"""The harness itself: a server is started, waited for, killed, and its log is there."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import needs
from tests.peers.harness import ROOT, Server, answers, free_port


class Listener(Server):
    """A web server of the standard library."""

    def __init__(self, folder: Path) -> None:
        super().__init__("listener", folder)
        self.port = free_port()

    def command(self) -> list[str]:
        return [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", str(self.port)]

    def ready(self) -> bool:
        return answers(self.port)


class Stillborn(Listener):
    """Ends before it is ready."""

    def command(self) -> list[str]:
        return [sys.executable, "-c", "print('no such key'); raise SystemExit(2)"]


def test_a_server_is_ready_when_start_returns_and_gone_after_the_block(tmp_path: Path) -> None:
    """`with` gives a server that answers, and stops it by its pid."""
    with Listener(tmp_path) as server:
        assert answers(server.port)
        process = server.process
    assert process is not None and process.returncode == -signal.SIGTERM


def test_kill9_and_restart_serve_the_same_port_again(tmp_path: Path) -> None:
    """After SIGKILL the same server starts again with the same configuration and one log."""
    with Listener(tmp_path) as server:
        first = server.pid
        server.kill9()
        assert not server.running
        server.restart()
        assert server.pid != first and answers(server.port)
        server.wait_log("Serving HTTP")


def test_a_server_that_ends_early_is_reported_with_its_log(tmp_path: Path) -> None:
    """A process that ends before it is ready raises, with its exit code and its last words."""
    with pytest.raises(AssertionError, match=r"ended with 2 before it was ready:\nno such key"):
        Stillborn(tmp_path).start()


def test_a_missing_peer_fails_when_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that can't be had is a skip on a desk and a failure with CI=true."""
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="peer not here: no-such-peer"):
        needs.need("no-such-peer")
    monkeypatch.setenv("CI", "")
    with pytest.raises(pytest.skip.Exception, match="peer not here: no-such-peer"):
        needs.need("no-such-peer")


def test_a_test_that_hangs_is_failed(tmp_path: Path) -> None:
    """A test over its limit fails and the run goes on to the next one."""
    inner = ROOT / "tests" / "house" / f"hang_{tmp_path.name}.py"
    inner.write_text(
        "import asyncio, pytest\n"
        "@pytest.mark.limit(1)\n"
        "def test_hangs(): asyncio.run(asyncio.sleep(60))\n"
        "def test_next(): pass\n"
        "async def swallow():\n"
        "    while True:\n"
        "        try: await asyncio.create_task(busy())\n"
        "        except Exception: pass\n"
        "async def busy():\n"
        "    import time; time.sleep(0.5); await asyncio.sleep(0)\n"
        "@pytest.mark.limit(1)\n"
        "def test_swallows(): asyncio.run(swallow())\n"
    )
    try:
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(inner)],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        inner.unlink()
    assert "longer than 1 s" in run.stdout and "2 failed, 1 passed" in run.stdout
