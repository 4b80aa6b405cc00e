"""Records as they come, as server-sent events (WHATWG HTML, 9.2), which `curl -N` and a browser's EventSource read.

    retry: 2000                      how long a client waits before it comes again, in ms
    id: 0:17,1:4

    id: 0:18,1:4                     each partition, and where its next record is: with it as Last-Event-ID a client
    data: {"partition": 0, ...}      goes on exactly there (web/shown.py)

    event: moved                     from here on to there nothing was sent: it is gone (retention, a new topic)
    event: broken                    a batch that can't be read
    event: end                       the topic is gone; the reason
    :                                nothing for 15 s, to keep the connection

A partition that an id doesn't name was added later: all of it is sent. Memory holds one chunk, and what one read of the
log brings.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

from agent.errors import ChannelError
from agent.http import Request
from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.following import Broken, Following
from aggregator.topics.log.log import Log, Partition, Topic
from aggregator.topics.record import Record
from aggregator.topics.web import shown
from aggregator.topics.web.asking import Refused, digits

KEEP_ALIVE = 15.0
RETRY_MS = 2000
CHUNK = 64 << 10
"""Characters that are sent at once, about."""
TAKEN = 100
MOST_PARTITIONS = 256
"""Of one stream: an id has all of them, and comes back in a header."""
TIME_DIGITS = 13
"""A number of so many digits is a time in ms (from 2001 on), a smaller one an offset."""
PLACE = re.compile(r"(\d{1,6}):(\d{1,18})", re.ASCII)
Places = dict[int, int]
"""Partition: the offset of its next record."""


# -- where to begin


async def start(log: Log, partitions: Sequence[Partition], request: Request) -> Places:
    """What Last-Event-ID says, else `from`, else the end. Refused, TopicsError."""
    if len(partitions) > MOST_PARTITIONS:
        raise Refused(400, f"a stream has at most {MOST_PARTITIONS} partitions: name one with partition=")
    if last := request.headers.get("last-event-id", ""):
        places = _places(last)
        return {one.index: places.get(one.index, one.start) for one in partitions}
    begin = request.query.get("from", "latest")
    return {one.index: await _begin(log, one, begin) for one in partitions}


def _places(text: str) -> Places:
    found = [PLACE.fullmatch(one) for one in text.split(",")]
    places = {int(one[1]): int(one[2]) for one in found if one}
    if len(places) != len(found):
        raise Refused(400, "Last-Event-ID is partitions and offsets, as 0:17,1:4")
    return places


async def _begin(log: Log, partition: Partition, begin: str) -> int:
    if begin == "earliest":
        return partition.start
    if begin == "latest":
        return partition.stable
    number = digits(begin)
    if number is not None and len(begin) < TIME_DIGITS:
        return min(max(number, partition.start), partition.end)
    found = await log.at_time(partition, _ms(begin) if number is None else number)
    return partition.end if found is None else found[0]


def _ms(text: str) -> int:
    """Of an ISO 8601 time, UTC unless it says otherwise."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        wrong = f"from is earliest, latest, an offset, or a time (ISO 8601, or ms), not {text[:40]!a}"
        raise Refused(400, wrong) from None
    return ((time if time.tzinfo else time.replace(tzinfo=UTC)) - shown.EPOCH) // timedelta(milliseconds=1)


# -- what comes


class Stream:
    """Of one topic; `places` says of which partitions, `whole` that those which are added belong to it."""

    def __init__(self, log: Log, topic: Topic, places: Places, whole: bool) -> None:
        self.log, self.topic, self.places, self.whole = log, topic, places, whole
        self.followed = [self._follow(topic.partitions[index], places[index]) for index in places]

    def _follow(self, partition: Partition, offset: int) -> Following:
        return Following(self.log, partition, offset, shown.OPENED_BYTES)

    async def chunks(self) -> AsyncGenerator[str, None]:
        """Without an end, unless the topic or the log goes."""
        yield f"retry: {RETRY_MS}\n{self._id()}\n"
        for one in self.followed:
            if not one.partition.start <= one.offset <= one.partition.end:
                yield self._moved(one)
        clock = asyncio.get_running_loop().time
        sent = clock()
        try:
            while True:
                quiet = True
                for one in self._all():
                    for chunk in _joined(await self._events(one)):
                        yield chunk
                        quiet, sent = False, clock()
                if quiet and not await self._news(sent + KEEP_ALIVE - clock()):
                    yield ":\n\n"
                    sent = clock()
        except (TopicsError, ChannelError) as error:
            yield _event("end", json.dumps({"why": str(error)}))

    def _all(self) -> list[Following]:
        """Partitions that are new, too. TopicsError: the topic is gone, or they are too many. ChannelError"""
        if self.log.failed:
            raise self.log.failed
        if self.log.topics.get(self.topic.name) is not self.topic:
            raise TopicsError(Code.UNKNOWN_TOPIC_OR_PARTITION, f"topic {self.topic.name} has been deleted")
        for one in self.topic.partitions[len(self.followed) :] if self.whole else ():
            if len(self.followed) == MOST_PARTITIONS:
                raise TopicsError(Code.INVALID_PARTITIONS, f"a stream has at most {MOST_PARTITIONS} partitions")
            self.places[one.index] = one.start
            self.followed.append(self._follow(one, one.start))
        return self.followed

    async def _events(self, followed: Following) -> Iterable[str]:
        """Of what one read brings."""
        index = followed.partition.index
        try:
            records = await followed.take(TAKEN)
        except Broken as error:
            self.places[index] = followed.offset
            return [self._id() + _event("broken", shown.line(shown.broken(index, error)))]
        except TopicsError as error:
            if error.code is not Code.OFFSET_OUT_OF_RANGE:
                raise
            return [self._moved(followed)]
        if not records:
            self.places[index] = followed.offset  # behind markers and what was aborted
        return self._records(index, records)

    def _records(self, index: int, records: Iterable[Record]) -> Iterator[str]:
        for record in records:
            self.places[index] = record.offset + 1
            yield f"{self._id()}data: {shown.line(shown.members(index, record))}\n\n"

    def _moved(self, followed: Following) -> str:
        """Go on at the partition's start: what it holds was not sent, wherever the client was."""
        partition = followed.partition
        moved = {"partition": partition.index, "from": followed.offset, "to": partition.start}
        followed.offset = self.places[partition.index] = partition.start
        return self._id() + _event("moved", json.dumps(moved))

    def _id(self) -> str:
        return f"id: {','.join(f'{index}:{offset}' for index, offset in self.places.items())}\n"

    async def _news(self, seconds: float) -> bool:
        """Wait for something new, at most so long; whether there is."""
        changed = self.log.changed(one.partition for one in self.followed)
        try:
            if any(one.behind for one in self.followed):
                return True
            done, _ = await asyncio.wait([changed], timeout=max(0.0, seconds))
            return bool(done)
        finally:
            changed.cancel()


def _event(name: str, data: str) -> str:
    return f"event: {name}\ndata: {data}\n\n"


def _joined(events: Iterable[str]) -> Iterator[str]:
    """As few chunks as may be."""
    held: list[str] = []
    size = 0
    for event in events:
        held.append(event)
        size += len(event)
        if size >= CHUNK:
            yield "".join(held)
            held, size = [], 0
    if held:
        yield "".join(held)
