"""SIGKILL can't show a missing sync, a trace of system calls can: write, completed fdatasync, then the answer."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bench.driver import Line, call
from tests.needs import need
from tests.peers.harness import Program, free_port, wait_until
from tests.peers.mosquitto import Mosquitto

pytestmark = pytest.mark.fault

CONF = """\
c.sources = in
c.channels = ch
c.sinks = out
c.sources.in.type = {source}
c.sources.in.channels = ch
c.channels.ch.type = file
c.channels.ch.path = {folder}/store
c.channels.ch.synchronous = {synchronous}
c.sinks.out.type = null
c.sinks.out.channel = ch
"""
LISTENS = "c.sources.in.bind = 127.0.0.1\nc.sources.in.port = {port}\n"
SUBSCRIBES = "c.sources.in.url = {url}\nc.sources.in.topics = t\nc.sources.in.batchDuration = 10ms\n"
MARKER = "reading-to-be-found-in-the-log"
CALLS = "pwrite64,pwritev,write,writev,fdatasync,fsync,sendto,sendmsg"


def netcat(port: int) -> str:
    """One line in, OK out."""
    with socket.create_connection(("127.0.0.1", port), 20) as sock:
        sock.sendall(f"{MARKER}\n".encode())
        assert sock.recv(10) == b"OK\n"
    return r'"OK\\n"'


def avro(port: int) -> str:
    """One appendBatch in, OK out."""
    line = Line("127.0.0.1", port, [call(1, 10).replace(b"collector-01", MARKER[:12].encode())])
    line.send()
    line.receive()
    line.sock.close()
    return r"headrace\.accepted"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    need("mosquitto", "mosquitto_pub")
    with Mosquitto(tmp_path / "broker") as server:
        yield server


def traced(folder: Path, conf: str) -> Program:
    need("strace")
    # -D: the tracer stands aside, so that signals reach the program itself.
    wrap = ["strace", "-D", "-f", "-y", "-s", "2000", "-e", f"trace={CALLS}", "-o", str(folder / "trace")]
    return Program("edge", conf, folder / "edge", wrap=wrap)


def whole(trace: Path) -> str:
    """The trace, once the tracer has written the end of it."""
    wait_until(lambda: "+++ exited with 0 +++" in trace.read_text(), what="the end of the trace")
    return trace.read_text()


def synced_between(trace: str, marker: str, answer: str) -> bool:
    """Whether a sync of the log began and was completed after the marker's last write and before the answer."""
    syncing: set[str] = set()
    written = synced = False
    for line in trace.splitlines():
        pid, _, rest = line.partition(" ")
        if "headrace.db-wal" in rest and "write" in rest and marker in rest and not synced:
            written, synced = True, False
        elif written and re.match(r"\s*(fdatasync|fsync)\(\d+<[^>]*headrace\.db-wal", rest):
            if "unfinished" in rest:
                syncing.add(pid)
            else:
                synced = synced or rest.endswith("= 0")
        elif pid in syncing and re.search(r"(fdatasync|fsync) resumed.*= 0", rest):
            syncing.discard(pid)
            synced = True
        elif written and re.search(answer, rest) and re.match(r"\s*(sendto|sendmsg|write|writev)\(", rest):
            return synced
    raise AssertionError(f"the trace has no write of {marker!r} to the log followed by an answer {answer!r}")


@pytest.mark.parametrize("synchronous", ["FULL", "NORMAL"])
@pytest.mark.parametrize("talk", [netcat, avro])
def test_a_completed_sync_stands_between_write_and_ok(
    tmp_path: Path, talk: Callable[[int], str], synchronous: str
) -> None:
    """`OK` of netcat and Avro leaves after a completed fdatasync; under NORMAL it doesn't, so the test can see it."""
    port = free_port()
    conf = (CONF + LISTENS).format(source=talk.__name__, folder=tmp_path, port=port, synchronous=synchronous)
    with traced(tmp_path, conf):
        answer = talk(port)
    assert synced_between(whole(tmp_path / "trace"), MARKER[:12], answer) == (synchronous == "FULL")


@pytest.mark.parametrize("synchronous", ["FULL", "NORMAL"])
@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_a_completed_sync_stands_between_write_and_puback(
    tmp_path: Path, broker: Mosquitto, version: str, synchronous: str
) -> None:
    """PUBACK leaves after a completed fdatasync, in both versions; under NORMAL it doesn't."""
    conf = (CONF + SUBSCRIBES).format(source="mqtt", folder=tmp_path, url=broker.url, synchronous=synchronous)
    conf += f"c.sources.in.version = {version}\n"
    with traced(tmp_path, conf) as program:
        broker.publish("t", [MARKER], version)
        wait_until(lambda: program.count("CHANNEL.ch", "EventPutSuccessCount"), what="the reading kept")
    assert synced_between(whole(tmp_path / "trace"), MARKER, r'"@\\[23]\\') == (synchronous == "FULL")
