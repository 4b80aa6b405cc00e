"""Settings of topics and of the broker, through the codec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aggregator.topics.errors import Code
from aggregator.topics.handlers.broker_keys import NAMES
from aggregator.topics.log import settings
from aggregator.topics.log.log import Options
from aggregator.topics.wire.tables.admin import ALTER_CONFIGS, DESCRIBE_CONFIGS, INCREMENTAL_ALTER_CONFIGS
from tests.aggregator.topics.handlers.asking import Desk, asking

TOPIC, BROKER, BROKER_LOGGER = 2, 4, 8
SET, DELETE, APPEND, SUBTRACT = range(4)
OURS, FILE, DEFAULT = 1, 4, 5


def described(desk: Desk, version: int = 3, name: str = "t", kind: int = TOPIC, keys: list[str] | None = None,
              who: str = "anonymous", **more: Any) -> dict[str, Any]:  # fmt: skip
    """One resource of DescribeConfigs."""
    asked = {"resource_type": kind, "resource_name": name, "configuration_keys": keys}
    body = desk.ask(DESCRIBE_CONFIGS, version, {"resources": [asked], **more}, who)
    one: dict[str, Any] = body["results"][0]
    return one


def entry(desk: Desk, key: str, **more: Any) -> dict[str, Any]:
    (one,) = described(desk, keys=[key], include_synonyms=True, **more)["configs"]
    found: dict[str, Any] = one
    return found


# -- DescribeConfigs


@pytest.mark.parametrize("version", [1, 2, 3])
def test_every_key_of_a_topic_is_told(tmp_path: Path, version: int) -> None:
    """With null for the keys, DescribeConfigs of each version lists them all with what they are."""
    with asking(tmp_path) as desk:
        desk.create("t", cleanup_policy="compact")
        found = {one["name"]: one["value"] for one in described(desk, version)["configs"]}
        assert found.keys() == settings.KEYS.keys()
        assert (found["cleanup.policy"], found["retention.ms"]) == ("compact", "604800000")


def test_only_the_keys_asked_for_are_told(tmp_path: Path) -> None:
    """One that doesn't exist is left out, as in Kafka."""
    with asking(tmp_path) as desk:
        desk.create("t")
        body = described(desk, keys=["cleanup.policy", "no.such"])
        assert [one["name"] for one in body["configs"]] == ["cleanup.policy"]


def test_where_a_value_comes_from(tmp_path: Path) -> None:
    """The topic's own, the service's configuration, Kafka's default: the first is the source, all are synonyms."""
    with asking(tmp_path, options=Options(synchronous="OFF", retention_ms=5000)) as desk:
        desk.create("t", retention_ms="7000")
        desk.create("u")
        own, ours = entry(desk, "retention.ms"), entry(desk, "retention.ms", name="u")
        default = entry(desk, "segment.bytes")
        places = [(one["name"], one["value"], one["source"]) for one in own["synonyms"]]
        assert places == [
            ("retention.ms", "7000", OURS),
            ("log.retention.ms", "5000", FILE),
            ("log.retention.ms", "604800000", DEFAULT),
        ]
        assert [(one["value"], one["config_source"]) for one in (own, ours, default)] == [
            ("7000", OURS), ("5000", FILE), ("1073741824", DEFAULT),
        ]  # fmt: skip


def test_a_topic_is_told_once(tmp_path: Path) -> None:
    """However often a request names it: an answer can't be made to grow."""
    with asking(tmp_path) as desk:
        desk.create("t")
        asked = {"resource_type": TOPIC, "resource_name": "t", "configuration_keys": None}
        assert len(desk.ask(DESCRIBE_CONFIGS, 3, {"resources": [asked] * 3})["results"]) == 1


def test_synonyms_are_told_when_asked(tmp_path: Path) -> None:
    """Without include_synonyms there are none."""
    with asking(tmp_path) as desk:
        desk.create("t")
        assert not any(one["synonyms"] for one in described(desk)["configs"])


def test_types_are_told_from_version_3_on(tmp_path: Path) -> None:
    """As ConfigEntry.ConfigType."""
    with asking(tmp_path) as desk:
        desk.create("t")
        keys = ["cleanup.policy", "preallocate", "segment.bytes", "retention.ms", "min.cleanable.dirty.ratio"]
        types = {one["name"]: one["config_type"] for one in described(desk, keys=keys)["configs"]}
        assert [types[key] for key in keys] == [7, 1, 3, 5, 6]


def test_every_key_of_a_topic_has_a_name_at_the_broker() -> None:
    """A key that is added has to get one."""
    assert NAMES.keys() == settings.KEYS.keys()


