"""Adds rows to a table of Hive: Avro files in the folders of its partitions, which the metastore is told of.

Flume's hive sink writes ORC through Hive's transactions, which only a JVM can; this one takes its keys and writes Avro,
through the files of the hdfs sink and with their promise: behind a file channel each event is in a finished file once,
whatever kills the agent. Rows are seen once their file is finished (rollInterval, rollSize, rollCount): until then its
name begins with `_`, which Hive and Spark pass over.

A partition is registered **before its first file is made**, so a file never waits for the metastore: while it is down,
files go on growing and being finished in partitions that it knows; a batch for a new one waits. Registering twice does
nothing, so nothing need be remembered of it over a crash.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import ClassVar

from agent.config.fields import Bytes, Seconds, key
from agent.config.fields import Config as AnyConfig
from agent.errors import DeliveryError
from agent.event import Batch
from agent.sink import Held, Sink, SinkConfig
from aggregator.hdfs.filesystem import FileSystem
from aggregator.hdfs.opening import file_system
from aggregator.hdfs.output import Names, Output, Rules
from aggregator.hdfs.places import Place
from aggregator.manifest import Manifest, found_of, path_of
from aggregator.metastore.asking import Asking, address
from aggregator.metastore.client import Metastore
from aggregator.metastore.partition import folder_of, values_for
from aggregator.metastore.rows import Parse, Rows, delimited_fields, json_fields, plain_delimiter
from aggregator.metastore.table import Table, create_text, place_of
from aggregator.metastore.types import Column, columns_of
from aggregator.metastore.values import PartitionValues, zone_of

MAX_BYTES = 4 << 20
"""Of one block, as events."""
MOST_PARTITIONS = 10_000
"""Partitions that it remembers as registered."""
OPEN = Names("_", ".tmp")
"""Hive and Spark pass a name that begins with `_` over."""
ACID = "for Hive's transactions; here rows come as files"


class HiveConfig(SinkConfig):
    IGNORED: ClassVar[dict[str, str]] = {
        "hive.txnsPerBatchAsk": ACID,
        "txnsPerBatchAsk": ACID,
        "heartBeatInterval": ACID,
        "maxOpenConnections": ACID,
        "serializer.serdeSeparator": "Avro has no separators",
    }
    metastore: list[str] = key("hive.metastore", split=",", doc="thrift://host:port, several separated by commas")
    database: str = key("hive.database", doc="the database")
    table: str = key("hive.table", doc="the table")
    partition: list[str] = key(
        "hive.partition", [], split=",", doc="a value for each partition column; may have escapes"
    )
    columns: str = key("hive.columns", "", doc="name type, ... of a table that it makes")
    partitionColumns: str = key("hive.partitionColumns", "", doc="name type, ... of its partition columns")
    location: str = key("hive.location", "", doc="where it makes the table; not given: where the database says")
    createTable: bool = key("createTable", False, doc="make database and table if they are missing")
    autoCreatePartitions: bool = key("autoCreatePartitions", True, doc="register a partition that is missing")
    batchSize: int = key("batchSize", 15000, low=1, doc="most events taken at once")
    callTimeout: Seconds = key("callTimeout", Seconds(10.0), unit="ms", low=0.1, doc="wait for an answer")
    idleTimeout: Seconds = key("idleTimeout", Seconds(0.0), unit="s", low=0.0, doc="finish an unused file; 0: no")
    rollInterval: Seconds = key("rollInterval", Seconds(600.0), unit="s", low=0.0, doc="finish a file so old; 0: no")
    rollSize: Bytes = key("rollSize", Bytes(128 << 20), low=0, doc="bytes of bodies in a file; 0: any number")
    rollCount: int = key("rollCount", 0, low=0, doc="rows in a file; 0: any number")
    configDir: str = key("hdfs.configDir", "", doc="folder with core-site.xml and hdfs-site.xml; else HADOOP_CONF_DIR")
    kerberosPrincipal: str = key("hdfs.kerberosPrincipal", "", doc="who the agent is, for HDFS")
    kerberosKeytab: str = key("hdfs.kerberosKeytab", "", doc="its keytab")
    round: bool = key("round", False, doc="round the timestamp down for the escapes")
    roundUnit: str = key("roundUnit", "minute", choices=("second", "minute", "hour"), doc="unit of roundValue")
    roundValue: int = key("roundValue", 1, low=1, doc="to a multiple of so many units")
    timeZone: str = key("timeZone", "", doc="of the escapes, such as UTC or Europe/Berlin; not given: the machine's")
    useLocalTimeStamp: bool = key("useLocalTimeStamp", False, doc="time of writing instead of the timestamp header")
    serializer: str = key("serializer", choices=("DELIMITED", "JSON"), doc="what the bodies are")
    delimiter: str = key("serializer.delimiter", ",", doc='DELIMITED: between fields; special ones as "\\t"')
    fieldnames: str = key(
        "serializer.fieldnames", "", doc="DELIMITED: the column of each field; an empty name leaves it out"
    )

    def problems(self) -> list[tuple[str, str]]:
        found = [("hive.metastore", f"{url!r} is no thrift://host:port") for url in self.metastore if not address(url)]
        checks: list[tuple[str, Callable[[], object]]] = [
            ("hive.columns", lambda: columns_of(self.columns) if self.columns else None),
            ("hive.partitionColumns", self.keys),
            ("timeZone", lambda: zone_of(self.timeZone)),
            ("hive.partition", lambda: PartitionValues(self.partition, None)),
            ("serializer.delimiter", lambda: plain_delimiter(self.delimiter)),
        ]
        for name, check in checks:
            try:
                check()
            except ValueError as error:
                found.append((name, str(error)))
        if self.serializer == "DELIMITED" and not any(self.names()):
            found.append(("serializer.fieldnames", "DELIMITED needs the column of each field"))
        if self.createTable and not self.columns:
            found.append(("hive.columns", "createTable needs the columns: name type, name type ..."))
        if self.createTable and not found and len(self.keys()) != len(self.partition):
            found.append(("hive.partitionColumns", f"{len(self.partition)} values in hive.partition need as many"))
        return found

    def addresses(self) -> list[tuple[str, int]]:
        return [found for url in self.metastore if (found := address(url))]

    def names(self) -> list[str]:
        """The column of each field, in lower case; an empty one for a field that is left out."""
        return [name.strip().lower() for name in self.fieldnames.split(",")]

    def keys(self) -> list[Column]:
        return columns_of(self.partitionColumns) if self.partitionColumns else []

    def values(self) -> PartitionValues:
        """ValueError if an escape or the time zone is none."""
        rounding = (self.roundUnit, self.roundValue) if self.round else None
        return PartitionValues(self.partition, zone_of(self.timeZone), rounding, self.useLocalTimeStamp)


class HiveSink(Sink):
    """The metastore is asked in one thread, files are written in another."""

    Config: ClassVar[type[AnyConfig]] = HiveConfig
    config: HiveConfig
    keeps_receipt: ClassVar[bool] = True
    holds_its_own: ClassVar[bool] = True

    def __init__(self, name: str, config: AnyConfig) -> None:
        super().__init__(name, config)
        keys = self.config
        self.batch_size, self.max_bytes = keys.batchSize, MAX_BYTES
        self.values = keys.values()
        self.output: Output | None = None
        self.manifest: Manifest | None = None
        self.known: OrderedDict[str, None] = OrderedDict()
        """Folders of partitions that the metastore knows, the one used last at the end."""

    async def open(self) -> None:
        """DeliveryError while the metastore is down, or the table is missing or not as it has to be. ConfigError: its
        files lie elsewhere now, and unfinished ones are at the old place."""
        keys = self.config
        self.ask = Asking(self.name, keys.addresses(), keys.callTimeout)
        self.table = await self._table()
        rules = Rules(keys.rollInterval, keys.idleTimeout, keys.rollSize, keys.rollCount)
        rows, files = self._rows(self.table), self._files(self.table)
        if not self.durable:
            self.log.info("at least once: no receipt is kept; a crash repeats a batch and leaves open files")
        elif self.folder:
            self.manifest = Manifest(path_of(self.folder, self.name), self.log, self.receipt is not None)
        self.output = Output(files, rows, OPEN, rules, keys.callTimeout, self.keep, self.manifest, self.log)
        receipt = await self.output.open(self.receipt)
        if self.durable:
            self.receipt = receipt

    async def close(self) -> None:
        if hasattr(self, "ask"):
            self.ask.close()
        if self.output:
            await self.output.close()
        if self.manifest:
            self.manifest.close()

    async def send(self, batch: Batch) -> bytes | None:
        assert self.output
        root, parts = place_of(self.table.location)[1], list[tuple[Place, Batch]]()
        for found, part in self.values.split(batch):
            values = values_for(self.table.keys, found)
            folder = folder_of(self.table.keys, values)
            await self._register(folder, values)
            parts.append((Place(f"{root}/{folder}".rstrip("/"), self.table.name), part))
        receipt = await self.output.append(parts)
        return receipt if self.durable else None

    def held(self) -> Iterator[Held]:
        keys = self.config
        metastore = Metastore(keys.addresses(), keys.callTimeout)
        try:
            table = metastore.table(keys.database, keys.table)
        finally:
            metastore.close()
        if table is None:
            raise DeliveryError(f"there is no table {keys.database}.{keys.table}")
        yield from found_of(self.folder, self.name, self._files(table).length)

    # The table.

    async def _table(self) -> Table:
        keys = self.config
        table = await self.ask(lambda metastore: metastore.table(keys.database, keys.table))
        if table is None and keys.createTable:
            made = columns_of(keys.columns), keys.keys(), keys.location
            await self.ask(lambda metastore: metastore.create(keys.database, keys.table, *made))
            self.log.info("made the table %s.%s", keys.database, keys.table)
            table = await self.ask(lambda metastore: metastore.table(keys.database, keys.table))
        if table is None:
            raise DeliveryError(f"there is no table {keys.database}.{keys.table}; make it: {self._statement()}")
        if len(table.keys) != len(keys.partition):
            names = ", ".join(column.name for column in table.keys) or "none"
            raise DeliveryError(
                f"table {table} has {len(table.keys)} partition columns ({names}), "
                f"hive.partition has {len(keys.partition)} values"
            )
        return table

    def _statement(self) -> str:
        keys = self.config
        texts = [Column(name, "string") for name in keys.names() if name]
        columns = columns_of(keys.columns) if keys.columns else texts
        partitions = keys.keys() or [Column(f"p{i}", "string") for i in range(1, len(keys.partition) + 1)]
        return create_text(keys.database, keys.table, columns, partitions, keys.location)

    def _rows(self, table: Table) -> Callable[[], Rows]:
        """What makes the inside of each new file."""
        keys = self.config
        parse: Parse = json_fields(table.columns)
        if keys.serializer == "DELIMITED":
            unknown = set(keys.names()) - {column.name for column in table.columns} - {""}
            if unknown:
                raise DeliveryError(f"table {table} has no column {', '.join(sorted(unknown))} (serializer.fieldnames)")
            parse = delimited_fields(table.columns, plain_delimiter(keys.delimiter), keys.names())
        return lambda: Rows(table.name, table.columns, parse)

    def _files(self, table: Table) -> FileSystem:
        keys = self.config
        url = place_of(table.location)[0]
        return file_system(url, keys.configDir, keys.kerberosPrincipal, keys.kerberosKeytab, keys.callTimeout / 2)

    # Partitions.

    async def _register(self, folder: str, values: tuple[str, ...]) -> None:
        """Make the metastore know a partition. DeliveryError if it is down or may not be told."""
        if not folder or folder in self.known:
            return
        table, location = self.table, f"{self.table.location}/{folder}"
        if self.config.autoCreatePartitions:
            await self.ask(lambda metastore: metastore.register(table, values, location))
        elif not await self.ask(lambda metastore: metastore.check(table, values, location)):
            raise DeliveryError(f"table {table} has no partition {folder}, and autoCreatePartitions = false")
        self.known[folder] = None
        if len(self.known) > MOST_PARTITIONS:
            self.known.popitem(last=False)
