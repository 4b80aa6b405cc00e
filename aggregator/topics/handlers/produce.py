"""Produce: batches in, offsets out once they are on the device.

One disk has no replicas to wait for: acks=1 and acks=all mean the same here, an answer after the commit. With acks=0
there is no answer, and what fails ends the connection, as in Kafka: the client has no other way to learn of it.

All appends of a request go to the log in its first step, so that a client's requests are appended in its order.
"""

from __future__ import annotations

from itertools import repeat

from aggregator.topics import record_batch
from aggregator.topics.broker import Handler, Session
from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.log.log import Append, Appended
from aggregator.topics.wire.api import Body, Request
from aggregator.topics.wire.tables.records import PRODUCE

ACKS = (-1, 0, 1)

Outcome = Appended | TopicsError


async def produce(request: Request, session: Session) -> Body | None:
    """Each partition by itself: all of its batches are kept, or none and a code says why."""
    body = request.body
    asked = [
        _append(topic["name"], one, body, session) for topic in body["topic_data"] for one in topic["partition_data"]
    ]
    outcomes = await _appended(asked, session)
    if body["acks"] == 0:
        session.over = next((f"without acks: {one}" for one in outcomes if isinstance(one, TopicsError)), "")
        return None
    left = iter(outcomes)
    return {
        "responses": [
            {
                "name": topic["name"],
                "partition_responses": [_response(one["index"], next(left)) for one in topic["partition_data"]],
            }
            for topic in body["topic_data"]
        ]
    }


def _append(topic: str, asked: Body, body: Body, session: Session) -> Append | TopicsError:
    """What to append to a partition, or why not."""
    try:
        if body["acks"] not in ACKS:
            raise TopicsError(Code.INVALID_REQUIRED_ACKS, f"acks is -1 (all), 0 or 1, not {body['acks']}")
        if body["transactional_id"] is not None:
            session.require("transaction", body["transactional_id"])
        session.partition(topic, asked["index"], "write")
        most = session.broker.log.settings(session.broker.topic(topic))["max.message.bytes"]
        batches = record_batch.split(memoryview(asked["records"] or b""), int(most))
        if len(batches) > 1:  # as Kafka's ProduceRequest.validateRecords
            raise TopicsError(Code.INVALID_RECORD, f"a request has 1 batch a partition, not {len(batches)}")
        return Append(topic, asked["index"], batches, body["transactional_id"])
    except TopicsError as error:
        return error


async def _appended(asked: list[Append | TopicsError], session: Session) -> list[Outcome]:
    appends = [one for one in asked if isinstance(one, Append)]
    try:
        results = iter(await session.broker.log.append(appends) if appends else ())
    except TopicsError as error:  # there is no room
        results = repeat(error)
    return [next(results) if isinstance(one, Append) else one for one in asked]


def _response(index: int, outcome: Outcome) -> Body:
    if isinstance(outcome, TopicsError):
        return {"index": index, "error_code": outcome.code, "error_message": outcome.text}
    return {
        "index": index,
        "base_offset": outcome.base_offset,
        "log_append_time_ms": outcome.time_ms,
        "log_start_offset": outcome.start,
    }


HANDLERS: dict[int, Handler] = {PRODUCE.key: produce}
