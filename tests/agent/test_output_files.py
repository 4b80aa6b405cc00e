"""Files that can be cut back: every step of an opening is a place to die, and each batch is there once all the same."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import output_files
from agent.output_files import Journal, OutputFiles, Part

LOG = logging.getLogger("test")
STEPS = ("open", "pwrite", "ftruncate", "fdatasync", "fsync", "unlink", "replace", "mkdir")


class Killed(BaseException):
    """What SIGKILL is to the process."""


class Steps:
    """Stands in for `os`: counts the calls that change a disk and dies before the one that is asked for, or, for a
    write, in the middle of it."""

    def __init__(self, die_at: int) -> None:
        self.left = die_at
        self.dead = False

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in STEPS:
            return real

        def step(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.dead or self.left == 0:
                self.dead = True
                if name == "pwrite":
                    real(args[0], bytes(args[1])[: len(args[1]) // 2], *args[2:])
                raise Killed
            return real(*args, **kwargs)

        return step


def make(root: Path, *, interval: float = 0.0, journal: str | None = ".k1.journal") -> OutputFiles:
    start = f"{os.urandom(4).hex()}"
    return OutputFiles(root, lambda n: f"{start}-{n}", journal, interval, True, LOG)


def batch(number: int) -> list[Part]:
    """Two lines; every third batch goes to two folders, and what has an odd number to folder `b`."""
    lines = [b"%d.%d\n" % (number, i) for i in range(2)]
    if number % 3 == 0:
        return [Part("a", b"#\n", lines[0]), Part("b/c", b"#\n", lines[1])]
    return [Part("b/c" if number % 2 else "a", b"#\n", lines[0] + lines[1])]


def lines_of(root: Path) -> list[str]:
    found: list[str] = []
    for path in sorted(root.rglob("*-*")):
        if path.is_file():
            head, *lines = path.read_text().splitlines()
            assert head == "#"
            found += lines
    return sorted(found)


def expected(count: int) -> list[str]:
    return sorted(f"{number}.{i}" for number in range(count) for i in range(2))


class Channel:
    """Keeps receipts as a store does: each after `lag` more commits, with its cursor."""

    def __init__(self, lag: int) -> None:
        self.lag = lag
        self.states: list[tuple[int, bytes | None]] = [(0, None)]

    def commit(self, cursor: int, receipt: bytes | None) -> None:
        self.states.append((cursor, receipt))

    def kept(self) -> tuple[int, bytes | None]:
        return self.states[max(0, len(self.states) - 1 - self.lag)]

    def keep(self, receipt: bytes | None) -> None:
        """keep_receipt: everything before it is kept with it."""
        self.states = [(self.states[-1][0], receipt)]


def opening(root: Path, channel: Channel, batches: int, roll_at: int | None = None) -> None:
    """What a runner does from open to the last batch."""
    cursor, receipt = channel.kept()
    channel.states = [(cursor, receipt)]
    files = make(root)
    channel.keep(files.open(receipt))
    while cursor < batches:
        if cursor == roll_at:
            files.current.clear()
        made = files.append(batch(cursor))
        files.confirm()
        cursor += 1
        channel.commit(cursor, made)


@pytest.fixture
def died(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def at(step: int) -> Steps:
        steps = Steps(step)
        monkeypatch.setattr(output_files, "os", steps)
        monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: _unlink(steps, self, missing_ok))
        monkeypatch.setattr(Path, "replace", lambda self, to: steps.replace(self, to))
        monkeypatch.setattr(Path, "mkdir", lambda self, mode=0o777, exist_ok=False: steps.mkdir(self, mode))
        return steps

    yield at


def _unlink(steps: Steps, path: Path, missing_ok: bool) -> None:
    try:
        steps.unlink(path)
    except FileNotFoundError:
        if not missing_ok:
            raise


@pytest.mark.parametrize("lag", [0, 1, 3])
def test_each_step_may_be_the_last(lag: int, died: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at any step, twice in a row, and with receipts that lag behind: each line is there once."""
    step, more = 0, True
    while more:
        step += 1
        root, channel = tmp_path / str(step), Channel(lag)
        more = False
        for again in (step, step // 2 + 1):
            died(again)
            try:
                opening(root, channel, 5, roll_at=3)
            except Killed:
                more = True
            monkeypatch.undo()
        opening(root, channel, 7)
        assert lines_of(root) == expected(7), f"killed at step {step}"
    assert step > 40


def test_an_append_that_fails_is_undone(tmp_path: Path, died: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that fails half-way leaves nothing behind when it is sent again, to whatever folder."""
    files = make(tmp_path)
    files.open(None)
    files.append(batch(0))
    files.confirm()
    files.append(batch(3))
    files.append([Part("elsewhere", b"#\n", b"3.0\n3.1\n")])
    files.confirm()
    assert lines_of(tmp_path) == ["0.0", "0.1", "3.0", "3.1"]


def test_a_restored_store_cuts_nothing(tmp_path: Path) -> None:
    """A receipt of an earlier run (a backup of the store) cuts nothing that a later run acknowledged."""
    first = make(tmp_path)
    first.open(None)
    old = first.append(batch(0))
    first.confirm()
    second = make(tmp_path)
    second.open(old)
    second.append(batch(1))
    second.confirm()
    make(tmp_path).open(old)
    assert lines_of(tmp_path) == expected(2)


def test_a_file_that_was_moved_away(tmp_path: Path) -> None:
    """A file that somebody moved or emptied is not written to again; the next batch opens a new one."""
    files = make(tmp_path)
    files.open(None)
    files.append(batch(1))
    files.confirm()
    [path] = (tmp_path / "b" / "c").iterdir()
    path.rename(tmp_path / "taken")
    files.append(batch(5))
    files.confirm()
    assert lines_of(tmp_path) == ["5.0", "5.1"]


def test_without_a_journal(tmp_path: Path) -> None:
    """Where no receipts are kept there is neither journal nor receipt, and files hold what was confirmed."""
    files = make(tmp_path, journal=None)
    assert files.open(None) is None
    assert files.append(batch(1)) is None
    files.settle()
    files.append(batch(2))
    files.confirm()
    assert lines_of(tmp_path) == ["2.0", "2.1"]
    assert not list(tmp_path.glob(".*"))


def test_a_receipt_is_bounded(tmp_path: Path) -> None:
    """A batch for more folders than a receipt can name gives a receipt below 64 KiB, and all of it is written."""
    files = make(tmp_path)
    files.open(None)
    receipt = files.append([Part(f"{n:04d}-{'x' * 150}", b"#\n", b"%d.0\n" % n) for n in range(600)])
    files.confirm()
    assert receipt is not None and len(receipt) < 1 << 16
    assert len(lines_of(tmp_path)) == 600


def test_the_journal_forgets_its_older_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal is bounded; the places of the names that it still has stay what they were."""
    monkeypatch.setattr(output_files, "JOURNAL_NAMES", 10)
    journal = Journal(tmp_path / ".j")
    journal.restart("s")
    for n in range(25):
        journal.add([str(n)])
    again = Journal(tmp_path / ".j")
    again.read()
    assert again.made == 25 and again.names[-1] == "24" and len(again.names) <= 12
    assert again.names[0] == str(again.first)


@pytest.mark.parametrize("damage", [b"", b"x", b"{}\n", b'{"series": 1}\nx\n', b"\xff\n", b"[]\n"])
def test_a_damaged_journal_cuts_nothing(damage: bytes, tmp_path: Path) -> None:
    """A journal that can't be read is no reason to stop, or to cut."""
    files = make(tmp_path)
    files.open(None)
    receipt = files.append(batch(0))
    files.confirm()
    files.append(batch(1))
    files.confirm()
    (tmp_path / ".k1.journal").write_bytes(damage)
    assert json.loads(make(tmp_path).open(receipt) or b"")["made"] == 0
    assert lines_of(tmp_path) == expected(2)


@pytest.mark.parametrize("receipt", [b"", b"[]", b'{"series": "s"}', b"\xff", b'{"series": "s", "made": 0}'])
def test_a_strange_receipt(receipt: bytes, tmp_path: Path) -> None:
    """A receipt of another sink is no reason to stop."""
    assert make(tmp_path).open(receipt)
