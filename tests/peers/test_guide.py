"""The first configuration of Flume's own guide, unchanged: netcat -> memory -> logger, met with `nc`."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from tests.needs import need
from tests.peers.harness import Program, free_port, wait_until

EXAMPLE = """\
# example.conf: A single-node Flume configuration

# Name the components on this agent
a1.sources = r1
a1.sinks = k1
a1.channels = c1

# Describe/configure the source
a1.sources.r1.type = netcat
a1.sources.r1.bind = localhost
a1.sources.r1.port = 44444

# Describe the sink
a1.sinks.k1.type = logger

# Use a channel which buffers events in memory
a1.channels.c1.type = memory
a1.channels.c1.capacity = 1000
a1.channels.c1.transactionCapacity = 100

# Bind the source and sink to the channel
a1.sources.r1.channels = c1
a1.sinks.k1.channel = c1
"""
ARGUMENTS = ["--conf", "conf", "--name", "a1", "-Dflume.root.logger=INFO,console"]


@pytest.fixture
def agent(program: Callable[..., Program]) -> tuple[Program, int]:
    """The guide's agent (another port is all that differs) and its port."""
    port = free_port()
    return program("edge", EXAMPLE.replace("44444", str(port)), args=ARGUMENTS), port


def netcat(port: int, text: str) -> str:
    """What `nc` prints that was sent this text."""
    need("nc")
    sent = ["nc", "-q", "1", "localhost", str(port)]
    return subprocess.run(sent, input=text, capture_output=True, text=True, timeout=30, check=True).stdout


def test_lines_are_answered_and_logged(agent: tuple[Program, int]) -> None:
    """Each line that nc sends is answered OK and logged in Flume's format, in order."""
    one, port = agent
    assert netcat(port, "Hello world!\nsecond\n") == "OK\nOK\n"
    one.wait_log("second }")
    found = [line.partition("Event: ")[2] for line in one.log.splitlines() if "Event: " in line]
    assert found == [
        "{ headers:{} body: 48 65 6C 6C 6F 20 77 6F 72 6C 64 21             Hello world! }",
        "{ headers:{} body: 73 65 63 6F 6E 64                               second }",
    ]


def test_a_carriage_return_stays(agent: tuple[Program, int]) -> None:
    """telnet's carriage return is part of the body, as in the guide's own output."""
    one, port = agent
    assert netcat(port, "Hello world!\r\n") == "OK\n"
    one.wait_log("Event: { headers:{} body: 48 65 6C 6C 6F 20 77 6F 72 6C 64 21 0D          Hello world!. }")


def test_two_clients_at_once(agent: tuple[Program, int]) -> None:
    """A client that stays connected doesn't keep another from being served."""
    need("nc")
    _, port = agent
    with subprocess.Popen(["nc", "localhost", str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as idle:
        assert netcat(port, "x\n") == "OK\n"
        idle.kill()


def test_it_counts_as_flume_does(agent: tuple[Program, int]) -> None:
    """The channel's counters of the monitoring port go up by what nc sent."""
    one, port = agent
    netcat(port, "a\nb\nc\n")
    wait_until(lambda: one.count("CHANNEL.c1", "EventTakeSuccessCount") == 3, what="three events taken")
    assert one.metrics()["CHANNEL.c1"]["EventPutSuccessCount"] == "3"
    assert one.metrics()["CHANNEL.c1"]["ChannelCapacity"] == "1000"
