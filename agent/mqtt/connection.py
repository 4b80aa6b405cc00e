"""One connection to a broker, on asyncio.

paho-mqtt speaks the rare packets (CONNECT, SUBSCRIBE, UNSUBSCRIBE, DISCONNECT) and knows their properties; PUBLISH,
PUBACK and the pings pass it by (packet.py), because they are the hot path and because acknowledgements must leave in
order after a commit. The seam is `Wire`, which stands where paho expects a socket:

    network -> Wire -> Reader -+-> PUBLISH  -> on_publish       paho -> Wire.send -+-> one buffer -> network
                               +-> PUBACK   -> on_puback        PUBACK, PUBLISH ---+
                               +-> others   -> paho

paho takes its socket from `_create_socket`, a private hook: tests/agent/mqtt/test_connection.py pins it.
A paused connection stops reading (TCP holds the broker back) and goes on sending PINGREQ, so the session lives.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from agent.errors import ProtocolError, RemoteProtocolError
from agent.mqtt import packet
from agent.mqtt.dial import PATIENCE, dial, refuses_version_5
from agent.mqtt.packet import Publish, Reader
from agent.mqtt.reasons import BAD_VERSION, REFUSED_311, reason
from agent.mqtt.settings import Address

CHUNK = 256 << 10
QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)
"""Linux only; it doesn't last, so it is set after each read."""


class Refused(RemoteProtocolError):
    """The broker answered CONNECT or SUBSCRIBE with no."""

    def __init__(self, text: str, bad_version: bool = False) -> None:
        super().__init__(text)
        self.bad_version = bad_version


class Closed(ProtocolError):
    """The connection ended; `code` is the broker's reason where it gave one."""

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code


class Wire:
    """Stands between paho and the socket: paho reads the packets that are put into `control`, and writes to `out`."""

    def __init__(self, sock: socket.socket, write: Callable[[bytes], None]) -> None:
        self.sock, self.write = sock, write
        self.control = bytearray()

    def recv(self, size: int) -> bytes:
        if not self.control:
            raise BlockingIOError
        out = bytes(self.control[:size])
        del self.control[:size]
        return out

    def send(self, data: bytes) -> int:
        self.write(bytes(data))
        return len(data)

    def fileno(self) -> int:
        return self.sock.fileno()

    def setblocking(self, flag: bool) -> None:
        """Always non-blocking."""

    def pending(self) -> int:
        return len(self.control)

    def close(self) -> None:
        """The connection closes the socket."""


class _Client(paho.Client):
    wire: Wire

    def _create_socket(self) -> Any:
        return self.wire


