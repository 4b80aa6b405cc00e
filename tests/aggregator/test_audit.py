"""`headrace-aggregator audit`: what it says of stores and destinations, from configuration files to exit code."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agent.errors import Rejected
from agent.event import Batch
from agent.sink import Sink
from tests.house.test_docs import fenced
from tests.peers.harness import ROOT, Program, free_port, wait_until

Start = Callable[..., Program]

FLOW = """\
a1.sources = r1
a1.channels = c1 c2
a1.sinks = k1 k2
a1.sources.r1.type = seq
a1.sources.r1.batchSize = 10
a1.sources.r1.totalEvents = 100
a1.sources.r1.channels = c1 c2
a1.channels.c1.type = file
a1.channels.c2.type = file
a1.channels.c1.path = store
a1.channels.c2.path = store
a1.sinks.k1.type = sqlite
a1.sinks.k1.channel = c1
a1.sinks.k1.database = events.db
a1.sinks.k2.type = hdfs
a1.sinks.k2.channel = c2
a1.sinks.k2.hdfs.path = file://{folder}/out
a1.sinks.k2.hdfs.fileType = DataStream
a1.sinks.k2.hdfs.rollCount = 20
a1.sinks.k2.hdfs.rollSize = 0
"""


class PickySink(Sink):
    """Rejects the event 4, for good."""

    async def send(self, batch: Batch) -> None:
        if any(event.body == b"4" for event in batch.events):
            raise Rejected("four is unlucky")


def audit(*programs: Program, args: tuple[str, ...] = ("--json",)) -> subprocess.CompletedProcess[str]:
    """Run it on these programs' configurations, from the folder of the first."""
    files = [word for one in programs for word in ("-f", str(one.conf_file))]
    return subprocess.run(
        [sys.executable, "-m", "aggregator", "audit", *files, *args], cwd=programs[0].folder, capture_output=True,
        text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(programs[0].folder)},
    )  # fmt: skip


def found(*programs: Program) -> dict[str, dict[str, Any]]:
    """What it says of each destination, by name."""
    answer = audit(*programs)
    assert answer.stderr == ""
    return {one["name"]: one for one in json.loads(answer.stdout)["destinations"]}


def counts(about: dict[str, Any]) -> dict[str, int]:
    return {kind: count for kind, count in about["counts"].items() if count}


def spans(about: dict[str, Any], kind: str) -> list[tuple[int, int]]:
    """Ranges of a kind, whatever their origin."""
    each = [ranges for one in about["findings"] if one["kind"] == kind for ranges in one["ranges"].values()]
    return sorted((first, last) for ranges in each for first, last in ranges)


def drained(one: Program, *sinks: str, count: int = 100) -> Program:
    for sink in sinks:
        wait_until(lambda name=sink: one.count(f"SINK.{name}", "EventDrainSuccessCount") >= count, what=f"{sink} done")
    return one


def ran(program: Start, tmp_path: Path, conf: str = FLOW, *sinks: str) -> Program:
    """It has delivered everything and is stopped."""
    one = drained(program("aggregator", conf.format(folder=tmp_path)), *(sinks or ("k1", "k2")))
    one.stop()
    return one


def test_all_has_arrived(program: Start, tmp_path: Path) -> None:
    """Of a stopped agent whose outputs are whole it says that all numbers arrived, and exits with 0."""
    one = ran(program, tmp_path)
    assert audit(one).returncode == 0
    for about in found(one).values():
        assert counts(about) == {"arrived": 100}
        assert spans(about, "arrived") == [(1, 100)]


def test_a_running_agent_is_asked(program: Start, tmp_path: Path) -> None:
    """Of an agent that runs it says the same, through its control socket, and the agent goes on."""
    one = drained(program("aggregator", FLOW.format(folder=tmp_path)), "k1", "k2")
    assert [counts(about) for about in found(one).values()] == [{"arrived": 100}] * 2
    assert one.running


def test_a_deleted_file_is_named_with_its_range(program: Start, tmp_path: Path) -> None:
    """A file that was deleted by hand is named with the numbers it held, and the exit code is 1."""
    one = ran(program, tmp_path)
    gone = sorted((tmp_path / "out").iterdir())[1]
    gone.unlink()
    answer = audit(one)
    assert answer.returncode == 1
    missing = [f for f in json.loads(answer.stdout)["destinations"][1]["findings"] if f["kind"] == "missing"]
    assert [(list(f["ranges"].values()), f["why"]) for f in missing] == [([[[21, 40]]], f"{gone} is not there")]
    assert counts(found(one)["a1.k1"]) == {"arrived": 100}


