"""The avro sink, against our source and against servers that misbehave."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from agent import server
from agent.avro.connection import FAILED, OK, ServerConnection
from agent.avro.handshake import Protocols, write_map
from agent.errors import ChannelFull, DeliveryError, Rejected
from agent.event import Batch, Event
from agent.metrics import SinkCounter, SourceCounter
from agent.sinks.avro import AvroSink, AvroSinkConfig
from agent.source import Kept, Marks
from agent.sources.avro import AvroSource, AvroSourceConfig
from agent.store.streams import Identity, Transit
from tests.contracts.channel import batch, settle
from tests.contracts.sink import FarSide, SinkContract
from tests.contracts.source import Door

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


def make(port: int, **keys: Any) -> AvroSink:
    """A sink, not open yet."""
    sink = AvroSink("k1", AvroSinkConfig(channel="c1", hostname="127.0.0.1", port=port, **keys))
    sink.counter = SinkCounter("k1")
    return sink


def labelled(first: int, *bodies: str) -> Batch:
    """A batch of a stream."""
    events = [Event({}, body.encode()) for body in bodies]
    return Batch(events, transit=Transit(b"o" * 16, "c1", first - 1, ((first, len(bodies)),), 0))


@asynccontextmanager
async def receiver(door: Door, port: int = 0, **keys: Any) -> AsyncIterator[AvroSource]:
    """Our source, running."""
    source = AvroSource("r1", AvroSourceConfig(channels=["c1"], bind="127.0.0.1", port=port, **keys))
    source.counter = SourceCounter("r1")
    source.process, source.bury = door.process, door.bury
    async with source:
        running = asyncio.create_task(source.run())
        try:
            yield source
        finally:
            running.cancel()
            await asyncio.wait({running})


@asynccontextmanager
async def java_like(status: Callable[[int], int | None]) -> AsyncIterator[tuple[int, list[Batch]]]:
    """A server that says nothing of itself, as Java's; `status(n)` of the n-th call, None for no answer. Its port."""
    got: list[Batch] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = ServerConnection(Protocols(), {})
        while data := await reader.read(1 << 16):
            wire.receive(data)
            for call in iter(wire.next_call, None):
                got.append(Batch(None, call.block, call.count))
                answer = status(len(got))
                if answer is not None:
                    writer.writelines(wire.answer(call, answer))
            writer.writelines(wire.replies())
        writer.close()

    async with serving(serve) as port:
        yield port, got


@asynccontextmanager
async def serving(behaviour: Behaviour) -> AsyncIterator[int]:
    """A TCP server that behaves so; its port."""
    one = await asyncio.start_server(behaviour, "127.0.0.1", 0)
    try:
        yield one.sockets[0].getsockname()[1]
    finally:
        one.close()


