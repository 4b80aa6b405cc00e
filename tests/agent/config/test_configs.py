"""Whole files: fifty broken ones with the message each must give, and good ones from Flume's guide."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config.flow import ConfigErrors, judge
from tests.peers.harness import ROOT

CONFIGS = ROOT / "tests" / "configs"
BAD, GOOD = sorted((CONFIGS / "bad").glob("*.conf")), sorted((CONFIGS / "good").glob("*.conf"))


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_broken_configuration_gives_its_messages(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly the lines beside it: place, key, what is wrong and what it takes."""
    monkeypatch.delenv("HEADRACE_TEST_NOT_SET", raising=False)
    with pytest.raises(ConfigErrors) as caught:
        judge([(path.name, path.read_bytes())])
    assert str(caught.value) + "\n" == path.with_suffix(".txt").read_text()


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_lenient_runs_it_or_says_no_more_than_strict(path: Path) -> None:
    """What is an error in spite of --lenient is one without it, or that nothing is left to run."""
    try:
        judge([(path.name, path.read_bytes())], lenient=True)
    except ConfigErrors as error:
        said = path.with_suffix(".txt").read_text().splitlines()
        assert [line for line in str(error).splitlines() if line not in said and "nothing to run" not in line] == []


def test_there_are_fifty_broken_configurations() -> None:
    """Each with its message."""
    assert len(BAD) >= 50 and all(path.with_suffix(".txt").exists() for path in BAD)


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_a_good_configuration_has_no_error(path: Path) -> None:
    """Each agent of the file is judged; a key without effect here is a warning at most."""
    content = path.read_bytes()
    agents = {line.split(b".")[0].decode() for line in content.splitlines() if b".channels = " in line}
    for agent in sorted(agent for agent in agents if f"\n{agent}.channels = ".encode() in b"\n" + content):
        assert judge([(path.name, content)], agent).channels
