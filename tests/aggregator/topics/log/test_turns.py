"""Who reads the file and who has it alone; what shares a commit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from aggregator.topics.log import writer as module
from aggregator.topics.log.commit import Job
from aggregator.topics.log.reader import Turns
from aggregator.topics.log.writer import Writer


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_the_writer_goes_before_the_next_reader() -> None:
    """It waits for the read under way; who comes to read meanwhile waits for it."""
    turns, order = Turns(), list[str]()
    reading, ready, done = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with turns:
            reading.set()
            ready.wait(10)
            order.append("first")

    def writer() -> None:
        with turns.alone():
            order.append("writer")
            done.wait(10)

    def second() -> None:
        with turns:
            order.append("second")

    threads = [threading.Thread(target=one) for one in (first, writer, second)]
    threads[0].start()
    reading.wait(10)
    threads[1].start()
    until(turns._entry.locked)
    threads[2].start()
    ready.set()
    until(lambda: order == ["first", "writer"])
    assert threads[2].is_alive()
    done.set()
    for thread in threads:
        thread.join(10)
    assert order == ["first", "writer", "second"]


@pytest.mark.parametrize(("sizes", "groups"), [([0] * 7, [3, 3, 1]), ([60, 60, 20, 20, 20, 20], [1, 3, 2])])
def test_a_commit_has_a_bound(monkeypatch: pytest.MonkeyPatch, sizes: list[int], groups: list[int]) -> None:
    """In bytes and in jobs, so that many small ones don't let all others wait for the last of them."""
    monkeypatch.setattr(module, "GROUP_BYTES", 100)
    monkeypatch.setattr(module, "GROUP_JOBS", 3)
    writer = object.__new__(Writer)
    jobs = [Job(lambda db, work: None, None, size) for size in sizes]
    assert [len(group) for group in writer._groups(jobs)] == groups