def run(steps: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run within a bound."""
    asyncio.run(asyncio.wait_for(steps(), 60))


@pytest.fixture(autouse=True)
def _short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "GRACE_SECONDS", 0.2)


class OurReceiver:
    """FarSide: our source on one port, which can be away."""

    def __init__(self) -> None:
        self.door = Door()
        self.stack: Any = None
        self.port = 0

    async def come_back(self) -> None:
        self.stack = receiver(self.door, self.port)
        self.port = (await self.stack.__aenter__()).listener.port

    async def go_away(self) -> None:
        await self.stack.__aexit__(None, None, None)
        self.stack = None

    async def arrived(self) -> list[str]:
        return self.door.bodies


class TestContract(SinkContract):
    @asynccontextmanager
    async def far_side(self) -> AsyncIterator[FarSide]:  # type: ignore[override]
        far = OurReceiver()
        await far.come_back()
        far.sink = make(far.port)  # type: ignore[attr-defined]
        try:
            yield far  # type: ignore[misc]
        finally:
            if far.stack:
                await far.go_away()


def test_labels_travel() -> None:
    """Transit and identity arrive with the batch, and its block as it was."""

    async def steps() -> None:
        door = Door()
        async with receiver(door) as source, make(source.listener.port) as sink:
            sent = labelled(5, "a", "b")
            sent.identity = (Identity(b"i" * 16, 9, 2),)
            await sink.send(sent)
            (got,) = door.batches
            assert (got.transit, got.identity, got.block, got.count) == (sent.transit, sent.identity, sent.block, 2)

    run(steps)


def test_in_flight_rises_for_labelled_batches_to_our_receiver() -> None:
    """Labelled batches may wait for each other at a Headrace source; unlabelled ones, and a Java source, get one."""

    async def steps() -> None:
        door = Door()
        async with receiver(door) as source, make(source.listener.port) as sink:
            assert sink.in_flight == 1
            await sink.send(labelled(1, "a"))
            assert sink.in_flight == 8
            await sink.send(batch("b"))
            assert sink.in_flight == 1
        async with java_like(lambda n: OK) as (port, _), make(port) as sink:
            await sink.send(labelled(1, "a"))
            assert sink.in_flight == 1

    run(steps)


def test_several_sends_share_a_connection_in_order() -> None:
    """Sends that are started together arrive in the order of their start, over one connection."""

    async def steps() -> None:
        door = Door()
        async with receiver(door) as source, make(source.listener.port) as sink:
            await asyncio.gather(*(sink.send(labelled(i, str(i))) for i in range(1, 9)))
            assert door.bodies == [str(i) for i in range(1, 9)]
            assert sink.counter.ConnectionCreatedCount == 1

    run(steps)


def test_failed_says_the_reason() -> None:
    """FAILED is a DeliveryError with the peer's address and its reason; the connection stays."""

    async def steps() -> None:
        door = Door()
        async with receiver(door) as source, make(source.listener.port) as sink:
            door.full = True
            with pytest.raises(DeliveryError, match=f"127.0.0.1:{source.listener.port} .*channel c1 is full") as caught:
                await sink.send(batch("a"))
            assert not isinstance(caught.value, Rejected)
            door.full = False
            await sink.send(batch("a"))
            assert sink.counter.ConnectionCreatedCount == 1

    run(steps)


def test_rejected() -> None:
    """headrace.rejected makes it Rejected, with the reason."""

    async def never(batch: Batch, marks: Marks | None = None) -> Kept:
        raise Rejected("a header is too long")

    async def steps() -> None:
        door = Door()
        async with receiver(door) as source, make(source.listener.port) as sink:
            source.process = never
            with pytest.raises(Rejected, match="too long"):
                await sink.send(batch("a"))

    run(steps)


def test_an_event_above_the_receivers_bound_is_rejected() -> None:
    """One event that the receiver can't take is Rejected unsent; several are a DeliveryError, and max_bytes is told."""

    async def steps() -> None:
        door = Door()
        async with receiver(door, max_frame=1 << 17) as source, make(source.listener.port) as sink:
            await sink.send(batch("a"))
            assert sink.max_bytes == 1 << 16
            with pytest.raises(Rejected, match="maxFrameBytes"):
                await sink.send(batch("x" * 70_000))
            with pytest.raises(DeliveryError) as caught:
                await sink.send(batch("x" * 40_000, "y" * 40_000))
            assert not isinstance(caught.value, Rejected)

    run(steps)


def test_a_java_receiver_that_fails() -> None:
    """A plain FAILED is a DeliveryError, and the next send goes on."""

    async def steps() -> None:
        async with java_like(lambda n: FAILED if n == 1 else OK) as (port, got), make(port) as sink:
            with pytest.raises(DeliveryError, match="answers FAILED"):
                await sink.send(batch("a"))
            await sink.send(batch("a"))
            assert len(got) == 2

    run(steps)


def test_request_timeout() -> None:
    """A call without an answer is a DeliveryError after request-timeout, and the connection is made anew."""

    async def steps() -> None:
        silent = java_like(lambda n: None if n == 1 else OK)
        async with silent as (port, _), make(port, request_timeout=0.1) as sink:
            with pytest.raises(DeliveryError, match="request-timeout"):
                await sink.send(batch("a"))
            await sink.send(batch("a"))
            assert (sink.counter.ConnectionCreatedCount, sink.counter.ConnectionClosedCount) == (2, 1)

    run(steps)


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def _http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    await reader.read()
    writer.close()


async def _huge(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(struct.pack(">iii", 1, 1, 2**31 - 1))
    await reader.read()
    writer.close()


async def _refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        await reader.read(10)
    writer.transport.abort()


@pytest.mark.parametrize(
    ("behaviour", "says"),
    [
        (_silent, "connect-timeout"),
        (_http, "breaks"),
        (_huge, "2147483647"),
        (_refuses, "closed the conn"),
    ],
)
def test_no_avro_server(behaviour: Behaviour, says: str) -> None:
    """Whatever stands on the port instead of an avro source is a DeliveryError that says what was seen."""

    async def steps() -> None:
        async with serving(behaviour) as port, make(port, connect_timeout=0.3) as sink:
            with pytest.raises(DeliveryError, match=says):
                await sink.send(batch("a"))
            assert sink.counter.ConnectionFailedCount == 1

    run(steps)


def test_nobody_listens() -> None:
    """A refused connection names the peer."""

    async def steps() -> None:
        async with serving(_silent) as port:
            pass
        async with make(port) as sink:
            with pytest.raises(DeliveryError, match=f"127.0.0.1:{port}"):
                await sink.send(batch("a"))

    run(steps)


def test_a_lost_connection_fails_every_open_send() -> None:
    """When the receiver goes away all sends on the connection fail, none hangs."""

    async def steps() -> None:
        door = Door()
        door.open.clear()
        async with make(1) as sink:
            async with receiver(door) as source:
                sink.peer, sink.config.port = "it", source.listener.port
                sends = [asyncio.create_task(sink.send(labelled(i, "x"))) for i in range(1, 5)]
                await door.knocked.wait()
                await settle()
            results = await asyncio.gather(*sends, return_exceptions=True)
            assert all(isinstance(result, DeliveryError) for result in results)

    run(steps)


def test_reset_connection_interval() -> None:
    """After the interval a new connection is made, once the calls on the old one are answered."""

    async def steps() -> None:
        door = Door()
        async with receiver(door) as source, make(source.listener.port, reset_interval=0.05) as sink:
            await sink.send(batch("a"))
            await asyncio.sleep(0.06)
            await sink.send(batch("b"))
            assert sink.counter.ConnectionCreatedCount == 2
        assert door.bodies == ["a", "b"]

    run(steps)


@pytest.mark.parametrize("level", [0, 1, 9])
def test_deflate(level: int) -> None:
    """compression-type = deflate with any level, to a source that has it too."""

    async def steps() -> None:
        door = Door()
        compressed = {"compression_type": "deflate"}
        async with (
            receiver(door, **compressed) as source,
            make(source.listener.port, compression_level=level, **compressed) as sink,
        ):
            await sink.send(batch("a" * 50_000, "b"))
            await sink.send(batch("c"))
        assert door.bodies == ["a" * 50_000, "b", "c"]

    run(steps)


def test_a_full_pipeline_goes_back_and_comes_again_in_order() -> None:
    """A batch that fails in a pipeline, and those behind it, are sent again and kept in order, each once."""

    async def steps() -> None:
        door = Door()
        full_at = iter([False, True])

        async def process(one: Batch, marks: Marks | None = None) -> Kept:
            if next(full_at, False):
                raise ChannelFull("no room")
            return await door.process(one, marks)

        async with receiver(door) as source, make(source.listener.port) as sink:
            source.process = process
            batches = [labelled(i, str(i)) for i in range(1, 7)]
            results = await asyncio.gather(*map(sink.send, batches), return_exceptions=True)
            failed = [one for one, result in zip(batches, results, strict=True) if result]
            assert failed == batches[1:]
            for one in failed:
                await sink.send(one)
        assert door.bodies == list("123456")

    run(steps)


def test_answer_metadata_that_is_junk() -> None:
    """Limits that are no numbers count as not said."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = ServerConnection(Protocols(), {"headrace.inFlight": b"\xff", "headrace.maxBytes": b"9" * 30})
        while data := await reader.read(1 << 16):
            wire.receive(data)
            for call in iter(wire.next_call, None):
                writer.writelines(wire.answer(call, OK, write_map({"headrace.accepted": b"x"})))
            writer.writelines(wire.replies())
        writer.close()

    async def steps() -> None:
        async with serving(serve) as port, make(port) as sink:
            await sink.send(labelled(1, "a"))
            assert (sink.in_flight, sink.max_bytes) == (1, 1 << 20)

    run(steps)