def test_the_broker_tells_its_settings(tmp_path: Path) -> None:
    """By Kafka's names, none of which can be changed here."""
    with asking(tmp_path, options=Options(synchronous="OFF", retention_ms=5000), partitions=3) as desk:
        configs = {one["name"]: one for one in described(desk, name="1", kind=BROKER)["configs"]}
        assert all(one["read_only"] for one in configs.values())
        told = {name: (configs[name]["value"], configs[name]["config_source"]) for name in configs}
        assert told["num.partitions"] == ("3", FILE)
        assert told["log.retention.ms"] == ("5000", FILE)
        assert told["offsets.retention.minutes"] == ("10080", DEFAULT)


@pytest.mark.parametrize(
    ("kind", "name", "code"),
    [
        (TOPIC, "none", Code.UNKNOWN_TOPIC_OR_PARTITION),
        (BROKER, "7", Code.INVALID_REQUEST),
        (BROKER, "", Code.NONE),
        (BROKER_LOGGER, "1", Code.INVALID_REQUEST),
        (32, "g", Code.INVALID_REQUEST),
    ],
)
def test_what_has_no_settings(tmp_path: Path, kind: int, name: str, code: Code) -> None:
    """An unknown resource has its code; the default of all brokers ("") is there and has nothing."""
    with asking(tmp_path) as desk:
        body = described(desk, kind=kind, name=name)
        assert (body["error_code"], body["configs"]) == (code, [])


def test_settings_are_seen_by_whom_the_topic_is_shown_to(tmp_path: Path) -> None:
    """The broker's by admins alone."""
    with asking(tmp_path, {"alice": "write:t", "root": "admin"}) as desk:
        desk.create("t")
        desk.create("u")
        asked = [(TOPIC, "t", "alice"), (TOPIC, "u", "alice"), (BROKER, "1", "alice"), (BROKER, "1", "root")]
        said = [described(desk, kind=kind, name=name, who=who)["error_code"] for kind, name, who in asked]
        assert said == [
            Code.NONE, Code.TOPIC_AUTHORIZATION_FAILED, Code.CLUSTER_AUTHORIZATION_FAILED, Code.NONE,
        ]  # fmt: skip


# -- AlterConfigs, IncrementalAlterConfigs


def incremental(desk: Desk, *changes: tuple[str, int, str | None], version: int = 0, name: str = "t",
                kind: int = TOPIC, who: str = "anonymous", **more: Any) -> int:  # fmt: skip
    """(key, operation, value) each; the code."""
    configs = [{"name": key, "config_operation": operation, "value": value} for key, operation, value in changes]
    resource = {"resource_type": kind, "resource_name": name, "configs": configs}
    body = desk.ask(INCREMENTAL_ALTER_CONFIGS, version, {"resources": [resource], **more}, who)
    code: int = body["responses"][0]["error_code"]
    return code


def altered(desk: Desk, *pairs: tuple[str, str | None], version: int = 1, **more: Any) -> int:
    configs = [{"name": key, "value": value} for key, value in pairs]
    resource = {"resource_type": TOPIC, "resource_name": "t", "configs": configs}
    code: int = desk.ask(ALTER_CONFIGS, version, {"resources": [resource], **more})["responses"][0]["error_code"]
    return code


@pytest.mark.parametrize("version", [0, 1])
def test_what_is_not_named_goes_back_to_its_default(tmp_path: Path, version: int) -> None:
    """AlterConfigs replaces all that is set for a topic."""
    with asking(tmp_path) as desk:
        desk.create("t", retention_ms="7", segment_bytes="100")
        assert altered(desk, ("retention.ms", "8"), ("flush.ms", "1"), version=version) == Code.NONE
        assert desk.log.topics["t"].config == {"retention.ms": "8", "flush.ms": "1"}


@pytest.mark.parametrize("version", [0, 1])
def test_what_is_not_named_stays(tmp_path: Path, version: int) -> None:
    """IncrementalAlterConfigs sets and deletes single keys."""
    with asking(tmp_path) as desk:
        desk.create("t", retention_ms="7", segment_bytes="100")
        said = incremental(desk, ("retention.ms", SET, "8"), ("segment.bytes", DELETE, None), version=version)
        assert said == Code.NONE and desk.log.topics["t"].config == {"retention.ms": "8"}
        assert incremental(desk, ("flush.ms", SET, "9"), version=version) == Code.NONE
        assert desk.log.topics["t"].config == {"retention.ms": "8", "flush.ms": "9"}


