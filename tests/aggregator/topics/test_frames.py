"""Frames out of a stream of bytes, and into one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import RemoteProtocolError
from aggregator.topics.frames import CHUNK, FIRST, GROWTH, Frames, Outbox
from tests.aggregator.topics.talking import framed


def shared(size: int = 1 << 18) -> memoryview:
    return memoryview(bytearray(size))


def fed(cutter: Frames, data: bytes, step: int) -> list[bytes]:
    """The frames of data that comes in pieces of at most `step` bytes."""
    found = []
    while data:
        buffer = cutter.buffer(step)
        count = min(len(buffer), len(data))
        buffer[:count] = data[:count]
        data = data[count:]
        cutter.received(count)
        while (frame := cutter.next()) is not None:
            found.append(bytes(frame))
    return found


@given(st.lists(st.binary(max_size=300)), st.integers(1, 400))
def test_frames_are_the_same_however_they_come(parts: list[bytes], step: int) -> None:
    """Whole, byte by byte, several in one piece: the frames are those that were sent, and nothing is held after."""
    cutter = Frames(shared(400), 1000)
    assert fed(cutter, b"".join(map(framed, parts)), step) == parts
    assert cutter.held == 0


def test_a_large_frame_grows_with_its_bytes() -> None:
    """A size alone takes no room: what is held is at most `GROWTH` times what has come."""
    cutter = Frames(shared(), 1 << 24)
    size = 5_000_000
    assert fed(cutter, size.to_bytes(4, "big") + b"x", 100) == []
    assert cutter.held == FIRST
    came = 1
    while came < size:
        buffer = cutter.buffer(min(1 << 18, size - came))
        came += len(buffer)
        cutter.received(len(buffer))
        assert cutter.held <= max(FIRST, GROWTH * came)
    frame = cutter.next()
    assert frame is not None
    assert len(frame) == size
    assert cutter.next() is None


def test_what_follows_a_large_frame_is_not_lost() -> None:
    """The read that ends a large frame takes none of the next."""
    parts = [b"a" * 200_000, b"b", b"c" * 100_000]
    assert fed(Frames(shared(), 1 << 20), b"".join(map(framed, parts)), 1 << 17) == parts


@pytest.mark.parametrize(
    ("size", "why"),
    [
        (b"\xff\xff\xff\xff", "a frame of -1 bytes, 1000 are allowed"),
        (b"\0\0\x03\xe9", "a frame of 1001 bytes"),
        (b"GET / HTTP/1.1", "HTTP"),
        (b"\x16\x03\x01\x02\x00", "TLS"),
    ],
)
def test_a_size_that_is_not_taken(size: bytes, why: str) -> None:
    """Negative and too large sizes end the connection; where another protocol is spoken, that is said."""
    with pytest.raises(RemoteProtocolError, match=why):
        fed(Frames(shared(), 1000), size, 100)


def test_an_idle_connection_holds_no_bytes() -> None:
    """What has been cut is let go, although frames were slices of it."""
    cutter = Frames(shared(), 1000)
    fed(cutter, framed(b"x" * 900), 2000)
    assert cutter._data == b""


@given(st.lists(st.lists(st.integers(0, CHUNK * 2 + 5), max_size=3), max_size=3))
def test_an_outbox_gives_all_bytes_in_order(sizes: list[list[int]]) -> None:
    """Chunks are frames in order, each of at most CHUNK bytes and none empty."""
    out, want = Outbox(), b""
    for number, lengths in enumerate(sizes):
        parts = [bytes([number]) * length for length in lengths]
        out.put(parts)
        want += framed(b"".join(parts))
    chunks = []
    while out:
        chunks.append(bytes(out.chunk()))
    assert b"".join(chunks) == want
    assert all(0 < len(chunk) <= CHUNK for chunk in chunks)


def test_large_parts_are_not_copied() -> None:
    """A batch of the log goes out as it is."""
    out, part = Outbox(), b"x" * (CHUNK - 100)
    out.put([b"y" * 200, part])
    out.chunk()
    assert out.chunk() is part
