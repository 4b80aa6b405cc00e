"""Hostile frames: each is decoded or refused as the peer's fault, before anything is made of what it claims."""

from __future__ import annotations

import random
import struct
import tracemalloc
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.errors import RemoteProtocolError
from aggregator.topics.wire import primitives
from aggregator.topics.wire.api import (
    APIS,
    Api,
    Request,
    Unsupported,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)
from aggregator.topics.wire.tables.records import PRODUCE
from tests.aggregator.topics.wire.samples import EVERY, SIDES, fields, sample


def framed(api: Api, version: int, side: str, body: dict[str, Any]) -> bytes:
    if side == "request":
        return b"".join(encode_request(api, version, 7, "someone", body))
    return b"".join(encode_response(api, version, 7, body))


@pytest.mark.parametrize(("key", "version"), [(0, 2), (0, 9), (1, 3), (60, 0), (-1, 0), (18, -1), (32767, 32767)])
def test_unserved_api_or_version(key: int, version: int) -> None:
    """An unknown API, or a version outside its window, is Unsupported, with what the answer needs."""
    with pytest.raises(Unsupported) as caught:
        decode_request(struct.pack(">hhi", key, version, -5))
    assert (caught.value.api_key, caught.value.version, caught.value.correlation) == (key, version, -5)


@pytest.mark.parametrize("api", APIS.values(), ids=str)
@pytest.mark.parametrize("side", SIDES)
def test_every_cut_is_refused(api: Api, side: str) -> None:
    """A frame that ends early, at whichever byte, is refused; and one with a byte too many."""
    for version in range(api.served.low, api.served.high + 1):
        body = sample(fields(api, side), version)
        frame = framed(api, version, side, body)
        for cut in [*(frame[:size] for size in range(len(frame))), frame + b"\0"]:
            with pytest.raises(RemoteProtocolError):
                decode_request(cut) if side == "request" else decode_response(api, version, cut)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_spoilt_frames_raise_one_error(data: st.DataObject) -> None:
    """Bytes changed anywhere in a frame, extremes among them: it is decoded, or refused as the peer's fault."""
    api, version = data.draw(st.sampled_from(EVERY))
    frame = bytearray(framed(api, version, "request", sample(api.request, version)))
    values = st.sampled_from([0, 1, 0x7F, 0x80, 0xFE, 0xFF]) | st.integers(0, 255)
    for _ in range(data.draw(st.integers(1, 6))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(values)
    try:
        assert isinstance(decode_request(frame), Request)
    except RemoteProtocolError:
        pass


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(EVERY), st.binary(max_size=80))
def test_any_bytes_raise_one_error(served: tuple[Api, int], rest: bytes) -> None:
    """Any bytes after the head of a served API are decoded, or refused as the peer's fault."""
    api, version = served
    try:
        assert isinstance(decode_request(struct.pack(">hhi", api.key, version, 1) + rest), Request)
    except RemoteProtocolError:
        pass


def test_spoilt_frames_at_random() -> None:
    """The same with thousands of frames and a fixed seed, whose array counts and lengths are often hit."""
    chance = random.Random(5)
    frames = [framed(api, version, "request", sample(api.request, version)) for api, version in EVERY]
    refused = 0
    for _ in range(4000):
        frame = bytearray(chance.choice(frames))
        for _ in range(chance.randrange(1, 4)):
            frame[chance.randrange(8, len(frame))] = chance.choice((0, 1, 2, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        try:
            decode_request(frame)
        except RemoteProtocolError:
            refused += 1
    assert 400 < refused < 4000


HEAD = struct.pack(">hhih", 3, 1, 1, -1)


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (b"", "early"),
        (b"\0\3\0", "early"),
        (HEAD + struct.pack(">i", -2), "length -2"),
        (HEAD + struct.pack(">i", 2_000_000_000), "2000000000 elements"),
        (HEAD + struct.pack(">ih", 1, 5) + b"abc", "5 bytes are claimed where 3"),
        (HEAD + struct.pack(">ih", 1, -1), "a string has the length -1"),
        (HEAD + struct.pack(">ih", 1, 2) + b"\xff\xfe", "no UTF-8"),
        (HEAD + struct.pack(">i", 0) + b"x", "1 bytes too many"),
        (struct.pack(">hhih", 0, 7, 1, -1) + struct.pack(">hhii", -1, -1, 0, -7), "length -7"),
        (struct.pack(">hhihb", 66, 0, 1, -1, 0) + b"\xff" * 9, "more than 5 bytes"),
        (struct.pack(">hhihb", 66, 0, 1, -1, 0) + b"\xff\xff\xff\xff\x7f", "compact length is"),
        (struct.pack(">hhihb", 66, 0, 1, -1, 0) + b"\0", "an array has the length -1"),
        (struct.pack(">hhih", 66, 0, 1, -1) + b"\x05", "5 elements"),
        (struct.pack(">hhih", 66, 0, 1, -1) + b"\x01\x00\x7fab", "127 bytes are claimed"),
    ],
)
def test_malformed(frame: bytes, text: str) -> None:
    """Negative and exaggerated lengths, strings that are none, what is left over: refused, and the text says why."""
    with pytest.raises(RemoteProtocolError, match=text):
        decode_request(frame)


def test_claims_allocate_nothing() -> None:
    """A small frame that claims two thousand million elements, or bytes, costs no more memory than itself."""
    frames = [
        HEAD + struct.pack(">i", 0x7FFFFFFF) + bytes(100),
        struct.pack(">hhih", 0, 7, 1, -1) + struct.pack(">hhii", -1, -1, 0, 0x7FFFFFFF) + bytes(100),
        struct.pack(">hhihb", 66, 0, 1, -1, 0) + b"\x01" + b"\xff\xff\xff\xff\x07" + bytes(100),
        struct.pack(">hhih", 66, 0, 1, -1) + b"\xff\xff\xff\xff\x07" + bytes(100),
        struct.pack(">hhih", 66, 0, 1, -1) + b"\x01\0\xff\xff\xff\xff\x07" + bytes(100),
    ]
    for frame in frames:  # the codecs themselves are made by the first
        with pytest.raises(RemoteProtocolError):
            decode_request(frame)
    tracemalloc.start()
    for frame in frames:
        with pytest.raises(RemoteProtocolError):
            decode_request(frame)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.parametrize("nested", [False, True])
def test_a_frame_has_so_many_elements(nested: bool) -> None:
    """Elements are counted over all of a frame's arrays: millions of empty topics are refused, whatever their bytes."""
    few = primitives.MAX_ITEMS // 2
    topic = {"name": "", "partition_data": [{"index": 0, "records": None}] if nested else []}
    body = {"transactional_id": None, "acks": 1, "timeout_ms": 1, "topic_data": [topic] * few}
    assert len(decode_request(framed(PRODUCE, 7, "request", body)).body["topic_data"]) == few
    body["topic_data"] = [topic] * (few + 1 if nested else 2 * few + 1)
    with pytest.raises(RemoteProtocolError, match="elements"):
        decode_request(framed(PRODUCE, 7, "request", body))
