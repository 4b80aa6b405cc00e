"""The grammar of java.util.Properties, and the references in values."""

from __future__ import annotations

import pytest

from agent.config.problems import Report
from agent.config.properties import Entry, parse
from agent.config.references import Circular, Resolver, Unresolved


def read(text: str | bytes) -> dict[str, str]:
    """Key -> value of a text without errors."""
    report = Report(["f"])
    content = text.encode() if isinstance(text, str) else text
    entries = parse("f", content, report)
    assert not report.errors
    return {entry.key: entry.value for entry in entries}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=b", {"a": "b"}),
        ("a = b", {"a": "b"}),
        ("a:b", {"a": "b"}),
        ("a b", {"a": "b"}),
        ("  a\t=\t b  ", {"a": "b"}),
        ("a = = b", {"a": "= b"}),
        ("a=b=c:d", {"a": "b=c:d"}),
        ("a\\ b\\:c\\=d = e", {"a b:c=d": "e"}),
        ("a", {"a": ""}),
        ("# a=b\n! c=d\n  # e=f\ng=h # no comment", {"g": "h # no comment"}),
        ("a = one \\\n    two \\\r\n\tthree", {"a": "one two three"}),
        ("a = one\\\\\nb = c", {"a": "one\\", "b": "c"}),
        ("a = one \\\n# two", {"a": "one # two"}),
        ("a = one\\\n\nb = c", {"a": "one", "b": "c"}),
        ("# a comment is not continued \\\na = b", {"a": "b"}),
        ("a = x\\ty\\nz\\u0041\\q", {"a": "x\ty\nzAq"}),
        ("a = C:\\temp", {"a": "C:\temp"}),
        ("a = \\uD83D\\uDE00", {"a": "\U0001f600"}),
        ("a = b\\", {"a": "b"}),
        ("a=b\rc=d\r\ne=f", {"a": "b", "c": "d", "e": "f"}),
        ("\ufeffa = b", {"a": "b"}),
        ("a = Zürich", {"a": "Zürich"}),
        ("a = Zürich".encode("latin-1"), {"a": "Zürich"}),
    ],
)
def test_each_rule_of_the_grammar(text: str | bytes, expected: dict[str, str]) -> None:
    """A text gives what java.util.Properties and Flume's trimming give (UTF-8 where it is valid)."""
    assert read(text) == expected


def test_an_entry_says_where_its_first_line_is() -> None:
    """The place is the line that the key stands on, comments and continuations counted."""
    entries = parse("x.conf", b"# c\n\na = 1 \\\n  2\nb = 3\n", Report(["x.conf"]))
    assert entries == [Entry("a", "1 2", "x.conf:3"), Entry("b", "3", "x.conf:5")]


def test_of_a_repeated_key_the_last_wins_with_a_warning() -> None:
    """Java keeps the last one in silence; here both lines are named."""
    report = Report(["f"])
    assert parse("f", b"a = 1\nb = 2\na = 3\n", report)[-1] == Entry("a", "3", "f:3")
    assert [str(warning) for warning in report.warnings] == ["f:3: a: replaces the value that line 1 gave"]


@pytest.mark.parametrize(("text", "words"), [("a = \\u12", "four hexadecimal digits"), ("a = \\uD83D", "surrogate")])
def test_a_wrong_escape_is_an_error_with_its_line(text: str, words: str) -> None:
    """A malformed \\u, of which Java throws, is reported with its key; the lines around it are read."""
    report = Report(["f"])
    assert [entry.key for entry in parse("f", f"x = 1\n{text}\ny = 2".encode(), report)] == ["x", "a", "y"]
    assert [(problem.place, problem.key) for problem in report.errors] == [("f:2", "a")]
    assert words in report.errors[0].text


PROPERTIES = {"host": "db", "port": "1", "url": "${host}:${port}", "one_host": "x", "stage": "one", "odd": "${b}"}
PROPERTIES |= {"loop": "a${knot}", "knot": "${loop}", "me": "${me}"}


def resolver() -> Resolver:
    return Resolver(PROPERTIES, {"HOME": "/home/x", "STAGE": "one"}, {"size": "5"})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("plain", "plain"),
        ("${host}", "db"),
        ("<${url}>", "<db:1>"),
        ("${env:HOME}/d", "/home/x/d"),
        ("${sys:size}", "5"),
        ("${none:-def}", "def"),
        ("${none:-${host}}", "db"),
        ("${env:NONE:-x:-y}", "x:-y"),
        ("${host:-unused}", "db"),
        ("${${env:STAGE}_host}", "x"),
        ("$${host} ${host}", "${host} db"),
        ("${env:host}", "db"),
        ("${none:-}", ""),
        ("${open", "${open"),
        ("$5 {x} }", "$5 {x} }"),
    ],
)
def test_each_kind_of_reference(value: str, expected: str) -> None:
    """Environment, -D, property, default, nesting, escape; a lookup without an answer falls back to the property."""
    assert resolver().resolve(value) == (expected, [])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("${env:NONE}", "the environment variable NONE is not set"),
        ("${sys:none}", "the -D property none is not set"),
        ("${none}", "there is no property none"),
        ("${date:yyyy}", "there is no lookup 'date' here"),
        ("${odd}", "there is no property b"),
    ],
)
def test_an_unresolved_reference_is_named_with_the_remedy(value: str, words: str) -> None:
    """The error names the variable and says how to give a default; lenient leaves the text as it is."""
    with pytest.raises(Unresolved, match=words):
        resolver().resolve(value)
    text, left = resolver().resolve(value, lenient=True)
    assert len(left) == 1 and f"${{{left[0]}}}" == text


@pytest.mark.parametrize(("value", "chain"), [("${me}", "me -> me"), ("${loop}", "loop -> knot -> loop")])
def test_a_reference_to_itself_is_an_error_with_the_chain(value: str, chain: str) -> None:
    """A cycle ends with its names, also in lenient mode."""
    for lenient in (False, True):
        with pytest.raises(Circular, match=chain):
            resolver().resolve(value, lenient)


def test_references_are_bounded_in_depth_number_and_size() -> None:
    """A few lines that grow without end are refused before they fill the memory."""
    deep = "${" * 200 + "x" + "}" * 200
    wide = {f"v{n}": f"${{v{n + 1}}}" * 10 for n in range(30)} | {"v30": "xxxxxxxxxx"}
    empty = {f"v{n}": f"${{v{n + 1}}}" * 10 for n in range(30)} | {"v30": "${none:-}"}
    for properties, value in ((wide, deep), (wide, "${v0}"), (empty, "${v0}")):
        with pytest.raises(Circular):
            Resolver(properties, {}, {}).resolve(value)
