"""netcat: Flume's answers, byte for byte, as they were seen of Flume 1.11."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agent import server
from agent.errors import ChannelError, ChannelFull
from agent.event import Batch
from agent.metrics import SourceCounter
from agent.source import Kept, Marks, Source
from agent.sources.netcat import NetcatConfig, NetcatSource
from tests.contracts.channel import settle
from tests.contracts.source import Door, SourceContract

TOO_LONG = b"FAILED: Event exceeds the maximum length (512 chars, including newline)\n"


def make(**keys: Any) -> NetcatSource:
    return NetcatSource("r1", NetcatConfig(channels=["c1"], bind="127.0.0.1", port=0, **keys))


@asynccontextmanager
async def connected(source: Source) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    assert isinstance(source, NetcatSource) and source.listener
    reader, writer = await asyncio.open_connection("127.0.0.1", source.listener.port)
    try:
        yield reader, writer
    finally:
        writer.close()


class TestNetcatSource(SourceContract):
    """What Flume's NetcatSource does, and the contract of sources."""

    keys: dict[str, Any] = {}

    @pytest.fixture(autouse=True)
    def _little_grace(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(server, "GRACE_SECONDS", 0.1)

    def make(self) -> Source:
        return make(**self.keys)

    @asynccontextmanager
    async def peer(self, source: Source) -> AsyncIterator[Callable[[str], Coroutine[Any, Any, bool]]]:  # type: ignore[override]
        async with connected(source) as (reader, writer):

            async def send(body: str) -> bool:
                writer.write(body.encode() + b"\n")
                answer = await reader.readline()
                assert answer == b"OK\n" or answer.startswith(b"FAILED: ") or not answer
                return answer == b"OK\n"

            yield send

    def talk(self, *parts: bytes, **keys: Any) -> tuple[bytes, Door]:
        """Send parts, one after another, end; all that came back, and the door."""
        self.keys = keys
        answers, doors = [], []

        async def steps(source: Source, door: Door, send: Any) -> None:
            async with connected(source) as (reader, writer):
                for part in parts:
                    writer.write(part)
                    await settle()
                writer.write_eof()
                answers.append(await reader.read())
                doors.append(door)

        self.run(steps)
        return answers[0], doors[0]

    @pytest.mark.parametrize("parts", [(b"a\nb\r\n\n",), (b"a\nb", b"\r", b"\n\n"), (b"a", b"\n", b"b\r\n", b"\n")])
    def test_lines(self, parts: tuple[bytes, ...]) -> None:
        """One OK a line, however the bytes are cut; a carriage return stays, an empty line is an event."""
        answer, door = self.talk(*parts)
        assert answer == b"OK\n" * 3
        assert door.bodies == ["a", "b\r", ""]

    def test_lines_that_came_together_are_put_together(self) -> None:
        """A hundred lines of one read are one batch."""
        answer, door = self.talk(b"x\n" * 250)
        assert answer == b"OK\n" * 250
        assert [len(batch) for batch in door.batches] == [100, 100, 50]

    def test_the_last_line_needs_a_newline(self) -> None:
        """What has no newline at the end of the connection is no event and has no answer."""
        answer, door = self.talk(b"a\nunterminated")
        assert (answer, door.bodies) == (b"OK\n", ["a"])

    def test_without_acknowledgements(self) -> None:
        """ack-every-event = false: nothing is answered to what is kept."""
        answer, door = self.talk(b"a\nb\n", ack_every_event=False)
        assert (answer, door.bodies) == (b"", ["a", "b"])

    @pytest.mark.parametrize(
        ("sent", "answer"),
        [
            (b"y" * 511, b""),
            (b"y" * 511 + b"\n", b"OK\n"),
            (b"y" * 512, TOO_LONG),
            (b"y" * 512 + b"\n", TOO_LONG),
            (("é" * 511 + "\n").encode(), b"OK\n"),
            (("é" * 512).encode(), TOO_LONG),
            (b"ok\n" + b"x" * 520 + b"\nmore\n", b"OK\n" + TOO_LONG),
        ],
    )
    def test_a_line_is_bounded(self, sent: bytes, answer: bytes) -> None:
        """max-line-length counts characters with the newline; what is longer is refused and closes the connection."""
        assert self.talk(sent)[0] == answer

    def test_a_line_without_end_is_bounded(self) -> None:
        """A client that never sends a newline is refused and closed; others are served."""

        async def steps(source: Source, door: Door, send: Any) -> None:
            async with connected(source) as (reader, writer):
                writer.write(b"z" * 100_000)
                assert await reader.read() == TOO_LONG
            assert await send("a")

        self.run(steps)

    def test_another_encoding(self) -> None:
        """Bodies are UTF-8 whatever the client uses, also where a newline has two bytes."""
        assert self.talk("é\n".encode("iso-8859-1"), encoding="ISO-8859-1")[1].bodies == ["é"]
        sent = "é\nü\n".encode("utf-16-le")
        assert self.talk(sent[:3], sent[3:], encoding="utf-16-le")[1].bodies == ["é", "ü"]

    def test_bytes_that_are_not_in_the_encoding(self) -> None:
        """They are refused by name; in UTF-8, which isn't decoded, they are kept as they are."""
        answer, _ = self.talk(b"a\n\x00\xd8\x00\x00", encoding="utf-16-le")
        assert answer.startswith(b"FAILED: Event is not in the encoding utf-16-le\n")
        answer, door = self.talk(b"h\xff\n")
        assert answer == b"OK\n" and door.batches[0].events[0].body == b"h\xff"

    def test_each_line_has_its_own_answer_when_room_is_short(self) -> None:
        """Lines that don't fit together are put one by one, in order: some are kept, some FAILED."""
        self.keys = {}

        async def steps(source: Source, door: Door, send: Any) -> None:
            async def process(batch: Batch, marks: Marks | None = None) -> Kept:
                if len(door.bodies) + len(batch) > 2:
                    raise ChannelFull("channel c1\nis full")
                return await door.process(batch)

            source.process = process  # type: ignore[assignment]
            async with connected(source) as (reader, writer):
                writer.write(b"a\nb\nc\nd\n")
                writer.write_eof()
                full = b"FAILED: channel c1 is full\n"
                assert await reader.read() == b"OK\nOK\n" + full + full
            assert door.bodies == ["a", "b"]
            assert source.counter.EventReceivedCount == 4 and source.counter.EventAcceptedCount == 2

        self.run(steps)

    def test_nothing_more_is_read_while_lines_wait(self) -> None:
        """While a channel holds a put back, a client that goes on sending is held back by TCP."""

        async def steps(source: Source, door: Door, send: Any) -> None:
            door.open.clear()
            async with connected(source) as (_, writer):
                writer.write(b"a\n" * 10)
                await door.knocked.wait()
                for _ in range(200):
                    writer.write(b"x" * 100 + b"\n" * 1000)
                await settle()
                [client] = [peer for peer in source.listener.peers if peer.paused]  # type: ignore[attr-defined]
                assert len(client.rest) <= 1 << 18
                door.open.set()

        self.run(steps)

    def test_a_broken_channel_ends_the_source(self) -> None:
        """A ChannelError that isn't 'full' is answered FAILED and comes out of run."""

        async def steps() -> None:
            source, door = make(), Door()

            async def process(batch: Batch, marks: Marks | None = None) -> Kept:
                raise ChannelError("the device is gone")

            source.process, source.bury = process, door.bury
            source.counter = SourceCounter("r1")
            async with asyncio.timeout(20), source:
                running = asyncio.create_task(source.run())
                async with connected(source) as (reader, writer):
                    writer.write(b"a\n")
                    assert await reader.readline() == b"FAILED: the device is gone\n"
                    with pytest.raises(ChannelError, match="the device is gone"):
                        await running

        asyncio.run(steps())

    def test_connections_are_bounded(self) -> None:
        """Beyond maxConnections a client is closed at once; those inside are served."""
        self.keys = {"max_connections": 2}

        async def steps(source: Source, door: Door, send: Any) -> None:
            async with connected(source):
                async with connected(source) as (reader, _):
                    assert await reader.read() == b""
                assert await send("a")

        self.run(steps)

    def test_an_unknown_encoding_is_named(self) -> None:
        """An encoding that doesn't exist, or isn't one of text, is a fault of the configuration."""
        for name in ("klingon", "base64"):
            [(key, text)] = NetcatConfig(channels=[], bind="", port=0, encoding=name).problems()
            assert key == "encoding" and name in text
