"""hbase, hbase2, asynchbase: their keys; and a gateway that isn't there, or doesn't answer."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from agent.config.flow import ConfigErrors, Flow, judge
from agent.errors import DeliveryError
from agent.event import Batch, Event
from aggregator.sinks.asynchbase import AsynchbaseSink
from aggregator.sinks.hbase import HbaseConfig, HbaseSink
from aggregator.sinks.hbase2 import Hbase2Sink
from tests.peers.harness import free_port

FLUME = "org.apache.flume.sink."
FLOW = """\
a.sources = r
a.channels = c
a.sinks = k
a.sources.r.type = seq
a.sources.r.channels = c
a.channels.c.type = memory
a.sinks.k.channel = c
"""


def judged(sink: str) -> Flow:
    """A flow whose sink has these lines."""
    return judge([("flow", (FLOW + "".join(f"a.sinks.k.{line}\n" for line in sink.splitlines())).encode())])


def config(sink: str) -> Any:
    flow = judged(sink)
    return flow.sinks["k"].config


@pytest.mark.parametrize(
    ("type_name", "cls", "serializer"),
    [
        ("hbase", HbaseSink, f"{FLUME}hbase.SimpleHbaseEventSerializer"),
        (f"{FLUME}hbase.HBaseSink", HbaseSink, f"{FLUME}hbase.RegexHbaseEventSerializer"),
        ("hbase2", Hbase2Sink, f"{FLUME}hbase2.SimpleHBase2EventSerializer"),
        (f"{FLUME}hbase2.HBase2Sink", Hbase2Sink, f"{FLUME}hbase2.RegexHBase2EventSerializer"),
        ("asynchbase", AsynchbaseSink, f"{FLUME}hbase.SimpleAsyncHbaseEventSerializer"),
    ],
)  # fmt: skip
def test_flumes_names(type_name: str, cls: type[HbaseSink], serializer: str) -> None:
    """Flume's types and its serializers' classes are ours."""
    flow = judged(f"type = {type_name}\ntable = t\ncolumnFamily = d\nserializer = {serializer}")
    spec = flow.sinks["k"]
    assert spec.cls is cls and not flow.warnings
    assert serializer.rpartition(".")[2][:5].lower() in type(spec.config.make_serializer()).__name__.lower()  # type: ignore[attr-defined]


def test_keys_of_a_cluster_have_no_effect() -> None:
    """zookeeperQuorum, znodeParent and async.* are accepted with a warning that names the keys that count."""
    flow = judged("type = asynchbase\ntable = t\ncolumnFamily = d\nzookeeperQuorum = h\nznodeParent = /h\nasync.x = 1")
    said = [str(warning) for warning in flow.warnings]
    assert len(said) == 3 and all("thriftHost and thriftPort" in one for one in said)


@pytest.mark.parametrize("name", ["kerberosPrincipal", "kerberosKeytab"])
def test_kerberos_is_the_gateways(name: str) -> None:
    """It is refused, with where the principal belongs."""
    with pytest.raises(ConfigErrors, match=rf"{name}.*hbase\.thrift\.kerberos\.principal"):
        judged(f"type = hbase\ntable = t\ncolumnFamily = d\n{name} = x")


def test_defaults() -> None:
    """Flume's batchSize, its timeout of asynchbase in ms, and half of that elsewhere."""
    ours = config("type = hbase\ntable = t\ncolumnFamily = d")
    assert (ours.batchSize, ours.callTimeout, ours.thriftPort, ours.createTable) == (100, 30.0, 9090, False)
    asynchronous = config("type = asynchbase\ntable = t\ncolumnFamily = d\ntimeout = 5000\nmaxConsecutiveFails = 3")
    assert asynchronous.callTimeout == 5.0


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ("columnFamily = d", "table is missing|table.*is missing"),
        ("table = t\ncolumnFamily = d:x", "has no colon"),
        ("table = t\ncolumnFamily = d\nserializer = nope", "no serializer 'nope'.*simple, regex, readings"),
        ("table = t\ncolumnFamily = d\nserializer.suffix = uid", r"serializer\.suffix takes"),
        ("table = t\ncolumnFamily = d\nserializer.sufix = uuid", "nearest is suffix"),
        ("table = t\ncolumnFamily = d\nserializer = regex\nserializer.regex = (a)(b)", "2 groups"),
    ],
)
def test_wrong_keys(lines: str, text: str) -> None:
    """Named with what would be right, before anything runs."""
    with pytest.raises(ConfigErrors, match=text):
        judged(f"type = hbase\n{lines}")


def make(port: int, **keys: Any) -> HbaseSink:
    return HbaseSink("k", HbaseConfig(channel="c", table="t", columnFamily="d", thriftPort=port, **keys))


@contextmanager
def silent() -> Iterator[int]:
    """The port of somebody who accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_no_gateway() -> None:
    """open raises DeliveryError with host and port."""
    port = free_port()
    with pytest.raises(DeliveryError, match=rf"127\.0\.0\.1:{port}: "):
        asyncio.run(make(port).open())


def test_a_gateway_that_does_not_answer() -> None:
    """open and send end with DeliveryError after callTimeout, each time, and close waits for nobody."""

    async def steps(port: int) -> None:
        sink = make(port, callTimeout=0.1)
        with pytest.raises(DeliveryError, match=f":{port}: "):
            await sink.open()
        for _ in range(2):
            with pytest.raises(DeliveryError, match=f":{port}: "):
                await sink.send(Batch([Event({}, b"x")]))
        async with asyncio.timeout(5):
            await sink.close()

    with silent() as port:
        asyncio.run(steps(port))


def test_at_least_once_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """One line for a channel that gives no names, one for what a repeat writes again; behind a file channel neither
    with a serializer that repeats nothing."""

    async def steps(sink: HbaseSink) -> str:
        caplog.clear()
        with caplog.at_level(logging.INFO), pytest.raises(DeliveryError):
            await sink.open()
        return caplog.text

    port = free_port()
    assert asyncio.run(steps(make(port))).count("at least once") == 2
    named = make(port, serializer="readings")
    named.durable = True
    assert "at least once" not in asyncio.run(steps(named))
