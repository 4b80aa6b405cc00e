"""Crashes of the hdfs sink's output at every step, and again at every step of what follows."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from pathlib import Path

import pytest

import aggregator.hdfs.local
from aggregator.hdfs.output import Rules
from tests.aggregator.hdfs.crashing import EVENTS, State, Steps, leftovers, run, visible

GROWS = Rules(interval=0.0, size=0, events=0)
"""Files are finished when the output is closed."""
ROLLS = Rules(interval=0.0, size=0, events=2)
HOW = ("before", "half", "after", "lost")


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash here is none of the machine: nothing needs the disk."""
    monkeypatch.setattr(aggregator.hdfs.local, "sync_folder", lambda folder: None)
    monkeypatch.setattr(os, "fdatasync", lambda file: None)


def finishes(folder: Path, state: State, in_suffix: str, rules: Rules) -> None:
    assert run(folder, state, Steps(), in_suffix, rules) == []
    assert visible(folder) == EVENTS
    assert leftovers(folder) == []


def again(saved: Path, place: Path) -> None:
    """All files as they were."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(saved, place)


@pytest.mark.parametrize("rules", [GROWS, ROLLS], ids=["grows", "rolls"])
@pytest.mark.parametrize("in_suffix", [".tmp", ""], ids=["tmp", "same-name"])
@pytest.mark.parametrize("how", HOW)
def test_a_crash_at_every_step(tmp_path: Path, how: str, in_suffix: str, rules: Rules) -> None:
    """Whatever receipt got to the device, every event is in a file with a final name once, and nothing else is left."""
    place, saved, at, crashes = tmp_path / "out", tmp_path / "saved", 0, 0
    while True:
        at += 1
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        states = run(place, State(), Steps(at, how), in_suffix, rules)
        if not states:
            break
        crashes += 1
        place.rename(saved)
        for state in states:
            again(saved, place)
            finishes(place, state, in_suffix, rules)
        shutil.rmtree(saved)
    assert visible(place) == EVENTS
    assert crashes >= 20, "it is the steps that are counted"


@pytest.mark.parametrize("in_suffix", [".tmp", ""], ids=["tmp", "same-name"])
def test_a_crash_at_every_step_after_a_crash(tmp_path: Path, in_suffix: str) -> None:
    """What a takeover has half done, the next one ends: the second crash is at every step that follows the first."""
    place, first, second, crashes = tmp_path / "out", tmp_path / "first", tmp_path / "second", 0
    for at in range(6, 20, 6):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        states = run(place, State(), Steps(at, "half"), in_suffix, GROWS)
        shutil.rmtree(first, ignore_errors=True)
        place.rename(first)
        for state in states:
            later = 0
            while True:
                later += 1
                again(first, place)
                found = run(place, state, Steps(later, "half" if later % 2 else "after"), in_suffix, GROWS)
                if not found:
                    break
                crashes += 1
                shutil.rmtree(second, ignore_errors=True)
                place.rename(second)
                for one in found:
                    again(second, place)
                    finishes(place, one, in_suffix, GROWS)
    assert crashes > 30, "it is the steps that are counted"


def take_names(state: State) -> None:
    """Somebody else has every final name that the receipt knows and nobody has."""
    files = json.loads(zlib.decompress(state.receipt))["files"] if state.receipt else []
    for _, final, _ in files:
        if not os.path.exists(final):
            Path(final).parent.mkdir(exist_ok=True)
            Path(final).write_text("#\n")


def test_a_crash_at_every_step_while_names_are_taken(tmp_path: Path) -> None:
    """The other's files stay, and every event is in a file with a final name once, after a second crash as well."""
    place, saved, first, second = (tmp_path / name for name in ("out", "saved", "first", "second"))
    crashes = 0
    for at in range(5, 20, 5):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        states = run(place, State(), Steps(at, "half"), ".tmp", GROWS)
        shutil.rmtree(saved, ignore_errors=True)
        place.rename(saved)
        for state in states:
            again(saved, place)
            take_names(state)
            others = visible(place).count("#")
            shutil.rmtree(first, ignore_errors=True)
            shutil.copytree(place, first)
            later = 0
            while True:
                later += 1
                again(first, place)
                found = run(place, state, Steps(later, "half" if later % 2 else "after"), ".tmp", GROWS)
                shutil.rmtree(second, ignore_errors=True)
                shutil.copytree(place, second)
                for one in found:
                    again(second, place)
                    assert run(place, one, Steps(), ".tmp", GROWS) == []
                    assert (visible(place), leftovers(place)) == ("#" * others + EVENTS, [])
                if not found:
                    break
                crashes += 1
    assert crashes > 30, "it is the steps that are counted"
