"""Rows of an HBase table, through a Thrift gateway (Flume's HBaseSink; docs/hbase.md has key shapes and failures).

A batch is one call of the gateway, which is atomic for each row only. So a row follows from the event and its identity
(aggregator/hbase/cells.py): a batch that comes again writes the same cells, and the table holds each event once.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, TypeVarTuple

from agent.config import flume_names
from agent.config.fields import Bytes, Seconds, key
from agent.config.fields import Config as AnyConfig
from agent.config.reading import read
from agent.errors import ConfigError, DeliveryError
from agent.event import Batch
from agent.sink import Held, Sink, SinkConfig
from agent.store.streams import Identity
from aggregator.hbase.cells import CellSerializer, coalesced, names_of
from aggregator.hbase.gateway import FRAME, AnsweredError, Gateway
from aggregator.hbase.readings import ReadingsSerializer
from aggregator.hbase.regex import RegexSerializer
from aggregator.hbase.simple import SimpleSerializer

Arguments = TypeVarTuple("Arguments")
SERIALIZERS: dict[str, type[CellSerializer]] = {
    "simple": SimpleSerializer,
    "regex": RegexSerializer,
    "readings": ReadingsSerializer,
}
GATEWAY = "a Thrift gateway knows the cluster; thriftHost and thriftPort say where it is"
KERBEROS = (
    "the Thrift gateway authenticates itself to HBase: give the principal and keytab to the gateway "
    "(hbase.thrift.kerberos.principal, hbase.thrift.keytab.file in its hbase-site.xml) and remove the key"
)


class HbaseConfig(SinkConfig):
    IGNORED: ClassVar[dict[str, str]] = {"zookeeperQuorum": GATEWAY, "znodeParent": GATEWAY}
    REFUSED: ClassVar[dict[str, str]] = {"kerberosPrincipal": KERBEROS, "kerberosKeytab": KERBEROS}
    table: str = key("table", doc="the table")
    columnFamily: str = key("columnFamily", doc="the column family of all cells")
    batchSize: int = key("batchSize", 100, low=1, doc="most rows of one call")
    coalesceIncrements: bool = key("coalesceIncrements", False, doc="increments of a counter in a batch as one")
    enableWal: bool = key("enableWal", True, doc="write-ahead log; without it a crash of HBase loses rows")
    serializer: str = key(
        "serializer", "simple", doc="simple, regex, readings, or Flume's class names of the first two"
    )
    serializerKeys: dict[str, str] = key("serializer.*", {}, doc="keys of the serializer (docs/hbase.md)")
    thriftHost: str = key("thriftHost", "127.0.0.1", doc="where the Thrift gateway is")
    thriftPort: int = key("thriftPort", 9090, low=1, high=65535, doc="its port")
    thriftTransport: str = key("thriftTransport", "buffered", choices=("buffered", "framed"), doc="as the gateway has")
    thriftFrameSize: Bytes = key(
        "thriftFrameSize", Bytes(FRAME), low=1 << 20,
        doc="framed: bytes of a call, as the gateway's hbase.regionserver.thrift.framed.max_frame_size_in_mb",
    )  # fmt: skip
    thriftProtocol: str = key("thriftProtocol", "binary", choices=("binary", "compact"), doc="as the gateway has")
    callTimeout: Seconds = key("callTimeout", Seconds(30.0), unit="ms", low=0.001, doc="bound on a batch's calls")
    createTable: bool = key("createTable", False, doc="make the table if it is missing")

    def problems(self) -> list[tuple[str, str]]:
        found = [("columnFamily", "has no colon")] if ":" in self.columnFamily else []
        try:
            self.make_serializer()
        except ConfigError as error:
            found.append(("serializer", str(error)))
        return found

    def make_serializer(self) -> CellSerializer:
        """ConfigError if there is no such serializer, or its keys are wrong."""
        name = flume_names.ours("serializers", self.serializer).removeprefix("hbase_")
        if name not in SERIALIZERS:
            raise ConfigError(f"there is no serializer {self.serializer!r} of cells; it takes {', '.join(SERIALIZERS)}")
        reading = read(SERIALIZERS[name].Config, self.serializerKeys, f"serializer {name}")
        if reading.config is None or reading.faults:
            raise ConfigError("; ".join(f"serializer.{fault.key} {fault.text}" for fault in reading.faults))
        return SERIALIZERS[name](reading.config, self.columnFamily)


class HbaseSink(Sink):
    """A thread of its own talks to the gateway; one that hangs is left behind."""

    Config: ClassVar[type[AnyConfig]] = HbaseConfig
    config: HbaseConfig
    in_flight = 2
    """One is in a call while the next is made ready; the thread makes one call at a time, in order."""

    def __init__(self, name: str, config: AnyConfig) -> None:
        super().__init__(name, config)
        self.batch_size = self.config.batchSize
        self.serializer = self.config.make_serializer()
        self.gateway: Gateway | None = None
        self.under_way = 0
        self.origin, self.number = os.urandom(16), 0
        """Names given to events that have no identity."""

    async def open(self) -> None:
        """DeliveryError while the gateway or the table isn't there."""
        self._begin()
        if not self.durable:
            self.log.info("at least once: events that no file channel has named may be there twice")
        if self.serializer.repeats:
            self.log.info("at least once: %s; a repeated batch counts or writes again", self.serializer.repeats)
        await self._call(self._prepare)

    async def close(self) -> None:
        if self.gateway:
            self.gateway.abort()
            self.pool.submit(self.gateway.close)
            self.pool.shutdown(wait=False)

    async def send(self, batch: Batch) -> None:
        await self._call(self._store, batch, batch.identities or self._own(len(batch)))

    def held(self) -> Iterator[Held]:
        if not isinstance(self.serializer, ReadingsSerializer):
            raise DeliveryError("its rows carry no identity: serializer = readings writes it")
        gateway = self._gateway()
        try:
            for value in gateway.scan(self.config.table, self.serializer.identity):
                origin, _, number = value.partition(b":")
                yield Held((Identity(bytes.fromhex(origin.decode("ascii")), int(number), 1),))
        except ValueError:
            raise DeliveryError(f"the column {self.serializer.identity.decode()} holds what is no identity") from None
        finally:
            gateway.close()

    def _gateway(self) -> Gateway:
        keys = self.config
        frame = keys.thriftFrameSize if keys.thriftTransport == "framed" else 0
        compact = keys.thriftProtocol == "compact"
        return Gateway(keys.thriftHost, keys.thriftPort, keys.callTimeout, frame=frame, compact=compact)

    def _begin(self) -> None:
        self.gateway = self._gateway()
        self.pool = ThreadPoolExecutor(1, thread_name_prefix=self.name)

    async def _call(self, work: Callable[[Gateway, *Arguments], None], *args: *Arguments) -> None:
        """Run it on the sink's thread, after whatever was begun there; no longer than callTimeout for each."""
        gateway = self.gateway
        assert gateway
        self.under_way += 1
        try:
            async with asyncio.timeout(self.config.callTimeout * self.under_way):
                await asyncio.get_running_loop().run_in_executor(self.pool, work, gateway, *args)
        except TimeoutError:
            if gateway is self.gateway:
                self._leave()
            raise DeliveryError(f"{gateway.where}: no answer within callTimeout") from None
        finally:
            self.under_way -= 1

    def _leave(self) -> None:
        """To its fate the thread that hangs; what waits behind it there fails."""
        assert self.gateway
        self.gateway.abort()
        self.pool.shutdown(wait=False)
        self._begin()

    def _own(self, count: int) -> tuple[Identity, ...]:
        """Names that are never given twice: a batch whose `send` was cancelled may have been stored."""
        first, self.number = self.number + 1, self.number + count
        return (Identity(self.origin, first, count),)

    # On the thread.

    def _store(self, gateway: Gateway, batch: Batch, identities: tuple[Identity, ...]) -> None:
        rows = self.serializer.rows(batch.events, names_of(identities))
        increments = self.serializer.increments(batch.events)
        if self.config.coalesceIncrements:
            increments = coalesced(increments)
        try:
            gateway.put(self.config.table, rows, self.config.enableWal)
            gateway.increment(self.config.table, increments)
        except AnsweredError:
            self._prepare(gateway)  # says what is missing better than the answer of a call
            raise

    def _prepare(self, gateway: Gateway) -> None:
        """DeliveryError that says how to make what is missing, unless it may be made here."""
        table, family = self.config.table, self.config.columnFamily
        families = gateway.families(table)
        if families is None and self.config.createTable:
            self.log.info("making the table %s with the family %s", table, family)
            gateway.create(table, family)
        elif families is None:
            made = f"create '{table}', '{family}'"
            raise DeliveryError(f"HBase has no table {table}: {made} in the HBase shell, or createTable = true")
        elif family not in families:
            raise DeliveryError(
                f"the table {table} has no column family {family}, it has {', '.join(sorted(families))}: "
                f"alter '{table}', NAME => '{family}' in the HBase shell"
            )
