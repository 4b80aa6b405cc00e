"""Lingering, order and kinds of what waits for a commit; readings as events; keys."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.avro import record
from agent.errors import RemoteProtocolError
from agent.event import Batch, Event
from agent.mqtt import leg, properties, reading
from agent.mqtt.inbox import BATCH, IN_FLIGHT, POISON, READING, REPEAT, Inbox, Limits
from agent.mqtt.packet import DUP, Publish
from agent.mqtt.settings import MqttKeys, address, client_id
from agent.mqtt.window import Window, digest
from agent.sinks.mqtt import MqttConfig as SinkConfig
from agent.sources.mqtt import MqttConfig as SourceConfig
from agent.store.streams import Identity, Transit


def message(number: int, payload: bytes = b"x", flags: int = 2) -> Publish:
    return flags, number.to_bytes(2, "big"), b"t", b"", payload


def inbox(batch: int = 100, linger: float = 3600.0, in_flight: int = 0, window: Window | None = None) -> Inbox:
    return Inbox(Limits(batch, linger, 1_000, in_flight), window or Window(), reading.Heads())


def ripe(box: Inbox) -> bool:
    """Whether `gather` returns at once."""

    async def run() -> bool:
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(box.gather(lost))
        await asyncio.sleep(0)
        done = task.done()
        task.cancel()
        box.close()
        return done

    return asyncio.run(run())


@pytest.mark.parametrize(("waiting", "in_flight", "expected"), [(9, 0, False), (IN_FLIGHT // 2, 0, True)])
def test_linger_ends_at_half_of_the_window(waiting: int, in_flight: int, expected: bool) -> None:
    """With half of what the broker has in flight here, there is no use in waiting: it may fall silent."""
    box = inbox(in_flight=in_flight)
    box.receive([message(number) for number in range(1, waiting + 1)])
    assert ripe(box) is expected


def test_linger_ends_at_a_full_batch() -> None:
    """batchSize readings are a commit."""
    box = inbox(batch=5, in_flight=1_000)
    box.receive([message(number) for number in range(1, 5)])
    assert not ripe(box)
    box.receive([message(5)])
    assert ripe(box)


def test_linger_ends_after_its_time() -> None:
    """One reading alone goes after batchDuration."""
    box = inbox(linger=0.01)
    box.receive([message(1)])

    async def run() -> None:
        async with asyncio.timeout(20):
            await box.gather(asyncio.get_running_loop().create_future())

    asyncio.run(run())
    assert len(box.next()) == 1


def test_the_window_is_learned() -> None:
    """More outstanding at once than 20 shows that the broker's window is wider."""
    box = inbox()
    box.receive([message(number) for number in range(1, 81)])
    box.settled(box.next())
    box.receive([message(number) for number in range(100, 130)])
    assert not ripe(box)


def test_what_stands_alone_keeps_its_place() -> None:
    """Batches and poison are commits of their own between the readings around them."""
    box = inbox()
    container = leg.pack(Batch([Event({}, b"1")]), "t", "")
    box.receive([message(1), message(2, b"y" * 2_000), message(3, container), message(4), message(5)])
    taken = [box.next() for _ in range(4)]
    assert [[item[0] for item in items] for items in taken] == [[READING], [POISON], [BATCH], [READING, READING]]


def test_a_repeat_stays_in_order_and_is_not_kept() -> None:
    """What the window knows is acknowledged in its place."""
    window = Window(b"\0\1" + digest(b"t", b"", b"x"))
    window.connected(session_present=True)
    box = inbox(window=window)
    box.receive([message(1, flags=2 | DUP), message(2, flags=2 | DUP), message(3)])
    assert [item[0] for item in box.next()] == [REPEAT, READING, READING]
    assert not window.open


def test_it_is_crowded_before_memory_is() -> None:
    """Above some megabytes, or several batches, the connection is to be paused."""
    box = inbox(batch=10)
    box.receive([message(number) for number in range(1, 60)])
    assert box.crowded and not box.roomy


HEADERS = st.dictionaries(st.text(min_size=1, max_size=20), st.text(max_size=20), max_size=4)


