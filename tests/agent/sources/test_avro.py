"""The avro source, met with a client."""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agent import server
from agent.avro.connection import FAILED, OK, UNKNOWN
from agent.errors import ChannelError, ChannelFull, Rejected
from agent.event import Batch
from agent.metrics import SourceCounter
from agent.source import Kept, Marks, Source
from agent.sources import avro
from agent.sources.avro import IN_FLIGHT, AvroSource, AvroSourceConfig
from agent.store.streams import Transit, to_metadata
from tests.agent.avro.wire import Client, connected
from tests.contracts.channel import settle
from tests.contracts.source import Door, SourceContract

Steps = Callable[[AvroSource, Door], Coroutine[Any, Any, None]]


def make(**keys: Any) -> AvroSource:
    """A source on a free port, not open yet."""
    source = AvroSource("r1", AvroSourceConfig(channels=["c1"], **{"bind": "127.0.0.1", "port": 0, **keys}))
    source.counter = SourceCounter("r1")
    return source


def run(steps: Steps, **keys: Any) -> None:
    """Run a source and take these steps with it, within a bound."""

    async def bounded() -> None:
        source, door = make(**keys), Door()
        source.process, source.bury, source.marks, source.durable = door.process, door.bury, {}, True
        async with asyncio.timeout(60), source:
            running = asyncio.create_task(source.run())
            try:
                await steps(source, door)
            finally:
                running.cancel()
                await asyncio.wait({running})

    asyncio.run(bounded())


async def until(true: Callable[[], object]) -> None:
    """Return once it is true; the run's bound is the test's."""
    while not true():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def labels(first: int, count: int = 1, channel: str = "c1") -> dict[str, bytes]:
    """Labels of a batch of the stream that follows directly on the one before."""
    return to_metadata(Transit(b"o" * 16, channel, first - 1, ((first, count),), 0), None)


@pytest.fixture(autouse=True)
def _short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "GRACE_SECONDS", 0.2)


class TestContract(SourceContract):
    def make(self) -> Source:
        return make()

    @asynccontextmanager
    async def peer(self, source: Source) -> AsyncIterator[Callable[[str], Coroutine[Any, Any, bool]]]:  # type: ignore[override]
        assert isinstance(source, AvroSource)
        async with connected(source.listener.port) as client:

            async def send(body: str) -> bool:
                return (await client.call(body)).status == OK

            yield send


def test_answer_tells_what_was_kept() -> None:
    """The metadata of an OK has version, counts and limits."""

    async def steps(source: AvroSource, door: Door) -> None:
        async with connected(source.listener.port) as client:
            answer = await client.call("a", "b")
            assert answer.metadata["headrace.accepted"] == b"2"
            assert answer.metadata["headrace.repeats"] == b"0"
            assert answer.metadata["headrace.inFlight"] == b"8"
            assert int(answer.metadata["headrace.maxBytes"]) == (16 << 20) - (1 << 16)

    run(steps)


def test_labels_become_the_batch_s_transit() -> None:
    """What the call's metadata says of the way is on the batch."""

    async def steps(source: AvroSource, door: Door) -> None:
        async with connected(source.listener.port) as client:
            await client.call("a", "b", labels=labels(5, 2))
        transit = door.batches[0].transit
        assert transit and (transit.origin, transit.channel, transit.after) == (b"o" * 16, "c1", 4)
        assert transit.numbers == ((5, 2),)

    run(steps)


@pytest.mark.parametrize("wrong", [{"headrace.stream": b"x"}, labels(1, 3), {"headrace.identity": b"1+1"}])
def test_malformed_labels_close_the_connection(wrong: dict[str, bytes]) -> None:
    """Labels that can't be read or don't fit are the peer's fault: closed, nothing kept."""

    async def steps(source: AvroSource, door: Door) -> None:
        async with connected(source.listener.port) as client:
            client.post("a", labels=wrong)
            await client.closed()
        assert door.batches == []

    run(steps)


def test_append() -> None:
    """append is one event, counted as such."""

    async def steps(source: AvroSource, door: Door) -> None:
        async with connected(source.listener.port) as client:
            assert (await client.answer(client.post_append("a"))).status == OK
        assert door.bodies == ["a"]
        assert (source.counter.AppendAcceptedCount, source.counter.AppendBatchAcceptedCount) == (1, 0)

    run(steps)


