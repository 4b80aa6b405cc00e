"""Topics made, changed and deleted, through the codec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aggregator.topics.errors import Code
from aggregator.topics.handlers import admin
from aggregator.topics.log.log import Offset
from aggregator.topics.wire.api import Api
from aggregator.topics.wire.tables.admin import CREATE_PARTITIONS, CREATE_TOPICS, DELETE_TOPICS, DESCRIBE_LOG_DIRS
from aggregator.topics.wire.tables.records import DELETE_RECORDS
from tests.aggregator.topics.handlers.asking import asking

READER = {"alice": "read:*, write:*", "root": "admin"}


def topic(name: str = "t", partitions: int = 1, factor: int = 1, **more: Any) -> dict[str, Any]:
    return {"name": name, "num_partitions": partitions, "replication_factor": factor, **more}


def said(body: dict[str, Any]) -> list[int]:
    """The codes of an answer's topics."""
    return [one["error_code"] for one in next(value for value in body.values() if isinstance(value, list))]


# -- CreateTopics


@pytest.mark.parametrize("version", [2, 3, 4])
def test_topics_are_created_in_every_version(tmp_path: Path, version: int) -> None:
    """With their partitions and what is set for them."""
    with asking(tmp_path) as desk:
        asked = topic("t", 3, configs=[{"name": "retention.ms", "value": "1000"}])
        assert said(desk.ask(CREATE_TOPICS, version, {"topics": [asked, topic("u")]})) == [Code.NONE, Code.NONE]
        assert len(desk.log.topics["t"].partitions) == 3
        assert desk.log.topics["t"].config == {"retention.ms": "1000"}


def test_without_a_number_a_topic_has_the_configured_one(tmp_path: Path) -> None:
    """-1 partitions and -1 replicas: as the service is configured, with the keys that it gives such a topic."""
    with asking(tmp_path, partitions=4, topics={"t": {"retention.bytes": "9"}}) as desk:
        assert said(desk.ask(CREATE_TOPICS, 4, {"topics": [topic("t", -1, -1)]})) == [Code.NONE]
        assert len(desk.log.topics["t"].partitions) == 4
        assert desk.log.topics["t"].config == {"retention.bytes": "9"}


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (topic(""), Code.INVALID_TOPIC_EXCEPTION),
        (topic("."), Code.INVALID_TOPIC_EXCEPTION),
        (topic(".."), Code.INVALID_TOPIC_EXCEPTION),
        (topic("a/b"), Code.INVALID_TOPIC_EXCEPTION),
        (topic("a" * 250), Code.INVALID_TOPIC_EXCEPTION),
        (topic("there"), Code.TOPIC_ALREADY_EXISTS),
        (topic(partitions=0), Code.INVALID_PARTITIONS),
        (topic(partitions=-2), Code.INVALID_PARTITIONS),
        (topic(partitions=2_000_000_000), Code.INVALID_PARTITIONS),
        (topic(factor=2), Code.INVALID_REPLICATION_FACTOR),
        (topic(factor=0), Code.INVALID_REPLICATION_FACTOR),
        (topic(configs=[{"name": "no.such", "value": "1"}]), Code.INVALID_CONFIG),
        (topic(configs=[{"name": "retention.ms", "value": "soon"}]), Code.INVALID_CONFIG),
        (topic(configs=[{"name": "retention.ms", "value": None}]), Code.INVALID_CONFIG),
        (topic(assignments=[{"partition_index": 0, "broker_ids": [1]}]), Code.INVALID_REQUEST),
        (topic("t", -1, -1, assignments=[{"partition_index": 1, "broker_ids": [1]}]), Code.INVALID_REPLICA_ASSIGNMENT),
        (topic("t", -1, -1, assignments=[{"partition_index": 0, "broker_ids": [2]}]), Code.INVALID_REPLICA_ASSIGNMENT),
    ],
)
@pytest.mark.parametrize("only", [False, True])
def test_what_cannot_be_created(tmp_path: Path, asked: dict[str, Any], code: Code, only: bool) -> None:
    """Each has Kafka's code and a text, whether it is only to be validated or not; what was there stays."""
    with asking(tmp_path) as desk:
        desk.create("there")
        body = desk.ask(CREATE_TOPICS, 4, {"topics": [asked], "validate_only": only})
        assert said(body) == [code] and body["topics"][0]["error_message"]
        assert [*desk.log.topics] == ["there"]


def test_assignments_count_as_partitions(tmp_path: Path) -> None:
    """Each on the one broker there is."""
    with asking(tmp_path) as desk:
        places = [{"partition_index": index, "broker_ids": [1]} for index in (1, 0)]
        assert said(desk.ask(CREATE_TOPICS, 2, {"topics": [topic("t", -1, -1, assignments=places)]})) == [Code.NONE]
        assert len(desk.log.topics["t"].partitions) == 2


