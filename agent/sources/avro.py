"""`type = avro`: Flume's Avro RPC. A batch stays the bytes that came; OK goes out after the channels keep it.

Calls of one connection are handed on in their order, without waiting for the one before, up to `IN_FLIGHT`; then
reading pauses. Answers go out as they come. What keeps order nonetheless: after a batch of a stream was FAILED, later
batches of that stream on that connection are FAILED too, until the sender has gone back to where it failed.

append fails as in Flume: FAILED if a channel has no room, a system error otherwise; appendBatch is FAILED always. An
answer's metadata says more to a Headrace sink (docs/wire.md); Java ignores it.
"""

from __future__ import annotations

import asyncio
import time
from functools import lru_cache
from typing import ClassVar

from agent.avro.connection import FAILED, OK, Call, ServerConnection
from agent.avro.handshake import Protocols, write_map
from agent.config.fields import Bytes, key
from agent.config.fields import Config as AnyConfig
from agent.errors import AgentError, ChannelError, ChannelFull, ConfigError, Rejected, RemoteProtocolError
from agent.event import Batch
from agent.server import IpFilter, Listener, Peer
from agent.source import Kept, Source, SourceConfig
from agent.store.streams import Transit, from_metadata
from agent.tls import ServerTlsConfig, server_context
from agent.version import VERSION

IN_FLIGHT = 8
"""Calls of one connection that may wait for the channels."""
SCRATCH = 1 << 18
"""Bytes that one read takes; one buffer for all connections, since a read is used up before the next."""
FRAME_ROOM = 1 << 16
"""Of a frame, what isn't events: labels, name, handshake."""
MAX_REASON = 500
MAX_REFUSED = 1000
"""Streams of one connection that wait for their sender to go back; beyond it the connection ends."""
NEW_STREAMS = 100
"""Streams that one connection may begin at once, and in a minute: a store knows 10,000, and each stays 90 days."""
OVERTAKES = "a batch before this one was not kept; it goes first"


class AvroSourceConfig(ServerTlsConfig, SourceConfig):
    IGNORED: ClassVar[dict[str, str]] = {"threads": "one thread serves every connection"}

    bind: str = key("bind", doc="address to listen on")
    port: int = key("port", low=0, high=65535, doc="port to listen on; 0 takes a free one")
    compression_type: str = key("compression-type", "none", choices=("none", "deflate"), doc="as the sender has it")
    ip_filter: bool = key("ipFilter", False, doc="whether ipFilterRules are asked")
    ip_filter_rules: str = key("ipFilterRules", "", doc="allow|deny:ip|name:<pattern>, ...; the first that matches")
    max_connections: int = key("maxConnections", 1000, low=1, high=1_000_000, doc="beyond, new ones are closed at once")
    max_frame: Bytes = key("maxFrameBytes", Bytes(16 << 20), low=1 << 17, high=1 << 30, doc="largest call")
    max_held: Bytes = key(
        "maxBytesInFlight", Bytes(64 << 20), low=1 << 20, doc="of all connections; then reading pauses"
    )

    def problems(self) -> list[tuple[str, str]]:
        found = super().problems()
        if self.ip_filter and not self.ip_filter_rules:
            found.append(("ipFilterRules", "is missing: it takes rules such as allow:ip:10.0.*, deny:ip:*"))
        try:
            IpFilter(self.ip_filter_rules)
        except ConfigError as error:
            found.append(("ipFilterRules", str(error)))
        if self.max_frame > self.max_held:
            found.append(("maxBytesInFlight", f"must be at least maxFrameBytes ({self.max_frame})"))
        return found