def test_lists_are_added_to_and_taken_from(tmp_path: Path) -> None:
    """APPEND and SUBTRACT begin from what the topic has, its default included; a value that is there comes once."""
    with asking(tmp_path) as desk:
        desk.create("t")
        policies = []
        for operation, value in ((APPEND, "compact"), (APPEND, "delete"), (SUBTRACT, "delete")):
            assert incremental(desk, ("cleanup.policy", operation, value)) == Code.NONE
            policies.append(desk.log.topics["t"].config["cleanup.policy"])
        assert policies == ["delete,compact", "delete,compact", "compact"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ([("no.such", SET, "1")], Code.INVALID_CONFIG),
        ([("no.such", DELETE, None)], Code.INVALID_CONFIG),
        ([("retention.ms", SET, "soon")], Code.INVALID_CONFIG),
        ([("retention.ms", APPEND, "1")], Code.INVALID_CONFIG),
        ([("retention.ms", 9, "1")], Code.INVALID_CONFIG),
        ([("cleanup.policy", SUBTRACT, "delete")], Code.INVALID_CONFIG),
        ([("retention.ms", SET, None)], Code.INVALID_REQUEST),
        ([("retention.ms", SET, "1"), ("retention.ms", SET, "2")], Code.INVALID_REQUEST),
        ([("flush.ms", SET, "1"), ("no.such", SET, "1")], Code.INVALID_CONFIG),
    ],
)
def test_what_cannot_be_set(tmp_path: Path, changes: list[Any], code: Code) -> None:
    """Each with Kafka's code; nothing of the request is done."""
    with asking(tmp_path) as desk:
        desk.create("t", segment_ms="5")
        assert incremental(desk, *changes) == code
        assert desk.log.topics["t"].config == {"segment.ms": "5"}


@pytest.mark.parametrize(("key", "value"), [("no.such", "1"), ("retention.ms", "soon"), ("cleanup.policy", "keep")])
def test_what_cannot_be_set_anew(tmp_path: Path, key: str, value: str) -> None:
    """AlterConfigs with an unknown key or a bad value is INVALID_CONFIG, and what was set stays."""
    with asking(tmp_path) as desk:
        desk.create("t", segment_ms="5")
        assert altered(desk, ("flush.ms", "1"), (key, value)) == Code.INVALID_CONFIG
        assert desk.log.topics["t"].config == {"segment.ms": "5"}


def test_settings_are_only_validated(tmp_path: Path) -> None:
    """validate_only changes nothing in either way to alter, and says what would be wrong."""
    with asking(tmp_path) as desk:
        desk.create("t", retention_ms="7")
        assert altered(desk, ("flush.ms", "1"), validate_only=True) == Code.NONE
        assert incremental(desk, ("flush.ms", SET, "1"), validate_only=True) == Code.NONE
        assert incremental(desk, ("flush.ms", SET, "x"), validate_only=True) == Code.INVALID_CONFIG
        assert desk.log.topics["t"].config == {"retention.ms": "7"}


def test_only_topics_are_set(tmp_path: Path) -> None:
    """The broker's settings are INVALID_REQUEST, a topic that isn't there UNKNOWN_TOPIC_OR_PARTITION."""
    with asking(tmp_path) as desk:
        assert incremental(desk, ("num.partitions", SET, "3"), kind=BROKER, name="1") == Code.INVALID_REQUEST
        assert incremental(desk, ("flush.ms", SET, "3")) == Code.UNKNOWN_TOPIC_OR_PARTITION


def test_topics_are_set_by_admins(tmp_path: Path) -> None:
    """Whoever may read and write a topic may not set it."""
    with asking(tmp_path, {"alice": "read:*, write:*", "root": "admin"}) as desk:
        desk.create("t")
        said = [incremental(desk, ("flush.ms", SET, "3"), who=who) for who in ("alice", "root")]
        assert said == [Code.TOPIC_AUTHORIZATION_FAILED, Code.NONE]


def test_a_topic_that_comes_twice_is_set_by_neither(tmp_path: Path) -> None:
    """Both are INVALID_REQUEST."""
    with asking(tmp_path) as desk:
        desk.create("t")
        one = {"resource_type": TOPIC, "resource_name": "t", "configs": [{"name": "flush.ms", "value": "1"}]}
        body = desk.ask(ALTER_CONFIGS, 0, {"resources": [one, one]})
        assert [one["error_code"] for one in body["responses"]] == [Code.INVALID_REQUEST] * 2
        assert desk.log.topics["t"].config == {}
