"""The codec of PUBLISH and PUBACK, and the framing around all packets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import RemoteProtocolError
from agent.mqtt import packet, properties
from agent.mqtt.packet import CUT, KEEP, Publish, Reader, pubacks, publish

TOPICS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40).map(str.encode)
PROPERTIES = st.builds(
    properties.encode,
    st.text(max_size=20),
    st.lists(st.tuples(st.text(max_size=20), st.text(max_size=90)), max_size=3).map(tuple),
    st.integers(0, 2**32 - 1),
)
MESSAGES = st.lists(st.tuples(TOPICS, st.integers(1, 65_535), st.binary(max_size=300), PROPERTIES), max_size=8)


def read(reader: Reader, data: bytes, step: int) -> tuple[list[Publish], list[tuple[int, bytes]]]:
    published: list[Publish] = []
    others: list[tuple[int, bytes]] = []
    for at in range(0, len(data), step):
        found = reader.feed(data[at : at + step])
        published += found[0]
        others += found[1]
    return published, others


@given(MESSAGES, st.sampled_from([5, 3]), st.sampled_from([1, 2, 3, 7, 100_000]))
def test_publishes_come_back(messages: list[tuple[bytes, int, bytes, bytes]], version: int, step: int) -> None:
    """What `publish` writes, the Reader gives back, in pieces of any size, with other packets between."""
    data, expected = b"", []
    for topic, identifier, payload, props in messages:
        data += publish(topic, identifier, payload, props if version == 5 else None) + packet.PINGREQ
        expected.append((2, identifier.to_bytes(2, "big"), topic, props if version == 5 else b"", payload))
    published, others = read(Reader(version, 1 << 20), data, step)
    assert published == expected
    assert others == [(0xC0, b"")] * len(messages)


@given(st.binary(max_size=400), st.sampled_from([5, 3]))
def test_any_bytes_are_packets_or_an_error(data: bytes, version: int) -> None:
    """Random bytes raise RemoteProtocolError or nothing."""
    try:
        Reader(version, 1 << 16).feed(data)
    except RemoteProtocolError:
        pass


@pytest.mark.parametrize("step", [10_000, 1 << 20])
def test_a_long_publish_comes_cut(step: int) -> None:
    """Of a PUBLISH above the limit the head is kept, the rest is skipped, and the next packet is read."""
    data = publish(b"a/b", 7, b"x" * 600_000, None) + publish(b"c", 8, b"short", None)
    published, _ = read(Reader(3, 200_000), data, step)
    flags, identifier, topic, _, payload = published[0]
    assert (flags, identifier, topic) == (2 | CUT, b"\0\7", b"a/b")
    assert set(payload) == {ord("x")} and KEEP - 100 < len(payload) < KEEP
    assert published[1:] == [(2, b"\0\x08", b"c", b"", b"short")]


def test_a_long_packet_of_another_kind_is_refused() -> None:
    """256 MB announced by anything but a PUBLISH is refused before they come."""
    with pytest.raises(RemoteProtocolError, match="no PUBLISH"):
        Reader(5, 1 << 20).feed(b"\x90\xff\xff\xff\x7f")


def test_qos_2_is_refused() -> None:
    """We subscribe at QoS 1; paho would answer QoS 2 before the commit."""
    with pytest.raises(RemoteProtocolError, match="QoS 2"):
        Reader(5, 1 << 20).feed(publish(b"a", 1, b"", b"", flags=4))


def test_qos_0_has_no_identifier() -> None:
    """A message published at QoS 0 arrives without an identifier."""
    assert Reader(3, 1 << 20).feed(publish(b"a", 0, b"1", None, flags=0))[0] == [(0, b"", b"a", b"", b"1")]


def test_acknowledgements_leave_in_order() -> None:
    """PUBACKs are 4 bytes each, in the order given."""
    assert pubacks([b"\0\2", b"\0\1"]) == b"\x40\2\0\2\x40\2\0\1"


@given(st.text(max_size=20), st.dictionaries(st.text(max_size=20), st.text(max_size=20)), st.integers(1, 2**32 - 1))
def test_properties_become_headers(content_type: str, user: dict[str, str], expiry: int) -> None:
    """User properties and the content type become headers; the expiry, which counts down, is left out of the rest."""
    user.pop("contentType", None)
    headers, stable = properties.read(properties.encode(content_type, tuple(user.items()), expiry))
    assert headers == {**user, **({"contentType": content_type} if content_type else {})}
    assert stable == properties.encode(content_type, tuple(user.items()))


@given(st.binary(max_size=60))
def test_any_properties_are_headers_or_an_error(data: bytes) -> None:
    """Random bytes raise RemoteProtocolError or nothing."""
    try:
        properties.read(data)
    except RemoteProtocolError:
        pass
