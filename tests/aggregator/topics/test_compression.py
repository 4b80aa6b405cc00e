"""Compressed records, from anyone."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import cramjam
import pytest
from aiokafka import codec
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from aggregator.topics.compression import compress, decompress
from aggregator.topics.errors import Code, TopicsError
from tests.aggregator.topics.batches import gzip, xerial

MOST = 1 << 20


def raw(data: bytes) -> bytes:
    """One block of snappy."""
    return bytes(cramjam.snappy.compress_raw(data))


WRITERS: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "none": (0, bytes),
    "gzip": (1, gzip),
    "gzip of aiokafka": (1, codec.gzip_encode),
    "snappy of librdkafka": (2, raw),
    "snappy of Java": (2, lambda data: xerial(*(raw(data[at : at + 32768]) for at in range(0, len(data), 32768)))),
    "snappy of aiokafka": (2, codec.snappy_encode),
    "lz4": (3, lambda data: bytes(cramjam.lz4.compress(data))),
    "lz4 of aiokafka": (3, codec.lz4_encode),
    "zstd": (4, codec.zstd_encode),
    "zstd without its size": (4, lambda data: _streamed_zstd(data)),
}
writers = pytest.mark.parametrize("writer", WRITERS)
SAMPLE = b"21.5;22.0;" * 30 + bytes(range(256))


def _streamed_zstd(data: bytes) -> bytes:
    squeeze = cramjam.zstd.Compressor()
    squeeze.compress(data)
    return bytes(squeeze.finish())


def unpacked(kind: int, data: bytes, most: int = MOST) -> bytes | None:
    """What comes out, None for CORRUPT_MESSAGE; nothing else may be raised."""
    try:
        return decompress(kind, memoryview(data), most)
    except TopicsError as error:
        assert error.code == Code.CORRUPT_MESSAGE
        return None


@writers
@given(data=st.binary(max_size=200) | st.integers(1, 300_000).map(lambda size: (b"abcd" * size)[:size]))
def test_round_trip(writer: str, data: bytes) -> None:
    """What each library packs comes out, of one block or several."""
    kind, pack = WRITERS[writer]
    assert unpacked(kind, pack(data)) == data


READERS = {0: bytes, 1: codec.gzip_decode, 2: codec.snappy_decode, 3: codec.lz4_decode, 4: codec.zstd_decode}


@pytest.mark.parametrize("kind", READERS)
@given(data=st.binary(max_size=200) | st.integers(1, 300_000).map(lambda size: (b"abcd" * size)[:size]))
def test_what_is_packed(kind: int, data: bytes) -> None:
    """We read it, and others do."""
    packed = compress(kind, data)
    assert unpacked(kind, packed) == READERS[kind](packed) == data


@pytest.mark.parametrize("kind", [1, 2, 3, 4])
def test_what_is_packed_is_smaller(kind: int) -> None:
    """It is compressed."""
    assert len(compress(kind, bytes(10_000))) < 1000


def test_blocks_of_lz4_stand_alone() -> None:
    """The flag that Java's reader looks for (KIP-57)."""
    assert compress(3, b"abc")[4] & 0x20


@writers
def test_the_bound_itself_fits(writer: str) -> None:
    """`most` bytes come out, one more is refused."""
    kind, pack = WRITERS[writer]
    size = 300_000
    assert unpacked(kind, pack(b"a" * size), size) == b"a" * size
    assert unpacked(kind, pack(b"a" * (size + 1)), size) is None


@pytest.mark.parametrize("writer", [name for name in WRITERS if name != "none"])
def test_a_bomb(writer: str) -> None:
    """What would become 32 MiB is refused with little more than the bound in memory."""
    kind, pack = WRITERS[writer]
    bomb = pack(bytes(32 << 20))
    tracemalloc.start()
    try:
        assert unpacked(kind, bomb) is None
        assert tracemalloc.get_traced_memory()[1] < 3 * MOST + 2 * len(bomb)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("writer", [name for name in WRITERS if name != "none"])
