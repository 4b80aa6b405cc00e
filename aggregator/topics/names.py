"""An MQTT topic as the name of a Kafka topic, and back: each name has one topic, each topic one name.

Kafka takes 1 to 249 of the characters a-z A-Z 0-9 . _ - (org.apache.kafka.common.internals.Topic). MQTT takes any
text, with levels between slashes.

    plant/line1/temp     plant.line1.temp      a slash is a dot; letters, digits and - stay
    plant/line_1         plant.line_1          so does _
    plant/size_10        plant.size_5F10       unless two hexadecimal digits (0-9 A-F) follow it
    halle/süd 1.0        halle.s_C3_BCd_201_2E0    anything else is _HH, byte by byte of UTF-8: a dot, too
"""

from __future__ import annotations

import re

LONGEST = 249
NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")
ESCAPED = re.compile(r"_(?=[0-9A-F]{2})|[^A-Za-z0-9/_-]")
ESCAPE = re.compile(rb"_([0-9A-F]{2})")


def is_legal(topic: str) -> bool:
    """Whether Kafka takes it as a topic's name."""
    return bool(NAME.fullmatch(topic)) and topic not in (".", "..")


def topic_of(mqtt_topic: str) -> str:
    """The name for an MQTT topic. ValueError: it is empty or has no text in UTF-8, or Kafka can't take its name
    (longer than 249, `.` or `..`)."""
    name = ESCAPED.sub(_escape, mqtt_topic).replace("/", ".")
    if not name or name in (".", ".."):
        raise ValueError(f"the topic {mqtt_topic!r} has no legal name in Kafka")
    if len(name) > LONGEST:
        raise ValueError(f"the topic {mqtt_topic[:40]!r}... makes a name of {len(name)} characters, above {LONGEST}")
    return name


def mqtt_topic_of(topic: str) -> str:
    """The MQTT topic whose name this is. ValueError: it is the name of none."""
    try:
        raw = topic.encode("ascii").replace(b".", b"/")
        mqtt_topic = ESCAPE.sub(lambda match: bytes.fromhex(match[1].decode()), raw).decode()
        if topic_of(mqtt_topic) == topic:
            return mqtt_topic
    except ValueError:
        pass
    raise ValueError(f"{topic!r} is not the name of any MQTT topic")


def _escape(match: re.Match[str]) -> str:
    return "".join(f"_{byte:02X}" for byte in match[0].encode())
