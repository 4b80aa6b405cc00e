"""The listener that every TCP source uses, and what one peer may cost.

    accept   ip filter, then the bound on connections: beyond it a connection is closed at once. A state that changes is
             logged (full, not full any more), never an attempt.
    read     each connection counts what it holds (bytes of an unfinished message, messages that wait for a channel) in
             its source's `Budget`; when that is used up, reading pauses. If only unfinished messages fill it, one
             connection at a time may finish its own, so that slow senders can't block each other for ever.
    block    while others wait for room, the one that may finish its message is closed after `SWEEP_SECONDS` of silence.
    stall    a peer that stops in the middle of a message is closed after `STALL_SECONDS`; an idle one may stay.
    close    nothing more is accepted or read, what was begun is answered, then connections close; what is left after
             `GRACE_SECONDS` is cut.

A source derives its connection from `Peer` and from asyncio.Protocol or asyncio.BufferedProtocol.
"""

from __future__ import annotations

import asyncio
import errno
import fnmatch
import ipaddress
import logging
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from agent.errors import ChannelError, ConfigError
from agent.ports import spelled

BACKLOG = 512
LEAST_READ = 4096
"""Bytes that a connection may still read when the budget of all is used up, before it pauses."""
STALL_SECONDS = 60.0
SWEEP_SECONDS = 5.0
GRACE_SECONDS = 5.0
QUIET_SECONDS = 10.0
"""A state that comes and goes is said so often at most."""
HANDSHAKE_SECONDS = 20.0
"""A client may take this long for TLS."""
NO_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Budget:
    """Bytes that the connections of one source may hold together; used up, it lets nobody read on.

    It may be overdrawn by twice `LEAST_READ` a connection, and by one message.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.used, self.busy = limit, 0, 0
        self.small = min(LEAST_READ, limit // 256)
        self._waiting: deque[Peer] = deque()
        self._favoured: Peer | None = None

    def count(self, peer: Peer, held: int, busy: int) -> None:
        """A peer holds `held` bytes of an unfinished message, and `busy` bytes that a channel will take."""
        self.used += held + busy - peer.held - peer.busy
        self.busy += busy - peer.busy
        peer.held, peer.busy = held, busy
        if not held and self._favoured is peer:
            self._favoured = None
        if self._waiting and (self.used < self.limit or not self.busy):
            self._wake()

    def room(self, peer: Peer) -> int:
        """How much one read of this peer should bring at most."""
        return self.limit if self._favoured is peer else max(LEAST_READ, self.limit - self.used)

    def allows(self, peer: Peer) -> bool:
        """Whether it may read on; if not, its `resume` is called later."""
        if self.used < self.limit or peer.held + peer.busy < self.small:
            return True  # small messages get through, however much others have begun
        if peer.held and not self.busy and self._favoured in (None, peer):
            self._favoured = peer
            return True
        if peer not in self._waiting:
            self._waiting.append(peer)
        return False

    def blocker(self, since: float) -> Peer | None:
        """The peer that has the favour to finish its message, lets others wait, and has sent nothing since then."""
        peer = self._favoured
        return peer if peer and self._waiting and peer.touched < since else None

    def forget(self, peer: Peer) -> None:
        """It is gone; what a channel has yet to take of it still counts."""
        if peer in self._waiting:
            self._waiting.remove(peer)
        if self._favoured is peer:
            self._favoured = None
        self.count(peer, 0, peer.busy)

    def _wake(self) -> None:
        """Let those go on that may; each asks `allows` again."""
        loop = asyncio.get_running_loop()
        if self.used < self.limit:
            waiting, self._waiting = self._waiting, deque()
            for peer in waiting:
                loop.call_soon(peer.resume)
        elif self._favoured is None:
            begun = next((peer for peer in self._waiting if peer.held), None)
            if begun:
                self._waiting.remove(begun)
                loop.call_soon(begun.resume)


class Rule(NamedTuple):
    """One of `ipFilterRules`."""

    allow: bool
    by_name: bool
    pattern: str


class IpFilter:
    """`allow|deny:ip|name:<pattern>, ...` as in Flume: the first that matches decides, otherwise a peer may in."""

    def __init__(self, rules: str) -> None:
        """ConfigError (without a place) names the rule that can't be read."""
        self.rules = [_rule(text.strip()) for text in rules.split(",") if text.strip()]
        self.by_name = any(rule.by_name for rule in self.rules)

    async def admits(self, address: str) -> bool:
        """Whether a peer with this address may connect; looks its name up only if a rule asks for names."""
        names = await self._names(address) if self.by_name else ()
        for rule in self.rules:
            found = names if rule.by_name else (address,)
            if any(fnmatch.fnmatchcase(one.lower(), rule.pattern) for one in found):
                return rule.allow
        return True

    async def _names(self, address: str) -> tuple[str, ...]:
        local = ("localhost",) if ipaddress.ip_address(address.partition("%")[0]).is_loopback else ()
        try:
            async with asyncio.timeout(5):
                name, _ = await asyncio.get_running_loop().getnameinfo((address, 0), socket.NI_NAMEREQD)
        except (OSError, TimeoutError):
            return local
        return (*local, name)


