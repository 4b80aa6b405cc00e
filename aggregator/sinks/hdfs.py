"""Writes events to files on HDFS (`hdfs://`) or a disk (`file://`), as Flume's hdfs sink does.

Behind a file channel each event is in a file with a final name once, whatever kills the agent
(aggregator/hdfs/output.py says how). A batch is acknowledged when it is on the devices (hsync), which Flume's flush
doesn't wait for. Behind a memory channel it is at least once, and what a crash leaves under an in-use name stays, as
in Flume.

Hive and Spark read an in-use file as if it were whole unless its name begins with `_` or `.`: set hdfs.inUsePrefix = _
where they read the folder. The default is Flume's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar
from urllib.parse import urlsplit

from agent.config.fields import Config as AnyConfig
from agent.config.fields import Seconds, key
from agent.errors import ConfigError
from agent.event import Batch
from agent.sink import Held, Sink, SinkConfig
from aggregator.formats.format import FILE_TYPES, Format, make_format
from aggregator.hdfs.filesystem import FileSystem
from aggregator.hdfs.opening import file_system
from aggregator.hdfs.output import Names, Output, Rules
from aggregator.hdfs.places import Places, zone_of
from aggregator.manifest import Manifest, found_of, path_of

THREADS = "one thread writes"
MAX_BYTES = 4 << 20
"""Of one block, as events."""


class HdfsConfig(SinkConfig):
    IGNORED: ClassVar[dict[str, str]] = {
        "hdfs.threadsPoolSize": THREADS,
        "hdfs.rollTimerPoolSize": THREADS,
        "hdfs.useRawLocalFileSystem": "file:// is the local file system as it is, without checksum files",
        "hdfs.minBlockReplicas": "a file isn't rolled because a block has few replicas",
    }
    REFUSED: ClassVar[dict[str, str]] = {
        "hdfs.proxyUser": "the client can't act for others; start the agent as that one, or set HADOOP_USER_NAME",
    }
    path: str = key("hdfs.path", doc="folder of the files, with hdfs:// or file://; may have escapes")
    filePrefix: str = key("hdfs.filePrefix", "FlumeData", doc="text before the counter in a name; may have escapes")
    fileSuffix: str = key("hdfs.fileSuffix", "", doc="text behind it, with its dot; empty: that of the codec")
    inUsePrefix: str = key(
        "hdfs.inUsePrefix", "", doc="text before the name while the file grows; _ hides it from Hive"
    )
    inUseSuffix: str = key("hdfs.inUseSuffix", ".tmp", doc="text behind the name while the file grows")
    emptyInUseSuffix: bool = key("hdfs.emptyInUseSuffix", False, doc="no inUseSuffix at all")
    rollInterval: Seconds = key("hdfs.rollInterval", Seconds(30.0), unit="s", low=0.0, doc="age of a file; 0: any")
    rollSize: int = key("hdfs.rollSize", 1024, low=0, doc="bytes of bodies in a file; 0: any number")
    rollCount: int = key("hdfs.rollCount", 10, low=0, doc="events in a file; 0: any number")
    idleTimeout: Seconds = key(
        "hdfs.idleTimeout", Seconds(0.0), unit="s", low=0.0, doc="finish a file unused for so long"
    )
    batchSize: int = key("hdfs.batchSize", 100, low=1, doc="most events written at once")
    codeC: str = key("hdfs.codeC", "", doc="gzip, bzip2, snappy, deflate ...")
    fileType: str = key("hdfs.fileType", "SequenceFile", choices=FILE_TYPES, doc="kind of the files")
    writeFormat: str = key("hdfs.writeFormat", "Writable", choices=("Writable", "Text"), doc="values of a SequenceFile")
    maxOpenFiles: int = key("hdfs.maxOpenFiles", 5000, low=1, doc="files that grow at once; 500 at most")
    callTimeout: Seconds = key("hdfs.callTimeout", Seconds(30.0), unit="ms", low=0.001, doc="wait for HDFS")
    retryInterval: Seconds = key(
        "hdfs.retryInterval", Seconds(180.0), unit="s", doc="longest wait between tries to close"
    )
    closeTries: int = key("hdfs.closeTries", 0, low=0, doc="tries to close and rename a file; 0: no end")
    round: bool = key("hdfs.round", False, doc="round the time of escapes down")
    roundValue: int = key("hdfs.roundValue", 1, low=1, high=60, doc="to a multiple of this")
    roundUnit: str = key("hdfs.roundUnit", "second", choices=("second", "minute", "hour"), doc="of these")
    timeZone: str = key("hdfs.timeZone", "", doc="such as Europe/Berlin; empty: the machine's")
    useLocalTimeStamp: bool = key("hdfs.useLocalTimeStamp", False, doc="the time of writing instead of the header")
    configDir: str = key("hdfs.configDir", "", doc="folder with core-site.xml and hdfs-site.xml; else HADOOP_CONF_DIR")
    kerberosPrincipal: str = key("hdfs.kerberosPrincipal", "", doc="who the agent is")
    kerberosKeytab: str = key("hdfs.kerberosKeytab", "", doc="its keytab")
    serializer: str = key("serializer", "TEXT", doc="TEXT, HEADER_AND_TEXT, avro_event or a class of your own")
    serializerKeys: dict[str, str] = key("serializer.*", {}, doc="keys of the serializer")

    def problems(self) -> list[tuple[str, str]]:
        found = []
        for name, check in (("hdfs.fileType", self.format), ("hdfs.path", self.places), ("hdfs.path", self.place)):
            try:
                check()
            except (ConfigError, ValueError) as error:
                found.append((name, str(error)))
        if "/" in self.inUsePrefix + self.inUseSuffix + self.fileSuffix + self.filePrefix:
            found.append(("hdfs.filePrefix", "no part of a file's name can hold a /"))
        return found

    def format(self) -> Callable[[], Format]:
        """What makes the inside of a file. ConfigError."""
        return make_format(self.fileType, self.codeC or None, self.writeFormat, self.serializer, self.serializerKeys)

    def place(self) -> tuple[str, str]:
        """(URL of the file system, path with escapes). ValueError."""
        scheme, colon, rest = self.path.partition(":")
        if not colon or "/" in scheme:
            return "", self.path
        url = urlsplit(self.path.split("%", 1)[0])
        if scheme == "file":
            return "file://", "/" + rest.lstrip("/")
        if scheme != "hdfs":
            raise ValueError(f"{scheme}:// is no place that it can write to; there are hdfs:// and file://")
        authority = f"//{url.netloc}" if url.netloc else ""
        return f"hdfs:{authority}" if authority else "", rest.removeprefix(authority) or "/"

    def places(self) -> Places:
        rounding = (self.roundUnit, self.roundValue) if self.round else None
        return Places(self.place()[1], self.filePrefix, zone_of(self.timeZone), rounding, self.useLocalTimeStamp)


class HdfsSink(Sink):
    """One thread of its own writes, each turn bounded by hdfs.callTimeout."""

    Config: ClassVar[type[AnyConfig]] = HdfsConfig
    config: HdfsConfig
    keeps_receipt: ClassVar[bool] = True
    holds_its_own: ClassVar[bool] = True

    def __init__(self, name: str, config: AnyConfig) -> None:
        super().__init__(name, config)
        self.batch_size, self.max_bytes = self.config.batchSize, MAX_BYTES
        self.places, self.missed = self.config.places(), False
        self.output: Output | None = None
        self.manifest: Manifest | None = None

    async def open(self) -> None:
        """ConfigError: hdfs.path is on another file system than files that the last run left unfinished."""
        keys = self.config
        if not self.durable:
            self.log.info("at least once: no receipt is kept; a crash repeats a batch and leaves in-use files")
        elif self.folder:
            self.manifest = Manifest(path_of(self.folder, self.name), self.log, self.receipt is not None)
        names = Names(keys.inUsePrefix, "" if keys.emptyInUseSuffix else keys.inUseSuffix, keys.fileSuffix)
        rules = Rules(
            keys.rollInterval, keys.idleTimeout, keys.rollSize, keys.rollCount, keys.maxOpenFiles,
            keys.retryInterval, 1 if keys.retryInterval <= 0 else keys.closeTries,
        )  # fmt: skip
        self.output = Output(
            self._files(), keys.format(), names, rules, keys.callTimeout, self.keep, self.manifest, self.log
        )
        receipt = await self.output.open(self.receipt)
        if self.durable:
            self.receipt = receipt

    async def close(self) -> None:
        if self.output:
            await self.output.close()
        if self.manifest:
            self.manifest.close()

    async def send(self, batch: Batch) -> bytes | None:
        assert self.output
        parts = list(self.places.split(batch))
        if self.places.missed and not self.missed:
            self.missed = True
            self.log.warning("an event without a timestamp header goes by the time of writing")
        receipt = await self.output.append(parts)
        return receipt if self.durable else None

    def held(self) -> Iterator[Held]:
        yield from found_of(self.folder, self.name, self._files().length)

    def _files(self) -> FileSystem:
        url, keys = self.config.place()[0], self.config
        return file_system(url, keys.configDir, keys.kerberosPrincipal, keys.kerberosKeytab, keys.callTimeout / 2)
