"""Metastore: the few calls of Hive's metastore (Thrift, binary protocol, no SASL) that the hive sink makes.

Blocking; one thread uses it. A connection that failed in any way is never used again: what it has sent may be answered
late and would be taken for the answer to the next call. Every call may be repeated without harm. Several addresses are
tried in turn, beginning with the one that answered last.
"""

from __future__ import annotations

import copy
import getpass
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pymetastore.hive_metastore import ThriftHiveMetastore, ttypes
from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.transport.TSocket import TSocket
from thrift.transport.TTransport import TBufferedTransport

from agent.errors import DeliveryError
from aggregator.metastore.table import AVRO, INPUT, OUTPUT, SCHEMA, Table, schema_text, table_of
from aggregator.metastore.types import Column

logging.getLogger("thrift").setLevel(logging.CRITICAL)  # it logs every refused connection, besides raising

Answer = TypeVar("Answer")
Call = Callable[[Any], Answer]
SAID = (
    ttypes.MetaException, ttypes.NoSuchObjectException, ttypes.AlreadyExistsException, ttypes.InvalidObjectException,
    ttypes.InvalidOperationException,
)  # fmt: skip
"""The metastore's own answers: the connection is fine."""


class Metastore:
    """`addresses` are (host, port), at least one; `timeout` is of a connection and of each wait for an answer."""

    def __init__(self, addresses: Sequence[tuple[str, int]], timeout: float) -> None:
        self.addresses, self.timeout = list(addresses), timeout
        self.transport: Any = None
        self.client: Any = None

    def close(self) -> None:
        """Drop the connection."""
        transport, self.transport, self.client = self.transport, None, None
        if transport is not None:
            transport.close()

    def table(self, database: str, name: str) -> Table | None:
        """None if there is no such table or database. DeliveryError if it can't be written to."""
        can = ttypes.ClientCapabilities([ttypes.ClientCapability.INSERT_ONLY_TABLES])
        request = ttypes.GetTableRequest(dbName=database, tblName=name, capabilities=can)
        try:
            found = self._call(lambda client: client.get_table_req(request).table)
        except DeliveryError as error:
            if isinstance(error.__cause__, ttypes.NoSuchObjectException):
                return None
            raise
        return table_of(found)

    def create(self, database: str, name: str, columns: Sequence[Column], keys: Sequence[Column], place: str) -> None:
        """Make an external table stored as Avro, and its database; fine if they are there. `place` may be empty."""
        self._unless_there(lambda client: client.create_database(ttypes.Database(name=database, parameters={})))
        schema = {SCHEMA: schema_text(name, columns)}
        serde = ttypes.SerDeInfo(name, AVRO, {"serialization.format": "1", **schema})
        descriptor = ttypes.StorageDescriptor(
            cols=_fields(columns), location=place or None, inputFormat=INPUT, outputFormat=OUTPUT, compressed=False,
            numBuckets=-1, serdeInfo=serde, bucketCols=[], sortCols=[], parameters={},
        )  # fmt: skip
        table = ttypes.Table(
            tableName=name, dbName=database, owner=getpass.getuser(), createTime=int(time.time()), sd=descriptor,
            partitionKeys=_fields(keys), parameters={"EXTERNAL": "TRUE", **schema}, tableType="EXTERNAL_TABLE",
        )  # fmt: skip
        self._unless_there(lambda client: client.create_table(table))

    def register(self, table: Table, values: Sequence[str], location: str) -> None:
        """Make the partition known, and its folder; fine if it is. DeliveryError if it is known somewhere else."""
        descriptor = copy.copy(table.descriptor)
        descriptor.location = location
        partition = ttypes.Partition(
            values=list(values), dbName=table.database, tableName=table.name, createTime=int(time.time()),
            sd=descriptor, parameters={},
        )  # fmt: skip
        request = ttypes.AddPartitionsRequest(table.database, table.name, [partition], True, False)
        self._call(lambda client: client.add_partitions_req(request))
        self.check(table, values, location)

    def check(self, table: Table, values: Sequence[str], location: str) -> bool:
        """Whether the partition is known. DeliveryError if it is known somewhere else."""
        try:
            found = self._call(lambda client: client.get_partition(table.database, table.name, list(values)))
        except DeliveryError as error:
            if isinstance(error.__cause__, ttypes.NoSuchObjectException):
                return False
            raise
        there = found.sd.location.rstrip("/")
        if _plain(there) != _plain(location):
            raise DeliveryError(f"partition {'/'.join(values)} of {table} lies in {there}, not in {location}")
        return True

    def _unless_there(self, call: Call[None]) -> None:
        try:
            self._call(call)
        except DeliveryError as error:
            if not isinstance(error.__cause__, ttypes.AlreadyExistsException):
                raise

    def _call(self, call: Call[Answer]) -> Answer:
        """One call; DeliveryError with the metastore's answer or the last connection's error as its cause."""
        for address in list(self.addresses):
            try:
                return call(self._connected(address))
            except SAID as error:
                raise DeliveryError(f"metastore: {_first_line(error.message)}") from error
            except Exception as error:
                self.close()
                failed = error
                self.addresses.append(self.addresses.pop(0))
        where = ", ".join(f"{host}:{port}" for host, port in self.addresses)
        raise DeliveryError(f"metastore {where}: {_first_line(failed)}") from failed

    def _connected(self, address: tuple[str, int]) -> Any:
        if self.client is None:
            socket = TSocket(*address)
            socket.setTimeout(self.timeout * 1000)
            transport = TBufferedTransport(socket)
            transport.open()
            self.transport, self.client = transport, ThriftHiveMetastore.Client(TBinaryProtocol(transport))
        return self.client


def _fields(columns: Sequence[Column]) -> list[Any]:
    return [ttypes.FieldSchema(column.name, column.type, "") for column in columns]


def _plain(location: str) -> str:
    """`file:/a` and `file:///a` are one place."""
    return location.replace(":///", ":/")


def _first_line(error: Any) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