def test_a_topic_is_only_validated(tmp_path: Path) -> None:
    """validate_only answers as if it were created; afterwards it can still be."""
    with asking(tmp_path) as desk:
        asked = {"topics": [topic("t", 3)]}
        assert said(desk.ask(CREATE_TOPICS, 4, asked | {"validate_only": True})) == [Code.NONE]
        assert "t" not in desk.log.topics
        assert said(desk.ask(CREATE_TOPICS, 4, asked)) == [Code.NONE]


def test_a_name_that_comes_twice_is_created_by_neither(tmp_path: Path) -> None:
    """Both are INVALID_REQUEST."""
    with asking(tmp_path) as desk:
        body = desk.ask(CREATE_TOPICS, 4, {"topics": [topic("t"), topic("t", 2), topic("u")]})
        assert said(body) == [Code.INVALID_REQUEST, Code.INVALID_REQUEST, Code.NONE]
        assert [*desk.log.topics] == ["u"]


@pytest.mark.parametrize(
    ("api", "version", "body"),
    [
        (CREATE_TOPICS, 2, {"topics": [topic(f"t{n}") for n in range(4)]}),
        (CREATE_PARTITIONS, 1, {"topics": [{"name": "there", "count": 2, "assignments": None}] * 4}),
        (DELETE_TOPICS, 1, {"topic_names": ["there"] * 4}),
        (DELETE_RECORDS, 1, {"topics": [{"name": "there", "partitions": [{"partition_index": 0, "offset": -1}] * 4}]}),
    ],
)
def test_a_request_that_changes_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, api: Api, version: int, body: dict[str, Any]
) -> None:
    """POLICY_VIOLATION, all of it, and nothing is changed: each part of it would be a change of its own."""
    monkeypatch.setattr(admin, "MOST_PARTS", 3)
    with asking(tmp_path) as desk:
        desk.create("there")
        desk.append("there", 0, 1)
        (found,) = (value for value in desk.ask(api, version, body).values() if isinstance(value, list))
        parts = [part for one in found for part in one.get("partitions", [one])]
        assert [part["error_code"] for part in parts] == [Code.POLICY_VIOLATION] * 4
        there = desk.log.topics["there"].partitions
        assert (len(desk.log.topics), len(there), there[0].start) == (1, 1, 0)


def test_the_right_to_create_comes_before_whether_it_exists(tmp_path: Path) -> None:
    """A principal creates what it has `create` of; another name is TOPIC_AUTHORIZATION_FAILED, there or not."""
    with asking(tmp_path, {"alice": "create:plant.*"}) as desk:
        desk.create("there")
        asked = [topic("plant.a"), topic("there"), topic("new")]
        refused = Code.TOPIC_AUTHORIZATION_FAILED
        assert said(desk.ask(CREATE_TOPICS, 4, {"topics": asked}, "alice")) == [Code.NONE, refused, refused]


# -- DeleteTopics


@pytest.mark.parametrize("version", [1, 2, 3])
def test_topics_are_deleted_in_every_version(tmp_path: Path, version: int) -> None:
    """With what groups have committed of them; one that isn't there is UNKNOWN_TOPIC_OR_PARTITION."""
    with asking(tmp_path) as desk:
        desk.create("t")
        desk.do(desk.log.commit("g", {("t", 0): Offset(1)}))
        body = desk.ask(DELETE_TOPICS, version, {"topic_names": ["t", "u"]})
        assert said(body) == [Code.NONE, Code.UNKNOWN_TOPIC_OR_PARTITION]
        assert not desk.log.topics and not desk.log.committed("g")


def test_topics_are_deleted_and_set_by_admins(tmp_path: Path) -> None:
    """Whoever may read and write all of it may neither delete, nor add partitions, nor drop records, nor see
    folders."""
    with asking(tmp_path, READER) as desk:
        desk.create("t")
        trim = {"topics": [{"name": "t", "partitions": [{"partition_index": 0, "offset": 0}]}]}
        codes = [
            *said(desk.ask(DELETE_TOPICS, 1, {"topic_names": ["t"]}, "alice")),
            *said(desk.ask(CREATE_PARTITIONS, 1, {"topics": [{"name": "t", "count": 2}]}, "alice")),
            desk.ask(DELETE_RECORDS, 0, trim, "alice")["topics"][0]["partitions"][0]["error_code"],
        ]
        assert codes == [Code.TOPIC_AUTHORIZATION_FAILED] * 3
        assert desk.ask(DESCRIBE_LOG_DIRS, 1, {"topics": None}, "alice")["results"] == []
        assert len(desk.log.topics["t"].partitions) == 1


# -- CreatePartitions


