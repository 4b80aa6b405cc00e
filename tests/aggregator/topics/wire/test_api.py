"""Frames: what they are made of, in both directions, and what isn't copied."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.errors import LocalProtocolError
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
from aggregator.topics.wire.tables.connection import API_VERSIONS, METADATA
from aggregator.topics.wire.tables.groups import LEAVE_GROUP, LIST_GROUPS, SYNC_GROUP
from aggregator.topics.wire.tables.records import FETCH, LIST_OFFSETS, PRODUCE
from aggregator.topics.wire.tables.transactions import INIT_PRODUCER_ID
from tests.aggregator.topics.wire.samples import SIDES, bodies, fields, there

EVERY = [(api, version) for api in APIS.values() for version in range(api.served.low, api.served.high + 1)]
each = pytest.mark.parametrize("api", APIS.values(), ids=str)


def request(api: Api, version: int, body: dict[str, Any]) -> bytes:
    return b"".join(encode_request(api, version, 7, "someone", body))


def produce(records: Any) -> dict[str, Any]:
    partition = {"index": 0, "records": records}
    return {
        "transactional_id": None,
        "acks": -1,
        "timeout_ms": 1000,
        "topic_data": [{"name": "plant", "partition_data": [partition]}],
    }


def fetched(records: Any) -> dict[str, Any]:
    partition = {"partition_index": 0, "high_watermark": 5, "records": records}
    return {"responses": [{"topic": "plant", "partitions": [partition]}]}


def produced(decoded: Request) -> Any:
    return decoded.body["topic_data"][0]["partition_data"][0]["records"]


# --- both ways -----------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_body_comes_back(data: st.DataObject) -> None:
    """A body of any API and version, in either direction, is decoded to what was encoded."""
    api, version = data.draw(st.sampled_from(EVERY))
    side = data.draw(st.sampled_from(SIDES))
    body = data.draw(bodies(fields(api, side), version))
    if side == "request":
        again = decode_request(request(api, version, body)).body
    else:
        again = decode_response(api, version, b"".join(encode_response(api, version, 7, body)))[1]
    assert there(again, body) == body


def test_client_id_may_be_null() -> None:
    """A request without a client id has None."""
    frame = b"".join(encode_request(METADATA, 1, 9, None, {"topics": None}))
    assert decode_request(frame)[1:] == (1, 9, None, decode_request(frame).body)
    assert decode_request(frame).body["topics"] is None


def test_api_versions_head_is_plain() -> None:
    """The response to ApiVersions 3, which isn't served, is one of version 0 with error 35: no tags in its head."""
    frame = struct.pack(">hhih", 18, 3, 41, 4) + b"rdkf" + b"\0\x0blibrdkafka\x062.16.0\0"
    with pytest.raises(Unsupported) as caught:
        decode_request(frame)
    assert (caught.value.api_key, caught.value.version, caught.value.correlation) == (18, 3, 41)
    parts = encode_response(API_VERSIONS, 0, 41, {"error_code": 35, "api_keys": []})
    assert b"".join(parts) == struct.pack(">ihi", 41, 35, 0)


def test_flexible_heads_have_tags() -> None:
    """A flexible version's request has tags after its client id (which stays plain), its response after the number."""
    frame = b"".join(encode_request(LIST_GROUPS, 3, 5, "me", {}))
    assert frame == struct.pack(">hhih", 16, 3, 5, 2) + b"me" + b"\0" + b"\0"
    assert b"".join(encode_response(LIST_GROUPS, 3, 5, {"groups": []})) == struct.pack(">ibihbb", 5, 0, 0, 0, 1, 0)


def test_compact_lengths_of_two_bytes() -> None:
    """A compact string of 127 bytes and more has a length of two bytes."""
    for size in (126, 127, 128, 16_383):
        body = {"transactional_id": "t" * size, "transaction_timeout_ms": 1}
        assert decode_request(request(INIT_PRODUCER_ID, 4, body)).body["transactional_id"] == "t" * size


