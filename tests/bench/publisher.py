"""Publishes readings at QoS 1 as fast as a broker acknowledges them; packets are built beforehand.

    python -m tests.bench.publisher --port 1883 --topic sensors/1 --count 50000

MQTT 3.1.1, two bursts of `BURST` messages in flight. Prints one line of JSON: began (time.monotonic), seconds.
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
import time

BURST = 200
PUBACK = 4
"""Bytes."""
CONNECT = 0x10
PUBLISH_QOS1 = 0x32


def text(value: str) -> bytes:
    """A string as MQTT writes it."""
    raw = value.encode()
    return struct.pack(">H", len(raw)) + raw


def packet(first: int, body: bytes) -> bytes:
    """Fixed header and body; bodies here are shorter than 16,384 bytes."""
    size = len(body)
    length = bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])
    return bytes([first]) + length + body


def burst(topic: str, first: int) -> bytes:
    """`BURST` readings with packet identifiers from `first` on."""
    out = []
    for identifier in range(first, first + BURST):
        payload = b'{"sensor":"%s","value":%.3f,"unit":"C"}' % (topic.encode(), 20 + identifier * 0.013)
        out.append(packet(PUBLISH_QOS1, text(topic) + struct.pack(">H", identifier) + payload))
    return b"".join(out)


def publish(port: int, topic: str, count: int) -> dict[str, float]:
    """Send `count` readings (a multiple of `BURST`); returns what the module's docstring names."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        name = topic.replace("/", "-")
        sock.sendall(packet(CONNECT, text("MQTT") + b"\4\2" + struct.pack(">H", 60) + text(name)))
        if sock.recv(4) != b"\x20\2\0\0":
            raise SystemExit("the broker refuses")
        bursts = [burst(topic, 1), burst(topic, 1 + BURST)]
        began = time.monotonic()
        acknowledged = 0
        for sent in range(count // BURST):
            while acknowledged < (sent - 1) * BURST * PUBACK:
                acknowledged += _some(sock)
            sock.sendall(bursts[sent % 2])
        while acknowledged < count * PUBACK:
            acknowledged += _some(sock)
        return {"began": began, "seconds": time.monotonic() - began}


def _some(sock: socket.socket) -> int:
    got = len(sock.recv(1 << 16))
    if not got:
        raise SystemExit("the broker closed the connection")
    return got


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--count", type=int, default=50_000)
    print(json.dumps(publish(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
