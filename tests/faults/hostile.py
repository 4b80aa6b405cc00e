"""Peers that mean no good: clients for our listeners, servers and brokers for our sinks and the mqtt source.

A client attack takes a port and a seeded generator and returns the sockets that it leaves open. A `Villain` listens and
treats each connection in one way, for as long as it is there. None of them knows our code's limits, but one: servers
that must first say something right use agent.avro for it.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from agent.avro.connection import OK, ServerConnection
from agent.avro.handshake import Protocols

MIB = 1 << 20
Sockets = list[socket.socket]
Attack = Callable[[int, random.Random], Sockets]
Manner = Callable[[socket.socket, random.Random], None]


def rss(pid: int) -> int:
    """Resident bytes of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmRSS"))


def dial(port: int, count: int = 1) -> Sockets:
    """Connections; one that is closed at once counts too."""
    return [socket.create_connection(("127.0.0.1", port), 20) for _ in range(count)]


def push(sock: socket.socket, data: bytes, seconds: float = 0.5) -> None:
    """Send as much as it takes within that time."""
    sock.settimeout(seconds)
    with contextlib.suppress(OSError):
        sock.sendall(data)


# ---- clients


def random_bytes(port: int, rng: random.Random) -> Sockets:
    """64 KiB of noise, many times."""
    found = dial(port, 40)
    for sock in found:
        push(sock, rng.randbytes(1 << 16))
    return found


def huge_lengths(port: int, rng: random.Random) -> Sockets:
    """Heads that announce gigabytes: of parts, of a part, of a string, of an array."""
    big = b"\xfe\xff\xff\xff\x0f"  # 2^31 - 1 as an Avro long
    heads = [
        struct.pack(">II", 1, 0x7FFFFFFF),
        struct.pack(">III", 1, 1, 0x7FFFFFFF),
        struct.pack(">III", 1, 2, 0xFFFFFFFF),
        struct.pack(">III", 1, 1, 5 * MIB),
        struct.pack(">III", 1, 1, 30) + bytes(16) + big * 3,
        b"GET /" + b"x" * 100_000,
        b"x" * 300_000,
    ]
    found = dial(port, 4 * len(heads))
    for i, sock in enumerate(found):
        push(sock, heads[i % len(heads)] + rng.randbytes(1000))
    return found


def many_big_halves(port: int, rng: random.Random) -> Sockets:
    """Twenty messages of nearly the largest size that never end: 80 MiB, if somebody were to keep them."""
    found = dial(port, 20)
    for sock in found:
        push(sock, struct.pack(">III", 1, 1, 6 * MIB) + bytes(4 * MIB), 0.1)
    return found


def stop_in_the_middle(port: int, rng: random.Random) -> Sockets:
    """Half a message of each protocol, and then nothing; every second one hangs up."""
    call = struct.pack(">III", 1, 1, 1000) + bytes(100)
    halves = [call, b"half a line", b"GET /metrics HTTP/1.1\r\nHost: x", b"\x16"]
    found = dial(port, 40)
    for i, sock in enumerate(found):
        push(sock, halves[i % len(halves)])
        if i % 8 >= 4:
            sock.close()
    return found


def slow_senders(port: int, rng: random.Random) -> Sockets:
    """Thirty clients that send a byte each in turn, for two seconds."""
    found = dial(port, 30)
    text = struct.pack(">III", 1, 1, 1000) + bytes(1000)
    for i in range(30):
        for sock in found:
            push(sock, text[i : i + 1])
        time.sleep(0.05)
    return found


def reset(port: int, rng: random.Random) -> Sockets:
    """Three hundred connections that are reset as soon as they stand."""
    for sock in dial(port, 300):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    return []


def never_read(port: int, rng: random.Random) -> Sockets:
    """Lines and handshakes without end, and none of the answers read."""
    found = dial(port, 10)
    for sock in found:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        push(sock, b"a line\n" * 300_000, 0.3)
    return found


def zlib_bombs(port: int, rng: random.Random) -> Sockets:
    """30 kB that stand for 30 MiB."""
    bomb = zlib.compress(struct.pack(">III", 1, 1, 7 * MIB) + bytes(30 * MIB))
    found = dial(port, 10)
    for sock in found:
        push(sock, bomb)
    return found


