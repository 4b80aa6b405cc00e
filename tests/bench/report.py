"""docs/performance.md: the table is generated between two markers, everything else there is written by hand.

A run of some figures replaces their lines and leaves the others; each line has the day it was measured.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

from tests.bench.figure import HEADS, Figure
from tests.bench.machine import description
from tests.peers.harness import ROOT

PAGE = ROOT / "docs" / "performance.md"
BEGIN = "<!-- figures: written by make bench -->"
END = "<!-- end of figures -->"
EMPTY = f"# Performance\n\n{BEGIN}\n{END}\n"


def update(page: Path, figures: Sequence[Figure]) -> None:
    """Write the figures into the page."""
    text = page.read_text("utf-8") if page.exists() else EMPTY
    before, found, rest = text.partition(BEGIN)
    inside, ended, after = rest.partition(END)
    if not (found and ended):
        raise SystemExit(f"{page} has lost its markers {BEGIN} and {END}: put them back where the table belongs")
    page.write_text(f"{before}{BEGIN}\n{block(inside, figures)}{END}{after}", "utf-8")


def block(old: str, figures: Sequence[Figure]) -> str:
    """The table of these figures and of the old ones that were not measured again, and the machine."""
    lines = {line.split("|")[1].strip(): line for line in old.splitlines() if line.startswith("| ")}
    lines.pop(HEADS[0], None)
    day = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"
    for figure in figures:
        lines[figure.name] = _line([*figure.cells(), day])
    machine = "".join(f"- {line}\n" for line in description())
    return "\n".join([_line([*HEADS, "measured"]), _rule(), *lines.values(), "", machine])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rule() -> str:
    return "|---|---|---:|---:|---:|---|---|---|"


def show(figures: Sequence[Figure]) -> str:
    """The same for a terminal."""
    rows = [HEADS, *(figure.cells() for figure in figures)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADS))]
    numbers = (2, 3, 4)
    return "\n".join(
        "  ".join(c.rjust(w) if i in numbers else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    )
