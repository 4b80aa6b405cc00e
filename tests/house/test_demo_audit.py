"""The demo's count is honest: it sees what is missing and what is there twice."""

from __future__ import annotations

import sqlite3
from collections import Counter
from pathlib import Path

import fastavro

from deploy import demo

SENT = Counter({("sensors/s01", b"same"): 3, ("sensors/s02", b"21"): 1})
SCHEMA = {
    "type": "record",
    "name": "Event",
    "fields": [{"name": "headers", "type": {"type": "map", "values": "string"}}, {"name": "body", "type": "bytes"}],
}


def test_all_there_once() -> None:
    """Equal counts in both outputs are arrivals, nothing else."""
    assert demo.audit(SENT, {"a": SENT, "b": SENT}) == (4, 0, 0, [])


def test_missing_in_one_output_is_missing() -> None:
    """A reading has arrived only when it is in every output; what one lacks and what the other lacks add up."""
    table, files = SENT - Counter({("sensors/s02", b"21"): 1}), SENT - Counter({("sensors/s01", b"same"): 1})
    arrived, missing, twice, lines = demo.audit(SENT, {"table": table, "files": files})
    assert (arrived, missing, twice) == (2, 2, 0)
    assert [line.split(":")[0].strip() for line in lines] == ["table", "files"]


def test_a_repeat_of_equal_payloads_is_twice() -> None:
    """One row too many of a sensor that always says the same is seen."""
    table = SENT + Counter({("sensors/s01", b"same"): 1})
    assert demo.audit(SENT, {"table": table, "files": SENT})[:3] == (4, 0, 1)


def test_outputs_are_read_as_they_lie(tmp_path: Path) -> None:
    """The count comes from the rows of the table and the records of the Avro files, repeats included."""
    database, files = tmp_path / "events.db", tmp_path / "avro" / "2026-01-01"
    with sqlite3.connect(database) as db:
        db.execute("create table events (topic text, body)")
        db.executemany("insert into events values (?, ?)", [("t", "1"), ("t", b"1"), ("u", "2")])
    db.close()
    files.mkdir(parents=True)
    records = [{"headers": {"topic": "t"}, "body": b"1"}] * 2
    with (files / "1").open("wb") as out:
        fastavro.writer(out, SCHEMA, records)
    assert demo.in_table(database) == Counter({("t", b"1"): 2, ("u", b"2"): 1})
    assert demo.in_files(tmp_path / "avro") == Counter({("t", b"1"): 2})
