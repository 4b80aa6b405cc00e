"""What may be set for a topic."""

from __future__ import annotations

import pytest

from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.log import settings
from aggregator.topics.log.settings import KEYS, Options


def test_every_default_is_legal() -> None:
    """What DescribeConfigs shows could be set again as it is."""
    settings.check({name: key.default for name, key in KEYS.items()})
    settings.check(settings.defaults(Options()))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("retention.ms", "-2"),
        ("retention.ms", "soon"),
        ("retention.ms", "1.5"),
        ("retention.ms", ""),
        ("retention.ms", "-"),
        ("retention.ms", "٣"),
        ("retention.bytes", str(1 << 63)),
        ("cleanup.policy", "delete,forget"),
        ("cleanup.policy", ""),
        ("message.timestamp.type", "createtime"),
        ("min.cleanable.dirty.ratio", "1.1"),
        ("min.cleanable.dirty.ratio", "nan"),
        ("preallocate", "yes"),
        ("colour", "red"),
    ],
)
def test_a_wrong_value_is_named(name: str, value: str) -> None:
    """INVALID_CONFIG, with the key in its text."""
    with pytest.raises(TopicsError, match=name) as caught:
        settings.check({name: value})
    assert caught.value.code is Code.INVALID_CONFIG


def test_policies_come_together() -> None:
    """`compact,delete`, with or without a space."""
    settings.check({"cleanup.policy": "compact, delete"})