@pytest.mark.parametrize("version", [0, 1])
def test_partitions_are_added(tmp_path: Path, version: int) -> None:
    """`count` is how many there are then."""
    with asking(tmp_path) as desk:
        desk.create("t", 2)
        assert said(desk.ask(CREATE_PARTITIONS, version, {"topics": [{"name": "t", "count": 5}]})) == [Code.NONE]
        assert len(desk.log.topics["t"].partitions) == 5


@pytest.mark.parametrize(
    ("name", "count", "assignments", "code"),
    [
        ("t", 2, None, Code.INVALID_PARTITIONS),
        ("t", 1, None, Code.INVALID_PARTITIONS),
        ("t", 2_000_000_000, None, Code.INVALID_PARTITIONS),
        ("u", 3, None, Code.UNKNOWN_TOPIC_OR_PARTITION),
        ("t", 4, [{"broker_ids": [1]}], Code.INVALID_REPLICA_ASSIGNMENT),
        ("t", 3, [{"broker_ids": [3]}], Code.INVALID_REPLICA_ASSIGNMENT),
    ],
)
def test_partitions_that_cannot_be_added(tmp_path: Path, name: str, count: int, assignments: Any, code: Code) -> None:
    """Each with Kafka's code; the topic stays as it was."""
    with asking(tmp_path) as desk:
        desk.create("t", 2)
        asked = {"topics": [{"name": name, "count": count, "assignments": assignments}]}
        assert said(desk.ask(CREATE_PARTITIONS, 1, asked)) == [code]
        assert len(desk.log.topics["t"].partitions) == 2


def test_partitions_are_only_validated(tmp_path: Path) -> None:
    """validate_only adds none."""
    with asking(tmp_path) as desk:
        desk.create("t", 2)
        asked = {"topics": [{"name": "t", "count": 5}], "validate_only": True}
        assert said(desk.ask(CREATE_PARTITIONS, 1, asked)) == [Code.NONE]
        assert len(desk.log.topics["t"].partitions) == 2


# -- DeleteRecords


def trimmed(desk: Any, version: int, *places: tuple[str, int, int]) -> list[tuple[int, int]]:
    """(code, new start) of each."""
    topics = [
        {"name": name, "partitions": [{"partition_index": index, "offset": offset}]} for name, index, offset in places
    ]
    body = desk.ask(DELETE_RECORDS, version, {"topics": topics})
    return [(one["error_code"], one["low_watermark"]) for topic in body["topics"] for one in topic["partitions"]]


@pytest.mark.parametrize("version", [0, 1])
def test_records_are_deleted_up_to_an_offset(tmp_path: Path, version: int) -> None:
    """-1 is all there are; what is beyond the end, or not there, has Kafka's code and no mark."""
    with asking(tmp_path) as desk:
        desk.create("t", 2)
        desk.append("t", 0, 3)
        desk.append("t", 1, 3)
        assert trimmed(desk, version, ("t", 0, 2)) == [(Code.NONE, 2)]
        assert trimmed(desk, version, ("t", 1, -1)) == [(Code.NONE, 3)]
        assert trimmed(desk, version, ("t", 0, 4), ("u", 0, 1)) == [
            (Code.OFFSET_OUT_OF_RANGE, -1), (Code.UNKNOWN_TOPIC_OR_PARTITION, -1),
        ]  # fmt: skip
        assert desk.log.topics["t"].partitions[0].start == 2


def test_nothing_is_cut_off_a_compacted_topic(tmp_path: Path) -> None:
    """POLICY_VIOLATION, unless its policy has delete, too."""
    with asking(tmp_path) as desk:
        desk.create("c", cleanup_policy="compact")
        desk.create("cd", cleanup_policy="compact,delete")
        for name in ("c", "cd"):
            desk.append(name, 0, 1)
        assert trimmed(desk, 1, ("c", 0, 1), ("cd", 0, 1)) == [(Code.POLICY_VIOLATION, -1), (Code.NONE, 1)]


# -- DescribeLogDirs


@pytest.mark.parametrize("version", [0, 1])
def test_sizes_are_told(tmp_path: Path, version: int) -> None:
    """The folder and the bytes of each partition that is asked for; without topics, of all."""
    with asking(tmp_path) as desk:
        desk.create("t", 2)
        desk.create("u")
        desk.append("t", 1, 2)
        (every,) = desk.ask(DESCRIBE_LOG_DIRS, version, {"topics": None})["results"]
        (one,) = desk.ask(DESCRIBE_LOG_DIRS, version, {"topics": [{"topic": "t", "partitions": [1]}]})["results"]
        assert every["log_dir"] == str(tmp_path)
        assert [topic["name"] for topic in every["topics"]] == ["t", "u"]
        (partition,) = one["topics"][0]["partitions"]
        size = desk.log.topics["t"].partitions[1].size
        assert (partition["partition_index"], partition["partition_size"]) == (1, size)
        assert size > 0
