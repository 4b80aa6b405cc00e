"""Committed offsets of a group that nobody uses any more go after seven days, as in Kafka (offsets.retention.minutes).

Kafka counts from when the group lost its last member, and keeps that time in a topic. Here it is the time of the
newest commit, and while a group has members its commits are made to look new once a day: so a consumer that has
nothing to read for weeks and stops for a moment keeps its place, also when the service was started meanwhile.
What old clients ask for with a commit (retention_time_ms, versions 2 to 4) isn't heeded.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from agent import clock
from aggregator.topics.errors import TopicsError
from aggregator.topics.groups.coordinator import Coordinator
from aggregator.topics.log.log import Database, Log, Work

log = logging.getLogger(__name__)

DAY_MS = 86_400_000
KEEP_MS = 7 * DAY_MS
HOUR = 3600.0


async def watch(kept: Log, coordinator: Coordinator) -> None:
    """Look once an hour, the first time after one: members come back to a service that was started. ChannelError."""
    while True:
        await asyncio.sleep(HOUR)
        try:
            await look(kept, coordinator, clock.wall_ms())
        except TopicsError as error:  # a full disk
            log.warning("committed offsets are not looked through: %s", error)


async def look(kept: Log, coordinator: Coordinator, now_ms: int) -> None:
    """Renew what is in use, drop what was not for long. ChannelError; TopicsError if there is no room to."""
    for group, offsets in list(kept.groups.items()):
        age = now_ms - max(offset.time_ms for offset in offsets.values())
        if not coordinator.is_empty(group):
            if age >= DAY_MS:
                await kept.run(partial(_renew, group, now_ms), whole=True)
        elif age >= KEEP_MS:
            log.info("group %s: its offsets go, %d days after the last commit", group, age // DAY_MS)
            await kept.forget(group)


def _renew(group: str, now_ms: int, db: Database, work: Work) -> None:
    """In the writer, so that no newer commit is taken back."""
    db.committed.renew(work, group, now_ms)
