"""The hdfs sink beside Flume 1.11's: one configuration, one input, the same files from both.

Each runs every combination of fileType, codeC and serializer that both have, a channel and a sink each, in one agent.
Names are compared by their shape (the counter is the time), contents by what they decode to: how events are cut into
blocks and members is each one's own. Flume's header_and_text prints headers in the order of a HashMap.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import fastavro
import pytest

from agent.avro import record
from agent.event import Event
from tests.aggregator.formats.reading import EXPAND, Sequence6, avro
from tests.bench.driver import Line
from tests.needs import need
from tests.peers.flume_hdfs import FlumeHdfs
from tests.peers.harness import Program, free_port, wait_until

SCHEMA = '"string"'
AVRO_DATUM = "org.apache.flume.sink.hdfs.AvroEventSerializer$Builder"
Decode = Callable[[bytes], list[Any]]


class Case(NamedTuple):
    """A sink: its keys, the end of its files' names, how they are read, and the folders and number of its files."""

    name: str
    keys: dict[str, str]
    suffix: str
    decode: Decode
    files: dict[str, int]


def lines(data: bytes) -> list[Any]:
    return data.splitlines()


def headers_and_lines(data: bytes) -> list[Any]:
    """(headers, body) of `{k=v, k2=v2} body`."""
    found = []
    for line in data.decode().splitlines():
        headers, body = line[1:].split("} ", 1)
        found.append((dict(pair.split("=", 1) for pair in headers.split(", ")), body))
    return found


def sequence(data: bytes) -> list[Any]:
    found = Sequence6(data)
    return [(found.key, found.value, found.codec, found.blocks), *found.records]


def datums(data: bytes) -> list[Any]:
    reader: Any = fastavro.reader(io.BytesIO(data))
    return [reader.writer_schema, *reader]


def expanded(codec: str, decode: Decode) -> Decode:
    return lambda data: decode(EXPAND[codec](data))


EXTENSIONS = {"gzip": ".gz", "bzip2": ".bz2", "snappy": ".snappy", "default": ".deflate"}
SERIALIZERS: dict[str, Decode] = {"TEXT": lines, "header_and_text": headers_and_lines, "avro_event": avro}
ONE = {"": 1}


def cases() -> Iterator[Case]:
    """A SequenceFile with gzip is missing: Hadoop writes that with its native library only."""
    for kind in ("Writable", "Text"):
        yield Case(f"seq-{kind}", {"hdfs.writeFormat": kind}, "", sequence, ONE)
        for codec in ("bzip2", "snappy", "default"):
            keys = {"hdfs.fileType": "SequenceFile", "hdfs.writeFormat": kind, "hdfs.codeC": codec}
            yield Case(f"seq-{kind}-{codec}", keys, EXTENSIONS[codec], sequence, ONE)
    for serializer, decode in SERIALIZERS.items():
        plain = {"hdfs.fileType": "DataStream", "serializer": serializer}
        yield Case(f"data-{serializer}", plain, "", decode, ONE)
        for codec, extension in EXTENSIONS.items():
            keys = {"hdfs.fileType": "CompressedStream", "hdfs.codeC": codec, "serializer": serializer}
            yield Case(f"comp-{serializer}-{codec}", keys, extension, expanded(codec, decode), ONE)
    for codec in ("deflate", "snappy", "bzip2", "xz", "zstandard"):
        keys = {
            "hdfs.fileType": "DataStream", "hdfs.fileSuffix": ".avro", "serializer": "avro_event",
            "serializer.compressionCodec": codec,
        }  # fmt: skip
        yield Case(f"avro-{codec}", keys, ".avro", avro, ONE)
    keys = {"hdfs.fileType": "DataStream", "hdfs.fileSuffix": ".avro", "serializer": AVRO_DATUM}
    yield Case("datum", keys, ".avro", datums, ONE)
    keys = {"hdfs.fileType": "datastream", "hdfs.path": "%{sensor}/%Y-%m-%d/%H%M", "hdfs.round": "true",
            "hdfs.roundValue": "10", "hdfs.roundUnit": "minute", "hdfs.timeZone": "UTC", "hdfs.inUsePrefix": "_",
            "hdfs.filePrefix": "r-%{sensor}", "hdfs.fileSuffix": ".log"}  # fmt: skip
    folders = {f"{sensor}/2023-11-14/{time}": 1 for sensor in ("s0", "s1") for time in ("2210", "2220")}
    yield Case("places", keys, ".log", lines, folders)
    keys = {"hdfs.fileType": "DataStream", "hdfs.path": "%t/%{timestamp}/%s", "hdfs.round": "true",
            "hdfs.roundValue": "10", "hdfs.roundUnit": "minute", "hdfs.timeZone": "UTC"}  # fmt: skip
    times = (1_700_000_000 + 5 * number for number in range(100))
    yield Case("times", keys, "", lines, {f"{time}000/{time}000/{time - time % 600}": 1 for time in times})
    rolled = {"hdfs.fileType": "DataStream", "hdfs.rollCount": "25", "serializer.appendNewline": "false"}
    yield Case("rolled", rolled, "", lambda data: [data], {"": 4})


