"""Posts each event's body to a web address (Flume's HttpSink); headers are not sent.

The status code decides, by three tables: `rollback.CODE` whether the event goes back and is sent again, `backoff.CODE`
whether a pause follows, `incrementMetrics.CODE` whether it counts as delivered. CODE is 503 or 5XX; the first wins over
the second, and both over `defaultRollback` and its kin. Flume's trap is kept with its defaults, so that a file means
the same here: they hold for *every* code, also for 200, and a sink with nothing but an endpoint sends its first event
for ever. A working sink has

    a1.sinks.k1.defaultRollback = true
    a1.sinks.k1.rollback.200 = false
    a1.sinks.k1.backoff.200 = false
    a1.sinks.k1.incrementMetrics.200 = true

and one without is warned at its start. Other than in Flume the connection is kept, an event that goes back is always
followed by a pause, a redirection is not followed (3XX is a code like any other), and the certificate of an https
address is verified with its host name.
"""

from __future__ import annotations

import asyncio
import http.client
import re
import socket
import ssl
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar
from urllib.parse import SplitResult, urlsplit

from agent.backoff import Backoff
from agent.config.fields import Config as AnyConfig
from agent.config.fields import Seconds, key
from agent.errors import AgentError, DeliveryError, translated
from agent.event import Batch
from agent.sink import Sink, SinkConfig
from agent.tls import PemTlsConfig, pem_context
from agent.version import VERSION

CODE = re.compile(r"[1-5]([0-9]{2}|XX)")
MOST_ANSWER = 64 << 10
"""Bytes of an answer that are read to keep its connection; a longer one costs a new connection."""
TRAP = (
    "{keys} also hold for 200: each event that was accepted {what}. Set rollback.200 = false, backoff.200 = false and "
    "incrementMetrics.200 = true"
)
BROKEN = (http.client.RemoteDisconnected, ConnectionError, ssl.SSLEOFError)
"""How a kept connection shows that the server has ended it meanwhile."""


class HttpConfig(SinkConfig, PemTlsConfig):
    endpoint: str = key("endpoint", doc="http:// or https:// address that events are posted to")
    connectTimeout: Seconds = key("connectTimeout", Seconds(5.0), unit="ms", low=0.001, doc="wait for a connection")
    requestTimeout: Seconds = key("requestTimeout", Seconds(5.0), unit="ms", low=0.001, doc="wait for an answer")
    contentType: str = key("contentTypeHeader", "text/plain", doc="Content-Type of each request")
    accept: str = key("acceptHeader", "text/plain", doc="Accept of each request")
    defaultBackoff: bool = key("defaultBackoff", True, doc="whether a code that isn't named is followed by a pause")
    defaultRollback: bool = key("defaultRollback", True, doc="whether one puts the event back, to be sent again")
    defaultMetrics: bool = key("defaultIncrementMetrics", False, doc="whether one counts the event as delivered")
    backoffs: dict[str, bool] = key("backoff.*", {}, doc="the same for a code such as 503 or 5XX")
    rollbacks: dict[str, bool] = key("rollback.*", {}, doc="the same for a code such as 503 or 5XX")
    metrics: dict[str, bool] = key("incrementMetrics.*", {}, doc="the same for a code such as 503 or 5XX")

    def problems(self) -> list[tuple[str, str]]:
        found = super().problems()
        for prefix, table in (
            ("backoff", self.backoffs), ("rollback", self.rollbacks), ("incrementMetrics", self.metrics),
        ):  # fmt: skip
            wrong = [code for code in table if not CODE.fullmatch(code)]
            found += [(f"{prefix}.{code}", "ends in no status code such as 503 or 5XX") for code in wrong]
        for name, text in (("contentTypeHeader", self.contentType), ("acceptHeader", self.accept)):
            if not text.isascii() or not text.isprintable():
                found.append((name, "takes printable ASCII"))
        return found + [("endpoint", text) for text in self._endpoint_problems()]

    def _endpoint_problems(self) -> list[str]:
        takes = "is not of the form http://host[:port]/path or https://host[:port]/path"
        try:
            parts = urlsplit(self.endpoint)
            _ = parts.port
        except ValueError:
            return [takes]
        if "@" in parts.netloc:
            return ["takes no user and password: this sink sends none"]
        if parts.scheme not in ("http", "https") or not parts.hostname or not self.endpoint.isascii():
            return [takes]
        if parts.scheme == "http" and (self.pem_truststore or self.pem_keystore):
            return ["ssl.* needs an endpoint that starts with https://"]
        return []


