"""Which topics a member of a `consumer` group asks for: the start of its metadata, which is otherwise the clients' own.

All versions of ConsumerProtocolSubscription begin as version 0 does: version int16, topics array of string. Kafka reads
no more than that (ClassicGroup.computeSubscribedTopics), so what an assignor adds (owned partitions, its generation)
doesn't count as another subscription.
"""

from __future__ import annotations

import struct


def topics_of(metadata: bytes) -> frozenset[str] | None:
    """The topics that are subscribed to; None if this is no subscription."""
    topics = []
    try:
        _, count = struct.unpack_from(">hi", metadata)
        if not 0 <= count <= len(metadata) // 2:
            return None
        at = 6
        for _ in range(count):
            (length,) = struct.unpack_from(">h", metadata, at)
            end = at + 2 + length
            if length < 0 or end > len(metadata):
                return None
            topics.append(metadata[at + 2 : end].decode())
            at = end
    except (struct.error, UnicodeDecodeError):
        return None
    return frozenset(topics)


def same_subscription(one: bytes, other: bytes) -> bool:
    """Whether both ask for the same topics; what is no subscription must be equal."""
    topics = topics_of(one)
    return one == other or (topics is not None and topics == topics_of(other))
