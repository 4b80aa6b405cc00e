"""The names of MQTT topics in Kafka."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aggregator.topics.names import mqtt_topic_of, topic_of

LEGAL = re.compile(r"[a-zA-Z0-9._-]{1,249}")

PAIRS = [
    ("plant/line1/temp", "plant.line1.temp"),
    ("plant/line_1", "plant.line_1"),
    ("plant/size_10", "plant.size_5F10"),
    ("__41", "__5F41"),
    ("_4", "_4"),
    ("_af", "_af"),
    ("a.b", "a_2Eb"),
    ("/a//b/", ".a..b."),
    ("_/_", "_._"),
    ("_é", "__C3_A9"),
    ("halle/süd 1.0", "halle.s_C3_BCd_201_2E0"),
    ("$SYS/+/#\0", "_24SYS._2B._23_00"),
    (".", "_2E"),
    ("///", "..."),
]


@pytest.mark.parametrize(("mqtt_topic", "name"), PAIRS)
def test_pairs(mqtt_topic: str, name: str) -> None:
    """A topic has this name, and this name is that topic's."""
    assert (topic_of(mqtt_topic), mqtt_topic_of(name)) == (name, mqtt_topic)


@given(st.text(alphabet=st.sampled_from("aF09_/.-ü€") | st.characters(exclude_categories=["Cs"]), max_size=40))
def test_every_topic_comes_back(mqtt_topic: str) -> None:
    """Whatever the text, its name is one that Kafka takes and leads back to it."""
    try:
        name = topic_of(mqtt_topic)
    except ValueError:
        assume(False)
    assert LEGAL.fullmatch(name) and name not in (".", "..")
    assert mqtt_topic_of(name) == mqtt_topic


@given(st.text(alphabet="aAF059_.-", max_size=30))
def test_a_name_is_one_topics_or_none(name: str) -> None:
    """What `mqtt_topic_of` takes is exactly what `topic_of` gives."""
    try:
        mqtt_topic = mqtt_topic_of(name)
    except ValueError:
        assume(False)
    assert topic_of(mqtt_topic) == name


@pytest.mark.parametrize("mqtt_topic", ["", "/", "//", "x" * 250, "é" * 42, "\ud800"])
def test_topics_without_a_name(mqtt_topic: str) -> None:
    """Empty, `.` or `..`, longer than 249 once escaped, no Unicode text: ValueError."""
    with pytest.raises(ValueError):
        topic_of(mqtt_topic)


def test_the_longest() -> None:
    """249 characters are a name."""
    assert len(topic_of("é" * 41 + "abc")) == 249


@pytest.mark.parametrize("name", ["", ".", "..", "_41", "_2F", "_C3", "_FF_FE", "a b", "ä", "x" * 250])
def test_names_of_no_topic(name: str) -> None:
    """An escape of what needs none, half a character, what Kafka doesn't take: ValueError."""
    with pytest.raises(ValueError):
        mqtt_topic_of(name)
