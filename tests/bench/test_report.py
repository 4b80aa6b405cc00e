"""The page that `make bench` writes, and the verdicts in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.figure import Figure, Target, middle
from tests.bench.report import BEGIN, END, show, update


def test_a_run_of_one_figure_leaves_the_others_and_what_is_written_by_hand(tmp_path: Path) -> None:
    """Its line is replaced, the rest of the page stays as it was."""
    page = tmp_path / "performance.md"
    update(page, [Figure("drain", "events/s", 5000.0), Figure("opening", "s", 0.1)])
    page.write_text(page.read_text().replace(END, f"{END}\n\n## Why\n\nBy hand."))
    update(page, [Figure("opening", "s", 0.25)])
    text = page.read_text()
    assert "| drain | events/s | 5,000 |" in text
    assert "| opening | s | 0.25 |" in text
    assert "0.10" not in text
    assert text.endswith("## Why\n\nBy hand.\n")


def test_a_page_without_its_markers_is_left_alone(tmp_path: Path) -> None:
    """Nothing is written where the table's place can't be told."""
    page = tmp_path / "performance.md"
    page.write_text(f"# Mine\n{BEGIN}\n")
    with pytest.raises(SystemExit, match="markers"):
        update(page, [Figure("drain", "events/s", 1.0)])
    assert page.read_text() == f"# Mine\n{BEGIN}\n"


@pytest.mark.parametrize(
    ("target", "ours", "flume", "verdict"),
    [
        (Target(6, ratio=True), 60.0, 10.0, "met"),
        (Target(6, ratio=True), 59.0, 10.0, "not met"),
        (Target(6, ratio=True), 60.0, None, "no Flume here"),
        (Target(1 / 6, False, True), 5.0, 30.0, "met"),
        (Target(35, False), 35.1, 60.0, "not met"),
        (Target(20_000), 20_000.0, None, "met"),
        (None, 1.0, None, ""),
    ],
)
def test_a_target_is_of_the_ratio_or_of_our_value(
    target: Target | None, ours: float, flume: float | None, verdict: str
) -> None:
    """At least or at most; a ratio needs Flume's value."""
    assert Figure("x", "", ours, flume, target).verdict == verdict


def test_the_median_counts() -> None:
    """One run that something else disturbed changes nothing."""
    assert middle([3.0, 100.0, 2.0]) == 3.0


def test_a_ratio_below_one_is_written_as_a_fraction() -> None:
    """6.8 of 40.8 us reads 1/6.0, as the target does."""
    assert "1/6.0" in show([Figure("CPU", "us/event", 6.8, 40.8, Target(1 / 6, False, True, "1/6"))])
