"""Configuration: whatever is written is read back, and whatever is read gives entries or an error with a line."""

from __future__ import annotations

import math
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from agent.config import values
from agent.config.fields import Bytes, Key, Seconds
from agent.config.problems import Report
from agent.config.properties import parse
from agent.config.references import Circular, Resolver, Unresolved
from agent.config.render import _escaped, _escaped_key

WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("\\ =:#!\t\n\r\f${}"), max_size=30)
TRIMMED = WORDS.map(lambda text: text.strip("".join(map(chr, range(33)))))
PLAIN = st.text("ab:-${}", max_size=20)


@given(TRIMMED.filter(lambda text: not any(c in text for c in "\t\n\r\f")), TRIMMED)
def test_what_is_written_is_read_back(key: str, value: str) -> None:
    """Any key and value that Flume could hold survive writing and reading, references resolved."""
    content = f"{_escaped_key(key).replace('$${', '${')} = {_escaped(value)}".encode()
    report = Report(["f"])
    entries = parse("f", content, report)
    assert not report.errors
    if key:
        assert [entry.key for entry in entries] == [key]
        assert Resolver({}, {}, {}).resolve(entries[0].value, lenient=True)[0] == value


@given(st.binary(max_size=200) | st.text("ab=: \t\n\\#!u0", max_size=60).map(str.encode))
def test_any_bytes_give_entries_or_errors_with_a_line(content: bytes) -> None:
    """No content raises; entries have distinct keys and every place is a line of the file."""
    report = Report(["f"])
    entries = parse("f", content, report)
    lines = 1 + content.count(b"\n") + content.count(b"\r")
    assert len({entry.key for entry in entries}) == len(entries)
    for place in [entry.place for entry in entries] + [problem.place for problem in report.errors]:
        assert 1 <= int(place.removeprefix("f:")) <= lines


@given(st.dictionaries(st.sampled_from("ab"), PLAIN), PLAIN)
def test_resolving_ends_with_a_text_or_a_named_error(properties: dict[str, str], value: str) -> None:
    """Any tangle of references ends; only Unresolved and Circular are raised, and lenient never says Unresolved."""
    resolver = Resolver(properties, {}, {})
    try:
        resolver.resolve(value)
    except (Unresolved, Circular):
        pass
    try:
        resolver.resolve(value, lenient=True)
    except Circular:
        pass


@given(st.floats(0, 1e9, allow_subnormal=False).filter(lambda x: x == 0 or x > 1e-9))
def test_a_duration_is_read_as_it_is_shown(seconds: float) -> None:
    """Every duration shown is read back to the same float."""
    about = Key("k", unit="ms")
    assert values.parse(Seconds, values.show(Seconds(seconds), about), about) == seconds


@given(st.integers(0, 2**63 - 1))
def test_a_size_is_read_as_it_is_shown(size: int) -> None:
    """Every size shown is read back to the same number."""
    assert values.parse(Bytes, values.show(Bytes(size), Key("k")), Key("k")) == size


@given(st.integers(0, 10**6), st.integers(0, 999), st.sampled_from(sorted(values.SECONDS)))
def test_a_duration_with_a_unit_is_exact(whole: int, thousandths: int, unit: str) -> None:
    """`1.5ms` is the float nearest to the exact value, whatever the unit."""
    text = f"{whole}.{thousandths:03}{unit}"
    exact = Fraction(whole * 1000 + thousandths, 1000) * values.SECONDS[unit]
    if exact <= values.MOST[Seconds]:
        assert math.isclose(values.parse(Seconds, text, Key("k")), float(exact), rel_tol=0, abs_tol=0)
