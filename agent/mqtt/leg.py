"""The forward leg over MQTT: a batch is one Avro object container file, in one message.

The container's metadata carry the labels of agent/store/streams.py and two of this leg:

    headrace.batch   knows this batch again: 16 hex digits, of stream, after and numbers, else random
    headrace.reply   the topic for answers; empty if none is wanted

so it works in 3.1.1, and any Avro tool reads a captured message. A message is a forwarded batch if it starts with
`Obj 01` and has `headrace.batch`; every other message is a reading, an Avro file of somebody's own too.

The answer is a JSON object: {"batch": "...", "answer": "kept" | "waiting" | "rejected", "reason": "..."}. `kept`:
committed now or before. `waiting`: the receiver has it, unacknowledged, until its channel has room. `rejected`: never.
"""

from __future__ import annotations

import json
import os
from hashlib import blake2b
from typing import NamedTuple

from agent.avro import container
from agent.errors import RemoteProtocolError
from agent.event import Batch
from agent.store import streams

MAGIC = container.MAGIC
LIMIT = container.MAX_BLOCK + container.MAX_HEADER
"""Bytes of a message that holds a batch."""
LABEL = "headrace.batch"
REPLY = "headrace.reply"
OVERHEAD = 4_096
"""Bytes of a container beside its block, for a batch of one origin and few runs."""
ANSWER_LIMIT = 4_096


class Forwarded(NamedTuple):
    """A batch as it came, and how to answer for it."""

    batch: Batch
    token: str
    reply: str


class Answer(NamedTuple):
    token: str
    answer: str
    reason: str


def token_of(batch: Batch) -> str:
    """The same for the same events of a stream, whoever sends them and however often."""
    if batch.transit is None:
        return os.urandom(8).hex()
    labels = streams.to_metadata(batch.transit, None)
    text = b" ".join(labels[f"headrace.{part}"] for part in ("stream", "after", "numbers"))
    return blake2b(text, digest_size=8).hexdigest()


def pack(batch: Batch, token: str, reply: str) -> bytes:
    """A batch -> the payload of a message."""
    labels = streams.to_metadata(batch.transit, batch.identities)
    return container.write(batch.block, batch.count, {**labels, LABEL: token.encode(), REPLY: reply.encode()})


def unpack(payload: bytes) -> Forwarded | None:
    """The batch in a message, or None if it is none of ours. RemoteProtocolError: one of ours, but malformed."""
    if LABEL.encode() not in payload[: container.MAX_HEADER]:
        return None
    header, blocks = container.read(payload)
    if LABEL not in header.metadata:
        return None
    count = sum(block.count for block in blocks)
    if not count:
        raise RemoteProtocolError("a forwarded batch without events")
    block = blocks[0].data if len(blocks) == 1 else b"".join(part.data for part in blocks)
    transit, identity = streams.from_metadata(header.metadata, count)
    token, reply = (header.metadata.get(label, b"").decode("utf-8", "replace") for label in (LABEL, REPLY))
    if any(bad in reply for bad in "+#\0"):
        raise RemoteProtocolError(f"a forwarded batch wants its answer on {reply!r}, which is no topic")
    return Forwarded(Batch(None, block, count, transit, identity), token, reply)


def answer(token: str, verdict: str, reason: str = "") -> bytes:
    """The payload of an answer."""
    return json.dumps({"batch": token, "answer": verdict, "reason": reason}).encode()


def read_answer(payload: bytes) -> Answer:
    """RemoteProtocolError if it is no answer."""
    try:
        found = json.loads(payload[:ANSWER_LIMIT])
        return Answer(str(found["batch"]), str(found["answer"]), str(found.get("reason", "")))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise RemoteProtocolError("an answer on the reply topic is malformed") from None
