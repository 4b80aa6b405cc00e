"""Netty pack framing."""

from __future__ import annotations

import struct

import pytest

from agent.avro.frame import PackReader, head
from agent.errors import RemoteProtocolError

PAIRS = [
    ("one buffer", "00000002 00000001 00000003 000000", [(2, b"\0\0\0")]),
    ("a Java server's answer", "00000002 00000003 00000000 00000001 00 00000002 0000", [(2, b"\0\0\0")]),
    ("an empty body", "00000005 00000001 00000000", [(5, b"")]),
    ("a negative serial", "ffffffff 00000001 00000001 07", [(-1, b"\7")]),
    ("two packs", "00000001 00000001 00000001 61 00000002 00000002 00000001 62 00000001 63", [(1, b"a"), (2, b"bc")]),
]


def packs(reader: PackReader) -> list[tuple[int, bytes]]:
    """All that are whole."""
    return list(iter(reader.next, None))


@pytest.mark.parametrize(("what", "wire", "expected"), PAIRS, ids=[pair[0] for pair in PAIRS])
def test_read_whole(what: str, wire: str, expected: list[tuple[int, bytes]]) -> None:
    """The bytes of a pack give its serial and body."""
    reader = PackReader()
    reader.feed(bytes.fromhex(wire))
    assert packs(reader) == expected
    assert reader.held == 0


@pytest.mark.parametrize(("what", "wire", "expected"), PAIRS, ids=[pair[0] for pair in PAIRS])
def test_read_byte_by_byte(what: str, wire: str, expected: list[tuple[int, bytes]]) -> None:
    """The same when they come one at a time."""
    reader = PackReader()
    found = []
    for byte in bytes.fromhex(wire):
        reader.feed(bytes([byte]))
        found += packs(reader)
    assert found == expected


def test_write() -> None:
    """A pack is written as one buffer."""
    assert head(2, 3) + b"abc" == bytes.fromhex("00000002 00000001 00000003 616263")


@pytest.mark.parametrize("count", [0, -1, 65_537, 2**31 - 1])
def test_count_is_bounded(count: int) -> None:
    """A count of buffers below 1 or above the bound is refused from its header alone."""
    reader = PackReader()
    reader.feed(struct.pack(">ii", 1, count))
    with pytest.raises(RemoteProtocolError, match="buffers"):
        reader.next()


@pytest.mark.parametrize("length", [-1, -(2**31), 101, 2**31 - 1])
def test_length_is_bounded(length: int) -> None:
    """A negative length, or one above the bound, is refused from its header alone."""
    reader = PackReader(max_bytes=100)
    reader.feed(struct.pack(">iii", 1, 1, length))
    with pytest.raises(RemoteProtocolError, match="bytes"):
        reader.next()


def test_lengths_are_bounded_together() -> None:
    """Several buffers may not be more than the bound in all."""
    reader = PackReader(max_bytes=100)
    reader.feed(struct.pack(">iii", 1, 2, 60) + bytes(60) + struct.pack(">i", 41))
    with pytest.raises(RemoteProtocolError, match="41 bytes after 60"):
        reader.next()


def test_http_is_refused() -> None:
    """A browser on the port is refused by what its request looks like as a header."""
    reader = PackReader()
    reader.feed(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(RemoteProtocolError, match="790644820 buffers"):
        reader.next()


def test_nothing_is_held_after_a_pack() -> None:
    """What a claimed length promises is not held before it comes."""
    reader = PackReader()
    reader.feed(struct.pack(">iii", 1, 1, 10_000_000))
    assert reader.next() is None
    assert reader.held == 12
