"""What the pages show is what happens."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.config.flow import judge
from tests.peers.harness import ROOT, Program, free_port

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def fenced(page: Path, language: str) -> list[str]:
    """The code blocks of a language on a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)


def flows() -> list[tuple[str, str]]:
    """(where, text) of each properties block that wires an agent."""
    found = []
    for page in PAGES:
        for index, text in enumerate(fenced(page, "properties")):
            if re.search(r"^\w+\.channels *=", text, re.M) and re.search(r"\.type *=", text):
                found.append((f"{page.name}#{index}", text))
    return found


def files() -> list[Path]:
    """Configurations of agents that we ship; in deploy/mosquitto is the broker's."""
    deploy = ROOT / "deploy"
    return sorted([*deploy.glob("*.conf"), *(deploy / "scale").glob("*.conf"), *ROOT.glob("*/default.conf")])


@pytest.mark.parametrize("text", [text for _, text in flows()], ids=[where for where, _ in flows()])
def test_each_flow_on_a_page_is_right(text: str) -> None:
    """A properties block that wires an agent is judged without an error or a warning."""
    assert not judge([("page", text.encode())]).warnings


@pytest.mark.parametrize("path", files(), ids=lambda path: "/".join(path.parts[-2:]))
def test_each_configuration_that_we_ship_is_right(path: Path) -> None:
    """It is judged without an error or a warning."""
    assert not judge([(path.name, path.read_bytes())]).warnings


def one_line_answer(port: int, line: bytes) -> bytes:
    """What `echo line | nc` prints."""
    with socket.create_connection(("127.0.0.1", port), 5) as peer:
        peer.sendall(line + b"\n")
        return peer.makefile("rb").readline()


def test_the_ten_lines_of_the_readme_print_what_it_says(program: Callable[..., Program]) -> None:
    """The README's flow answers OK and logs the reading as shown, in ten lines."""
    page = ROOT / "README.md"
    flow = fenced(page, "properties")[0]
    session, shown = fenced(page, "console")[0], fenced(page, "text")[0].strip()
    said = re.search(r"echo '(.*)' \| nc .* (\d+)\n(.*)\n", session)
    assert said and said[2] in flow and len(flow.splitlines()) == 10
    port = free_port()
    agent = program("edge", flow.replace(said[2], str(port)))
    assert one_line_answer(port, said[1].encode()).decode().strip() == said[3]
    agent.wait_log(shown)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_on_a_page_exist(page: Path) -> None:
    """Each `make word` on a page is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"(?:^|`|\$ )(?:KEEP=1 )?make ([a-z]+)", page.read_text(), re.M))
    assert named <= targets
