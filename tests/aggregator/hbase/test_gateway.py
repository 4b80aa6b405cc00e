"""Calls to a gateway and their size, without one."""

from __future__ import annotations

import pytest
from thriftpy2.thrift import TClient

from agent.errors import Rejected
from aggregator.hbase.cells import Increment, Row

gateway = pytest.importorskip("aggregator.hbase.gateway", exc_type=ImportError)

FRAME = 4096


class Wire:
    """In place of a transport: the frames that are sent. Nobody answers."""

    def __init__(self) -> None:
        self.frames: list[int] = []
        self.size = 0

    def write(self, data: bytes) -> None:
        self.size += len(data)

    def flush(self) -> None:
        self.frames.append(self.size)
        self.size = 0


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    from thriftpy2.protocol.binary import TBinaryProtocol

    wire = Wire()
    client = TClient(gateway.api.Hbase, TBinaryProtocol(wire, decode_response=False))
    monkeypatch.setattr(TClient, "_recv", lambda self, name: None)
    monkeypatch.setattr(gateway.Gateway, "_connect", lambda self: client)
    return wire


def row(cells: int, size: int = 0) -> Row:
    return b"key", {b"d:%d" % cell: b"x" * size for cell in range(cells)}


@pytest.mark.parametrize("wal", [True, False])
def test_no_call_is_longer_than_a_frame(wire: Wire, wal: bool) -> None:
    """Rows with many small cells too, and counters, come in calls that the gateway takes, as few as will do."""
    to = gateway.Gateway("h", 1, 1.0, frame=FRAME)
    to.put("table", [row(5)] * 100, wal)
    to.increment("table", [Increment(b"all", b"d:n", 1)] * 300)
    assert max(wire.frames) <= FRAME
    assert len(wire.frames) <= 2 + (100 * gateway.size_of(row(5)) + 300 * 50) // FRAME * 1.1


def test_a_size_is_what_is_sent(wire: Wire) -> None:
    """A row's size and a call's are those of Thrift's binary protocol."""
    gateway.Gateway("h", 1, 1.0).put("table", [row(3, 7), row(0)], False)
    assert wire.frames == [gateway.CALL + len("table") + gateway.size_of(row(3, 7)) + gateway.size_of(row(0))]


def test_a_row_that_no_frame_has_room_for(wire: Wire) -> None:
    """It is rejected, with the gateway's key and ours, before anything is sent; without frames it is sent."""
    with pytest.raises(Rejected, match=r"max_frame_size_in_mb and the sink's thriftFrameSize"):
        gateway.Gateway("h", 1, 1.0, frame=FRAME).put("table", [row(1), row(1, FRAME)], True)
    assert not wire.frames
    gateway.Gateway("h", 1, 1.0).put("table", [row(1), row(1, FRAME)], True)
    assert len(wire.frames) == 1
