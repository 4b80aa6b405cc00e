"""`type = netcat`: each line that comes over TCP is an event (Flume's NetcatSource).

    client    Hello world!\\n
    source    OK\\n                                   after the channels keep the event
              FAILED: <reason>\\n                     a channel has no room: the client sends the line again
              FAILED: Event exceeds the maximum length (512 chars, including newline)\\n    and the connection closes

Lines that came together are put together, and answered in their order once they are kept. Where that finds no room
they are put one by one, as Flume does, so that each has its own answer. While lines wait for a channel nothing more is
read from their client. What Flume does too: the newline isn't kept and `\\r` is, bodies are UTF-8 whatever `encoding`
the client uses, and a last line without a newline is no event.
"""

from __future__ import annotations

import asyncio
import codecs
import time
from typing import ClassVar

from agent.config.fields import Config as AnyConfig
from agent.config.fields import key
from agent.errors import ChannelError, ChannelFull
from agent.event import Batch, Event
from agent.server import Listener, Peer
from agent.source import Source, SourceConfig

BATCH = 100
"""Most lines put at once; Flume's transactionCapacity by default."""
CHAR_BYTES = 4
"""A character has no more in UTF-8."""
MAX_HELD = 64 << 20
"""Bytes of lines of all connections that wait for the channels; then reading pauses."""


class NetcatConfig(SourceConfig):
    bind: str = key("bind", doc="address to listen on")
    port: int = key("port", low=0, high=65535, doc="port to listen on; 0 takes a free one")
    ack_every_event: bool = key("ack-every-event", True, doc="answer OK to each line that is kept")
    max_line_length: int = key(
        "max-line-length", 512, low=1, high=1 << 20, doc="characters of a line, its newline included"
    )
    encoding: str = key("encoding", "utf-8", also=("source-encoding",), doc="of the lines, a name that Python knows")
    max_connections: int = key("maxConnections", 1000, low=1, high=1_000_000, doc="beyond, new ones are closed at once")

    def problems(self) -> list[tuple[str, str]]:
        try:
            "".encode(self.encoding)
        except LookupError:
            return [("encoding", f"{self.encoding!r} is no encoding of text, as utf-8 or iso-8859-1 are")]
        return []


class NetcatSource(Source):
    """Lines in, answers out."""

    Config: ClassVar[type[AnyConfig]] = NetcatConfig
    config: NetcatConfig
    listener: Listener | None = None

    async def open(self) -> None:
        """ConfigError if the address can't be had."""
        keys = self.config
        self.fatal: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        listener = Listener(
            self.log,
            lambda listener: Client(listener, self),
            bind=keys.bind,
            port=keys.port,
            max_connections=keys.max_connections,
            max_held=MAX_HELD,
        )
        await listener.open()
        self.listener = listener
        self.counter.gauges["OpenConnectionCount"] = lambda: listener.connections

    async def run(self) -> None:
        assert self.listener
        accepts = asyncio.create_task(self.listener.run(), name=f"{self.name} listens")
        try:
            await asyncio.wait({accepts, self.fatal}, return_when=asyncio.FIRST_COMPLETED)
            await (self.fatal if self.fatal.done() else accepts)
        finally:
            accepts.cancel()
            await asyncio.wait({accepts})

    async def close(self) -> None:
        """What was begun is answered, then connections close."""
        if self.listener:
            await self.listener.close()
            self.fatal.cancel()

    def fail(self, error: ChannelError) -> None:
        """A channel can't keep its promise: `run` raises it."""
        if not self.fatal.done():
            self.fatal.set_exception(error)

    async def keep(self, lines: list[bytes]) -> bytes:
        """Put lines; their answers."""
        await self.process(Batch([Event({}, line) for line in lines]))
        self.counter.EventAcceptedCount += len(lines)
        return b"OK\n" * len(lines) if self.config.ack_every_event else b""