class AvroSource(Source):
    """Flume's AvroSourceProtocol: append and appendBatch."""

    Config: ClassVar[type[AnyConfig]] = AvroSourceConfig
    config: AvroSourceConfig
    listener: Listener

    async def open(self) -> None:
        config = self.config
        self.protocols = Protocols()
        self.limits = {
            "headrace.version": VERSION.encode(),
            "headrace.maxBytes": b"%d" % (config.max_frame - FRAME_ROOM),
            "headrace.inFlight": b"%d" % IN_FLIGHT,
        }
        self.told = lru_cache(512)(self._told)
        self.scratch = memoryview(bytearray(SCRATCH))
        self.loop = asyncio.get_running_loop()
        listener = Listener(
            self.log,
            lambda listener: AvroPeer(listener, self),
            bind=config.bind,
            port=config.port,
            max_connections=config.max_connections,
            max_held=config.max_held,
            context=server_context(config) if config.tls else None,
            ip_filter=IpFilter(config.ip_filter_rules) if config.ip_filter else None,
        )
        await listener.open()
        self.listener = listener
        self.counter.gauges["OpenConnectionCount"] = lambda: listener.connections

    async def run(self) -> None:
        await self.listener.run()

    async def close(self) -> None:
        if hasattr(self, "listener"):
            await self.listener.close()

    def _told(self, kept: Kept) -> bytes:
        """Metadata of an OK."""
        counts = {"headrace.accepted": b"%d" % kept.stored, "headrace.repeats": b"%d" % kept.repeats}
        return write_map({**self.limits, **counts})