def test_a_file_that_was_cut_is_named(program: Start, tmp_path: Path) -> None:
    """A file shorter than what was acknowledged is named, with both lengths."""
    one = ran(program, tmp_path)
    short = sorted((tmp_path / "out").iterdir())[0]
    os.truncate(short, 7)
    (missing,) = [f for f in found(one)["a1.k2"]["findings"] if f["kind"] == "missing"]
    assert missing["why"] == f"{short} has 7 bytes of 50"


def test_rows_that_are_gone_are_missing(program: Start, tmp_path: Path) -> None:
    """Rows deleted from a table are named by their numbers."""
    one = ran(program, tmp_path)
    with closing(sqlite3.connect(one.folder / "events.db")) as table, table:
        table.execute("DELETE FROM events WHERE number BETWEEN 31 AND 35 OR number = 80")
    assert spans(found(one)["a1.k1"], "missing") == [(31, 35), (80, 80)]
    assert "MISSING   " in audit(one, args=()).stdout


def test_a_table_that_is_gone_is_named(program: Start, tmp_path: Path) -> None:
    """Without its file all of a table is missing, and the file is named."""
    one = ran(program, tmp_path)
    (one.folder / "events.db").unlink()
    about = found(one)["a1.k1"]
    assert counts(about) == {"missing": 100}
    assert about["findings"][0]["why"] == "events.db is not there"


def test_a_number_that_is_there_twice_is_repeated(program: Start, tmp_path: Path) -> None:
    """A range that two files hold is named with both of them, and isn't missing."""
    one = ran(program, tmp_path)
    with closing(sqlite3.connect(one.folder / "store" / "outputs-k2.db")) as manifest, manifest:
        files = [at for (at,) in manifest.execute("SELECT id FROM file ORDER BY name")]
        origin = manifest.execute("SELECT origin FROM run").fetchone()[0]
        manifest.execute("INSERT INTO run VALUES(?, 1, ?, 25, 4)", (files[3], origin))
    about = found(one)["a1.k2"]
    assert counts(about) == {"arrived": 100, "repeated": 8}
    assert spans(about, "repeated") == [(25, 28), (25, 28)]


def test_what_waits_in_the_channel_is_not_missing(program: Start, tmp_path: Path) -> None:
    """What the destination doesn't take yet is waiting, and the exit code is 0."""
    (tmp_path / "out").write_text("a file where the folder has to be")
    one = drained(program("aggregator", FLOW.format(folder=tmp_path)), "k1")
    assert audit(one).returncode == 0
    assert spans(found(one)["a1.k2"], "waiting") == [(1, 100)]


def test_dead_letters_are_left_out_with_their_reason(program: Start, tmp_path: Path) -> None:
    """A dead letter is left out on purpose, and its reason is said; where nothing can be read back it says so."""
    conf = FLOW.replace("k1.type = sqlite", "k1.type = tests.aggregator.test_audit:PickySink")
    conf = conf.replace("a1.sinks.k1.database = events.db\n", "")
    one = program("aggregator", conf.format(folder=tmp_path))
    one.wait_log("is a dead letter now")
    wait_until(lambda: one.count("SINK.k1", "EventDrainSuccessCount") == 99, what="the rest")
    drained(one, "k2").stop()
    about = found(one)["a1.k1"]
    (left,) = [f for f in about["findings"] if f["kind"] == "left out"]
    assert (list(left["ranges"].values()), left["why"]) == ([[[5, 5]]], "dead letter: four is unlucky")
    assert counts(about) == {"left out": 1, "not known": 99}
    assert any("carries no identity" in note for note in about["notes"])


def test_file_roll_names_its_key(program: Start, tmp_path: Path) -> None:
    """Files without identity are not known, and the key to set is named; with it they are read."""
    roll = FLOW.replace("k1.type = sqlite", "k1.type = file_roll").replace("k1.database", "k1.sink.directory")
    plain = found(ran(program, tmp_path, roll))["a1.k1"]
    assert counts(plain) == {"not known": 100}
    assert "sink.serializer.identity = true" in plain["notes"][0]