FAILURES = [
    (ChannelFull("no room"), (FAILED, None), (FAILED, None)),
    (Rejected("never fits"), (FAILED, None), (UNKNOWN, "never fits")),
    (ValueError("bug"), (FAILED, None), (UNKNOWN, "internal error (ValueError)")),
]


@pytest.mark.parametrize(("error", "batch", "single"), FAILURES, ids=["full", "rejected", "bug"])
def test_failures(error: Exception, batch: tuple[int, str | None], single: tuple[int, str | None]) -> None:
    """appendBatch is FAILED whatever the cause; append for a full channel, else it is a system error. Both go on."""

    async def fail(batch: Batch, marks: Marks | None = None) -> Kept:
        raise error

    async def steps(source: AvroSource, door: Door) -> None:
        source.process = fail
        async with connected(source.listener.port) as client:
            first = await client.call("a")
            second = await client.answer(client.post_append("a"))
            assert ((first.status, first.error), (second.status, second.error)) == (batch, single)
            assert first.metadata["headrace.reason"]
            assert (first.metadata.get("headrace.rejected") == b"1") == isinstance(error, Rejected)
            source.process = door.process
            assert (await client.call("a")).status == OK

    run(steps)


def test_a_broken_channel_ends_the_source() -> None:
    """ChannelError comes out of run, after the peer was told FAILED."""

    async def broken(batch: Batch, marks: Marks | None = None) -> Kept:
        raise ChannelError("the store is gone")

    async def steps(source: AvroSource, door: Door) -> None:
        source.process = broken
        async with connected(source.listener.port) as client:
            running = asyncio.create_task(source.run())
            assert (await client.call("a")).status == FAILED
            with pytest.raises(ChannelError, match="gone"):
                await running

    run(steps)


def test_calls_are_handed_on_in_order_without_waiting() -> None:
    """Up to eight calls of a connection are with the channels at once, and a ninth isn't read until one is answered."""

    async def steps(source: AvroSource, door: Door) -> None:
        door.open.clear()
        async with connected(source.listener.port) as client:
            serials = [client.post(str(i)) for i in range(20)]
            while source.counter.EventReceivedCount < IN_FLIGHT:
                await settle()
            await settle()
            assert source.counter.EventReceivedCount == IN_FLIGHT
            door.open.set()
            for serial in serials:
                assert (await client.answer(serial)).status == OK
        assert door.bodies == [str(i) for i in range(20)]

    run(steps)


def test_nothing_overtakes_a_failed_batch() -> None:
    """After FAILED the later batches of the stream are FAILED too, until the sender is back where it failed."""

    async def steps(source: AvroSource, door: Door) -> None:
        async with connected(source.listener.port) as client:
            assert (await client.call("1", labels=labels(1))).status == OK
            door.full = True
            assert (await client.call("2", labels=labels(2))).status == FAILED
            door.full = False
            assert (await client.call("3", labels=labels(3))).status == FAILED
            assert (await client.call("other", labels=labels(3, channel="c2"))).status == OK
            assert (await client.call("unlabelled")).status == OK
            assert (await client.call("2", labels=labels(2))).status == OK
            assert (await client.call("3", labels=labels(3))).status == OK
        assert door.bodies == ["1", "other", "unlabelled", "2", "3"]

    run(steps)


