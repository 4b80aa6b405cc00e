"""The tables against two codecs of others: kio's (generated from Kafka's message definitions) and kafka-python's."""

from __future__ import annotations

import io
from itertools import product
from typing import Any

import kafka.protocol.admin
import kafka.protocol.consumer
import kafka.protocol.metadata
import kafka.protocol.producer
import kafka.protocol.sasl
import pytest
from kio.index import load_request_schema, load_response_schema
from kio.serial import entity_reader, entity_writer

from aggregator.topics.wire.api import (
    APIS,
    Api,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
    versions,
)
from tests.aggregator.topics.wire.samples import SIDES, fields, sample, there

MODULES = [kafka.protocol.admin, kafka.protocol.consumer, kafka.protocol.metadata, kafka.protocol.producer]
MODULES.append(kafka.protocol.sasl)

# Kafka 4 has other names where newer versions use a field in another way; and kafka-python some of its own.
RENAMED = {
    "generation_id_or_member_epoch": "generation_id",
    "v3_and_below_transactional_id": "transactional_id",
    "v3_and_below_producer_id": "producer_id",
    "v3_and_below_producer_epoch": "producer_epoch",
    "v3_and_below_topics": "topics",
    "results_by_topic_v3_and_below": "results",
    "results_by_partition": "results",
    "partition_error_code": "error_code",
    "topic_authorized_operations": "authorized_operations",
    "cluster_authorized_operations": "authorized_operations",
}


def encoded(api: Api, version: int, side: str, body: dict[str, Any]) -> bytes:
    """A body's bytes, without the frame's head."""
    if side == "request":
        flexible = api.is_flexible(version)
        return b"".join(encode_request(api, version, 1, None, body))[11 if flexible else 10 :]
    head = 5 if api.is_flexible(version) else 4
    return b"".join(encode_response(api, version, 1, body))[head:]


def foreign(api: Api, side: str) -> Any:
    """kafka-python's message class."""
    name = api.name + side.capitalize()
    return next(getattr(module, name) for module in MODULES if hasattr(module, name))


def ours(value: Any) -> Any:
    """A value with one name for each thing, bit fields as numbers and slices as bytes."""
    match value:
        case dict():
            return {RENAMED.get(name, name): ours(item) for name, item in value.items()}
        case list():
            return [ours(item) for item in value]
        case set():
            return sum(1 << bit for bit in value)
        case memoryview():
            return bytes(value)
        case _:
            return value


def frame(api: Api, version: int, side: str, body: dict[str, Any]) -> bytes:
    if side == "request":
        return b"".join(encode_request(api, version, 7, "someone", body))
    return b"".join(encode_response(api, version, 7, body))


def decoded(api: Api, version: int, side: str, data: bytes) -> tuple[int, dict[str, Any]]:
    """(correlation, body)"""
    if side == "response":
        return decode_response(api, version, data)
    request = decode_request(data)
    assert (request.api, request.version, request.client_id) == (api, version, "someone")
    return request.correlation, request.body


def samples(api: Api, side: str) -> list[tuple[int, dict[str, Any]]]:
    """(version, body) of each version."""
    table = fields(api, side)
    return [(version, sample(table, version)) for version in range(api.served.low, api.served.high + 1)]


each = pytest.mark.parametrize(("api", "side"), list(product(APIS.values(), SIDES)), ids=str)


@each
def test_kio_reads_and_writes_the_same_bytes(api: Api, side: str) -> None:
    """What is encoded here, kio decodes to the end and encodes to the same bytes, in every version."""
    load = load_request_schema if side == "request" else load_response_schema
    for version, body in samples(api, side):
        if (api.name, version) == ("DescribeLogDirs", 0):
            continue  # kio begins with 1, as Kafka 4; both versions are alike in Kafka 2.7's definitions
        schema = load(api.key, version)
        data = encoded(api, version, side, body)
        entity, size = entity_reader(schema)(data, 0)
        again = io.BytesIO()
        entity_writer(schema)(again, entity)
        assert (version, size, again.getvalue()) == (version, len(data), data)


@each
def test_kafka_python_reads_the_same_fields(api: Api, side: str) -> None:
    """What is encoded here, kafka-python decodes to the same values under the same names, in every version."""
    for version, body in samples(api, side):
        message = foreign(api, side).decode(encoded(api, version, side, body), version=version)
        assert (version, ours(message.to_dict(json=False))) == (version, ours(body))


@each
def test_kafka_pythons_bytes_are_read(api: Api, side: str) -> None:
    """What kafka-python encodes, heads and all, is decoded here to what was encoded, in every version."""
    for version, body in samples(api, side):
        message = foreign(api, side).decode(encoded(api, version, side, body), version=version)
        message.with_header(7, "someone") if side == "request" else message.with_header(7)
        correlation, again = decoded(api, version, side, message.encode(header=True))
        assert (version, correlation) == (version, 7)
        assert (version, there(again, body)) == (version, body)


@each
def test_body_holds_every_name(api: Api, side: str) -> None:
    """A decoded body has all of its table's fields, in every version; those of others with their defaults."""
    names = {field.name for field in fields(api, side)}
    for version, body in samples(api, side):
        _, again = decoded(api, version, side, frame(api, version, side, body))
        assert (version, again.keys()) == (version, names)


def test_windows() -> None:
    """Windows hold together: flexible ones only where a client needs them, Produce advertised from 0."""
    flexible = {api.name for api in APIS.values() if api.is_flexible(api.served.high)}
    assert flexible == {
        "OffsetFetch",
        "InitProducerId",
        "ListGroups",
        "TxnOffsetCommit",
        "IncrementalAlterConfigs",
        "DescribeTransactions",
        "ListTransactions",
    }
    wider = [api.name for api in APIS.values() if api.advertised != api.served]
    assert wider == ["Produce"]
    assert versions()[0] == {"api_key": 0, "min_version": 0, "max_version": 8}
    assert [entry["api_key"] for entry in versions()] == sorted(APIS)
