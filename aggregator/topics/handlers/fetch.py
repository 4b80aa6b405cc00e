"""Fetch: batches out as they lie in the log; a client that has read all waits until there is more.

- Whole batches, from the one that holds the asked offset on; the first one of an answer whatever its size, since else
  its reader would never get past it.
- With less than `min_bytes` the answer waits for more, `max_wait_ms` at most. What is wrong with any partition is
  said at once; and where a limit cut what there is, there is nothing to wait for.
- There are no fetch sessions (KIP-227): an answer has session id 0, and clients name all their partitions each time.
- While answers of other clients take all the `Room`, there are no records: after its wait the client asks again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import NamedTuple

from aggregator.topics import record_batch
from aggregator.topics.broker import Handler, Session
from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.handlers.list_offsets import check_epoch
from aggregator.topics.log.log import Partition
from aggregator.topics.wire.api import Body, Request
from aggregator.topics.wire.tables.records import FETCH

MOST = 8 << 20
"""Bytes of an answer, whatever a client allows: more makes nothing quicker."""
MOST_WAIT = 300.0
"""Seconds; a client that wants to wait longer asks again."""
PAUSE, LONGEST_PAUSE = 0.01, 0.64
"""Seconds; who wants more than the next record gets it in pieces of this time, not looked for at each append. Each
pause is twice as long as the one before, since each time all is read again."""


class Wanted(NamedTuple):
    """What a client wants of a partition; `failed` is why it gets nothing."""

    number: int
    offset: int
    most: int
    partition: Partition | None = None
    failed: Code = Code.NONE


class Found(NamedTuple):
    """The answer's partitions, and the bytes of their records; `whole`: there is more, or something is wrong, so that
    nothing that comes would make a better answer."""

    answers: list[Body]
    size: int
    whole: bool


async def fetch(request: Request, session: Session) -> Body:
    body = request.body
    if body["session_id"]:
        return {"error_code": Code.FETCH_SESSION_ID_NOT_FOUND, "responses": ()}
    places = [(topic["topic"], one) for topic in body["topics"] for one in topic["partitions"]]
    if len({(topic, one["partition"]) for topic, one in places}) < len(places):
        raise TopicsError(Code.INVALID_REQUEST, "a partition is named twice")
    wanted = [_wanted(topic, one, session) for topic, one in places]
    answers = iter((await _poll(wanted, body, session)).answers)
    return {
        "responses": [
            {"topic": topic["topic"], "partitions": [next(answers) for _ in topic["partitions"]]}
            for topic in body["topics"]
        ]
    }


def _wanted(topic: str, asked: Body, session: Session) -> Wanted:
    bare = Wanted(asked["partition"], asked["fetch_offset"], asked["partition_max_bytes"])
    try:
        check_epoch(asked["current_leader_epoch"])
        return bare._replace(partition=session.partition(topic, bare.number, "read"))
    except TopicsError as error:
        return bare._replace(failed=error.code)


async def _poll(wanted: list[Wanted], body: Body, session: Session) -> Found:
    """Read; and again when there is more, until it is enough or the time is over."""
    loop, log = asyncio.get_running_loop(), session.broker.log
    until = loop.time() + min(body["max_wait_ms"] / 1000, MOST_WAIT)
    pause = PAUSE
    watched = [one.partition for one in wanted if one.partition]
    while True:
        change = log.changed(watched)  # from before the reading, so that nothing in between is missed
        try:
            found = await _read(wanted, body["max_bytes"], body["isolation_level"] == 1, session)
            left = until - loop.time()
            if found.size >= body["min_bytes"] or found.whole or left <= 0:
                return found
            session.hold(-found.size)
            await asyncio.wait([change], timeout=left)
            if found.size:
                await asyncio.sleep(min(pause, max(0.0, until - loop.time())))
                pause = min(2 * pause, LONGEST_PAUSE)
        finally:
            change.cancel()


async def _read(wanted: Iterable[Wanted], most: int, committed: bool, session: Session) -> Found:
    free = session.broker.room.share()
    share = max(0, min(most, MOST, free))
    session.hold(share)
    answers, size, failed, cut = [], 0, False, False
    for one in wanted:
        try:
            batches, answer, more = await _part(one, share - size, free > 0 and not size, committed, session)
            size += sum(map(len, batches))
            cut |= more
        except TopicsError as error:
            answer, failed = _failed(one.number, error.code), True
        answers.append(answer)
    session.hold(size - share)
    return Found(answers, size, failed or (cut and size > 0))


async def _part(
    one: Wanted, room: int, first: bool, committed: bool, session: Session
) -> tuple[list[bytes], Body, bool]:
    """The batches of a partition in at most `room` bytes (the `first` of an answer is there in any case), its answer,
    and whether there is more behind them."""
    if one.partition is None:
        raise TopicsError(one.failed)
    partition, log = one.partition, session.broker.log
    stable, end = partition.stable, partition.end
    upto = stable if committed else end
    batches = await log.read(partition, one.offset, min(one.most, room), upto) if first or room > 0 else []
    if batches and not first and len(batches[0]) > room:
        batches = []
    answer = {
        "partition_index": one.number,
        "high_watermark": end,
        "last_stable_offset": stable,
        "log_start_offset": partition.start,
        "records": batches,
    }
    after = record_batch.header(batches[-1]).last_offset + 1 if batches else one.offset
    if committed:
        answer["aborted_transactions"] = [
            {"producer_id": producer, "first_offset": start}
            for producer, start in log.aborted(partition, one.offset, after)
        ]
    return batches, answer, after < upto


def _failed(index: int, code: Code) -> Body:
    return {"partition_index": index, "error_code": code, "high_watermark": -1}


HANDLERS: dict[int, Handler] = {FETCH.key: fetch}