def _rule(text: str) -> Rule:
    action, _, rest = text.partition(":")
    kind, _, pattern = rest.partition(":")
    if action not in ("allow", "deny") or kind not in ("ip", "name") or not pattern:
        raise ConfigError(
            f"{text!r} is no rule; it takes allow or deny, ip or name, and a pattern, as in deny:ip:10.0.*"
        )
    if "/" in pattern or "[" in pattern:
        raise ConfigError(f"{text!r}: a pattern has * for any characters and no network masks, as in 10.0.*")
    return Rule(action == "allow", kind == "name", pattern.lower())


class Peer(asyncio.BaseProtocol):
    """One connection of a `Listener`."""

    transport: asyncio.Transport
    joined = False
    held = 0
    busy = 0
    touched = 0.0
    """Monotonic seconds of the last byte."""
    paused = False
    """We don't read from it."""
    stuffed = False
    """It doesn't read what we wrote."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.address = "?"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.address = _spelled(transport.get_extra_info("peername"))
        self.touched = time.monotonic()
        self.listener.joined(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.listener.left(self)

    def resume(self) -> None:
        """The budget has room again."""

    def stalled(self, since: float) -> bool:
        """Whether it neither goes on with its message nor takes its answers, since then."""
        stuck = self.held > 0 and not self.paused
        return self.touched < since and (stuck or self.stuffed or self.transport.is_closing())

    def finish(self) -> None:
        """Take nothing in any more; close once what was begun has been answered."""
        self.shut()

    def shut(self) -> None:
        """Close once: asyncio's TLS transport forgets its connection at a second close, and `cut` would miss it."""
        if not self.transport.is_closing():
            self.transport.close()

    def cut(self) -> None:
        """End at once."""
        self.transport.abort()


def _spelled(name: object) -> str:
    if isinstance(name, tuple) and len(name) >= 2:
        return spelled(str(name[0]), name[1])
    return "unknown"


