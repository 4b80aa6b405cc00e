"""Connections: frames in, answers out in the order of their requests.

    read     frames go to handlers one after the other, as in Kafka; only Produce requests overlap, up to `IN_FLIGHT`,
             so that they share a commit. With one more frame waiting, reading pauses.
    answer   a chunk at a time, the next when it is gone: what a slow client has yet to read counts in the broker's
             `Room`. Nothing is begun for a client that doesn't read.
    refuse   malformed bytes, an API or version that isn't served, what mustn't come before authentication: that
             connection is closed, with one line in the log. ApiVersions of any version is answered (KIP-511).
    end      when the client has closed, what waits for it is called off. What it appends goes on, and counts
             until it is done: who sends much and closes may not send more than others.

Bounds on connections, on bytes of unfinished requests, on silence in the middle of one: agent/server.py.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from agent.errors import ChannelError, RemoteProtocolError
from agent.server import Listener, Peer
from aggregator.topics.broker import Broker, Session
from aggregator.topics.errors import TopicsError
from aggregator.topics.frames import Data, Frames, Outbox
from aggregator.topics.handlers import BEFORE_AUTHENTICATION, HANDLERS, versions
from aggregator.topics.wire.api import Request, Unsupported, decode_request, encode_response
from aggregator.topics.wire.tables.connection import API_VERSIONS
from aggregator.topics.wire.tables.records import FETCH, PRODUCE

IN_FLIGHT = 5
"""Produce requests of one connection that may wait for their commit; the default of Kafka's clients."""
IN_FLIGHT_BYTES = 3 << 20
"""Their size, unless it is one alone: more of them make no commit larger."""
SCRATCH = 1 << 18
"""Bytes that one read takes."""
BEFORE = 64 << 10
"""Bytes of a frame before authentication."""
AUTHENTICATION_SECONDS = 30.0
LATE = "didn't say who it is in time"
PRODUCE_KEY = PRODUCE.key.to_bytes(2, "big")


@dataclass(slots=True)
class Counts:
    """Of all connections."""

    requests: int = 0
    received: int = 0
    """Bytes."""
    sent: int = 0
    refused: int = 0
    """Connections that were closed for what they sent."""


@dataclass(slots=True, eq=False)
class Flight:
    """A request under way, and its answer once it is there."""

    request: Request
    size: int
    task: asyncio.Task[None] | None = None
    answer: Sequence[Data] | None = None
    """Its parts, none where nothing is answered; None while it is under way."""


@dataclass(slots=True)
class Shared:
    """What all connections have in common."""

    broker: Broker
    most: int
    """Bytes of a frame."""
    tls: bool
    loopback: bool
    counts: Counts = field(default_factory=Counts)
    scratch: memoryview = field(default_factory=lambda: memoryview(bytearray(SCRATCH)))


