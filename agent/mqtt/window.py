"""The redelivery window: which messages a broker may send again although they are stored.

Between the channel's commit and the broker's reading of our PUBACK a message is stored and not acknowledged. If the
connection breaks there, the broker sends it again when the session resumes: same identifier, DUP set (measured with
mosquitto, both versions). A *repeat* is therefore a message with session_present, DUP, and an identifier and digest
that this window holds. DUP alone says nothing: it is also set on messages that were sent and never read, and equal
readings are common. So the window holds exactly what may be unacknowledged:

    commit of a batch    its entries travel in the same transaction, as the source's mark
    PUBACKs, PINGREQ     written together after the commit
    PINGRESP             the broker has read those PUBACKs: the entries go
    connection breaks    what is left is what may come again; the first message without DUP closes it

A broker that gives an identifier again soon after its acknowledgement could make a new reading look like a repeat
(sent, never read, sent again with DUP; equal payload). Such a broker switches the window off: at least once then.
"""

from __future__ import annotations

from collections import deque
from hashlib import blake2b

ENTRY = 10
"""Bytes of an entry: identifier (2), digest (8)."""
MOST = 8_192
"""Entries the window holds; beyond it the oldest go and may be stored twice."""
SOON = 4_096
"""Messages within which an identifier that comes again counts as reused quickly."""


def digest(topic: bytes, properties: bytes, payload: bytes) -> bytes:
    """8 bytes that know a message again; `properties` without the message expiry, which counts down."""
    return blake2b(b"\0".join((topic, properties, payload)), digest_size=8).digest()


class Window:
    """Entries of batches whose PUBACKs the broker may not have read, and those of a connection that broke."""

    def __init__(self, entries: bytes = b"", off: bool = False) -> None:
        self.off = off
        self.open = False
        """Whether repeats may come on this connection."""
        self._broken = entries[: len(entries) // ENTRY * ENTRY]
        self._unconfirmed: deque[tuple[int, bytes]] = deque()
        self._expected: dict[bytes, bytes] = {}
        self._recent: set[bytes] = set()
        self._older: set[bytes] = set()

    def connected(self, session_present: bool) -> None:
        """A connection is up: what the last one left may come again if the broker kept the session."""
        left = self._broken + b"".join(entries for _, entries in self._unconfirmed) if session_present else b""
        self._unconfirmed.clear()
        self._recent, self._older = set(), set()
        self._broken = b"" if self.off else left
        entries = (left[at : at + ENTRY] for at in range(0, len(self._broken), ENTRY))
        self._expected = {entry[:2]: entry[2:] for entry in entries}
        self.open = bool(self._expected)

    def close(self) -> None:
        """A message without DUP came: what was not repeated until now is acknowledged."""
        self.open, self._broken = False, b""
        self._expected.clear()

    def repeated(self, identifier: bytes, digest: bytes) -> bool:
        """Whether a message with DUP is one that is stored."""
        if self._expected.get(identifier) != digest:
            return False
        del self._expected[identifier]
        return True

    def reused(self, identifiers: list[bytes]) -> bool:
        """Note identifiers of new messages (without DUP); True when this shows a broker that reuses them quickly."""
        fresh = set(identifiers)
        quick = len(fresh) < len(identifiers) or not (fresh.isdisjoint(self._recent) and fresh.isdisjoint(self._older))
        self._recent |= fresh
        if len(self._recent) >= SOON:
            self._recent, self._older = set(), self._recent
        if quick and not self.off:
            self.off = True
            self.close()
            self._unconfirmed.clear()
            return True
        return False

    def mark(self, entries: bytes) -> bytes:
        """What to keep with a batch: all that may come again if the connection breaks after its commit."""
        if self.off:
            return b""
        return (self._broken + b"".join(part for _, part in self._unconfirmed) + entries)[-MOST * ENTRY :]

    def acknowledged(self, entries: bytes, ping: int) -> None:
        """PUBACKs of these entries, and after them this connection's PINGREQ number `ping`, were written."""
        if not self.off:
            self._unconfirmed.append((ping, entries))

    def answered(self, ping: int) -> None:
        """The broker answered this connection's PINGREQs up to number `ping`."""
        while self._unconfirmed and self._unconfirmed[0][0] <= ping:
            self._unconfirmed.popleft()