def events() -> list[Event]:
    """A hundred, a few seconds apart, whose bodies are Avro data too: strings of one schema."""
    return [
        Event(
            {"timestamp": str(1_700_000_000_000 + 5_000 * number), "sensor": f"s{number % 2}", "k": "ä",
             "flume.avro.schema.literal": SCHEMA},
            record.varint(len(text)) + text,
        )
        for number in range(100) for text in (b"reading %d" % number,)
    ]  # fmt: skip


def conf(port: int, folder: Path) -> str:
    """The same text for both, but for the port and the folder."""
    names = [f"k{number}" for number, _ in enumerate(cases())]
    channels = " ".join(f"c{name}" for name in names)
    out = [
        f"a1.sources = in\na1.sinks = {' '.join(names)}\na1.channels = {channels}",
        f"a1.sources.in.type = avro\na1.sources.in.bind = 127.0.0.1\na1.sources.in.port = {port}",
        f"a1.sources.in.channels = {channels}",
    ]
    for name, case in zip(names, cases(), strict=True):
        own = {**case.keys, "hdfs.path": f"file://{folder}/{case.name}/{case.keys.get('hdfs.path', '')}".rstrip("/")}
        common = {"type": "hdfs", "channel": f"c{name}", "hdfs.rollInterval": "0", "hdfs.rollSize": "0",
                  "hdfs.rollCount": "0", "hdfs.idleTimeout": "1", "hdfs.batchSize": "40"}  # fmt: skip
        out.append(f"a1.channels.c{name}.type = memory\na1.channels.c{name}.capacity = 1000")
        out += [f"a1.sinks.{name}.{key} = {value}" for key, value in {**common, **own}.items()]
    return "\n".join(out) + "\n"


def send(port: int) -> None:
    """Two calls of appendBatch; returns when the second is answered."""
    some = events()
    name = b"appendBatch"
    calls = [
        b"\0" + record.varint(len(name)) + name + record.varint(len(part)) + record.encode(part) + b"\0"
        for part in (some[:60], some[60:])
    ]
    line = Line("127.0.0.1", port, calls)
    for _ in calls:
        line.send()
        line.receive()
    line.sock.close()


def finished(folder: Path) -> bool:
    """Whether every file that both should make has its name; Hadoop keeps checksums in hidden files."""
    for case in cases():
        for place, count in case.files.items():
            names = [path.name for path in (folder / case.name / place).glob("[!.]*") if path.is_file()]
            if len(names) < count or any(name.endswith(".tmp") for name in names):
                return False
    return True


def found(folder: Path, case: Case) -> dict[str, list[bytes]]:
    """Contents by folder and shape of the name, in the order of the names."""
    out: dict[str, list[bytes]] = {}
    for path in sorted((folder / case.name).rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            shape = re.sub(r"(?<=\.)\d{13}(?=\.|$)", "N", str(path.relative_to(folder / case.name)))
            out.setdefault(shape, []).append(path.read_bytes())
    return out


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(folder that Flume wrote, folder that we wrote)."""
    need("flume-hdfs", "flume", "java")
    folder = tmp_path_factory.mktemp("side")
    made = []
    for who in ("flume", "headrace"):
        port, out = free_port(), folder / f"{who}-out"
        text = conf(port, out)
        home = folder / who
        with FlumeHdfs(text, home) if who == "flume" else Program("aggregator", text, home):
            send(port)
            wait_until(partial(finished, out), 60, f"{who} has finished its files")
        made.append(out)
    return made[0], made[1]


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case.name)
def test_the_same_names_and_contents(case: Case, both: tuple[Path, Path]) -> None:
    """Flume's files and ours have names of one shape and hold the same events, keys and headers."""
    theirs, ours = (found(folder, case) for folder in both)
    prefixes = {place: case.keys.get("hdfs.filePrefix", "FlumeData") for place in case.files}
    shapes = {
        f"{place}/{prefix.replace('%{sensor}', place[:2])}.N{case.suffix}".lstrip("/"): case.files[place]
        for place, prefix in prefixes.items()
    }
    assert {shape: len(files) for shape, files in theirs.items()} == shapes
    assert {shape: len(files) for shape, files in ours.items()} == shapes
    for shape, files in theirs.items():
        decoded = [case.decode(data) for data in files]
        assert [case.decode(data) for data in ours[shape]] == decoded
    total = sum(len(case.decode(data)) for files in ours.values() for data in files)
    assert total >= 100 or case.name == "rolled"