class TopicsPeer(Peer, asyncio.BufferedProtocol):
    """One client."""

    def __init__(self, listener: Listener, shared: Shared) -> None:
        super().__init__(listener)
        self.shared, self.counts = shared, shared.counts
        self.frames = Frames(shared.scratch, BEFORE)
        self.waiting: memoryview | None = None
        """A frame that can't begin yet."""
        self.flights: deque[Flight] = deque()
        self.out = Outbox()
        self.taken = 0.0
        """Monotonic seconds when it last took all that was written, or something to take was written."""
        self.ending = False
        """Nothing more is begun."""
        self.ended = False
        """The client has sent all it wants to."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        shared = self.shared
        self.transport.set_write_buffer_limits(high=1, low=0)  # `stuffed`: anything has yet to go out
        self.session = Session(shared.broker, self.address, tls=shared.tls, loopback=shared.loopback)
        self.late = asyncio.get_running_loop().call_later(AUTHENTICATION_SECONDS, self._refuse, LATE)
        self._admit()

    def _admit(self) -> None:
        """Who is known may send large frames, and stay."""
        if self.session.principal is not None:
            self.frames.most = self.shared.most
            self.late.cancel()

    # -- in

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.frames.buffer(min(SCRATCH, self.listener.budget.room(self)))

    def buffer_updated(self, nbytes: int) -> None:
        self.touched = time.monotonic()
        self.counts.received += nbytes
        self.frames.received(nbytes)
        if not self.ending:
            self.resume()

    def eof_received(self) -> bool:
        """It is gone, or waits for no more than what it has sent: begin that, if the transport can stay half open
        (TLS can't)."""
        self.ended = True
        self._call_off(everything=True)
        self.resume()
        return self.transport.get_extra_info("sslcontext") is None

    def pause_writing(self) -> None:
        self.stuffed = True
        self.taken = time.monotonic()

    def resume_writing(self) -> None:
        self.stuffed = False
        self.touched = time.monotonic()
        self.resume()

    def stalled(self, since: float) -> bool:
        """As any peer; and who doesn't read its answers, whatever it sends meanwhile."""
        return super().stalled(since) or (self.stuffed and self.taken < since)

    def connection_lost(self, error: Exception | None) -> None:
        self.ending = True
        self.late.cancel()
        self._call_off(everything=True)
        self.out.clear()
        self.session.hold(-self.session.held)
        super().connection_lost(error)

    def finish(self) -> None:
        self.ending = True
        self._call_off()
        self.resume()

    def _call_off(self, everything: bool = False) -> None:
        """End what waits for records to come; or everything but appends, where nobody waits for an answer."""
        for flight in self.flights:
            api = flight.request.api
            if flight.task and (api is FETCH or (everything and api is not PRODUCE)):
                flight.task.cancel()
                flight.answer = ()
        self._land()

    # -- begin

    def resume(self) -> None:
        """Send what is to be sent and begin what may begin; then read, or pause, or close."""
        self._send()
        try:
            self._begin()
        except RemoteProtocolError as error:
            self._refuse(str(error))
        self.listener.budget.count(self, 0 if self.ending else self.frames.held, self._busy())
        over = self.ending or (self.ended and self.waiting is None)
        if over and not self.flights and not self.out:
            self.shut()
        elif not self.transport.is_closing():
            self._read(self.waiting is None and not self.ending and self.listener.budget.allows(self))

    def _busy(self) -> int:
        return sum(flight.size for flight in self.flights) + len(self.waiting or b"")

    def _read(self, on: bool) -> None:
        if on == self.paused:
            self.paused = not on
            (self.transport.resume_reading if on else self.transport.pause_reading)()

    def _begin(self) -> None:
        while not self.ending:
            if self.waiting is None:
                self.waiting = self.frames.next()
            if self.waiting is None or not self._has_turn(self.waiting):
                return
            frame, self.waiting = self.waiting, None
            self._start(frame)

    def _has_turn(self, frame: memoryview) -> bool:
        """Whether a request may begin while others are under way."""
        if self.stuffed or self.out:
            return False
        both = bytes(frame[:2]) == PRODUCE_KEY and all(one.request.api is PRODUCE for one in self.flights)
        size = len(frame) + sum(one.size for one in self.flights)
        return not self.flights or (both and len(self.flights) < IN_FLIGHT and size <= IN_FLIGHT_BYTES)

    def _start(self, frame: memoryview) -> None:
        self.counts.requests += 1
        try:
            request = decode_request(frame)
        except Unsupported as error:
            if error.api_key != API_VERSIONS.key:
                raise
            self.out.put(encode_response(API_VERSIONS, 0, error.correlation, versions.unsupported()))
            self._send()
            return
        if self.session.principal is None and request.api.key not in BEFORE_AUTHENTICATION:
            raise RemoteProtocolError(f"{request.api} before it said who it is")
        flight = Flight(request, len(frame))
        self.flights.append(flight)
        flight.task = asyncio.get_running_loop().create_task(self._answer(flight), name=request.api.name)

    # -- answer

    async def _answer(self, flight: Flight) -> None:
        """One request, from its handler to its answer."""
        request, answer = flight.request, []
        try:
            body = await HANDLERS[request.api.key](request, self.session)
            if body is not None:
                answer = encode_response(request.api, request.version, request.correlation, body)
        except asyncio.CancelledError:
            return
        except Exception as error:
            self._fail(request, error)
        flight.answer = answer
        self._land()
        if self.session.over and not self.ending:
            self._blame(self.session.over)
        self._admit()
        self.resume()

    def _fail(self, request: Request, error: Exception) -> None:
        """What has no place in an answer."""
        if isinstance(error, ChannelError):
            self.listener.fail(error)
        elif not isinstance(error, TopicsError | RemoteProtocolError):
            self.listener.log.error("unexpected exception in %s", request.api, exc_info=error)
        self._refuse(f"{request.api}: {str(error) or type(error).__name__}")

    def _land(self) -> None:
        """Answers leave in order."""
        while self.flights and self.flights[0].answer is not None:
            answer = self.flights.popleft().answer
            if answer:
                self.out.put(answer)

    def _send(self) -> None:
        """Hand on what the transport takes; when all of it is gone, others get the room that it had."""
        while self.out and not self.stuffed and not self.transport.is_closing():
            chunk = self.out.chunk()
            self.counts.sent += len(chunk)
            self.transport.write(chunk)
        if not self.out and not self.stuffed and not self.flights:
            self.session.hold(-self.session.held)

    # -- end

    def _refuse(self, why: str) -> None:
        """Close it at once."""
        self._blame(why)
        self._call_off(everything=True)
        self.shut()

    def _blame(self, why: str) -> None:
        """Close it when all that is begun has been answered, with a line in the log."""
        self.counts.refused += 1
        self.listener.complain(f"{self.address}: {why}; closed")
        self.ending = True

    def cut(self) -> None:
        self._call_off(everything=True)
        super().cut()