class HttpSink(Sink):
    """One event a request, one request at a time; a thread of its own holds the connection."""

    Config: ClassVar[type[AnyConfig]] = HttpConfig
    config: HttpConfig
    batch_size = 1

    async def open(self) -> None:
        """Connects with the first event. ConfigError if a file of ssl.* can't be read."""
        keys = self.config
        parts = urlsplit(keys.endpoint)
        self.client = Client(keys, parts, pem_context(keys) if parts.scheme == "https" else None)
        self.pool = ThreadPoolExecutor(1, thread_name_prefix=self.name)
        self.pause, self.waits = 0.0, Backoff(keys.backoff, keys.maxBackoff)
        self.log.info("at least once: an event whose answer is lost is posted again")
        if says("200", keys.rollbacks, keys.defaultRollback):
            self.log.warning("%s", TRAP.format(keys="defaultRollback or rollback.2XX", what="is sent again, for ever"))
        elif says("200", keys.backoffs, keys.defaultBackoff):
            self.log.warning("%s", TRAP.format(keys="defaultBackoff or backoff.2XX", what="is followed by a pause"))

    async def close(self) -> None:
        if hasattr(self, "pool"):
            self.client.abort()
            self.pool.shutdown(wait=False)

    async def send(self, batch: Batch) -> None:
        await asyncio.sleep(self.pause)
        self.pause = 0.0
        for body in batch.bodies:
            if body:
                self._judge(await self._post(body))
            else:
                self.log.warning("an event without a body is left out: there is nothing to post")

    async def _post(self, body: bytes) -> int:
        """The status code. DeliveryError if there is none."""
        keys = self.config
        future = asyncio.get_running_loop().run_in_executor(self.pool, self.client.post, body)
        try:
            async with asyncio.timeout(2 * (keys.connectTimeout + keys.requestTimeout)):
                return await future
        except TimeoutError:
            self._anew()
            raise DeliveryError(f"{keys.endpoint}: no whole answer in time (requestTimeout)") from None
        except asyncio.CancelledError:
            self._anew()
            raise

    def _anew(self) -> None:
        """Leave the thread to a connection that is broken, and go on with others."""
        self.client.abort()
        self.pool.shutdown(wait=False)
        self.client = Client(self.config, self.client.parts, self.client.tls)
        self.pool = ThreadPoolExecutor(1, thread_name_prefix=self.name)

    def _judge(self, status: int) -> None:
        keys, code = self.config, str(status)
        if says(code, keys.rollbacks, keys.defaultRollback):
            raise DeliveryError(
                f"{keys.endpoint} answered {code}, which rollback.{code} or defaultRollback sends again"
            )
        if says(code, keys.backoffs, keys.defaultBackoff):
            self.pause = self.waits.next()
        else:
            self.waits.reset()
        if not says(code, keys.metrics, keys.defaultMetrics):
            self.counter.EventDrainSuccessCount -= 1  # the runner will count it


class Client:
    """A kept connection; one thread calls `post`, `abort` may come from another."""

    def __init__(self, keys: HttpConfig, parts: SplitResult, tls: ssl.SSLContext | None) -> None:
        self.keys, self.parts, self.tls = keys, parts, tls
        self.target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self.headers = {
            "Content-Type": keys.contentType, "Accept": keys.accept, "User-Agent": f"headrace/{VERSION}",
        }  # fmt: skip
        self.connection: http.client.HTTPConnection | None = None
        self.aborted = False

    def post(self, body: bytes) -> int:
        """The status code of an answer. DeliveryError if nobody answers.

        A kept connection that the server has ended meanwhile is made anew, once.
        """
        errors: dict[type[BaseException], type[AgentError]] = {
            OSError: DeliveryError,
            http.client.HTTPException: DeliveryError,
        }
        with translated(errors, self.keys.endpoint):
            kept = self.connection is not None
            try:
                return self._post(body)
            except BROKEN:
                if self.aborted or not kept:
                    raise
            return self._post(body)

    def abort(self) -> None:
        """Break the connection, whoever waits for it; what is being posted isn't posted again."""
        self.aborted = True
        connection, self.connection = self.connection, None
        if connection and connection.sock:
            try:
                connection.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def _post(self, body: bytes) -> int:
        connection = self.connection or self._connect()
        done = False
        try:
            connection.request("POST", self.target, body, self.headers)
            answer = connection.getresponse()
            answer.read(MOST_ANSWER)
            done = answer.isclosed() and connection.sock is not None  # the server may have said `Connection: close`
            return answer.status
        finally:
            if not done:
                self.connection = None
                connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        host, port, wait = self.parts.hostname or "", self.parts.port, self.keys.connectTimeout
        if self.tls:
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=wait, context=self.tls
            )
        else:
            connection = http.client.HTTPConnection(host, port, timeout=wait)
        self.connection = connection
        try:
            connection.connect()
            if self.aborted:  # while there was nothing to break yet
                raise ConnectionAbortedError
        except BaseException:
            self.connection = None
            connection.close()
            raise
        connection.sock.settimeout(self.keys.requestTimeout)
        return connection


def says(code: str, table: Mapping[str, bool], default: bool) -> bool:
    """What a table says of a status code: the code itself, its hundred, the default."""
    return table.get(code, table.get(f"{code[0]}XX", default))
