"""`type = avro`: the forward leg over Flume's Avro RPC.

A batch goes out as the bytes it is kept as: its block between a few bytes of head and one of tail. To a Java Flume one
call is open at a time. A Headrace source says in the handshake how many it lets wait (`headrace.inFlight`) and the
largest batch it takes; batches that carry labels are then sent without waiting for the answer to the one before, since
labels let the receiver recognise what it has when one of them fails. Batches without labels (from a memory channel) go
one by one.

A connection that fails fails all calls on it with DeliveryError, and the next send makes a new one.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import ClassVar

from agent.avro.connection import FAILED, OK, Answer, ClientConnection
from agent.config.fields import Config as AnyConfig
from agent.config.fields import Seconds, key
from agent.errors import DeliveryError, Rejected, RemoteProtocolError
from agent.event import Batch
from agent.ports import reason, spelled
from agent.sink import Held, Sink, SinkConfig
from agent.store.streams import to_metadata
from agent.tls import ClientTlsConfig, client_context
from agent.version import VERSION

SCRATCH = 1 << 14
MOST_IN_FLIGHT = 64
BATCH_BYTES = 1 << 20
"""Most bytes of a batch, unless the receiver takes less or an event has more."""
HELLO = {"headrace.version": VERSION.encode()}


class AvroSinkConfig(ClientTlsConfig, SinkConfig):
    IGNORED: ClassVar[dict[str, str]] = {"maxIoWorkers": "one thread serves every connection"}

    hostname: str = key("hostname", doc="where an avro source listens")
    port: int = key("port", low=1, high=65535, doc="its port")
    batch_size: int = key("batch-size", 100, low=1, doc="most events in one call", also=("batchSize",))
    connect_timeout: Seconds = key(
        "connect-timeout", Seconds(20), unit="ms", low=0.001, doc="to connect and shake hands"
    )
    request_timeout: Seconds = key("request-timeout", Seconds(20), unit="ms", low=0.001, doc="wait for an answer")
    reset_interval: Seconds = key(
        "reset-connection-interval", Seconds(0), unit="s", doc="connect anew so often; 0 never"
    )
    compression_type: str = key("compression-type", "none", choices=("none", "deflate"), doc="as the receiver has it")
    compression_level: int = key("compression-level", 6, low=0, high=9, doc="1 is fastest, 9 is smallest")


class AvroSink(Sink):
    """Sends appendBatch calls; returns when the answer is OK."""

    Config: ClassVar[type[AnyConfig]] = AvroSinkConfig
    config: AvroSinkConfig
    link: Link | None = None

    async def open(self) -> None:
        config = self.config
        self.batch_size = config.batch_size
        self.peer = spelled(config.hostname, config.port)
        self.context = client_context(config) if config.tls else None
        if config.tls and config.trust_all_certs:
            self.log.warning("trust-all-certs: %s is not verified, anybody in between can read and change", self.peer)
        self.limit = 1
        """Calls that the receiver lets wait."""
        self.turn = asyncio.Lock()
        self.queued = 0

    def held(self) -> Iterator[Held]:
        raise DeliveryError("its receivers keep account of what it sends: give their configurations too")

    async def close(self) -> None:
        if self.link:
            self.link.close()
            self.link = None

    async def send(self, batch: Batch) -> None:
        link = self.link
        if link is None or self.queued or not self._usable(link):
            link = await self._connected()
        self.in_flight = self.limit if batch.transit else 1
        block = batch.block
        if len(block) > link.limit_bytes > 0:
            raise self._too_large(batch.count, len(block), link.limit_bytes)
        labels = to_metadata(batch.transit, batch.identity) if batch.transit or batch.identity else {}
        answer = await link.call(block, batch.count, labels)
        if answer.status != OK:
            self._refused(answer)

    def _too_large(self, count: int, size: int, limit: int) -> DeliveryError:
        text = f"{self.peer} takes {limit} bytes in one call, not {size}"
        return Rejected(f"{text}: raise its maxFrameBytes") if count == 1 else DeliveryError(text)

    def _refused(self, answer: Answer) -> None:
        reason = answer.metadata.get("headrace.reason", b"").decode("utf-8", "replace") or answer.error
        if answer.status == FAILED and answer.metadata.get("headrace.rejected") == b"1":
            raise Rejected(f"{self.peer}: {reason}")
        raise DeliveryError(f"{self.peer} answers FAILED" + (f": {reason}" if reason else ""))

    # -- the connection

    def _usable(self, link: Link) -> bool:
        age = self.config.reset_interval
        return not link.broken and not (age and time.monotonic() - link.born > age)

    async def _connected(self) -> Link:
        """A usable connection, made if need be. Sends pass here one after another, so that they keep their order."""
        self.queued += 1
        try:
            async with self.turn:
                if self.link and not self._usable(self.link):
                    await self.link.idle()
                    self.link.close()
                    self.link = None
                if self.link is None:
                    self.link = await self._connect()
                return self.link
        finally:
            self.queued -= 1

    async def _connect(self) -> Link:
        config, loop = self.config, asyncio.get_running_loop()
        level = config.compression_level if config.compression_type == "deflate" else None
        link = Link(self.peer, ClientConnection(level=level), config.request_timeout, self._lost)
        try:
            async with asyncio.timeout(config.connect_timeout):
                await loop.create_connection(
                    lambda: link,
                    config.hostname,
                    config.port,
                    ssl=self.context,
                    server_hostname=config.hostname if self.context else None,
                )
                await link.opened
        except TimeoutError:
            link.close()
            self.counter.ConnectionFailedCount += 1
            raise DeliveryError(
                f"{self.peer} took longer than {config.connect_timeout:g} s (connect-timeout)"
            ) from None
        except (OSError, DeliveryError) as error:
            link.close()
            self.counter.ConnectionFailedCount += 1
            raise DeliveryError(_why(self.peer, error)) from error
        except BaseException:
            link.close()
            raise
        self.counter.ConnectionCreatedCount += 1
        self._take_limits(link)
        return link

    def _take_limits(self, link: Link) -> None:
        meta = link.wire.meta
        self.limit = min(MOST_IN_FLIGHT, max(1, _number(meta.get("headrace.inFlight"), 1)))
        link.limit_bytes = _number(meta.get("headrace.maxBytes"), 0)
        self.max_bytes = min(BATCH_BYTES, link.limit_bytes or BATCH_BYTES)

    def _lost(self, link: Link) -> None:
        if link.wire.is_open:
            self.counter.ConnectionClosedCount += 1


def _number(text: bytes | None, otherwise: int) -> int:
    return int(text) if text and len(text) < 20 and text.isdigit() else otherwise


def _why(peer: str, error: Exception) -> str:
    if isinstance(error, DeliveryError):
        return str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{peer}: its certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"{peer}: TLS failed: {error.reason or error}"
    why = reason(error) if isinstance(error, OSError) else str(error)
    return f"{peer}: {why or 'closed the connection in the TLS handshake'}"


class Link(asyncio.BufferedProtocol):
    """One connection: calls out, answers in, matched by serial."""

    transport: asyncio.Transport
    limit_bytes = 0
    """Largest block that the receiver takes; 0 if it doesn't say."""

    def __init__(self, peer: str, wire: ClientConnection, patience: float, lost: Callable[[Link], None]) -> None:
        self.peer, self.wire, self.patience, self.lost = peer, wire, patience, lost
        self.scratch = memoryview(bytearray(SCRATCH))
        self.loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = self.loop.create_future()
        self.waiting: dict[int, asyncio.Future[Answer]] = {}
        self.due: deque[tuple[float, int]] = deque()
        self.timer: asyncio.TimerHandle | None = None
        self.broken = ""
        self.born = time.monotonic()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        transport.writelines(self.wire.hello(HELLO))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.scratch

    def buffer_updated(self, nbytes: int) -> None:
        try:
            answers = self.wire.receive(self.scratch[:nbytes])
        except RemoteProtocolError as error:
            self.fail(f"{self.peer} breaks the protocol: {error}")
            return
        replies = self.wire.replies()
        if replies:
            self.transport.writelines(replies)
        if self.wire.is_open and not self.opened.done():
            self.opened.set_result(None)
        for answer in answers:
            future = self.waiting.pop(answer.serial, None)
            if future and not future.done():
                future.set_result(answer)

    def connection_lost(self, error: Exception | None) -> None:
        self.fail(f"{self.peer} closed the connection" + (f": {error}" if error else ""))
        if self.timer:
            self.timer.cancel()
        self.lost(self)

    def fail(self, reason: str) -> None:
        """Every call on this connection fails."""
        if self.broken:
            return
        self.broken = reason
        for future in self.waiting.values():
            if not future.done():
                future.set_exception(DeliveryError(reason))
        self.waiting.clear()
        if not self.opened.done():
            self.opened.set_exception(DeliveryError(reason))
            self.opened.exception()  # seen, even if nobody waits
        if hasattr(self, "transport") and not self.transport.is_closing():
            self.transport.abort()

    async def call(self, block: bytes, count: int, labels: dict[str, bytes]) -> Answer:
        """The answer to an appendBatch; DeliveryError if it doesn't come."""
        if self.broken:
            raise DeliveryError(self.broken)
        serial, parts = self.wire.call(block, count, labels)
        future: asyncio.Future[Answer] = self.loop.create_future()
        self.waiting[serial] = future
        self.transport.writelines(parts)
        self._forget_answered()
        self.due.append((self.loop.time() + self.patience, serial))
        if self.timer is None:
            self.timer = self.loop.call_later(self.patience, self._late)
        return await future

    def _late(self) -> None:
        """Whether the oldest call without an answer is overdue; one timer for all."""
        self.timer = None
        self._forget_answered()
        if not self.due:
            return
        left = self.due[0][0] - self.loop.time()
        if left <= 0:
            self.fail(f"{self.peer} did not answer within {self.patience:g} s (request-timeout)")
        else:
            self.timer = self.loop.call_later(left, self._late)

    def _forget_answered(self) -> None:
        while self.due and self.due[0][1] not in self.waiting:
            self.due.popleft()

    async def idle(self) -> None:
        """Wait until no call is open."""
        while waits := [future for future in self.waiting.values() if not future.done()]:
            await asyncio.wait(waits)

    def close(self) -> None:
        """End it; calls that are open fail."""
        if hasattr(self, "transport") and not self.waiting:
            self.transport.close()
        self.fail("the connection was closed")