class Connection:
    """`async with` connects and disconnects. Callbacks are called from the event loop, between packets.

    `version` 5 or 3 (3.1.1). `limit` bounds a packet from the broker, in bytes; a longer PUBLISH comes cut.
    """

    def __init__(
        self,
        to: Address,
        client_id: str,
        *,
        version: int,
        tls: ssl.SSLContext | None = None,
        login: tuple[str, str] | None = None,
        clean: bool = False,
        expiry: float = 0.0,
        receive_maximum: int = 0,
        keep_alive: float = 60.0,
        timeout: float = 20.0,
        limit: int = 1 << 20,
        fallback: bool = False,
    ) -> None:
        self.to, self.client_id, self.version, self.tls = to, client_id, version, tls
        self.login, self.clean, self.expiry, self.receive_maximum = login, clean, expiry, receive_maximum
        self.keep_alive, self.timeout, self.fallback = keep_alive, timeout, fallback and version == 5
        self.on_publish: Callable[[list[Publish]], None] = lambda published: None
        self.on_connected: Callable[[], None] = lambda: None
        self.on_puback: Callable[[int, int], None] = lambda identifier, code: None
        self.on_pong: Callable[[int], None] = lambda ping: None
        self.session_present = False
        self.max_packet = 0
        """The broker's Maximum Packet Size in bytes; 0 where it names none."""
        self.their_receive_maximum = 65_535
        self._reader = Reader(version, limit)
        self._out = bytearray()
        self._pings = self._pongs = 0
        self._paused = False
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = self._loop.create_future()
        """Set to Closed when the connection ends."""
        self.lost.add_done_callback(lambda future: future.cancelled() or future.exception())
        self._answers: dict[int, asyncio.Future[list[Any]]] = {}
        self._connected: asyncio.Future[None] = self._loop.create_future()
        try:
            async with asyncio.timeout(self.timeout):
                self._sock = await dial(self.to, self.tls)
                try:
                    self._client = self._make_client()
                    self._loop.add_reader(self._sock, self._readable)
                    self._connect()
                    await self._accepted()
                except BaseException:
                    self._drop(Closed("not connected"))
                    raise
        except TimeoutError:
            raise Closed(f"no answer within {self.timeout:g} s") from None
        self._heard = self._said = self._loop.time()
        self._tick()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.lost.done():
            self._client.disconnect()
        self._drop(Closed("closed by us"))

    # -- what the source and the sink say

    def write(self, data: bytes) -> None:
        """Send, in order; nothing happens on a connection that is lost."""
        if self.lost.done():
            return None
        if not self._out:
            try:
                data = data[self._sock.send(data) :]
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                pass
            except OSError as error:
                return self._drop(Closed(f"sending failed: {error}"))
            if data:
                self._loop.add_writer(self._sock, self._writable)
        self._out += data
        return None

    @property
    def unsent(self) -> int:
        """Bytes that wait for the network."""
        return len(self._out)

    def ping(self, before: bytes = b"") -> int:
        """Send `before` and a PINGREQ; its number, which `on_pong` is called with when the broker has read both."""
        self._pings += 1
        self._said = self._loop.time()
        self.write(before + packet.PINGREQ)
        return self._pings

    def pause(self) -> None:
        """Stop reading."""
        if not self._paused and not self.lost.done():
            self._loop.remove_reader(self._sock)
        self._paused = True

    def resume(self) -> None:
        """Read again."""
        if self._paused and not self.lost.done():
            self._heard = self._loop.time()
            self._loop.add_reader(self._sock, self._readable)
            if self.tls:
                # Bytes that TLS has decrypted already do not wake the selector.
                self._loop.call_soon(self._readable)
        self._paused = False

    async def subscribe(self, filters: list[str], retained: bool = True) -> None:
        """Subscribe at QoS 1; Refused names the filters that the broker does not grant.

        MQTT 5: Retain Handling 1, retained messages only for a subscription that is new (not at all unless `retained`).
        """
        if self.version == 5:
            handling = 1 if retained else 2
            _, mid = self._client.subscribe(
                [(topic, SubscribeOptions(qos=1, retainHandling=handling)) for topic in filters]
            )
        else:
            _, mid = self._client.subscribe([(topic, 1) for topic in filters])
        codes = await self._answer(mid)
        refused = [f"{topic} ({reason(code)})" for topic, code in zip(filters, codes, strict=False) if code >= 0x80]
        if refused:
            raise Refused(f"the broker does not grant the subscription to {', '.join(refused)}")

    async def unsubscribe(self, filters: list[str]) -> None:
        _, mid = self._client.unsubscribe(filters)
        await self._answer(mid)

    # -- paho's side

    def _make_client(self) -> _Client:
        protocol = paho.MQTTv5 if self.version == 5 else paho.MQTTv311
        client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=self.client_id,
            protocol=protocol,
            clean_session=None if self.version == 5 else self.clean,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        if self.login:
            client.username_pw_set(*self.login)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_answer
        client.on_unsubscribe = self._on_answer
        client.wire = Wire(self._sock, self.write)
        return client

    def _connect(self) -> None:
        keep_alive = max(1, int(self.keep_alive))
        if self.version != 5:
            self._client.connect(self.to.host, self.to.port, keep_alive)
            return
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = min(int(self.expiry), 0xFFFFFFFF)
        if self.receive_maximum:
            properties.ReceiveMaximum = self.receive_maximum
        self._client.connect(self.to.host, self.to.port, keep_alive, clean_start=self.clean, properties=properties)

    async def _accepted(self) -> None:
        """Return at CONNACK. A broker that is silent is asked whether it knows MQTT 5, if we may fall back."""
        if self.fallback:
            futures = (self._connected, self.lost)
            done, _ = await asyncio.wait(futures, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
            if not done and await refuses_version_5(self.to, self.tls):
                raise Refused("the broker does not speak MQTT 5", bad_version=True)
        await self._wait(self._connected)

    def _on_connect(self, client: Any, data: Any, flags: Any, code: Any, properties: Properties | None) -> None:
        if self._connected.done():
            return
        self.session_present = bool(flags.session_present)
        self.max_packet = getattr(properties, "MaximumPacketSize", 0)
        self.their_receive_maximum = getattr(properties, "ReceiveMaximum", 65_535)
        self.keep_alive = getattr(properties, "ServerKeepAlive", self.keep_alive)
        self.on_connected()
        self._connected.set_result(None)

    def _on_answer(self, client: Any, data: Any, mid: int, codes: Any, properties: Any) -> None:
        if (waiting := self._answers.pop(mid, None)) and not waiting.done():
            waiting.set_result([code.value for code in codes])

    async def _answer(self, mid: int | None) -> list[int]:
        if mid is None:
            raise Closed("the connection is lost")
        self._answers[mid] = answer = self._loop.create_future()
        try:
            async with asyncio.timeout(self.timeout):
                codes: list[int] = await self._wait(answer)
        except TimeoutError:
            raise Closed(f"no answer to SUBSCRIBE within {self.timeout:g} s") from None
        return codes

    async def _wait(self, answer: asyncio.Future[Any]) -> Any:
        """The answer, or what ended the connection."""
        await asyncio.wait((answer, self.lost), return_when=asyncio.FIRST_COMPLETED)
        return answer.result() if answer.done() else self.lost.result()

    # -- the network's side

    def _readable(self) -> None:
        if self._paused or self.lost.done():
            return None
        try:
            data = self._sock.recv(CHUNK)
            while isinstance(self._sock, ssl.SSLSocket) and self._sock.pending():
                data += self._sock.recv(CHUNK)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except OSError as error:
            return self._drop(Closed(f"receiving failed: {error}"))
        if not data:
            return self._drop(Closed("the broker closed the connection"))
        self._heard = self._loop.time()
        if QUICKACK is not None:
            # A broker with Nagle on (mosquitto's default) and our delayed ACK would wait 40 ms for each other.
            self._sock.setsockopt(socket.IPPROTO_TCP, QUICKACK, 1)
        try:
            published, others = self._reader.feed(data)
            if published and self._connected.done():
                self.on_publish(published)
                published = []
            for first, body in others:
                self._other(first, body)
            if published:  # they came in one piece with the CONNACK
                self.on_publish(published)
        except RemoteProtocolError as error:
            return self._drop(error)
        return None

    def _other(self, first: int, body: bytes) -> None:
        kind = first & 0xF0
        if kind == packet.PUBACK and len(body) >= 2:
            self.on_puback(body[0] << 8 | body[1], body[2] if len(body) > 2 else 0)
        elif kind == packet.PINGRESP:
            self._pongs += 1
            self.on_pong(self._pongs)
        elif kind == packet.DISCONNECT:
            code = body[0] if body else 0
            self._drop(Closed(f"the broker closed the connection: {reason(code)}", code))
        else:
            if kind == packet.CONNACK:
                self._judge(body)
            wire = self._client.wire
            wire.control += bytes((first,)) + packet.varint(len(body)) + body
            while wire.control and self._client.loop_read() == paho.MQTT_ERR_SUCCESS:
                pass
            if wire.control:
                raise RemoteProtocolError(f"paho does not understand a packet of type {first >> 4}")

    def _judge(self, body: bytes) -> None:
        """Raise Refused for a CONNACK that says no; a 3.1.1 broker answers an MQTT 5 CONNECT in its own form."""
        if len(body) < 2:
            raise RemoteProtocolError("a CONNACK of less than 2 bytes")
        code = body[1]
        if code == 0 and (self.version == 3 or len(body) > 2):
            return
        old = len(body) == 2 and code < 0x80
        text = REFUSED_311.get(code, reason(code)) if old else reason(code)
        raise Refused(f"the broker refuses us: {text}", bad_version=code == BAD_VERSION or (old and code == 1))

    def _writable(self) -> None:
        try:
            del self._out[: self._sock.send(self._out)]
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except OSError as error:
            return self._drop(Closed(f"sending failed: {error}"))
        if not self._out:
            self._loop.remove_writer(self._sock)
        return None

    def _tick(self) -> None:
        """Keep the session alive, and notice a broker that is silent although we asked."""
        if self.lost.done():
            return None
        now, bound = self._loop.time(), self.keep_alive
        if not self._paused and self._pings > self._pongs and now - max(self._heard, self._said) > bound:
            return self._drop(Closed(f"the broker was silent for {bound:g} s"))
        if now - self._said >= bound / 2 and (self._paused or self._pings == self._pongs):
            self.ping()
        self._timer = self._loop.call_later(bound / 4, self._tick)
        return None

    def _drop(self, why: ProtocolError) -> None:
        if self.lost.done():
            return
        if self._timer:
            self._timer.cancel()
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        self.lost.set_exception(why)
