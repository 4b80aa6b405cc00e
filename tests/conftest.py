"""For every test: a bound on its time, logs of the servers it used when it fails, and peers skipped by name, counted.

`need("mosquitto")` (tests/needs.py) says what a test can't do without.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.needs import PREFIX, need
from tests.peers import harness, shared

__all__ = ["need"]

LIMIT_SECONDS = 120
"""Of each phase of a test; `@pytest.mark.limit(seconds)` sets another."""


def pytest_configure(config: pytest.Config) -> None:
    """Let the harness's progress lines through the capture; a place for the servers of this run."""
    shared.begin()
    capture = config.pluginmanager.getplugin("capturemanager")

    def show(text: str) -> None:
        if config.option.verbose < 0:
            return
        with capture.global_and_fixture_disabled():
            print(f"  .. {text}", file=sys.stderr, flush=True)

    harness._progress[:] = [show]


def pytest_unconfigure() -> None:
    shared.end()


def _bounded(item: pytest.Item) -> Iterator[Any]:
    """Fail the phase if it takes longer than its limit; a test that hangs must not hang the run."""
    mark = item.get_closest_marker("limit")
    seconds = mark.args[0] if mark else LIMIT_SECONDS
    if threading.current_thread() is not threading.main_thread():
        return (yield)

    def late(_: int, __: FrameType | None) -> None:
        pytest.fail(f"longer than {seconds} s (the limit of a test; @pytest.mark.limit sets another)")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)  # again and again: a background task may swallow the first
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[Any]:
    harness.LIVE[:] = [server for server in harness.LIVE if server.running]
    return (yield from _bounded(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[Any]:
    return (yield from _bounded(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[Any]:
    return (yield from _bounded(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the end of each live server's log with a failed test."""
    report = yield
    if report.failed:
        for server in harness.LIVE:
            report.sections.append((f"log of {server.name} ({server.log_file})", server.log[-6000:]))
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Name the peers that were not here, with how many tests each cost."""
    reasons = [str(r.longrepr[2]) for r in terminalreporter.stats.get("skipped", []) if isinstance(r.longrepr, tuple)]
    peers = Counter(reason.split(PREFIX, 1)[1].split(" ", 1)[0] for reason in reasons if PREFIX in reason)
    if peers:
        named = ", ".join(f"{name} ({count} tests)" for name, count in sorted(peers.items()))
        terminalreporter.write_line(f"peers skipped: {len(peers)}: {named}", yellow=True)


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A command that runs in this process sets up its own logging, which would hide from `caplog` what later tests look
    for."""
    root = logging.getLogger()
    level, handlers = root.level, set(root.handlers)
    yield
    root.setLevel(level)
    for handler in set(root.handlers) - handlers:
        if type(handler) is logging.StreamHandler:
            root.removeHandler(handler)


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[..., harness.Program]]:
    """`program("edge", conf_text)` starts one of our programs in a folder of its own and stops it after the test.

    Keywords: `name` (two of one package need two), `args`, `wrap`, `env` as harness.Program; `start=False` only makes
    it.
    """
    made = ExitStack()

    def make(
        package: str, conf: str, *, name: str = "", args: Sequence[str] = (), wrap: Sequence[str] = (),
        env: Mapping[str, str] | None = None, start: bool = True,
    ) -> harness.Program:  # fmt: skip
        name = name or package
        one = harness.Program(package, conf, tmp_path / name, args=args, wrap=wrap, env=env, name=name)
        made.callback(one.__exit__)
        return one.start() if start else one

    with made:
        yield make
