"""A flow written as a properties file."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config.flow import Flow, judge
from agent.config.render import render
from tests.peers.harness import ROOT

EVERYTHING = r"""
a1.sources = r1
a1.channels = c1 c2
a1.sinks = k1 k2
a1.sinkgroups = g1
a1.services = web
a1.drainTimeout = 1500ms
a1.sources.r1.type = stress
a1.sources.r1.channels = c1 c2
a1.sources.r1.batchSize = 100
a1.sources.r1.interceptors = i2 i1
a1.sources.r1.interceptors.i1.type = host
a1.sources.r1.interceptors.i2.type = static
a1.sources.r1.interceptors.i2.value = a \\ b\tc $${x} \u00e9 # = :
a1.sources.r1.selector.type = multiplexing
a1.sources.r1.selector.mapping.a\ b\=c = c1
a1.sources.r1.selector.mapping.d.e = c1 c2
a1.sources.r1.selector.default = c2
a1.channels.c1.type = memory
a1.channels.c1.byteCapacity = 1500
a1.channels.c1.keep-alive = 0.1
a1.channels.c2.type = file
a1.channels.c2.dataDirs = /x y/1, /2
a1.sinks.k1.type = null
a1.sinks.k1.channel = c1
a1.sinks.k2.type = tests.agent.config.parts:Keep
a1.sinks.k2.channel = c2
a1.sinks.k2.password = s3cret
a1.sinks.k2.column.a\:b = 1
a1.sinks.k2.pattern = %{topic}/${none:-x}
a1.sinks.k2.folder = ~/here
a1.sinkgroups.g1.sinks = k1
a1.services.web.type = metrics
a1.services.web.port = 0
"""


def flow(text: str) -> Flow:
    return judge([("flow.conf", text.encode())])


def test_what_is_written_judges_to_the_same_flow() -> None:
    """Every kind of part and value comes back, once the secret is given again."""
    before = flow(EVERYTHING)
    text = render(before)
    assert flow(text + "a1.sinks.k2.password = s3cret\n") == before


def test_a_secret_is_not_written() -> None:
    """Its line says how to give it."""
    text = render(flow(EVERYTHING))
    assert "s3cret" not in text
    assert "# (a secret is not written here; give it again) a1.sinks.k2.password = file:/path/of/the/secret" in text


def test_a_secret_among_free_keys_is_not_written() -> None:
    """Neither a password of Kafka's nor a key in PEM; what is no secret is, and the rest comes back with them."""
    head = """
        a1.channels = c1
        a1.sinks = k1
        a1.channels.c1.type = kafka
        a1.channels.c1.kafka.bootstrap.servers = h:1
        a1.channels.c1.kafka.consumer.sasl.username = alice
        a1.sinks.k1.type = null
        a1.sinks.k1.channel = c1
    """
    secrets = """
        a1.channels.c1.kafka.consumer.sasl.password = s3cret
        a1.channels.c1.kafka.consumer.sasl.oauthbearer.client.secret = s3cret
    """
    before = flow(head + secrets)
    text = render(before)
    assert "s3cret" not in text + repr(before)
    assert "give it again) a1.channels.c1.kafka.consumer.sasl.password = file:/path/of/the/secret" in text
    assert "\na1.channels.c1.kafka.consumer.sasl.username = alice" in text
    assert flow(text + secrets) == before


def test_defaults_are_comments_and_each_key_says_what_it_is() -> None:
    """A key at its default can be switched on by removing one character."""
    lines = render(flow(EVERYTHING)).splitlines()
    at = lines.index("#a1.channels.c1.capacity = 100")
    assert lines[at - 1] == "# most events inside (a whole number of at least 1)"
    assert "a1.channels.c1.byteCapacity = 1500B" in lines and "a1.drainTimeout = 1500ms" in lines


CONFIGURATIONS = sorted(
    [*(ROOT / "deploy").glob("*.conf"), *(ROOT / "deploy" / "scale").glob("*.conf"), *ROOT.glob("*/default.conf")]
)


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: "/".join(path.parts[-2:]))
def test_the_configurations_we_ship_survive(path: Path) -> None:
    """Each of them is written to a file that judges to an equal flow."""
    before = flow(path.read_text())
    assert flow(render(before)) == before
