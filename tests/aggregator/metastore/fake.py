"""A metastore in this process: databases, tables and partitions in dicts, behind Thrift's own server on a free port.

`FakeMetastore(folder)` answers as 3.1.3 and 4.0.1 do to the calls that the client makes (tests/peers/test_hive.py shows
the real ones). `stop` and `start` are a death and a return; `slow` seconds are waited before each answer.
"""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import Any, Self

from pymetastore.hive_metastore import ThriftHiveMetastore, ttypes
from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.transport.TSocket import TServerSocket
from thrift.transport.TTransport import TBufferedTransport

from tests.peers.harness import free_port


class FakeMetastore:
    """Its names are those of the Thrift interface."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.slow = folder, free_port(), 0.0
        self.databases: dict[str, Any] = {}
        self.tables: dict[tuple[str, str], Any] = {}
        self.partitions: dict[tuple[str, str, tuple[str, ...]], Any] = {}
        self.calls: list[str] = []
        self.listener: Any = None
        self.connections: list[Any] = []

    @property
    def url(self) -> str:
        return f"thrift://127.0.0.1:{self.port}"

    # Its life.

    def start(self) -> Self:
        listener = TServerSocket("127.0.0.1", self.port)
        connections: list[Any] = []
        listener.listen()
        self.listener, self.connections = listener, connections
        threading.Thread(target=self._serve, args=(listener, connections), daemon=True).start()
        return self

    def _serve(self, listener: Any, connections: list[Any]) -> None:
        try:
            while True:
                connections.append(listener.accept())
                threading.Thread(target=self._talk, args=(connections[-1],), daemon=True).start()
        except Exception:
            pass  # closed by stop

    def _talk(self, connection: Any) -> None:
        processor = ThriftHiveMetastore.Processor(self)
        protocol = TBinaryProtocol(TBufferedTransport(connection))
        try:
            while True:
                processor.process(protocol, protocol)
        except Exception:
            connection.close()

    def stop(self) -> None:
        """Every connection breaks, and no new one is taken."""
        if self.listener:
            self.listener.handle.shutdown(socket.SHUT_RDWR)
            self.listener.close()
            self.listener = None
            for connection in self.connections:
                connection.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # Its calls.

    def _called(self, name: str) -> None:
        self.calls.append(name)
        time.sleep(self.slow)

    def create_database(self, database: Any) -> None:
        self._called("create_database")
        if database.name in self.databases:
            raise ttypes.AlreadyExistsException("Database already exists")
        self.databases[database.name] = database

    def create_table(self, table: Any) -> None:
        self._called("create_table")
        if (table.dbName, table.tableName) in self.tables:
            raise ttypes.AlreadyExistsException("Table already exists")
        table.sd.location = table.sd.location or f"file:{self.folder}/{table.dbName}.db/{table.tableName}"
        self.tables[table.dbName, table.tableName] = table

    def get_table_req(self, request: Any) -> Any:
        self._called("get_table_req")
        found = self.tables.get((request.dbName, request.tblName))
        if found is None:
            raise ttypes.NoSuchObjectException("table not found")
        return ttypes.GetTableResult(table=found)

    def add_partitions_req(self, request: Any) -> Any:
        self._called("add_partitions_req")
        for partition in request.parts:
            if (request.dbName, request.tblName) not in self.tables:
                raise ttypes.InvalidObjectException("Unable to add partitions because table does not exist")
            self.partitions.setdefault((request.dbName, request.tblName, tuple(partition.values)), partition)
        return ttypes.AddPartitionsResult()

    def get_partition(self, database: str, table: str, values: list[str]) -> Any:
        self._called("get_partition")
        found = self.partitions.get((database, table, tuple(values)))
        if found is None:
            raise ttypes.NoSuchObjectException("partition not found")
        return found
