"""A load driver for Avro sources: frames built beforehand, so that what is measured is the other end.

    python -m tests.bench.driver --port 41414 --events 300000 --batch 100 --connections 1

Each connection sends one `appendBatch` and waits for its answer (as Flume's own client does). Prints one line of JSON:
events, began (time.monotonic), seconds, p50_ms and p99_ms of a call. With `--rate` it paces the batches (events/s over
all connections).
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import socket
import struct
import time

from agent.avro import record, schema
from agent.avro.handshake import OUR_HASH

HEADERS = {"host": "collector-01", "timestamp": "1764032400000"}


def block(batch: int, size: int) -> bytes:
    """`batch` events of `size` random bytes and two headers."""
    return record.encode([(HEADERS, os.urandom(size)) for _ in range(batch)])


def frame(serial: int, body: bytes) -> bytes:
    """One Netty pack of one buffer."""
    return struct.pack(">iii", serial, 1, len(body)) + body


def call(batch: int, size: int) -> bytes:
    """The content of an appendBatch call on an established connection."""
    name = b"appendBatch"
    return b"\0" + record.varint(len(name)) + name + record.varint(batch) + block(batch, size) + b"\0"


def handshake() -> bytes:
    """A handshake request with the protocol's text."""
    text = schema.PROTOCOL
    return OUR_HASH + b"\2" + record.varint(len(text)) + text + OUR_HASH + b"\0"


class Line:
    """One connection: at most one call is open."""

    def __init__(self, host: str, port: int, frames: list[bytes]) -> None:
        self.sock = socket.create_connection((host, port), timeout=60)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.frames, self.next, self.sent = frames, 0, 0.0
        self.times: list[float] = []
        self.first = handshake()

    def send(self) -> None:
        """Start the next call."""
        content = self.frames[self.next % len(self.frames)]
        self.next += 1
        data = frame(self.next, self.first + content)
        self.first = b""
        self.sent = time.perf_counter()
        self.sock.sendall(data)

    def receive(self) -> None:
        """Read one whole answer; it must be OK."""
        _, count = struct.unpack(">ii", self._exactly(8))
        parts = []
        for _ in range(count):
            (length,) = struct.unpack(">i", self._exactly(4))
            parts.append(self._exactly(length))
        self.times.append(time.perf_counter() - self.sent)
        if not b"".join(parts).endswith(b"\0\0"):
            raise SystemExit(f"the source answered {b''.join(parts)[-60:]!r}")

    def _exactly(self, size: int) -> bytes:
        out = b""
        while len(out) < size:
            more = self.sock.recv(size - len(out))
            if not more:
                raise SystemExit("the source closed the connection")
            out += more
        return out


def drive(host: str, port: int, events: int, batch: int, size: int, connections: int, rate: float) -> dict[str, float]:
    """Send `events`; returns what the module's docstring names."""
    frames = [call(batch, size) for _ in range(16)]
    lines = [Line(host, port, frames) for _ in range(connections)]
    left = events // batch
    began = time.monotonic()
    with selectors.DefaultSelector() as waiting:
        idle = list(lines)
        sent = busy = 0
        for line in lines:
            waiting.register(line.sock, selectors.EVENT_READ, line)
        while sent < left or busy:
            while idle and sent < left and (not rate or time.monotonic() - began >= sent * batch / rate):
                idle.pop().send()
                sent += 1
                busy += 1
            pause = max(0.0, sent * batch / rate - (time.monotonic() - began)) if rate and sent < left else None
            for key, _ in waiting.select(pause if not busy or idle else None):
                key.data.receive()
                idle.append(key.data)
                busy -= 1
    seconds = time.monotonic() - began
    times = sorted(value for line in lines for value in line.times)
    for line in lines:
        line.sock.close()
    return {
        "events": left * batch,
        "began": began,
        "seconds": seconds,
        "p50_ms": times[len(times) // 2] * 1000,
        "p99_ms": times[min(len(times) - 1, len(times) * 99 // 100)] * 1000,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--size", type=int, default=200)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0.0)
    given = parser.parse_args()
    print(json.dumps(drive(**vars(given))))


if __name__ == "__main__":
    main()
