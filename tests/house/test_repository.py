"""The repository as a whole: links, names, docstrings, versions."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.version import VERSION
from tests.peers.harness import ROOT

MACHINE_PATH = re.compile(r"(?<![\w.}~-])/(?:root|Users|work)/")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def tracked() -> list[Path]:
    """Every file of the repository that is text: what git has, or in an export all there is."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode == 0:
        files = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    else:
        files = [path for path in ROOT.rglob("*") if ".venv" not in path.parts]
    return [path for path in files if path.is_file() and b"\0" not in path.read_bytes()[:1000]]


def lines_with(pattern: re.Pattern[str]) -> list[str]:
    """file:line of each match in the repository."""
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in tracked()
        if path != Path(__file__)
        for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1)
        if pattern.search(line)
    ]


def test_no_path_of_one_machine_stands_in_a_file() -> None:
    """What is said of paths holds on every machine."""
    assert not lines_with(MACHINE_PATH)


def links(page: Path) -> Iterator[tuple[str, str]]:
    """(target as written, line) of each relative link of a Markdown page, code left out."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.S)
    for target in LINK.findall(text):
        if not target.startswith(("http://", "https://", "mailto:")):
            yield target, page.name


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings have on a code host."""
    found = set()
    for heading in re.findall(r"^#+ (.*)$", page.read_text(), re.M):
        found.add(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-"))
    return found


def pages() -> list[Path]:
    return [path for path in tracked() if path.suffix == ".md"]


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """Each relative link of a page names a file that is there, and a heading that it has."""
    broken = []
    for target, _ in links(page):
        name, _, anchor = target.partition("#")
        place = (page.parent / name).resolve() if name else page
        if not place.exists() or (anchor and place.suffix == ".md" and anchor not in anchors(place)):
            broken.append(target)
    assert not broken


def test_every_test_says_its_fact() -> None:
    """Each test function has a docstring: its fact in one sentence."""
    silent = []
    for path in (path for path in tracked() if path.suffix == ".py" and (ROOT / "tests") in path.parents):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or ast.get_docstring(node):
                continue
            if node.name.startswith("test_"):
                silent.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert not silent


def test_the_changelog_knows_the_version() -> None:
    """CHANGELOG.md has a heading for the version in agent/version.py, or it is still under Unreleased."""
    text = (ROOT / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## \[([^\]]+)\]", text, re.M)
    assert headings and headings[0] == "Unreleased"
    assert VERSION in headings or f"will be {VERSION}" in text
