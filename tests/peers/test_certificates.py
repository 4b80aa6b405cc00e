"""The certificates that docs/operations.md shows how to make are those that the TLS legs need."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.agent.test_tls import deliver
from tests.needs import need
from tests.peers.harness import ROOT


def recipe() -> str:
    """The commands of the page, for the name of this machine."""
    page = (ROOT / "docs" / "operations.md").read_text()
    (text,) = [block for block in re.findall(r"^```sh\n(.*?)^```", page, re.M | re.S) if "openssl" in block]
    return str(text).replace("DNS:$name.plant.example", "DNS:$name.plant.example,IP:127.0.0.1")


@pytest.mark.peer
def test_the_commands_of_the_page_make_what_both_sides_need(tmp_path: Path) -> None:
    """openssl as printed: the aggregator takes only the collector's certificate, the collector trusts the CA's."""
    need("openssl")
    subprocess.run(["sh", "-ec", recipe()], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    trust = {"truststore": str(tmp_path / "ca.pem")}
    source = {"keystore": str(tmp_path / "aggregator.pem"), "client_auth": "require", **trust}
    assert deliver(source, {"keystore": str(tmp_path / "collector.pem"), **trust}) == ["a", "x", "b"]
    assert (tmp_path / "ca.key").stat().st_mode & 0o077 == 0