def test_file_roll_with_identity_is_read(program: Start, tmp_path: Path) -> None:
    """Files of avro_event with identity are read; a deleted one leaves its numbers missing."""
    roll = FLOW.replace("k1.type = sqlite", "k1.type = file_roll").replace("k1.database", "k1.sink.directory")
    keys = "a1.sinks.k1.sink.serializer = avro_event\na1.sinks.k1.sink.serializer.identity = true\n"
    one = ran(program, tmp_path, roll + keys)
    assert counts(found(one)["a1.k1"]) == {"arrived": 100}
    (file,) = [path for path in (one.folder / "events.db").iterdir() if not path.name.startswith(".")]
    file.unlink()
    assert counts(found(one)["a1.k1"]) == {"missing": 100}


def test_a_store_that_is_not_there(program: Start, tmp_path: Path) -> None:
    """Where the store isn't found nothing is called whole: it says which folder has none."""
    one = program("aggregator", FLOW.format(folder=tmp_path), start=False)
    one.configure()
    said = audit(one, args=()).stdout
    assert "store holds no store" in said
    assert said.endswith("nothing is missing where it can be known; 2 of 2 can't\n")


def test_the_help(tmp_path: Path) -> None:
    """--help says what it does and its exit codes."""
    command = [sys.executable, "-m", "aggregator", "audit", "--help"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60).stdout
    assert "exit codes: 0 nothing is missing; 1 something is; 2 wrong configuration" in said


def test_a_wrong_configuration(tmp_path: Path) -> None:
    """A configuration that is wrong, or not there, is exit code 2, and says so."""
    command = [sys.executable, "-m", "aggregator", "audit", "-f", str(tmp_path / "none.conf")]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (answer.returncode, "can't be read" in answer.stderr) == (2, True)


def two(tmp_path: Path, *keys: str) -> list[str]:
    """Words that name two configurations, of a1 and of a2."""
    words = []
    for name in ("a1", "a2"):
        conf = re.sub(r"\ba1\b", name, FLOW.format(folder=tmp_path)).replace("= store", f"= store-{name}")
        (tmp_path / f"{name}.conf").write_text(conf)
        words += ["-f", f"{name}.conf"]
    return [*words, *keys]


