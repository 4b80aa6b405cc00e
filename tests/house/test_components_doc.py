"""The tables of docs/components.md are those of the code."""

from __future__ import annotations

import pytest

from agent.component import KINDS, load
from agent.config import tables
from agent.config.reading import fields_of
from agent.config.tables import page
from tests.peers.harness import ROOT

COMPONENTS = [(kind, name, package) for kind in KINDS for package, name, _ in tables.components(kind)]


def test_the_page_is_what_the_code_says() -> None:
    """After a change of a Config the page is made again: make docs."""
    written = (ROOT / "docs" / "components.md").read_text()
    assert written == page(), "run: make docs (python -m agent.config.tables > docs/components.md)"


@pytest.mark.parametrize(("kind", "name", "package"), COMPONENTS, ids=[f"{k}-{n}" for k, n, _ in COMPONENTS])
def test_every_key_says_what_it_is(kind: str, name: str, package: str) -> None:
    """No field of a Config is without a doc."""
    for field in fields_of(load(kind, name, (package,)).Config):
        assert field.about.doc, f"{kind}/{name}: {field.about.name} has no doc"
