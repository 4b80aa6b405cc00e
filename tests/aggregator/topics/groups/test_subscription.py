"""The topics in a consumer's metadata."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aggregator.topics.groups.subscription import same_subscription, topics_of
from tests.aggregator.topics.groups.scene import subscription

TOPICS = st.lists(st.text(max_size=20), max_size=5)


@given(TOPICS, st.binary(max_size=20))
def test_topics_are_found(topics: list[str], extra: bytes) -> None:
    """Whatever the assignor adds."""
    assert topics_of(subscription(*topics, extra=extra)) == frozenset(topics)


@given(TOPICS.filter(bool), st.data())
def test_a_cut_subscription_is_none(topics: list[str], data: st.DataObject) -> None:
    """Metadata that ends within the topics is no subscription."""
    whole = subscription(*topics, extra=b"")
    assert topics_of(whole[: data.draw(st.integers(0, len(whole) - 1))]) is None


@given(st.binary(max_size=60))
def test_junk(junk: bytes) -> None:
    """Any bytes are a subscription or none."""
    found = topics_of(junk)
    assert found is None or all(topic.encode() in junk for topic in found)


def test_a_count_that_cannot_be() -> None:
    """A count beyond the bytes, or below zero, isn't believed."""
    assert topics_of(b"\0\1\x7f\xff\xff\xff") is None
    assert topics_of(b"\0\1\xff\xff\xff\xff") is None


def test_the_same_subscription() -> None:
    """The same topics, in any order and whatever is added; what is no subscription must be equal."""
    assert same_subscription(subscription("a", "b"), subscription("b", "a", extra=b"x"))
    assert not same_subscription(subscription("a"), subscription("b"))
    assert same_subscription(b"junk", b"junk")
    assert not same_subscription(b"junk", b"jank")
