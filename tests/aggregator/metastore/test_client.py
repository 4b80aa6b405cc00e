"""The metastore's client, against one in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.errors import DeliveryError
from aggregator.metastore.client import Metastore
from aggregator.metastore.types import columns_of
from tests.aggregator.metastore.fake import FakeMetastore
from tests.peers.harness import free_port

COLUMNS, KEYS = columns_of("id bigint, note"), columns_of("dt")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeMetastore]:
    with FakeMetastore(tmp_path) as server:
        yield server


def client(*ports: int, timeout: float = 5.0) -> Metastore:
    return Metastore([("127.0.0.1", port) for port in ports], timeout)


def test_a_table_that_it_made(server: FakeMetastore, tmp_path: Path) -> None:
    """It is there with its database, columns, keys and the location that the metastore chose; twice does nothing."""
    one = client(server.port)
    assert one.table("d", "t") is None
    for _ in range(2):
        one.create("d", "t", COLUMNS, KEYS, "")
    table = one.table("d", "t")
    assert table and (list(table.columns), list(table.keys)) == (COLUMNS, KEYS)
    assert (str(table), table.location) == ("d.t", f"file:{tmp_path}/d.db/t")
    assert server.tables["d", "t"].tableType == "EXTERNAL_TABLE"


def test_a_partition(server: FakeMetastore) -> None:
    """Registered as often as one likes; known somewhere else is said with both places."""
    one = client(server.port)
    one.create("d", "t", COLUMNS, KEYS, "")
    table = one.table("d", "t")
    assert table
    assert not one.check(table, ["x"], "file:/a/dt=x")
    for _ in range(2):
        one.register(table, ["x"], "file:/a/dt=x")
    assert one.check(table, ["x"], "file:///a/dt=x")
    with pytest.raises(DeliveryError, match=r"partition x of d\.t lies in file:/a/dt=x, not in file:/b"):
        one.register(table, ["x"], "file:/b")
    assert table.descriptor.location == table.location


def test_a_new_connection_after_a_broken_one(server: FakeMetastore) -> None:
    """One call fails, with the address; the next one, when it is back, answers."""
    one = client(server.port)
    assert one.table("d", "t") is None
    server.stop()
    with pytest.raises(DeliveryError, match=rf"metastore 127\.0\.0\.1:{server.port}: "):
        one.table("d", "t")
    server.start()
    assert one.table("d", "t") is None


def test_an_answer_that_comes_late(server: FakeMetastore) -> None:
    """It is waited for as long as the time-out, and never taken for the answer to another call."""
    one = client(server.port, timeout=0.3)
    one.create("d", "t", COLUMNS, KEYS, "")
    server.slow = 1.0
    with pytest.raises(DeliveryError, match="read timeout"):
        one.table("d", "t")
    server.slow = 0.0
    assert one.table("d", "nothing") is None


def test_several_addresses(server: FakeMetastore) -> None:
    """The first that answers is taken, and kept."""
    one = client(free_port(), server.port)
    assert one.table("d", "t") is None
    assert one.addresses[0] == ("127.0.0.1", server.port)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("serde", r"d\.t isn't stored as Avro \(its serde is org\.orc\)"),
        ("transactional", r"d\.t is transactional"),
        ("column", r"d\.t, column note: the type map<string,int> can't be written"),
        ("location", r"d\.t has no location"),
    ],
)
def test_a_table_that_can_not_be_written(change: str, why: str, server: FakeMetastore) -> None:
    """It is the destination's fault, in one line."""
    one = client(server.port)
    one.create("d", "t", COLUMNS, KEYS, "")
    table = server.tables["d", "t"]
    if change == "serde":
        table.sd.serdeInfo.serializationLib = "org.orc"
    elif change == "transactional":
        table.parameters["transactional"] = "true"
    elif change == "column":
        table.sd.cols[1].type = "map<string,int>"
    else:
        table.sd.location = ""
    with pytest.raises(DeliveryError, match=why):
        one.table("d", "t")


def test_a_failure_is_the_error_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is logged a try: the runner says a change of state."""
    with pytest.raises(DeliveryError):
        client(free_port()).table("d", "t")
    assert not caplog.records
