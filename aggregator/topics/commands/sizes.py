"""Bytes that topics take, which librdkafka has no call for: DescribeLogDirs (KIP-113), asked of each broker.

Only over connections without TLS and SASL; elsewhere the sizes are unknown. A partition has as many bytes as the
replica that has most.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator

from agent.errors import ProtocolError
from aggregator.topics.commands.cluster import SECONDS, Cluster, Place
from aggregator.topics.wire.api import Body, decode_response, encode_request
from aggregator.topics.wire.tables.admin import DESCRIBE_LOG_DIRS

VERSION = 1
"""The last that isn't flexible, and the first that Kafka 4 takes."""
MOST = 256 << 20
"""Bytes of an answer."""


def sizes(cluster: Cluster) -> Counter[str] | None:
    """Bytes by topic; None if nobody can tell."""
    if cluster.given.get("security.protocol", "PLAINTEXT").upper() != "PLAINTEXT":
        return None
    brokers = [(str(one.host), int(one.port)) for one in cluster.metadata().brokers.values()]
    found: dict[Place, int] = {}
    try:
        for host, port in brokers:
            for place, size in _places(_asked(host, port)):
                found[place] = max(size, found.get(place, 0))
    except (OSError, ProtocolError):
        return None
    total = Counter[str]()
    for (topic, _), size in found.items():
        total[topic] += size
    return total


def _asked(host: str, port: int) -> Body:
    parts = encode_request(DESCRIBE_LOG_DIRS, VERSION, 1, "headrace", {"topics": None})
    frame = b"".join(parts)
    with socket.create_connection((host, port), SECONDS) as peer, peer.makefile("rb") as answers:
        peer.sendall(len(frame).to_bytes(4, "big") + frame)
        length = int.from_bytes(answers.read(4), "big")
        if not 0 < length <= MOST:
            raise OSError("no answer")
        return decode_response(DESCRIBE_LOG_DIRS, VERSION, memoryview(answers.read(length)))[1]


def _places(body: Body) -> Iterator[tuple[Place, int]]:
    for folder in body["results"]:
        for topic in folder["topics"]:
            for one in topic["partitions"]:
                yield (topic["name"], one["partition_index"]), one["partition_size"]
