"""Files of every format before the readers that they are for: Hadoop's `dfs -text`, Spark, Avro's tools."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.event import Event
from aggregator.formats import codecs
from aggregator.formats.avro import CODECS
from aggregator.formats.format import Format, make_format
from tests.aggregator.formats.reading import EVENTS, write
from tests.needs import need
from tests.peers import hdfs, jars
from tests.peers.spark import spark

NATIVE = ("lz4", "zstandard")
"""Hadoop's own jars read these with a library that Maven doesn't bring."""
TIMES = [int(event.headers["timestamp"]) for event in EVENTS]
BODIES = [f"body {number}" for number in range(len(EVENTS))]
EVEN = [Event(event.headers, body.encode()) for event, body in zip(EVENTS, BODIES, strict=True)]


def put(folder: Path, name: str, form: Format, events: Sequence[Event] = EVEN) -> Path:
    """A file of several batches."""
    path = folder / f"{name}{form.extension}"
    path.write_bytes(write(form, events[:70], events[70:71], events[71:]))
    return path


def sequence_files(folder: Path, without: tuple[str, ...]) -> dict[Path, str]:
    """A SequenceFile of each kind, and its writeFormat."""
    return {
        put(folder, f"{codec}-{level}-{kind}", make_format(codec=codec, write_format=kind, compression=level)()): kind
        for codec in ("none", *codecs.NAMES) if codec not in without
        for level in ("BLOCK", "RECORD")
        for kind in ("Writable", "Text")
    }  # fmt: skip


def streams(folder: Path, without: tuple[str, ...] = ()) -> list[Path]:
    """Compressed lines."""
    names = [codec for codec in codecs.NAMES if codec not in without]
    return [put(folder, f"lines-{codec}", make_format("CompressedStream", codec)()) for codec in names]


def containers(folder: Path) -> list[Path]:
    """An Avro container with each codec."""
    made = []
    for codec in CODECS:
        form = make_format("DataStream", serializer="avro_event", keys={"compressionCodec": codec})()
        made.append(put(folder, codec, form).rename(folder / f"{codec}.avro"))
    return made


def text(files: Sequence[Path]) -> dict[Path, str]:
    """What `hdfs dfs -text` prints of local files."""
    command = ["java", *jars.LEAN, "-cp", jars.jars("hdfs"), str(Path(hdfs.__file__).parent / "hdfs" / "Text.java")]
    done = subprocess.run([*command, *map(str, files)], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0 and " ended with " not in done.stderr, done.stderr[-4000:]
    return {file: file.with_name(f"{file.name}.text").read_text() for file in files}


def test_hadoop_reads_sequence_files(tmp_path: Path) -> None:
    """`dfs -text` gives every key and value of each codec and level."""
    need("hdfs", "javac")
    files = sequence_files(tmp_path, NATIVE)
    values = {"Text": BODIES, "Writable": [body.encode().hex(" ") for body in BODIES]}
    for file, said in text(list(files)).items():
        assert said.splitlines() == [f"{k}\t{v}" for k, v in zip(TIMES, values[files[file]], strict=True)], file


def test_hadoop_reads_streams_and_containers(tmp_path: Path) -> None:
    """`dfs -text` takes compressed lines and Avro containers by their names."""
    need("hdfs", "javac")
    lines = streams(tmp_path, NATIVE)
    avro = [file for file in containers(tmp_path) if file.stem in ("null", "deflate", "snappy", "bzip2")]
    said = text(lines + avro)
    assert all(said[file].splitlines() == BODIES for file in lines)
    assert all([json.loads(line)["body"] for line in said[file].splitlines()] == BODIES for file in avro)


def test_spark_reads_them(tmp_path: Path) -> None:
    """Each kind of file, keys and values; a SequenceFile with zstandard needs Hadoop's native library there too."""
    need("spark", "java")
    sequences = list(sequence_files(tmp_path, ("zstandard",)))
    lines, avro = streams(tmp_path), containers(tmp_path)
    script = f"""
import json
seen = {{}}
for file in {[str(file) for file in sequences]!r}:
    rows = spark.sparkContext.sequenceFile("file://" + file).collect()
    seen[file] = [[key, value if isinstance(value, str) else bytes(value).decode()] for key, value in rows]
for file in {[str(file) for file in lines]!r}:
    seen[file] = [row.value for row in spark.read.text("file://" + file).collect()]
for file in {[str(file) for file in avro]!r}:
    rows = spark.read.format("avro").load("file://" + file).collect()
    seen[file] = [[row.headers, bytes(row.body).decode()] for row in rows]
print(json.dumps(seen))
"""
    seen = json.loads(spark(script, tmp_path).splitlines()[-1])
    records = [list(pair) for pair in zip(TIMES, BODIES, strict=True)]
    assert all(seen[str(file)] == records for file in sequences)
    assert all(seen[str(file)] == BODIES for file in lines)
    assert all(seen[str(file)] == [[event.headers, event.body.decode()] for event in EVEN] for file in avro)


@pytest.mark.parametrize("codec", CODECS)
def test_avros_tools_read_them(codec: str, tmp_path: Path) -> None:
    """`avro-tools tojson` gives headers and bodies of every codec."""
    need("avro-tools", "java")
    form = make_format("DataStream", serializer="avro_event", keys={"compressionCodec": codec})()
    file = put(tmp_path, codec, form)
    tool = ["java", *jars.LEAN, "-cp", jars.jars("avro-tools"), "org.apache.avro.tool.Main"]
    said = [json.loads(line) for line in jars.run(*tool, "tojson", str(file)).splitlines()]
    assert [Event(one["headers"], one["body"].encode()) for one in said] == EVEN


def test_zstandards_own_program_reads_its_frames(tmp_path: Path) -> None:
    """A file of several frames is one to `zstd`."""
    need("zstd")
    file = put(tmp_path, "lines", make_format("CompressedStream", "zstandard")())
    assert jars.run("zstd", "-dc", str(file)).decode().splitlines() == BODIES
