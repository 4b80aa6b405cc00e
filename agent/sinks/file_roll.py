"""Appends events to local files and starts a new one at intervals (Flume's RollingFileSink).

A batch is on the device before it is acknowledged, and behind a file channel it is in the files exactly once, whatever
kills the agent (agent/output_files.py). Other than in Flume, a file is made when there is an event for it, the folder
is made if it is missing, and its name may have escapes (agent/escape.py), such as a folder a day:

    a1.sinks.k1.sink.directory = /data/%{topic}/%Y-%m-%d
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, TypeVar, TypeVarTuple, cast

from agent import clock
from agent.component import load
from agent.config import flume_names
from agent.config.fields import Config as AnyConfig
from agent.config.fields import Seconds, key
from agent.config.reading import read
from agent.errors import ConfigError, DeliveryError, Rejected, translated
from agent.escape import TAG, Escape
from agent.event import Batch
from agent.output_files import OutputFiles, Part
from agent.serializer import Serializer
from agent.sink import Held, Sink, SinkConfig

Answer = TypeVar("Answer")
Arguments = TypeVarTuple("Arguments")
OF_THE_EVENT = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EEXIST, errno.EINVAL, errno.EILSEQ)
"""What a folder that an event's headers name may be refused for."""


class FileRollConfig(SinkConfig):
    directory: str = key("sink.directory", doc="folder of the files; may have escapes")
    pathManager: str = key(
        "sink.pathManager", "DEFAULT", choices=("DEFAULT", "ROLLTIME"),
        doc="names: DEFAULT <start ms>-<n>, ROLLTIME <yyyyMMddHHmmss>-<n>",
    )  # fmt: skip
    prefix: str = key("sink.pathManager.prefix", "", doc="text before each name")
    extension: str = key("sink.pathManager.extension", "", doc="text behind each name, after a dot")
    rollInterval: Seconds = key("sink.rollInterval", Seconds(30.0), unit="s", low=0.0, doc="age of a file; 0: for ever")
    batchSize: int = key("sink.batchSize", 100, low=1, doc="most events taken at once")
    sync: bool = key("sink.sync", True, doc="sync each batch to the device before it is acknowledged")
    serializer: str = key("sink.serializer", "TEXT", doc="TEXT, HEADER_AND_TEXT, avro_event or a class of your own")
    serializerKeys: dict[str, str] = key("sink.serializer.*", {}, doc="keys of the serializer")

    def problems(self) -> list[tuple[str, str]]:
        found = (
            [("sink.pathManager", "prefix and extension can't hold a /")] if "/" in self.prefix + self.extension else []
        )
        try:
            Escape(self.directory)
        except ValueError as error:
            found.append(("sink.directory", str(error)))
        try:
            cls = serializer_class(self.serializer)
        except ConfigError as error:
            return [*found, ("sink.serializer", str(error))]
        faults = read(cls.Config, self.serializerKeys, f"serializer {self.serializer}").faults
        return found + [(f"sink.serializer.{fault.key}", fault.text) for fault in faults]