class Client(Peer, asyncio.Protocol):
    """One connection. One put is under way at a time; until it is answered nothing more is read."""

    def __init__(self, listener: Listener, source: NetcatSource) -> None:
        super().__init__(listener)
        self.source = source
        self.limit = source.config.max_line_length
        self.rest = b""
        """What isn't put yet, as UTF-8: what one read brings, and the line before it that has no end."""
        self.task: asyncio.Task[None] | None = None
        self.ending = False
        """Nothing more is read."""
        plain = codecs.lookup(source.config.encoding).name in ("utf-8", "ascii")
        self.decoder = None if plain else codecs.getincrementaldecoder(source.config.encoding)()

    def data_received(self, data: bytes) -> None:
        self.touched = time.monotonic()
        if self.ending:
            return
        try:
            self.rest += self.decoder.decode(data).encode() if self.decoder else data
        except UnicodeError:
            self._refuse(f"Event is not in the encoding {self.source.config.encoding}")
        self.resume()

    def eof_received(self) -> bool:
        """What came before is put and answered first."""
        self.ending = True
        self.resume()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self.ending, self.rest = True, b""  # nobody is left to be told what became of it
        super().connection_lost(error)

    def finish(self) -> None:
        self.ending, self.rest = True, b""
        self.resume()

    def pause_writing(self) -> None:
        self.stuffed = True
        self.resume()

    def resume_writing(self) -> None:
        self.stuffed = False
        self.resume()

    def resume(self) -> None:
        """Put what is there; then read on, or pause, or close."""
        if not self.task and not self.stuffed:
            self._put()
        if self.transport.is_closing():
            return
        if self.ending and not self.task and not self.stuffed:
            self.transport.close()
            return
        reads = not (self.task or self.stuffed or self.ending) and self.listener.budget.allows(self)
        if reads == self.paused:
            self.paused = not reads
            (self.transport.resume_reading if reads else self.transport.pause_reading)()

    def _put(self) -> None:
        lines, too_long = self._lines()
        if lines:
            self.source.counter.EventReceivedCount += len(lines)
            self.listener.budget.count(self, 0, sum(map(len, lines)))
            self.task = asyncio.create_task(self._keep(lines), name=f"netcat {self.address}")
            self.task.add_done_callback(self._kept)
        elif too_long:
            self._refuse(f"Event exceeds the maximum length ({self.limit} chars, including newline)")

    def _lines(self) -> tuple[list[bytes], bool]:
        """Whole lines, taken off `rest`, and whether the one after them is too long."""
        lines: list[bytes] = []
        start, too_long = 0, False
        while len(lines) < BATCH and not too_long:
            end = self.rest.find(b"\n", start)
            too_long = self._is_too_long(self.rest[start : end if end >= 0 else start + CHAR_BYTES * self.limit])
            if end < 0 or too_long:
                break
            lines.append(self.rest[start:end])
            start = end + 1
        self.rest = self.rest[start:]
        return lines, too_long

    def _is_too_long(self, line: bytes) -> bool:
        return len(line) >= self.limit and len(line.decode("utf-8", "replace")) >= self.limit

    def _refuse(self, reason: str) -> None:
        """Say so, and close: where the next line begins is unknown."""
        self.source.counter.EventReadFail += 1
        self.listener.complain(f"{self.address}: {reason}; closed")
        self._answer(f"FAILED: {reason}\n".encode())
        self.ending, self.rest = True, b""

    async def _keep(self, lines: list[bytes]) -> None:
        try:
            self._answer(await self.source.keep(lines))
        except ChannelFull as full:
            if len(lines) == 1:
                self._fail(full)
            for line in lines if len(lines) > 1 else ():
                await self._keep([line])
        except ChannelError as error:
            self._fail(error)
            self.source.fail(error)
        except Exception as error:
            self.source.log.exception("%s: %d lines were not kept", self.address, len(lines))
            self.source.counter.GenericProcessingFail += 1
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._answer(f"FAILED: {' '.join(str(error).split())}\n".encode())

    def _answer(self, answer: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(answer)

    def _kept(self, task: asyncio.Task[None]) -> None:
        self.task = None
        if task.cancelled():
            self.ending, self.rest = True, b""
        self.listener.budget.count(self, 0, 0)
        self.resume()