def test_cut_off_anywhere(writer: str) -> None:
    """No beginning of packed data is taken for the whole of it; Java's snappy alone doesn't say where it ends."""
    kind, pack = WRITERS[writer]
    packed = pack(SAMPLE)
    whole = {16} if kind == 2 and packed[0] == 0x82 else set()
    assert [at for at in range(len(packed)) if unpacked(kind, packed[:at]) is not None and at not in whole] == []


@writers
@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_damaged_anywhere(writer: str, flip: int) -> None:
    """A changed byte makes other data or CORRUPT_MESSAGE, nothing else."""
    kind, pack = WRITERS[writer]
    packed = pack(SAMPLE)
    for at in range(len(packed)):
        unpacked(kind, packed[:at] + bytes([packed[at] ^ flip]) + packed[at + 1 :])


@given(kind=st.integers(0, 4), data=st.binary(max_size=60))
def test_noise(kind: int, data: bytes) -> None:
    """Neither does anything else out of random bytes, behind the marks of each format too."""
    for mark in (b"", b"\x1f\x8b\x08\0", b"\x82SNAPPY\0", b"\x04\x22\x4d\x18", b"\x28\xb5\x2f\xfd"):
        unpacked(kind, mark + data)


@pytest.mark.parametrize(
    "packed",
    [
        xerial(b"\xff\xff\xff\xff\x0f"),
        xerial(raw(b"a"))[:-1] + b"",
        b"\xff\xff\xff\xff\x07abc",
        b"\x82SNAPPY\0\0\0\0\1\0\0\0\1\xff\xff\xff\xff",
        xerial(raw(bytes(MOST)), raw(b"a")),
    ],
    ids=["a block's claim", "a cut block", "a claim of 2 GiB", "a block of 4 GiB", "a sum above the bound"],
)
def test_snappy_that_lies(packed: bytes) -> None:
    """Sizes are judged before anything is made for them."""
    assert unpacked(2, packed) is None


@pytest.mark.parametrize("writer", ["gzip", "lz4", "lz4 of aiokafka", "zstd"])
def test_something_behind(writer: str) -> None:
    """A second member or frame, or a tail, isn't dropped without a word."""
    kind, pack = WRITERS[writer]
    assert unpacked(kind, pack(b"a" * 99) + pack(b"b" * 99)) is None
    assert unpacked(kind, pack(b"a" * 99) + b"x") is None


@given(data=st.binary(max_size=400_000), level=st.integers(0, 12), sum_=st.booleans(), linked=st.booleans())
def test_frames_of_lz4(data: bytes, level: int, sum_: bool, linked: bool) -> None:
    """With and without a checksum, a size, links between blocks: none is bounded below what it holds."""
    squeeze = cramjam.lz4.Compressor(level=level, content_checksum=sum_, block_linked=linked)
    squeeze.compress(data)
    assert unpacked(3, bytes(squeeze.finish())) == data


@pytest.mark.parametrize("level", [-5, 1, 3, 9, 22])
@pytest.mark.parametrize("flags", [{}, {"checksum_flag": 1}, {"content_size_flag": 0}], ids=str)
def test_frames_of_zstd(level: int, flags: dict[str, int]) -> None:
    """The same for zstd by another library, at levels up to the one with the largest window."""
    data = (SAMPLE * 700)[:MOST] + b"\0" * 1000
    options: dict[int, int] = {zstd.CompressionParameter[name]: value for name, value in flags.items()}
    options[zstd.CompressionParameter.compression_level] = level
    assert unpacked(4, zstd.compress(data, options=options), len(data)) == data


@pytest.mark.parametrize("kind", [5, 6, 7])
def test_unknown_kinds(kind: int) -> None:
    """The three numbers that stand for nothing: UNSUPPORTED_COMPRESSION_TYPE."""
    with pytest.raises(TopicsError) as caught:
        decompress(kind, memoryview(b""), MOST)
    assert caught.value.code == Code.UNSUPPORTED_COMPRESSION_TYPE