class AvroPeer(Peer, asyncio.BufferedProtocol):
    """One client. It reads only while it may hand calls on."""

    def __init__(self, listener: Listener, source: AvroSource) -> None:
        super().__init__(listener)
        self.source = source
        deflate = source.config.compression_type == "deflate"
        self.wire = ServerConnection(
            source.protocols, source.limits, max_bytes=source.config.max_frame, deflate=deflate
        )
        self.calls: dict[asyncio.Task[None], Transit | None] = {}
        """What waits for the channels; with its labels once it has begun."""
        self.unkept = 0
        """Bytes of the calls that wait for the channels."""
        self.refused: dict[tuple[bytes, str], int] = {}
        """Streams of which a batch was FAILED: the number that preceded it."""
        self.streams: set[tuple[bytes, str]] = set()
        """Those that have begun."""
        self.tokens, self.refilled = float(NEW_STREAMS), time.monotonic()
        self.out: list[bytes] = []
        self.stuffed = False
        """The client doesn't read its answers."""
        self.ending = False
        """Nothing more is handed on."""
        self.ended = False
        """The client has sent all it wants to."""

    # -- in

    def get_buffer(self, sizehint: int) -> memoryview:
        room = self.listener.budget.room(self)
        return self.source.scratch if room >= SCRATCH else self.source.scratch[:room]

    def buffer_updated(self, nbytes: int) -> None:
        self.touched = time.monotonic()
        if not self.ending:
            self.wire.receive(self.source.scratch[:nbytes])
            self.resume()

    def eof_received(self) -> bool:
        """Answer what it sent before, if the transport can stay half open (TLS can't)."""
        self.ended = True
        half_open = self.transport.get_extra_info("sslcontext") is None
        self.resume()
        return half_open

    def pause_writing(self) -> None:
        self.stuffed = True

    def resume_writing(self) -> None:
        self.stuffed = False
        self.resume()

    def connection_lost(self, error: Exception | None) -> None:
        self.ending = True
        self.out.clear()
        super().connection_lost(error)

    def finish(self) -> None:
        self.ending = True
        self.resume()

    def cut(self) -> None:
        for task in list(self.calls):
            task.cancel()
        super().cut()

    def resume(self) -> None:
        """Hand on what may be handed on; then read, or pause, or close."""
        try:
            self._hand_on()
        except RemoteProtocolError as error:
            self.source.counter.EventReadFail += 1
            self.listener.complain(f"{self.address}: {error}; closed")
            self.ending = True
            self._flush()
            self.shut()
        budget = self.listener.budget
        budget.count(self, 0 if self.ending else self.wire.held, self.unkept)
        if not self.calls and (self.ending or self.ended):
            self._flush()
            self.shut()
        elif not self.transport.is_closing():
            room = len(self.calls) < IN_FLIGHT and not self.stuffed and not self.ending
            self._read(room and budget.allows(self))

    def _read(self, on: bool) -> None:
        if on == self.paused:
            self.paused = not on
            (self.transport.resume_reading if on else self.transport.pause_reading)()

    def _hand_on(self) -> None:
        while len(self.calls) < IN_FLIGHT and not self.stuffed and not self.ending:
            call = self.wire.next_call()
            replies = self.wire.replies()
            if replies:
                self._write(replies)
            if call is None:
                return
            labels = from_metadata(call.metadata, call.count) if call.metadata else (None, None)
            batch = Batch(None, call.block, call.count, *labels)
            self.unkept += len(call.block)
            task = self.source.loop.create_task(self._keep(call, batch), name="avro call")
            self.calls[task] = None

    # -- keep

    async def _keep(self, call: Call, batch: Batch) -> None:
        """One call, from its batch to its answer."""
        counter = self.source.counter
        counter.EventReceivedCount += batch.count
        counter.AppendReceivedCount += call.single
        counter.AppendBatchReceivedCount += not call.single
        try:
            if batch.transit:
                self._begin(batch.transit)
            kept = await self.source.process(batch)
        except asyncio.CancelledError:
            self._fail(call, batch.transit, ChannelFull(OVERTAKES))
        except Exception as error:
            self._fail(call, batch.transit, error)
        else:
            counter.EventAcceptedCount += batch.count
            counter.AppendAcceptedCount += call.single
            counter.AppendBatchAcceptedCount += not call.single
            counter.repeats += kept.repeats
            self._write(self.wire.answer(call, OK, self.source.told(kept)))
        self._landed(call)

    def _landed(self, call: Call) -> None:
        """Not by a callback of the task: that would cost each call a turn of the loop."""
        self.unkept -= len(call.block)
        task = asyncio.current_task()
        assert task
        del self.calls[task]
        self.resume()

    def _begin(self, transit: Transit) -> None:
        """ChannelFull for what would overtake a batch that was FAILED."""
        stream = (transit.origin, transit.channel)
        if stream not in self.streams:
            self._admit(stream)
        if transit.after > self.refused.get(stream, transit.after):
            raise ChannelFull(OVERTAKES)
        self.refused.pop(stream, None)
        task = asyncio.current_task()
        if task:
            self.calls[task] = transit

    def _admit(self, stream: tuple[bytes, str]) -> None:
        """ChannelFull if this connection begins more streams than a store can remember."""
        now = time.monotonic()
        self.tokens = min(float(NEW_STREAMS), self.tokens + (now - self.refilled) * NEW_STREAMS / 60)
        self.refilled = now
        if self.tokens < 1:
            raise ChannelFull(f"this connection has begun {NEW_STREAMS} streams in a minute: wait before the next")
        self.tokens -= 1
        if len(self.streams) >= MAX_REFUSED:
            self.streams.clear()
        self.streams.add(stream)

    def _fail(self, call: Call, transit: Transit | None, error: Exception) -> None:
        if transit:
            self._hold_back(transit)
        if not isinstance(error, AgentError):
            self.source.counter.GenericProcessingFail += 1
            self.source.log.error("unexpected exception", exc_info=error)
        text = str(error) if isinstance(error, AgentError) else f"internal error ({type(error).__name__})"
        if call.single and not isinstance(error, ChannelFull):
            self._write(self.wire.error(call, text))
        else:
            extra = {"headrace.rejected": b"1"} if isinstance(error, Rejected) else {}
            metadata = {**self.source.limits, "headrace.reason": text.encode()[:MAX_REASON], **extra}
            self._write(self.wire.answer(call, FAILED, write_map(metadata)))
        if isinstance(error, ChannelError) and not isinstance(error, ChannelFull):
            self.listener.fail(error)

    def _hold_back(self, transit: Transit) -> None:
        """Later batches of this stream wait until the sender has gone back; those under way are called off."""
        stream = (transit.origin, transit.channel)
        self.refused[stream] = min(transit.after, self.refused.get(stream, transit.after))
        for task, other in self.calls.items():
            if other and (other.origin, other.channel) == stream and other.after > transit.after:
                task.cancel()
        if len(self.refused) > MAX_REFUSED:
            self.finish()

    # -- out

    def _write(self, parts: list[bytes]) -> None:
        """Answers of one turn of the event loop leave together, if there may be several."""
        if len(self.calls) == 1 and not self.out:
            if not self.transport.is_closing():
                self.transport.write(b"".join(parts))
            return
        if not self.out:
            self.source.loop.call_soon(self._flush)
        self.out += parts

    def _flush(self) -> None:
        if self.out and not self.transport.is_closing():
            self.transport.write(b"".join(self.out))
        self.out.clear()