def test_new_streams_of_a_connection_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond so many in a minute a new stream is FAILED with the reason; those that have begun go on."""
    monkeypatch.setattr(avro, "NEW_STREAMS", 3)

    async def steps(source: AvroSource, door: Door) -> None:
        async with connected(source.listener.port) as client:
            for number in range(3):
                assert (await client.call("a", labels=labels(1, channel=f"c{number}"))).status == OK
            refused = await client.call("a", labels=labels(1, channel="c9"))
            assert refused.status == FAILED and b"begun 3 streams" in refused.metadata["headrace.reason"]
            assert (await client.call("b", labels=labels(2, channel="c0"))).status == OK

    run(steps)


def test_calls_under_way_behind_a_failed_batch_are_called_off() -> None:
    """When a batch fails, later ones of its stream that wait for a channel are answered FAILED and not kept."""

    async def steps(source: AvroSource, door: Door) -> None:
        failing = asyncio.Event()

        async def process(batch: Batch, marks: Marks | None = None) -> Kept:
            if batch.events[0].body == b"1":
                await failing.wait()
                raise ChannelFull("no room")
            return await door.process(batch, marks)

        source.process = process
        door.open.clear()
        async with connected(source.listener.port) as client:
            serials = [client.post(str(i), labels=labels(i)) for i in (1, 2, 3)]
            await door.knocked.wait()
            await settle()
            failing.set()
            assert [(await client.answer(serial)).status for serial in serials] == [FAILED] * 3
            door.open.set()
            await settle()
        assert door.bodies == []

    run(steps)


def test_deflate() -> None:
    """compression-type = deflate talks to a client that deflates."""

    async def steps(source: AvroSource, door: Door) -> None:
        async with connected(source.listener.port, level=6) as client:
            assert (await client.call("a", "b" * 10_000)).status == OK
            assert (await client.call("c")).status == OK
        assert door.bodies == ["a", "b" * 10_000, "c"]

    run(steps, compression_type="deflate")


def test_ipv6() -> None:
    """bind = ::1 listens on IPv6."""

    async def steps(source: AvroSource, door: Door) -> None:
        async with connected(source.listener.port, host="::1") as client:
            assert (await client.call("a")).status == OK

    run(steps, bind="::1")


def test_what_was_sent_before_the_end_is_answered() -> None:
    """A client that closes its side has what it sent before kept and answered, also beyond eight calls."""

    async def steps(source: AvroSource, door: Door) -> None:
        async with connected(source.listener.port) as client:
            serials = [client.post(str(i)) for i in range(30)]
            client.writer.write_eof()
            for serial in serials:
                assert (await client.answer(serial)).status == OK
            await client.closed()

    run(steps)


def test_calls_under_way_are_answered_when_it_closes() -> None:
    """close lets a call that the channel keeps meanwhile be answered, and takes no new one."""

    async def steps(source: AvroSource, door: Door) -> None:
        door.open.clear()
        async with connected(source.listener.port) as client:
            serial = client.post("a")
            await door.knocked.wait()
            closing = asyncio.create_task(source.listener.close())
            await settle()
            client.post("b")
            door.open.set()
            assert (await client.answer(serial)).status == OK
            await client.closed()
            await closing
        assert door.bodies == ["a"]

    run(steps)


JUNK = [
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    struct.pack(">ii", 1, 2**31 - 1),
    struct.pack(">iii", 1, 1, 2**31 - 1),
    struct.pack(">iii", 1, 1, -5),
    struct.pack(">iii", 1, 1, 4) + b"\xff\xff\xff\xff",
    b"\xff" * 5000,
]


@pytest.mark.parametrize("junk", JUNK)
def test_junk_closes_that_connection_alone(junk: bytes) -> None:
    """A peer that breaks the protocol is closed; another one goes on."""

    async def steps(source: AvroSource, door: Door) -> None:
        async with connected(source.listener.port) as good:
            reader, writer = await asyncio.open_connection("127.0.0.1", source.listener.port)
            writer.write(junk)
            try:
                assert await reader.read() == b""
            except ConnectionResetError:
                pass
            assert (await good.call("a")).status == OK
            writer.close()
        assert source.counter.EventReadFail == 1

    run(steps)


def test_a_frame_above_the_bound_closes_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    """maxFrameBytes is the most that one call may have; the log says what it had."""

    async def steps(source: AvroSource, door: Door) -> None:
        async with connected(source.listener.port) as client:
            client.post("x" * (1 << 17))
            await client.closed()
        assert door.batches == []

    run(steps, max_frame=1 << 17)
    assert "131072 are taken" in caplog.text


def test_beyond_max_connections_new_ones_are_closed(caplog: pytest.LogCaptureFixture) -> None:
    """Those beyond the bound are closed at once, with one line; the others are served; a freed place is given again."""

    async def steps(source: AvroSource, door: Door) -> None:
        clients: list[Client] = []
        for _ in range(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", source.listener.port)
            clients.append(Client(reader, writer, None))
            await clients[-1].hello()
        for _ in range(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", source.listener.port)
            assert await reader.read() == b""
            writer.close()
        assert source.listener.connections == 5
        for client in clients:
            assert (await client.call("a")).status == OK
        clients[0].writer.close()
        await until(lambda: source.listener.connections < 5)
        async with connected(source.listener.port) as client:
            assert (await client.call("b")).status == OK
        for client in clients:
            client.writer.transport.abort()

    run(steps, max_connections=5)
    assert caplog.text.count("new ones are closed at once") == 1


def test_bytes_of_all_connections_are_bounded() -> None:
    """Many clients in the middle of large calls hold no more than maxBytesInFlight and one call; each is served."""

    async def steps(source: AvroSource, door: Door) -> None:
        budget = source.listener.budget
        most = 0
        clients = [await _begun(source.listener.port) for _ in range(12)]
        half = b"x" * 400_000
        for client, _ in clients:
            client.writer.write(half)
        for _ in range(40):
            await asyncio.sleep(0.005)
            most = max(most, budget.used)
        for client, rest in clients:
            client.writer.write(rest)
        for client, _ in clients:
            assert (await client.answer(2)).status == OK
            most = max(most, budget.used)
            client.writer.transport.abort()
        assert most <= (1 << 20) + 800_100 + 12 * server.LEAST_READ
        assert len(door.bodies) == 12
        await settle()
        assert budget.used == 0

    run(steps, max_held=1 << 20, max_frame=1 << 20)


async def _begun(port: int) -> tuple[Client, bytes]:
    """A client that has sent the head of a call of 800,000 bytes, and the end of that call."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    client = Client(reader, writer, None)
    await client.hello()
    _, parts = client.wire.call(b"\0" + b"\x80\xd4\x61" + b"x" * 800_000, 1, {})
    wire = b"".join(parts)
    writer.write(wire[:60])
    return client, wire[400_060:]


