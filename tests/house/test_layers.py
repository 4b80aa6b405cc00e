"""The layers hold, and a collector carries no library that it doesn't need."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.peers.harness import ROOT

HEAVY = (
    "fastavro",
    "sqlite_utils",
    "amqtt",
    "cryptography",
    "sqlite_fts4",
    "tabulate",
    "pydantic",
    "aiohttp",
    "http.server",
)
"""Libraries of webs, tables and clusters that a collector must run without."""


def test_imports_point_down() -> None:
    """import-linter's contracts in pyproject.toml hold."""
    tool = Path(sys.executable).parent / "lint-imports"
    run = subprocess.run([tool], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]


def loaded_by(code: str) -> set[str]:
    """The modules that a fresh interpreter has after this code."""
    probe = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_a_collector_imports_no_web_or_cluster_library() -> None:
    """Judging the collector's own configuration loads each of its components and none of the heavy libraries."""
    code = (
        "from pathlib import Path\n"
        "from agent.config.flow import judge\n"
        "import agent.agent, agent.command, edge.__main__\n"
        "flow = judge([('default.conf', Path('edge/default.conf').read_bytes())], packages=('edge', 'agent'))\n"
        "assert flow.sources and flow.channels and flow.sinks"
    )
    loaded = loaded_by(code)
    assert "agent.agent" in loaded
    assert not [name for name in HEAVY if name in loaded]


@pytest.mark.parametrize("package", ["edge", "aggregator"])
def test_version_needs_neither_asyncio_nor_components(package: str) -> None:
    """`python -m edge version` answers without loading an event loop."""
    code = (
        "import runpy\n"
        f"sys.argv = ['{package}', 'version']\n"
        f"try: runpy.run_module('{package}', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
    )
    assert "asyncio" not in loaded_by(code)


def test_every_module_has_its_layer() -> None:
    """Each module of `agent/` is in a layer of the contract, so that a new one can't stand outside of it."""
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    named = {name for layer in contract["layers"] for name in re.split(r"\s*[|:]\s*", layer)}
    found = {f"agent.{path.stem}" for path in (ROOT / "agent").glob("*") if path.suffix == ".py" or path.is_dir()}
    found = found - {"agent.config", "agent.__init__", "agent.__pycache__"}
    found |= {f"agent.config.{path.stem}" for path in (ROOT / "agent" / "config").glob("[a-z]*.py")}
    assert found <= named
