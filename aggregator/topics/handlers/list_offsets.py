"""ListOffsets and OffsetForLeaderEpoch: where a partition begins and ends, and where a time is in it.

A log that has only ever had one leader is in epoch 0 throughout. A client that has seen another epoch knows an offset
from another cluster (it was migrated): the answer is that nothing is known of that epoch, and the client resets.
"""

from __future__ import annotations

from aggregator.topics.broker import Handler, Session
from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.log.log import Partition
from aggregator.topics.wire.api import Body, Request
from aggregator.topics.wire.tables.records import LIST_OFFSETS, OFFSET_FOR_LEADER_EPOCH

EPOCH = 0
LATEST, EARLIEST = -1, -2
"""Timestamps that mean a place."""


def check_epoch(epoch: int) -> None:
    """The epoch that a client believes the leader to be in; -1: it has none. TopicsError as Kafka's
    Partition.checkCurrentLeaderEpoch."""
    if epoch > EPOCH:
        raise TopicsError(Code.UNKNOWN_LEADER_EPOCH, f"the leader is in epoch {EPOCH}, not in {epoch}")


async def list_offsets(request: Request, session: Session) -> Body:
    """For who reads only what is committed, the log ends at its last stable offset."""
    committed = request.body["isolation_level"] == 1
    topics = [
        {
            "name": topic["name"],
            "partitions": [await _answer(topic["name"], one, committed, session) for one in topic["partitions"]],
        }
        for topic in request.body["topics"]
    ]
    return {"topics": topics}


async def _answer(topic: str, asked: Body, committed: bool, session: Session) -> Body:
    answer = {"partition_index": asked["partition_index"]}
    try:
        partition = session.partition(topic, asked["partition_index"], "describe")
        check_epoch(asked["current_leader_epoch"])
        offset, time = await _place(partition, asked["timestamp"], committed, session)
    except TopicsError as error:
        return {**answer, "error_code": error.code}
    return {**answer, "offset": offset, "timestamp": time, "leader_epoch": EPOCH if offset >= 0 else -1}


async def _place(partition: Partition, time: int, committed: bool, session: Session) -> tuple[int, int]:
    """Offset and time; -1 and -1 if no record is as late."""
    if time == EARLIEST:
        return partition.start, -1
    if time == LATEST:
        return partition.stable if committed else partition.end, -1
    if time < 0:
        raise TopicsError(Code.UNSUPPORTED_VERSION, f"timestamp {time} has no meaning here")
    found = await session.broker.log.at_time(partition, time)
    return (-1, -1) if found is None or (committed and found[0] >= partition.stable) else found


async def offset_for_leader_epoch(request: Request, session: Session) -> Body:
    """Where an epoch ends: the one there is, at the log's end."""
    topics = [
        {"topic": topic["topic"], "partitions": [_end(topic["topic"], one, session) for one in topic["partitions"]]}
        for topic in request.body["topics"]
    ]
    return {"topics": topics}


def _end(topic: str, asked: Body, session: Session) -> Body:
    answer = {"partition": asked["partition"]}
    try:
        partition = session.partition(topic, asked["partition"], "describe")
        check_epoch(asked["current_leader_epoch"])
    except TopicsError as error:
        return {**answer, "error_code": error.code}
    if asked["leader_epoch"] != EPOCH:
        return answer
    return {**answer, "leader_epoch": EPOCH, "end_offset": partition.end}


HANDLERS: dict[int, Handler] = {
    LIST_OFFSETS.key: list_offsets,
    OFFSET_FOR_LEADER_EPOCH.key: offset_for_leader_epoch,
}
