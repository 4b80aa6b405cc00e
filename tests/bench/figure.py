"""A figure: what was measured of us and of Flume (of Kafka, for topics), and what is to be reached."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Target:
    """At least (`least`) or at most a bound; of the ratio ours/Flume's if `ratio`, else of our value."""

    bound: float
    least: bool = True
    ratio: bool = False
    text: str = ""
    """How it is written, where a decimal number says it badly ("1/6")."""
    whose: str = "Flume"
    """Who the other is, where it isn't Flume."""

    def met(self, ours: float, flume: float | None) -> bool | None:
        """None where Flume's value is needed and missing."""
        if self.ratio and not flume:
            return None
        value = ours / flume if self.ratio and flume else ours
        return value >= self.bound if self.least else value <= self.bound

    def __str__(self) -> str:
        sign = ">=" if self.least else "<="
        return f"{sign} {self.text or f'{self.bound:,g}'}{f' x {self.whose}' if self.ratio else ''}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table; `target` is None for what is only said beside."""

    name: str
    unit: str
    ours: float
    flume: float | None = None
    target: Target | None = None

    @property
    def ratio(self) -> float | None:
        return self.ours / self.flume if self.flume else None

    @property
    def verdict(self) -> str:
        if self.target is None:
            return ""
        met = self.target.met(self.ours, self.flume)
        return f"no {self.target.whose} here" if met is None else "met" if met else "not met"

    def cells(self) -> list[str]:
        """name, unit, ours, Flume, ratio, target, verdict."""
        ratio = self.ratio
        return [
            self.name,
            self.unit,
            number(self.ours),
            "-" if self.flume is None else number(self.flume),
            "-" if ratio is None else f"{ratio:.1f}" if ratio >= 1 else f"1/{1 / ratio:.1f}" if ratio else "0",
            str(self.target) if self.target else "",
            self.verdict,
        ]


HEADS = ["figure", "unit", "Headrace", "Flume 1.11, Kafka 4.3.1", "ratio", "to reach", ""]


def number(value: float) -> str:
    """Three significant digits, and no more than there are."""
    if abs(value) >= 1000:
        return f"{round(value, -2):,.0f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def middle(values: Iterable[float]) -> float:
    """The median."""
    return float(median(list(values)))