def told(tmp_path: Path, *words: str) -> tuple[int, str]:
    """Exit code, and what is said on stderr."""
    answer = subprocess.run(
        [sys.executable, "-m", "aggregator", "audit", *words], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return answer.returncode, answer.stderr


def test_a_name_that_no_file_has(tmp_path: Path) -> None:
    """A misspelt agent is exit code 2 with the nearest name, though other names are found."""
    code, said = told(tmp_path, *two(tmp_path, "-n", "a1", "-n", "a22"))
    assert (code, said) == (2, "-n a22: no file holds such an agent; the nearest is a2\n")


def test_an_agent_that_is_wrong_is_not_passed_by(tmp_path: Path) -> None:
    """One of two agents whose configuration is wrong is exit code 2, with what is wrong."""
    words = two(tmp_path, "-n", "a1", "-n", "a2")
    (tmp_path / "a2.conf").write_text((tmp_path / "a2.conf").read_text().replace("type = hdfs", "type = hdfsx"))
    code, said = told(tmp_path, *words)
    assert code == 2 and said.startswith("a2.conf:") and "hdfsx" in said


def test_one_store_of_two_agents(tmp_path: Path) -> None:
    """Two configurations that name one folder are refused: one of them would go unasked."""
    words = two(tmp_path)
    (tmp_path / "a2.conf").write_text((tmp_path / "a1.conf").read_text())
    code, said = told(tmp_path, *words)
    assert code == 2 and said.startswith("a1 of a1.conf and a1 of a2.conf both name the store ")


def test_the_page_shows_what_it_prints(program: Start, tmp_path: Path) -> None:
    """docs/operations.md shows what is printed once a file was deleted, but for its name and the origin."""
    named = re.sub(r"\bk1\b", "table", re.sub(r"\bk2\b", "lake", FLOW))
    one = ran(program, tmp_path, named, "table", "lake")
    sorted((tmp_path / "out").iterdir())[1].unlink()
    (shown,) = (text for text in fenced(ROOT / "docs" / "operations.md", "console") if "audit -f" in text)

    def plain(text: str) -> str:
        return re.sub(r"/\S+/FlumeData\.\d+", "FILE", re.sub(r"[0-9a-f]{32}", "ORIGIN", text))

    assert plain(audit(one, args=()).stdout) == plain(shown.partition("\n")[2])


# ---- several agents

RECEIVER = """\
b{n}.sources = r1
b{n}.channels = c1
b{n}.sinks = k1
b{n}.sources.r1.type = avro
b{n}.sources.r1.bind = 127.0.0.1
b{n}.sources.r1.port = {port}
b{n}.sources.r1.channels = c1
b{n}.channels.c1.type = file
b{n}.channels.c1.path = {folder}/store{n}
b{n}.sinks.k1.type = sqlite
b{n}.sinks.k1.channel = c1
b{n}.sinks.k1.database = {folder}/events{table}.db
"""
SENDER = """\
a1.sources = r1
a1.channels = c1
a1.sinks = k1 k2
a1.sources.r1.type = seq
a1.sources.r1.batchSize = 10
a1.sources.r1.totalEvents = 100
a1.sources.r1.channels = c1
a1.channels.c1.type = file
a1.channels.c1.path = {folder}/store
"""


def sender(folder: Path, *ports: int) -> str:
    sinks = [
        f"a1.sinks.k{n}.type = avro\na1.sinks.k{n}.channel = c1\na1.sinks.k{n}.batch-size = 10\n"
        f"a1.sinks.k{n}.hostname = 127.0.0.1\na1.sinks.k{n}.port = {port}\n"
        for n, port in enumerate(ports, 1)
    ]
    wiring = SENDER.format(folder=folder).replace("sinks = k1 k2", f"sinks = {' '.join(['k1', 'k2'][: len(ports)])}")
    return wiring + "".join(sinks)


@pytest.mark.parametrize("table", ["", "{n}"], ids=["one table", "a table each"])
def test_two_receivers_share_what_a_collector_sends(program: Start, tmp_path: Path, table: str) -> None:
    """Of two aggregators that a collector's two sinks feed, what went to one is not missing at the other."""
    ports = free_port(), free_port()
    receivers = [
        program("aggregator", RECEIVER.format(n=n, port=port, folder=tmp_path, table=table.format(n=n)), name=f"b{n}")
        for n, port in enumerate(ports, 1)
    ]
    edge = program("edge", sender(tmp_path, *ports), name="a1")
    wait_until(lambda: sum(one.count("SINK.k1", "EventDrainSuccessCount") for one in receivers) == 100, what="all")
    edge.stop()
    for one in receivers:
        one.stop()
    assert audit(*receivers).returncode == 0
    seen = found(*receivers)
    assert sum(about["counts"]["arrived"] for about in seen.values()) == 100
    beyond = found(*receivers, edge)["a1.k1, a1.k2"]
    assert counts(beyond) == {"arrived": 100}
    name = next(iter(seen))
    n = 1 if counts(seen[name]) else 2
    name = list(seen)[n - 1]
    with closing(sqlite3.connect(tmp_path / f"events{table.format(n=n)}.db")) as rows, rows:
        (number,) = rows.execute("SELECT min(number) FROM events").fetchone()
        rows.execute("DELETE FROM events WHERE number = ?", (number,))
    assert audit(*receivers).returncode == 1
    assert found(*receivers)[name]["counts"]["missing"] == 1


def test_files_of_two_receivers_in_one_folder(program: Start, tmp_path: Path) -> None:
    """Of two aggregators that write to one folder, what both wrote is repeated, in the files that are named."""
    ports = free_port(), free_port()
    conf = RECEIVER.replace("type = sqlite", "type = hdfs").replace("k1.database", "k1.hdfs.path")
    conf = conf.replace("{folder}/events{table}.db", "file://{folder}/out\nb{n}.sinks.k1.hdfs.filePrefix = of-b{n}")
    receivers = [
        program("aggregator", conf.format(n=n, port=port, folder=tmp_path), name=f"b{n}")
        for n, port in enumerate(ports, 1)
    ]
    edges = [program("edge", sender(tmp_path / f"a{n}", port), name=f"a{n}") for n, port in enumerate(ports, 1)]
    for one in receivers:
        drained(one, "k1")
    for one in (*edges, *receivers):
        one.stop()
    assert counts(found(*receivers)["b1.k1, b2.k1"]) == {"arrived": 200}
    with closing(sqlite3.connect(tmp_path / "store1" / "outputs-k1.db")) as manifest, manifest:
        origin, first = manifest.execute("SELECT origin, first FROM run").fetchone()
        with closing(sqlite3.connect(tmp_path / "store2" / "outputs-k1.db")) as other, other:
            other.execute("INSERT INTO run SELECT file, stop, ?, ?, 1 FROM run LIMIT 1", (origin, first))
    about = found(*receivers)["b1.k1, b2.k1"]
    assert spans(about, "repeated") == [(first, first)] * 2
    places = [one["why"] for one in about["findings"] if one["kind"] == "repeated"]
    assert ["of-b1" in places[0], "of-b2" in places[1]] == [True, True]
