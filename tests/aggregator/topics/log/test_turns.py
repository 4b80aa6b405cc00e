"""Who reads the file and who has it alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from aggregator.topics.log.reader import Turns


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
