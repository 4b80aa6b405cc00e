"""Verdicts as lines for people, and as plain values for machines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from agent.audit.numbers import Numbers, Spans, size
from agent.audit.verdict import KINDS, MISSING, REPEATED, Finding, Verdict

SHOWN = 10
"""Ranges of a line; JSON has them all."""


def lines(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """A table of counts, a line a destination; then the ranges, a line an origin; at the end what is missing."""
    names = [f"{v.destination.name} ({v.destination.type})" for v in verdicts]
    width = max([len(name) for name in names], default=0)
    yield f"{'':{width}}" + "".join(f"{kind:>12}" for kind in KINDS)
    for name, verdict in zip(names, verdicts, strict=True):
        yield f"{name:{width}}" + "".join(f"{verdict.count(kind):>12,}" for kind in KINDS)
    for verdict in verdicts:
        yield ""
        yield from _details(verdict)
    yield ""
    yield _conclusion(verdicts)


def _details(verdict: Verdict) -> Iterator[str]:
    yield verdict.destination.name
    for found in verdict.findings:
        if not found.numbers:
            yield f"  {found.kind:10}{found.count:,}: {found.why}"
        for origin, spans in found.numbers.items():
            mark = found.kind.upper() if found.kind in (MISSING, REPEATED) else found.kind
            yield f"  {mark:10}{origin.hex()}  {_ranges(spans)}" + (f": {found.why}" if found.why else "")
    yield from (f"  note      {note}" for note in verdict.notes)


def _ranges(spans: Spans) -> str:
    shown = ", ".join(f"{first:,}" if first == last else f"{first:,}-{last:,}" for first, last in spans[:SHOWN])
    return shown + (f" and {len(spans) - SHOWN:,} ranges more, {size(spans):,} in all" if len(spans) > SHOWN else "")


def _conclusion(verdicts: Sequence[Verdict]) -> str:
    missing = {v.destination.name: v.count(MISSING) for v in verdicts if v.count(MISSING)}
    if missing:
        return "MISSING: " + "; ".join(f"{count:,} at {name}" for name, count in missing.items())
    unknown = sum(v.is_blind for v in verdicts)
    return "nothing is missing" + (f" where it can be known; {unknown} of {len(verdicts)} can't" if unknown else "")


def plain(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """For JSON; ranges are [first, last]."""
    return {
        "missing": sum(verdict.count(MISSING) for verdict in verdicts),
        "destinations": [
            {
                "name": v.destination.name,
                "type": v.destination.type,
                "counts": {kind: v.count(kind) for kind in KINDS},
                "findings": [_finding(found) for found in v.findings],
                "notes": v.notes,
            }
            for v in verdicts
        ],
    }


def _finding(found: Finding) -> dict[str, Any]:
    about: dict[str, Any] = {"kind": found.kind, "why": found.why, "count": found.count}
    return about | {"ranges": _plain(found.numbers)}


def _plain(numbers: Numbers) -> dict[str, list[list[int]]]:
    return {origin.hex(): [list(span) for span in spans] for origin, spans in numbers.items()}
