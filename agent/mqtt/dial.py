"""A connected socket for a broker, TLS and host name verified, without a thread; and the question for its version."""

from __future__ import annotations

import asyncio
import socket
import ssl

from agent.mqtt import packet
from agent.mqtt.reasons import BAD_VERSION
from agent.mqtt.settings import Address

PATIENCE = 2.0
"""Seconds without CONNACK until a broker is asked whether it knows MQTT 5."""
PROBE = b"\x10\x16\0\4MQTT\5\2\0\x3c\0\0\x09" + b"headrace?"


async def refuses_version_5(to: Address, tls: ssl.SSLContext | None) -> bool:
    """Whether a plain CONNECT of MQTT 5, without properties, is refused for its version.

    amqtt 0.12 waits for ever at a CONNECT with properties, which it takes for a long clientId, and refuses this one.
    """
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(to.host, to.port, ssl=tls)
            try:
                writer.write(PROBE)
                answer = await reader.readexactly(4)
            finally:
                writer.close()
    except (TimeoutError, OSError, EOFError):
        return False
    return answer[0] == packet.CONNACK and (answer[1:] == b"\2\0\1" or answer[3] == BAD_VERSION)


async def dial(to: Address, tls: ssl.SSLContext | None) -> socket.socket:
    """A connected, non-blocking socket; TLS done and the host name verified. OSError as the last address gave it."""
    loop = asyncio.get_running_loop()
    failure: OSError = OSError(f"{to.host} has no address")
    for family, kind, proto, _, where in await loop.getaddrinfo(to.host, to.port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, proto)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(sock, where)
            return await _handshake(sock, tls, to.host) if tls else sock
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
    raise failure


async def _handshake(sock: socket.socket, tls: ssl.SSLContext, host: str) -> ssl.SSLSocket:
    wrapped = tls.wrap_socket(sock, do_handshake_on_connect=False, server_hostname=host)
    try:
        while True:
            try:
                wrapped.do_handshake()
                return wrapped
            except ssl.SSLWantReadError:
                await _ready(wrapped, write=False)
            except ssl.SSLWantWriteError:
                await _ready(wrapped, write=True)
    except BaseException:
        wrapped.close()
        raise


async def _ready(sock: socket.socket, write: bool) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    add, remove = (loop.add_writer, loop.remove_writer) if write else (loop.add_reader, loop.remove_reader)

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    add(sock, wake)
    try:
        await ready
    finally:
        remove(sock)