@given(st.text(min_size=1, max_size=50), HEADERS, st.binary(max_size=5_000), st.integers(0, 2**43))
def test_a_reading_is_an_event(topic: str, user: dict[str, str], payload: bytes, now: int) -> None:
    """The record that is put together is what the plain encoder makes of topic, user properties, time and payload."""
    user.pop("contentType", None)
    props = properties.encode(user=tuple(user.items()))
    head, stamped, _ = reading.Heads()(topic.encode("utf-8", "replace"), props)
    made = (head + reading.stamp(now) if stamped else head) + reading.body(payload)
    [(headers, body)] = record.decode(made, 1)
    topic = topic.encode("utf-8", "replace").decode()
    assert headers == {**user, "topic": topic, **({} if "timestamp" in user else {"timestamp": str(now)})}
    assert body == payload


@given(st.integers(1, 50), st.integers(1, 1 << 40))
def test_a_forwarded_batch_comes_back(count: int, first: int) -> None:
    """Block, transit and identity survive the container; the token is that of these numbers."""
    block = Batch([Event({"a": "b"}, b"%d" % number) for number in range(count)]).block
    transit = Transit(bytes(16), "c", first - 1, ((first, count),), 0)
    batch = Batch(None, block, count, transit, (Identity(b"i" * 16, 7, count),))
    token = leg.token_of(batch)
    back = leg.unpack(leg.pack(batch, token, "reply"))
    assert back is not None
    assert (back.batch.block, back.batch.transit, back.batch.identity) == (block, transit, batch.identity)
    assert (back.token, back.reply) == (token, "reply") and leg.token_of(back.batch) == token


@given(st.integers(0, 400))
def test_a_cut_batch_is_an_error(at: int) -> None:
    """A forwarded batch that is cut anywhere is malformed, or no batch of ours as long as its label isn't there."""
    whole = leg.pack(Batch([Event({}, b"x" * 100)]), "t", "")
    try:
        assert leg.unpack(whole[: min(at, len(whole) - 1)]) is None
    except RemoteProtocolError:
        pass


@given(st.binary(max_size=200))
def test_any_answer_is_one_or_an_error(payload: bytes) -> None:
    """Random bytes on the reply topic raise RemoteProtocolError."""
    with pytest.raises(RemoteProtocolError):
        leg.read_answer(payload)


@pytest.mark.parametrize("url", ["http://a", "mqtt://", "mqtt://u:p@h", "mqtt://h:99999", "h:1883", "mqtt://h/x"])
def test_bad_urls_are_problems(url: str) -> None:
    """A url that can't be meant is a problem of the key `url`, told before anything opens."""
    assert [key for key, _ in MqttKeys(url=url).problems()] == ["url"]


def test_addresses() -> None:
    """Ports by scheme; IPv6 in brackets."""
    assert address("mqtt://broker") == ("broker", 1883, False)
    assert address("mqtts://[::1]") == ("::1", 8883, True)


def test_problems_of_a_source() -> None:
    """Overlapping and faulty filters are told with both names."""
    found = SourceConfig(channels=["c"], topics=["a/#", "a/b", "c/#/d"]).problems()
    assert len(found) == 2 and all(key == "topics" for key, _ in found)
    assert any("a/# and a/b overlap" in text for _, text in found)


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"topic": "a/#"}, "topic"),
        ({"topic": "a/%{x}", "payload": "batch"}, "topic"),
        ({"topic": "a", "confirm": "receiver"}, "confirm"),
        ({"topic": "a", "payload": "batch", "replyTopic": "r/+"}, "replyTopic"),
        ({"topic": "a", "password": "x"}, "password"),
    ],
)
def test_problems_of_a_sink(keys: dict[str, str], problem: str) -> None:
    """What can't work is told with its key."""
    assert [key for key, _ in SinkConfig(channel="c", **keys).problems()] == [problem]


def test_client_ids_are_stable_and_apart() -> None:
    """The same component has the same session after a restart; a source and a sink of one name have two."""
    keys = MqttKeys()
    assert client_id(keys, "source", "r1") == client_id(keys, "source", "r1") != client_id(keys, "sink", "r1")
    assert client_id(MqttKeys(clientId="mine"), "source", "r1") == "mine"