class FileRollSink(Sink):
    """One thread of its own writes; a `send` that was cancelled is undone before the next one."""

    Config: ClassVar[type[AnyConfig]] = FileRollConfig
    config: FileRollConfig
    keeps_receipt: ClassVar[bool] = True

    def __init__(self, name: str, config: AnyConfig) -> None:
        super().__init__(name, config)
        self.batch_size = self.config.batchSize
        base, rest = split(self.config.directory)
        self.root, self.pattern = Path(base).expanduser(), Escape(rest)
        self.fixed = self.pattern.fixed
        self.serializer = make_serializer(self.config.serializer, self.config.serializerKeys)
        self.started = clock.wall_ms()
        self.missed = False
        self.second, self.index = "", 0
        """Of the last name by ROLLTIME, which counts from 1 in each second."""

    async def open(self) -> None:
        """DeliveryError if the folder can't be written."""
        self.started = clock.wall_ms()
        self.pool = ThreadPoolExecutor(1, thread_name_prefix=self.name)
        journal = f".{self.name}.journal" if self.durable else None
        keys = self.config
        self.files = OutputFiles(self.root, self._name, journal, keys.rollInterval, keys.sync, self.log)
        if not self.durable:
            self.log.info("at least once: the channel keeps no receipt of its own for it, a restart may repeat a batch")
        self.receipt = await self._call(self.files.open, self.receipt) or self.receipt

    async def close(self) -> None:
        if hasattr(self, "pool"):
            try:
                await self._call(self.files.settle)
            except DeliveryError as error:
                self.log.warning("%s", error)
            self.pool.shutdown(wait=False)

    async def send(self, batch: Batch) -> bytes | None:
        receipt = await self._call(self.files.append, self._parts(batch))
        self.files.confirm()
        return receipt

    def held(self) -> Iterator[Held]:
        for path in sorted(self.root.rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                with translated({OSError: DeliveryError}, str(path)):
                    yield Held(tuple(self.serializer.identities(path)), str(path))

    async def _call(self, work: Callable[[*Arguments], Answer], *args: *Arguments) -> Answer:
        """Run it on the sink's thread, after whatever was begun there."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self.pool, work, *args)
        except OSError as error:
            text = f"{error.filename or self.root}: {error.strerror}"
            if error.errno in OF_THE_EVENT and self.fixed is None:
                raise Rejected(f"an event's folder can't be made: {text}") from error
            raise DeliveryError(text) from error

    def _name(self, number: int) -> str:
        start = str(self.started)
        if self.config.pathManager == "ROLLTIME":
            start = time.strftime("%Y%m%d%H%M%S")
            self.second, self.index = start, self.index + 1 if start == self.second else 1
            number = self.index
        end = f".{self.config.extension}" if self.config.extension else ""
        return f"{self.config.prefix}{start}-{number}{end}"

    def _parts(self, batch: Batch) -> list[Part]:
        """The batch's bytes, by folder; the batch as it is where there is one folder."""
        header = self.serializer.header()
        fixed = self.fixed
        if fixed is not None:
            return [Part(fixed, header, self.serializer.encode(batch))]
        folders: dict[str, list[int]] = {}
        for index, event in enumerate(batch.events):
            folders.setdefault(safe(self.pattern.expand(event.headers)), []).append(index)
        if self.pattern.missed and not self.missed:
            self.missed = True
            self.log.warning("an event without a timestamp header goes by the time of writing")
        whole = len(folders) == 1
        return [
            Part(folder, header, self.serializer.encode(batch if whole else batch.pick(indexes)))
            for folder, indexes in folders.items()
        ]


def serializer_class(name: str) -> type[Serializer]:
    """ConfigError if there is no such serializer."""
    return cast(type[Serializer], load("serializers", flume_names.ours("serializers", name)))


def make_serializer(name: str, keys: dict[str, str]) -> Serializer:
    """ConfigError if its keys are wrong."""
    cls = serializer_class(name)
    reading = read(cls.Config, keys, f"serializer {name}")
    if reading.config is None:
        raise ConfigError("; ".join(f"sink.serializer.{fault.key}: {fault.text}" for fault in reading.faults))
    return cls(name, reading.config)


def split(directory: str) -> tuple[str, str]:
    """The part of a pattern that is the same for all events, up to a slash, and the rest."""
    fixed = Escape(directory).fixed
    if fixed is not None:
        return fixed, ""
    tag = TAG.search(directory)
    assert tag
    slash = directory.rfind("/", 0, tag.start()) + 1
    return directory[:slash] or ".", directory[slash:]


def safe(folder: str) -> str:
    """A path that stays below its root, whatever an event's headers say: no empty, hidden or upward part."""
    parts = (part.replace("\0", "_") for part in folder.split("/") if part)
    return "/".join("_" + part[1:] if part.startswith(".") else part for part in parts)