def half_a_handshake(port: int, rng: random.Random) -> Sockets:
    """The head of a TLS record and part of a ClientHello, then noise or nothing."""
    found = dial(port, 30)
    for i, sock in enumerate(found):
        push(sock, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + (rng.randbytes(600) if i % 2 else b""))
    return found


CLIENTS: list[Attack] = [
    random_bytes, huge_lengths, many_big_halves, stop_in_the_middle, slow_senders, reset, never_read, zlib_bombs,
    half_a_handshake,
]  # fmt: skip


# ---- servers


class Villain:
    """Listens on `port` and treats every connection alike; `met` counts them."""

    def __init__(self, manner: Manner, seed: int = 1) -> None:
        self.manner, self.rng, self.met = manner, random.Random(seed), 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: Sockets = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._open.append(sock)
                self.met += 1
                threading.Thread(target=self._treat, args=(sock,), daemon=True).start()

    def _treat(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            sock.settimeout(30)
            self.manner(sock, self.rng)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._open:
            sock.close()


def noise(sock: socket.socket, rng: random.Random) -> None:
    """An answer of 64 KiB at random."""
    sock.recv(1000)
    sock.sendall(rng.randbytes(1 << 16))
    wait(sock)


def silence(sock: socket.socket, rng: random.Random) -> None:
    """Takes everything and never answers."""
    wait(sock)


def deaf(sock: socket.socket, rng: random.Random) -> None:
    """Doesn't even read."""
    time.sleep(30)


def hangs_up(sock: socket.socket, rng: random.Random) -> None:
    """Closes at once."""
    sock.close()


def alert(sock: socket.socket, rng: random.Random) -> None:
    """Speaks TLS where nobody asked for it."""
    sock.sendall(b"\x15\x03\x01\x00\x02\x02\x28" * 1000)
    wait(sock)


def wait(sock: socket.socket) -> None:
    """Read on until the other side ends."""
    while sock.recv(1 << 16):
        pass


# Avro


def avro_huge(sock: socket.socket, rng: random.Random) -> None:
    """An answer of two gigabytes, of which some megabytes come."""
    sock.recv(1000)
    sock.sendall(struct.pack(">III", 1, 1, 0x7FFFFFF0))
    while True:
        sock.sendall(bytes(1 << 16))


def avro_slow(sock: socket.socket, rng: random.Random) -> None:
    """The handshake's answer a byte at a time."""
    sock.recv(1000)
    for byte in struct.pack(">III", 1, 1, 500) + bytes(500):
        sock.sendall(bytes((byte,)))
        time.sleep(0.2)


def _shaken(sock: socket.socket) -> Iterator[tuple[ServerConnection, int]]:
    """A right handshake; then the serial of each call."""
    wire = ServerConnection(Protocols(), {"headrace.inFlight": b"99999999", "headrace.maxBytes": b"-1"})
    while data := sock.recv(1 << 16):
        wire.receive(data)
        while call := wire.next_call():
            yield wire, call.serial
        sock.sendall(b"".join(wire.replies()))


def avro_other_serials(sock: socket.socket, rng: random.Random) -> None:
    """OK to calls that nobody made."""
    for _, serial in _shaken(sock):
        for other in (serial + 1000, 0, 0x7FFFFFFF, 0xFFFFFFFF):
            sock.sendall(struct.pack(">III", other, 1, 3) + b"\0\0" + bytes((OK,)))


def avro_nonsense(sock: socket.socket, rng: random.Random) -> None:
    """The right serial, and an answer of noise."""
    for _, serial in _shaken(sock):
        body = rng.randbytes(200)
        sock.sendall(struct.pack(">III", serial, 1, len(body)) + body)


AVRO_SERVERS: list[Manner] = [
    noise, silence, deaf, hangs_up, alert, avro_huge, avro_slow, avro_other_serials, avro_nonsense,
]  # fmt: skip


# MQTT

CONNACK_5, CONNACK_3 = b"\x20\x03\x00\x00\x00", b"\x20\x02\x00\x00"


def _connack(sock: socket.socket) -> bool:
    """Answer CONNECT in its version; whether that is 5."""
    connect = sock.recv(4096)
    version5 = b"MQTT\x05" in connect
    sock.sendall(CONNACK_5 if version5 else CONNACK_3)
    return version5


def _subscribed(sock: socket.socket) -> bool:
    """The same, and SUBACK for the first SUBSCRIBE."""
    version5 = _connack(sock)
    packet = sock.recv(4096)
    sock.sendall(b"\x90\x04" + packet[2:4] + b"\x00\x01" if version5 else b"\x90\x03" + packet[2:4] + b"\x01")
    return version5


def mqtt_refuses(sock: socket.socket, rng: random.Random) -> None:
    """CONNACK: not authorized."""
    sock.sendall(b"\x20\x03\x00\x87\x00" if b"MQTT\x05" in sock.recv(4096) else b"\x20\x02\x00\x05")
    wait(sock)


def mqtt_five_byte_length(sock: socket.socket, rng: random.Random) -> None:
    """A remaining length that has no end."""
    _subscribed(sock)
    sock.sendall(b"\x30\xff\xff\xff\xff\xff\x01")
    wait(sock)


def mqtt_huge_message(sock: socket.socket, rng: random.Random) -> None:
    """A PUBLISH of 256 MB at QoS 1, all of it, as fast as it goes."""
    version5 = _subscribed(sock)
    sock.sendall(b"\x32\xff\xff\xff\x7f\x00\x01a\x00\x07" + b"\0" * version5)
    while True:
        sock.sendall(bytes(1 << 16))


def mqtt_huge_control(sock: socket.socket, rng: random.Random) -> None:
    """A SUBACK of 256 MB."""
    _connack(sock)
    sock.sendall(b"\x90\xff\xff\xff\x7f")
    while True:
        sock.sendall(bytes(1 << 16))


def mqtt_topic_beyond(sock: socket.socket, rng: random.Random) -> None:
    """A topic that is longer than its message."""
    _subscribed(sock)
    sock.sendall(b"\x32\x0a\xff\xff" + b"a" * 8)
    wait(sock)


def mqtt_properties_beyond(sock: socket.socket, rng: random.Random) -> None:
    """Properties that are longer than their message, and some that are none."""
    _subscribed(sock)
    sock.sendall(b"\x32\x09\x00\x01a\x00\x01\x04\xff\xff\xff" + b"\x32\x08\x00\x01a\x00\x01\xff\xff\x7f")
    wait(sock)


def mqtt_connack_nonsense(sock: socket.socket, rng: random.Random) -> None:
    """A CONNACK whose properties are noise."""
    sock.recv(4096)
    sock.sendall(b"\x20\x40\x00\x00\x3d" + rng.randbytes(61))
    wait(sock)


def mqtt_slow(sock: socket.socket, rng: random.Random) -> None:
    """CONNACK a byte at a time, then a message a byte at a time."""
    sock.recv(4096)
    for byte in CONNACK_5 + b"\x32\x7f" + bytes(127):
        sock.sendall(bytes((byte,)))
        time.sleep(0.3)


def mqtt_uninvited(sock: socket.socket, rng: random.Random) -> None:
    """Packets that a broker never sends, and acknowledgements of what was never published."""
    _subscribed(sock)
    sock.sendall(b"\x82\x02\x00\x01\xc0\x00" + b"\x40\x02\xff\xff" * 100 + b"\x90\x04\x77\x77\x00\x01\x00\x00")
    wait(sock)


def mqtt_qos_2(sock: socket.socket, rng: random.Random) -> None:
    """QoS 2 and 3, which nobody subscribed to."""
    _subscribed(sock)
    sock.sendall(b"\x36\x06\x00\x01a\x00\x01x" if rng.random() < 0.5 else b"\x34\x06\x00\x01a\x00\x01x")
    wait(sock)


BROKERS: list[Manner] = [
    noise, silence, deaf, hangs_up, alert, mqtt_refuses, mqtt_five_byte_length, mqtt_huge_message, mqtt_huge_control,
    mqtt_topic_beyond, mqtt_properties_beyond, mqtt_connack_nonsense, mqtt_slow, mqtt_uninvited, mqtt_qos_2,
]  # fmt: skip
