"""A connection to an HBase Thrift gateway (Thrift 1, `hbase thrift start`). Blocking: for a thread of its own.

**After any error the connection is thrown away** and the next call makes a new one. The requests that failed stay in
the write buffer of a connection and would be sent in front of the next one after a reopen; after a timeout every answer
would be one behind. Nothing is repeated here: whoever calls does that, with cells that a repeat doesn't change.

happybase brings the interface (Hbase.thrift). The calls are made directly, with thriftpy2's compiled protocol where it
has one: half of the time of a call would otherwise go into its encoding.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import happybase.connection  # makes Hbase_thrift, from its own Hbase.thrift
import Hbase_thrift as api
from thriftpy2.protocol import TCompactProtocol, TCyBinaryProtocol
from thriftpy2.thrift import TClient, TException
from thriftpy2.transport import (
    TBufferedTransport,
    TCyBufferedTransport,
    TCyFramedTransport,
    TFramedTransport,
    TSocket,
    TTransportException,
)

from agent.errors import DeliveryError, Rejected
from aggregator.hbase.cells import Increment, Row, parts

assert happybase.connection
SCANNED = 1000
"""Rows that one answer of a scan brings."""
CALL_BYTES = 1 << 20
"""Of rows in one call."""
FRAME = 2 << 20
"""Bytes of a call that a framed gateway takes, unless it is told otherwise; of a longer one it hangs up."""
CALL, ROW, CELL, COUNTER = 47, 16, 23, 33
"""Bytes of a call, a row, a cell and an increment in Thrift's binary protocol beside their texts (compact: fewer)."""
MOST_SHOWN = 300
"""Characters of an answer."""
EVENTS_FAULT = re.compile(r"KeyValue size too large|exceeds limit of \d+ bytes|Row length \d+ is >")
"""In an answer: no table would take such a cell."""


class AnsweredError(DeliveryError):
    """The gateway answered, and HBase had refused."""


class Gateway:
    """`seconds` bounds connecting and each wait for an answer; `frame` the bytes of a call, 0 where there are no
    frames."""

    def __init__(self, host: str, port: int, seconds: float, *, frame: int = 0, compact: bool = False) -> None:
        self.host, self.port, self.seconds, self.frame, self.compact = host, port, seconds, frame, compact
        self.where = f"HBase's Thrift gateway {host}:{port}"
        self._socket: Any = None
        self._client: Any = None
        self._aborted = False

    def put(self, table: str, rows: Sequence[Row], wal: bool) -> None:
        """Write the rows. Each row is atomic, all together aren't. Rejected where a cell is at fault."""
        no_wal = None if wal else False
        largest = max(map(size_of, rows), default=0) if self.frame else 0
        for part in parts(rows, size_of, self._room(table, largest)):
            batches = [
                api.BatchMutation(row, [api.Mutation(False, column, value, no_wal) for column, value in cells.items()])
                for row, cells in part
            ]
            self._call("mutateRows", table.encode(), batches, {})

    def increment(self, table: str, increments: Sequence[Increment]) -> None:
        """Add to counters, one after the other: those before one that fails stay."""
        beside = COUNTER + len(table.encode())
        for part in parts(increments, lambda one: beside + len(one.row) + len(one.column), self._room(table)):
            self._call("incrementRows", [api.TIncrement(table.encode(), *one) for one in part])

    def _room(self, table: str, largest: int = 0) -> int:
        """Bytes that a call has for rows; Rejected if there is no room for the largest one."""
        room = self.frame - CALL - len(table.encode())
        if not self.frame:
            return CALL_BYTES
        if largest > room:
            raise Rejected(
                f"an event's row has {largest} bytes, and a call of the gateway takes {room}: raise its "
                "hbase.regionserver.thrift.framed.max_frame_size_in_mb and the sink's thriftFrameSize"
            )
        return min(CALL_BYTES, room)

    def families(self, table: str) -> set[str] | None:
        """The column families of a table; None if there is no such table."""
        if table.encode() not in self._call("getTableNames"):
            return None
        return {name.decode().removesuffix(":") for name in self._call("getColumnDescriptors", table.encode())}

    def create(self, table: str, family: str) -> None:
        """Make a table, unless somebody else just did."""
        column = api.ColumnDescriptor(name=family.encode() + b":")
        try:
            self._call("createTable", table.encode(), [column])
        except AnsweredError as error:
            if not isinstance(error.__cause__, api.AlreadyExists):
                raise

    def scan(self, table: str, column: bytes) -> Iterator[bytes]:
        """The value of a column in every row that has it."""
        scanner = self._call("scannerOpenWithScan", table.encode(), api.TScan(columns=[column], caching=SCANNED), {})
        while rows := self._call("scannerGetList", scanner, SCANNED):
            for row in rows:
                yield row.columns[column].value
        self._call("scannerClose", scanner)

    def close(self) -> None:
        """The next call makes a new connection."""
        if self._socket:
            self._socket.close()
        self._socket = self._client = None

    def abort(self) -> None:
        """From another thread: end the call that is under way, and make no other."""
        self._aborted = True
        with suppress(OSError, AttributeError):
            self._socket.sock.shutdown(socket.SHUT_RDWR)

    def _call(self, name: str, *args: object) -> Any:
        if self._aborted:
            raise DeliveryError(f"{self.where}: left, for it did not answer")
        try:
            client = self._client or self._connect()
            return getattr(client, name)(*args)
        except Exception as error:
            self.close()
            raise self._translated(error) from error
        except BaseException:
            self.close()
            raise

    def _connect(self) -> Any:
        plain = TFramedTransport if self.frame else TBufferedTransport
        compiled = TCyFramedTransport if self.frame else TCyBufferedTransport
        make_socket: Any = TSocket  # thriftpy2 leaves it untyped
        self._socket = make_socket(self.host, self.port, socket_timeout=self.seconds * 1000)
        transport = plain(self._socket) if self.compact else compiled(self._socket)
        protocol = TCompactProtocol if self.compact else TCyBinaryProtocol
        transport.open()
        self._client = TClient(api.Hbase, protocol(transport, decode_response=False))
        return self._client

    def _translated(self, error: Exception) -> DeliveryError:
        """Ours for thriftpy2's, with what the gateway said in one line."""
        if isinstance(error, TTransportException | OSError):
            return DeliveryError(f"{self.where}: {_text(error)}")
        if isinstance(error, TException):
            text = _text(error)
            if isinstance(error, api.IllegalArgument) or EVENTS_FAULT.search(text):
                return Rejected(f"HBase refuses an event: {text[:MOST_SHOWN]}")
            return AnsweredError(f"{self.where} answered: {text[:MOST_SHOWN]}")
        return DeliveryError(f"{self.where}: {type(error).__name__}: {error}")


def size_of(row: Row) -> int:
    """Bytes of a row in a call."""
    key, cells = row
    return ROW + len(key) + sum(CELL + len(column) + len(value) for column, value in cells.items())


def _text(error: Exception) -> str:
    """What an error says, without Java's stack; str() of a thriftpy2 error may fail."""
    said = getattr(error, "message", None) or getattr(error, "strerror", None) or (error.args[0] if error.args else "")
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
    return text.strip().partition("\n")[0] or type(error).__name__