class Listener:
    """Accepts connections of one source: `open`, `run` until cancelled, `close`."""

    def __init__(
        self,
        log: logging.Logger,
        factory: Callable[[Listener], Peer],
        *,
        bind: str,
        port: int,
        max_connections: int,
        max_held: int,
        context: ssl.SSLContext | None = None,
        ip_filter: IpFilter | None = None,
    ) -> None:
        self.log, self.factory, self.bind, self.wanted_port = log, factory, bind, port
        self.max_connections, self.context, self.ip_filter = max_connections, context, ip_filter
        self.budget = Budget(max_held)
        self.peers: set[Peer] = set()
        self.connections = 0
        """Open ones, those that are still in their TLS handshake too."""
        self._sockets: list[socket.socket] = []
        self._welcomes: set[asyncio.Task[None]] = set()
        self._states: set[str] = set()
        self._quiet: dict[str, float] = {}
        self._complained, self._unsaid = 0.0, 0
        self._empty = asyncio.Event()

    @property
    def port(self) -> int:
        """The port that it listens on, also if a free one was asked for with 0."""
        number: int = self._sockets[0].getsockname()[1]
        return number

    async def open(self) -> None:
        """Bind and listen. ConfigError if the address can't be had."""
        loop = asyncio.get_running_loop()
        self._failure: asyncio.Future[None] = loop.create_future()
        try:
            found = await loop.getaddrinfo(
                self.bind or None, self.wanted_port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            for family, _, _, _, address in dict.fromkeys(found):
                self._listen(family, address)
        except OSError as error:
            await self.close()
            place = spelled(self.bind, self.wanted_port)
            raise ConfigError(f"can't listen on {place}: {error.strerror or error}") from error
        self.log.info("listening on %s", ", ".join(_spelled(sock.getsockname()) for sock in self._sockets))

    def _listen(self, family: int, address: tuple[object, ...]) -> None:
        sock = socket.socket(family, socket.SOCK_STREAM)
        self._sockets.append(sock)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, self.bind != "::")
        port = address[1] or (self._sockets[0].getsockname()[1] if len(self._sockets) > 1 else 0)
        sock.bind((address[0], port, *address[2:]))
        sock.listen(BACKLOG)

    async def run(self) -> None:
        """Accept until cancelled, or until `fail`, whose error it raises."""
        try:
            async with asyncio.TaskGroup() as group:
                for sock in self._sockets:
                    group.create_task(self._accept(sock), name=f"accept on {sock.getsockname()[1]}")
                group.create_task(self._sweep(), name="close stalled peers")
                await self._failure
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    def fail(self, error: ChannelError) -> None:
        """A channel can't keep its promise: the source ends with it."""
        if not self._failure.done():
            self._failure.set_exception(error)

    async def _accept(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, name = await loop.sock_accept(sock)
            except OSError as error:
                if error.errno not in NO_FILES:
                    await asyncio.sleep(0.01)
                    continue
                self._change("no more files", f"can't accept: {error.strerror}; raise the limit of open files", True)
                await asyncio.sleep(0.2)
                continue
            if self.connections >= self.max_connections:
                connection.close()
                self._change(
                    "full", f"{self.max_connections} connections (maxConnections): new ones are closed at once", True
                )
                await asyncio.sleep(0)
                continue
            self.connections += 1
            task = loop.create_task(self._welcome(connection, name), name=f"welcome {_spelled(name)}")
            self._welcomes.add(task)
            task.add_done_callback(self._welcomes.discard)

    async def _welcome(self, connection: socket.socket, name: tuple[str, int]) -> None:
        """Filter, options, TLS; the connection counts until `left`, or until this fails."""
        peers: list[Peer] = []

        def make() -> Peer:
            peers.append(self.factory(self))
            return peers[0]

        try:
            if self.ip_filter and not await self.ip_filter.admits(name[0].removeprefix("::ffff:")):
                raise PermissionError("ipFilterRules don't let it in")
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            limit = HANDSHAKE_SECONDS if self.context else None
            await asyncio.get_running_loop().connect_accepted_socket(
                make, connection, ssl=self.context, ssl_handshake_timeout=limit
            )
            self._change("refused", "peers get in again", False)
        except BaseException as error:
            connection.close()
            if not (peers and peers[0].joined):
                self._gone()
            if not isinstance(error, OSError):
                raise
            self._change("refused", f"{_spelled(name)} did not get in: {_reason(error)}", True)
            # asyncio's frames hold the future that holds this error: a cycle with 256 KiB of TLS buffer in it, of which
            # a collector that counts objects would let hundreds wait.
            error.__traceback__ = None

    def joined(self, peer: Peer) -> None:
        """Called by a peer when its connection is up."""
        peer.joined = True
        self.peers.add(peer)

    def left(self, peer: Peer) -> None:
        """Called by a peer when its connection is down."""
        self.budget.forget(peer)
        if peer in self.peers:
            self.peers.discard(peer)
            self._gone()

    def _gone(self) -> None:
        self.connections -= 1
        if self.connections < self.max_connections * 0.9:
            self._change("full", "accepts connections again", False)
        if not self.connections:
            self._empty.set()

    def _change(self, state: str, text: str, on: bool) -> None:
        """One line when a state begins and one when it ends; of one that comes and goes, one pair in a while."""
        now = time.monotonic()
        if on and state not in self._states and now >= self._quiet.get(state, 0.0):
            self._states.add(state)
            self._quiet[state] = now + QUIET_SECONDS
            self.log.warning("%s", text)
        elif not on and state in self._states:
            self._states.discard(state)
            self.log.info("%s", text)

    def complain(self, text: str) -> None:
        """Log what a peer did wrong; of many, one line a second, so that nobody can fill the log."""
        now = time.monotonic()
        if now - self._complained < 1.0:
            self._unsaid += 1
            return
        more = f" (and {self._unsaid} more complaints since the last)" if self._unsaid else ""
        self.log.warning("%s%s", text, more)
        self._complained, self._unsaid = now, 0

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self._change("no more files", "accepts connections again", False)
            since = time.monotonic() - STALL_SECONDS
            if blocker := self.budget.blocker(time.monotonic() - SWEEP_SECONDS):
                self.complain(f"{blocker.address} stopped in the middle of a message while others waited; closed")
                blocker.cut()
            for peer in [peer for peer in self.peers if peer.stalled(since)]:
                self.complain(f"{peer.address} stopped in the middle of a message or reads no answers; closed")
                peer.cut()

    async def close(self) -> None:
        """Stop listening, let what was begun be answered, close every connection."""
        while self._sockets:
            sock = self._sockets.pop()
            asyncio.get_running_loop().remove_reader(sock)
            sock.close()
        for task in list(self._welcomes):
            task.cancel()
        for peer in list(self.peers):
            peer.finish()
        self._empty.clear()
        if self.connections:
            try:
                async with asyncio.timeout(GRACE_SECONDS):
                    await self._empty.wait()
            except TimeoutError:
                self.log.warning("%d connections did not end in time: cut", len(self.peers))
                for peer in list(self.peers):
                    peer.cut()
                await asyncio.sleep(0)


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason or error})"
    return str(error) or type(error).__name__
