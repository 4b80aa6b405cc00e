"""Topics: what may be created, and what is set for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.log import catalog
from aggregator.topics.log.schema import Offset
from tests.aggregator.topics.log.parts import Held, batch


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    held = Held(tmp_path / "log")
    held.create("t", 2)
    yield held
    held.db.close()


def code(held: Held, call: Callable[..., Any]) -> Code:
    with pytest.raises(TopicsError) as caught:
        held.do(call)
    return caught.value.code


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "ä", "a\n", "x" * 250])
def test_an_illegal_name_is_refused(held: Held, name: str) -> None:
    """Kafka's rule: letters, digits, `._-`, 249 of them at most."""
    assert code(held, lambda db, work: db.catalog.create(work, name, 1, {})) is Code.INVALID_TOPIC_EXCEPTION


def test_a_topic_exists_once(held: Held) -> None:
    """TOPIC_ALREADY_EXISTS, also for the second of one commit."""
    assert code(held, lambda db, work: db.catalog.create(work, "t", 1, {})) is Code.TOPIC_ALREADY_EXISTS
    results = held.all(*[lambda db, work: db.catalog.create(work, "u", 1, {}).name] * 2)
    assert results[0] == "u"
    assert results[1].code is Code.TOPIC_ALREADY_EXISTS


@pytest.mark.parametrize(("total", "wanted"), [(0, 1), (-1, 1), (1 << 31, 1), (2, 2), (1, 2)])
def test_a_count_of_partitions_that_makes_no_sense(held: Held, total: int, wanted: int) -> None:
    """None at creation; not more than before when they are added; more than the log can hold."""
    if wanted == 1:
        assert code(held, lambda db, work: db.catalog.create(work, "u", total, {})) is Code.INVALID_PARTITIONS
    assert code(held, lambda db, work: db.catalog.add_partitions(work, "t", total)) is Code.INVALID_PARTITIONS


def test_the_log_holds_so_many_partitions(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all topics together; deleting makes room."""
    monkeypatch.setattr(catalog, "MOST_PARTITIONS", 5)
    assert code(held, lambda db, work: db.catalog.create(work, "u", 4, {})) is Code.INVALID_PARTITIONS
    held.create("u", 3)
    assert code(held, lambda db, work: db.catalog.add_partitions(work, "t", 3)) is Code.INVALID_PARTITIONS
    held.do(lambda db, work: db.catalog.delete(work, "u"))
    held.do(lambda db, work: db.catalog.add_partitions(work, "t", 5))
    assert [p.index for p in held.views.topics["t"].partitions] == [0, 1, 2, 3, 4]


def test_what_does_not_exist_is_said(held: Held) -> None:
    """UNKNOWN_TOPIC_OR_PARTITION"""
    for call in (
        lambda db, work: db.catalog.delete(work, "u"),
        lambda db, work: db.catalog.add_partitions(work, "u", 3),
        lambda db, work: db.catalog.configure(work, "u", {}),
        lambda db, work: db.trim(work, "t", 2, 0),
        lambda db, work: db.trim(work, "t", -1, 0),
    ):
        assert code(held, call) is Code.UNKNOWN_TOPIC_OR_PARTITION


def test_keys_are_set_and_taken_back(held: Held) -> None:
    """What isn't set is the log's default; all of a change or nothing."""
    change = held.do
    change(lambda db, work: db.catalog.configure(work, "t", {"retention.ms": "5", "retention.bytes": "6"}))
    change(lambda db, work: db.catalog.configure(work, "t", {"retention.ms": None, "segment.ms": None}))
    assert held.views.topics["t"].config == {"retention.bytes": "6"}
    for wrong in ({"retention.bytes": "7", "retention.ms": "x"}, {"retention.bytes": "7", "colour": None}):
        call = lambda db, work, wrong=wrong: db.catalog.configure(work, "t", wrong)  # noqa: E731
        assert code(held, call) is Code.INVALID_CONFIG
    settings = held.db.catalog.topics["t"].settings
    assert (settings["retention.bytes"], settings["retention.ms"]) == ("6", "604800000")
    assert held.killed().views.topics["t"].config == {"retention.bytes": "6"}


def test_a_topic_keeps_its_id(held: Held) -> None:
    """Over an open; one of the same name that comes later has another."""
    id_ = held.views.topics["t"].id
    again = held.reopened()
    assert again.views.topics["t"].id == id_
    again.do(lambda db, work: db.catalog.delete(work, "t"))
    again.create("t")
    assert again.views.topics["t"].id != id_


def test_groups_keep_their_offsets(held: Held) -> None:
    """Over a kill; a later commit replaces, one of no partition is left out, metadata stays as it is."""
    first = {
        ("t", 0): Offset(3, 1, "näher", 17),
        ("t", 1): Offset(4, -1, "", 18),
        ("t", 2): Offset(5),
        ("u", 0): Offset(6),
    }
    held.do(lambda db, work: db.committed.commit(work, "g", first))
    held.do(lambda db, work: db.committed.commit(work, "g", {("t", 1): Offset(9, 2, "x", 19)}))
    held.do(lambda db, work: db.committed.commit(work, "h", {("t", 1): Offset(1, 2, "", 20)}))
    wanted = {
        "g": {("t", 0): Offset(3, 1, "näher", 17), ("t", 1): Offset(9, 2, "x", 19)},
        "h": {("t", 1): Offset(1, 2, "", 20)},
    }
    assert held.views.offsets == held.killed().views.offsets == wanted


def test_groups_are_forgotten(held: Held) -> None:
    """Some of a group's offsets, or the group."""
    for group in ("g", "h"):
        offsets = {("t", 0): Offset(3), ("t", 1): Offset(4)}
        held.do(lambda db, work, group=group, offsets=offsets: db.committed.commit(work, group, offsets))
    held.do(lambda db, work: db.committed.forget(work, "g", [("t", 0), ("u", 0)]))
    held.do(lambda db, work: db.committed.forget(work, "h", None))
    assert {group: list(places) for group, places in held.views.offsets.items()} == {"g": [("t", 1)]}
    held.do(lambda db, work: db.committed.forget(work, "g", [("t", 1)]))
    assert held.views.offsets == held.killed().views.offsets == {}


def test_a_commit_gets_the_time_where_it_has_none(held: Held) -> None:
    """Milliseconds since 1970, for who expires offsets."""
    held.do(lambda db, work: db.committed.commit(work, "g", {("t", 0): Offset(3)}))
    assert held.views.offsets["g"]["t", 0].time_ms > 1_700_000_000_000


def test_appends_to_what_was_deleted_in_the_same_commit(held: Held) -> None:
    """They find no topic."""
    results = held.all(
        lambda db, work: db.catalog.delete(work, "t"),
        lambda db, work: db.batches.marker(work, db.catalog.part("t", 0), 1, 0, True),
    )
    assert results[1].code is Code.UNKNOWN_TOPIC_OR_PARTITION
    with pytest.raises(TopicsError):
        held.append(batch())
