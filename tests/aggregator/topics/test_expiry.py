"""How long a group's place is kept."""

from __future__ import annotations

from pathlib import Path

from aggregator.topics.expiry import DAY_MS, KEEP_MS, look
from aggregator.topics.log.log import Offset
from tests.aggregator.topics.handlers.asking import asking
from tests.aggregator.topics.handlers.test_groups import synced

T = 1_790_000_000_000


def test_offsets_of_an_empty_group_go_after_seven_days(tmp_path: Path) -> None:
    """Counted from its newest commit: with one fresh offset all of them stay."""
    with asking(tmp_path) as desk:
        desk.create("t", 2)
        desk.do(desk.log.commit("old", {("t", 0): Offset(1, time_ms=T), ("t", 1): Offset(1, time_ms=T)}))
        desk.do(desk.log.commit("new", {("t", 0): Offset(1, time_ms=T), ("t", 1): Offset(1, time_ms=T + 1)}))
        desk.do(look(desk.log, desk.coordinator, T + KEEP_MS - 1))
        assert {*desk.log.groups} == {"old", "new"}
        desk.do(look(desk.log, desk.coordinator, T + KEEP_MS))
        assert {*desk.log.groups} == {"new"}


def test_a_group_with_members_is_in_use(tmp_path: Path) -> None:
    """It commits nothing for a year, and keeps its place for seven days after its last member has left."""
    with asking(tmp_path) as desk:
        desk.create("t")
        me = synced(desk)
        desk.do(desk.log.commit("g", {("t", 0): Offset(5, 1, "here", T)}))
        year = T + 365 * DAY_MS
        desk.do(look(desk.log, desk.coordinator, year))
        assert desk.log.committed("g")["t", 0] == Offset(5, 1, "here", year)
        desk.call(desk.coordinator.leave, "g", [(me["member_id"], None)])
        desk.do(look(desk.log, desk.coordinator, year + KEEP_MS - 1))
        assert desk.log.committed("g")
        desk.do(look(desk.log, desk.coordinator, year + KEEP_MS))
        assert not desk.log.committed("g")


def test_a_renewed_place_survives_a_restart(tmp_path: Path) -> None:
    """The renewal is in the file."""
    with asking(tmp_path) as desk:
        desk.create("t")
        synced(desk)
        desk.do(desk.log.commit("g", {("t", 0): Offset(5, time_ms=T)}))
        desk.do(look(desk.log, desk.coordinator, T + DAY_MS))
    with asking(tmp_path) as desk:
        assert desk.log.committed("g")["t", 0] == Offset(5, time_ms=T + DAY_MS)