def test_a_stalled_client_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that stops inside a call is closed in the end; one that is idle between calls is not."""
    monkeypatch.setattr(server, "STALL_SECONDS", 0.1)
    monkeypatch.setattr(server, "SWEEP_SECONDS", 0.05)

    async def steps(source: AvroSource, door: Door) -> None:
        async with connected(source.listener.port) as idle, connected(source.listener.port) as stalled:
            stalled.writer.write(struct.pack(">iii", 2, 1, 1000) + b"x" * 10)
            await stalled.closed()
            assert (await idle.call("a")).status == OK

    run(steps)


def test_a_client_that_reads_no_answers_is_held_back() -> None:
    """Answers that nobody reads don't pile up: after some the source reads no more calls from there."""

    async def steps(source: AvroSource, door: Door) -> None:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", source.listener.port))
        wire = Client(None, None, None).wire  # type: ignore[arg-type]
        data = b"".join(wire.hello())
        wire._state = wire._state.OPEN
        data += b"".join(part for _ in range(20_000) for part in wire.call(b"\0\0", 1, {})[1])
        sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(sock, data))
        seen = -1
        while seen != source.counter.EventReceivedCount:
            seen = source.counter.EventReceivedCount
            await asyncio.sleep(0.3)
        (peer,) = source.listener.peers
        assert peer.paused or seen == 20_000
        assert peer.transport.get_write_buffer_size() < 1 << 18
        sending.cancel()
        await asyncio.wait({sending})
        sock.close()

    run(steps)


@pytest.mark.parametrize(
    ("rules", "admitted"),
    [
        ("deny:ip:127.*", False),
        ("allow:ip:127.*,deny:ip:*", True),
        ("deny:ip:10.*", True),
        ("allow:name:localhost,deny:ip:*", True),
        ("deny:name:localhost", False),
    ],
)
def test_ip_filter(rules: str, admitted: bool) -> None:
    """The first rule that matches decides; without one a peer may in."""

    async def steps(source: AvroSource, door: Door) -> None:
        if admitted:
            async with connected(source.listener.port) as client:
                assert (await client.call("a")).status == OK
        else:
            with pytest.raises(ConnectionError):
                async with connected(source.listener.port):
                    pass

    run(steps, ip_filter=True, ip_filter_rules=rules)


def test_problems() -> None:
    """Keys that don't fit together are named."""
    config = AvroSourceConfig(channels=["c1"], bind="x", port=1, ip_filter=True, max_frame=1 << 27, tls=True)
    assert [name for name, _ in config.problems()] == ["keystore", "ipFilterRules", "maxBytesInFlight"]
    wrong = AvroSourceConfig(channels=["c1"], bind="x", port=1, ip_filter=True, ip_filter_rules="deny:ip:10.0.0.0/8")
    assert "no network masks" in wrong.problems()[0][1]


def test_nothing_is_left_of_a_connection() -> None:
    """A closed connection is forgotten, with what it held."""

    async def steps(source: AvroSource, door: Door) -> None:
        for _ in range(3):
            async with connected(source.listener.port) as client:
                client.writer.write(struct.pack(">iii", 2, 1, 100_000) + b"x" * 50_000)
                await client.writer.drain()
        await until(lambda: not source.listener.connections)
        assert source.listener.budget.used == 0
        assert not source.listener.peers
        gc.collect()

    run(steps)