def test_unknown_tags_are_skipped() -> None:
    """Tagged fields that no table has, in a head and in a body, change nothing (KIP-482)."""
    tags = b"\x02" + b"\x00\x03abc" + b"\x81\x01\x00"
    body = b"\x02t" + struct.pack(">iqh", 60_000, -1, -1)
    frame = struct.pack(">hhih", 22, 4, 5, 2) + b"me" + tags + body + tags
    decoded = decode_request(frame)
    assert decoded.body == {
        "transactional_id": "t",
        "transaction_timeout_ms": 60_000,
        "producer_id": -1,
        "producer_epoch": -1,
    }


def test_defaults_where_a_version_has_no_field() -> None:
    """A request of a version without a field holds its default."""
    fetch = {"max_wait_ms": 1, "min_bytes": 1, "topics": []}
    body = decode_request(request(FETCH, 4, fetch)).body
    assert (body["session_id"], body["session_epoch"], body["rack_id"]) == (0, -1, "")
    assert decode_request(request(LEAVE_GROUP, 2, {"group_id": "g", "member_id": "m"})).body["members"] == ()
    assert decode_request(request(LIST_OFFSETS, 1, {"topics": []})).body["isolation_level"] == 0
    assert decode_request(request(METADATA, 0, {"topics": []})).body["allow_auto_topic_creation"] is True


def test_keys_of_other_versions_are_passed_over() -> None:
    """A response may name fields that the request's version hasn't."""
    body = {"throttle_time_ms": 3, "assignment": b"a"}
    assert decode_response(SYNC_GROUP, 0, b"".join(encode_response(SYNC_GROUP, 0, 1, body)))[1]["assignment"] == b"a"


# --- what isn't copied ---------------------------------------------------------------------------------------------


def test_produced_records_are_slices_of_the_frame() -> None:
    """The records of a Produce request lie where the frame's bytes lie."""
    frame = bytearray(request(PRODUCE, 7, produce(b"x" * 50)))
    records = produced(decode_request(memoryview(frame)))
    frame[-50:] = b"y" * 50
    assert bytes(records) == b"y" * 50


def test_null_records() -> None:
    """A partition may be sent with null instead of records."""
    assert produced(decode_request(request(PRODUCE, 7, produce(None)))) is None


def test_fetched_batches_are_parts() -> None:
    """Batches are elements of what is sent, the very objects; the list of them is one value."""
    batches = [bytes(5000), memoryview(bytes(6000)), b"small"]
    parts = encode_response(FETCH, 11, 1, fetched(batches))
    assert parts[1] is batches[0]
    assert parts[2] is batches[1]
    _, body = decode_response(FETCH, 11, b"".join(parts))
    assert body["responses"][0]["partitions"][0]["records"] == b"".join(batches)


def test_no_records_are_empty_not_null() -> None:
    """A partition without records is answered with zero bytes: librdkafka rejects null."""
    partition = {"partition_index": 0, "high_watermark": 5}
    frame = b"".join(encode_response(FETCH, 11, 1, {"responses": [{"topic": "plant", "partitions": [partition]}]}))
    assert frame.endswith(struct.pack(">ii", -1, 0))


# --- our own mistakes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"api_keys": [], "throtle_time_ms": 0}, "throtle_time_ms"),
        ({"error_code": 0}, "api_keys"),
        ({"api_keys": None}, "null"),
        ({"api_keys": [{"api_key": 1, "min_version": 0, "max_version": 1 << 15}]}, "ApiVersions"),
        ({"api_keys": [], "error_code": "x"}, "ApiVersions"),
        ({"api_keys": 5}, "ApiVersions"),
    ],
    ids=["unknown key", "missing key", "null", "too large", "wrong type", "no list"],
)
def test_a_body_that_does_not_fit(body: dict[str, Any], text: str) -> None:
    """A body with a misspelt key, without one that is needed, or with a value of another type is our error."""
    with pytest.raises(LocalProtocolError, match=text):
        encode_response(API_VERSIONS, 1, 1, body)
