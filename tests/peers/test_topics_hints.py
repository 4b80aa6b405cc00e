"""What the aggregator prints about its topic when it runs without an argument."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aggregator.__main__ import AGGREGATOR
from tests.needs import need
from tests.peers.harness import Program, free_port

pytestmark = pytest.mark.peer
EDGE = """\
e.sources = r
e.channels = c
e.sinks = k
e.sources.r.type = netcat
e.sources.r.bind = 127.0.0.1
e.sources.r.port = {lines}
e.sources.r.channels = c
e.sources.r.interceptors = i
e.sources.r.interceptors.i.type = static
e.sources.r.interceptors.i.key = topic
e.sources.r.interceptors.i.value = plant/a
e.channels.c.type = memory
e.sinks.k.type = avro
e.sinks.k.channel = c
e.sinks.k.hostname = 127.0.0.1
e.sinks.k.port = {avro}
"""


@pytest.mark.parametrize("hint", AGGREGATOR.hints, ids=lambda hint: hint.split()[0])
def test_a_hint_works_as_printed(hint: str, tmp_path: Path) -> None:
    """The command shows a reading that a collector sends, beside its MQTT topic; the port alone differs."""
    need("kcat")
    text, ports = AGGREGATOR.default()[1].decode(), {}
    for port in ("41414", "41415", "9092"):
        ports[port] = str(free_port())
        text = text.replace(port, ports[port])
    lines = free_port()
    edge = EDGE.format(lines=lines, avro=ports["41414"])
    with Program("aggregator", text, tmp_path / "a") as aggregator, Program("edge", edge, tmp_path / "e"):
        send = subprocess.run(["nc", "-q1", "127.0.0.1", str(lines)], input=b"21.5\n", capture_output=True, check=True)
        assert send.stdout == b"OK\n"
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        reader = subprocess.Popen(
            ["sh", "-c", f"exec {hint.replace('9092', ports['9092'])}"], stdout=subprocess.PIPE,
            env={**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        try:
            assert reader.stdout is not None
            assert reader.stdout.readline() == b"plant/a 21.5\n", aggregator.log[-2000:]
        finally:
            reader.kill()
            reader.wait()
