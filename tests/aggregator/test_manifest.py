"""The manifest of a sink's files."""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from agent.errors import DeliveryError
from agent.store.streams import Identity
from aggregator import manifest
from aggregator.manifest import Held, Manifest, join, read

A, B = b"a" * 16, b"b" * 16
LOG = logging.getLogger("tests.manifest")


def made(folder: Path, earlier: bool = False) -> Manifest:
    return Manifest(manifest.path_of(folder, "k1"), LOG, earlier)


def test_what_was_added_is_read_while_it_is_open(tmp_path: Path) -> None:
    """A file's runs and length can be read while the sink goes on writing."""
    kept = made(tmp_path)
    kept.add([("f.tmp", 0, 100, (Identity(A, 1, 10),)), ("g.tmp", 0, 50, (Identity(A, 11, 5), Identity(B, 1, 1)))])
    kept.add([("f.tmp", 100, 180, (Identity(A, 16, 4),))])
    seen = read(kept.path)
    assert seen.files == [
        Held("f.tmp", 180, False, (Identity(A, 1, 10), Identity(A, 16, 4))),
        Held("g.tmp", 50, False, (Identity(A, 11, 5), Identity(B, 1, 1))),
    ]
    assert seen.gap == ""


def test_cut_takes_the_runs_of_the_tail(tmp_path: Path) -> None:
    """A file that was cut back to a length no longer holds what was written behind it."""
    kept = made(tmp_path)
    kept.add([("f", 0, 100, (Identity(A, 1, 10),)), ("f", 100, 200, (Identity(A, 11, 10),))])
    kept.cut("f", 100)
    assert read(kept.path).files == [Held("f", 100, False, (Identity(A, 1, 10),))]


def test_a_finished_file_has_its_runs_joined(tmp_path: Path) -> None:
    """A thousand batches of one origin are one row once their file is finished under its final name."""
    kept = made(tmp_path)
    for at in range(1000):
        kept.add([("f.tmp", at, at + 1, (Identity(A, 1 + at, 1),))])
    kept.rename("f.tmp", "f")
    kept.finish("f", 1000)
    assert read(kept.path).files == [Held("f", 1000, True, (Identity(A, 1, 1000),))]
    with closing(sqlite3.connect(kept.path)) as db:
        assert db.execute("SELECT count(*) FROM run").fetchone() == (1,)


def test_a_file_may_be_finished_again(tmp_path: Path) -> None:
    """What is said twice of a file's end, after a crash or a stop in the middle, changes nothing."""
    kept = made(tmp_path)
    kept.add([("f.tmp", 0, 10, (Identity(A, 1, 5),))])
    for _ in range(2):
        kept.cut("f.tmp", 10)
        kept.rename("f.tmp", "f")
        kept.finish("f", 10)
    kept.close()
    assert read(kept.path).files == [Held("f", 10, True, (Identity(A, 1, 5),))]


def test_repeats_stay_visible() -> None:
    """Joining keeps what is there twice, so that the audit can name it."""
    assert join([Identity(A, 1, 5), Identity(A, 4, 5), Identity(A, 9, 1)]) == [Identity(A, 1, 5), Identity(A, 4, 6)]


def test_a_dropped_file_holds_nothing(tmp_path: Path) -> None:
    """A file that the sink removed is not looked for."""
    kept = made(tmp_path)
    kept.add([("f", 0, 100, (Identity(A, 1, 10),))])
    kept.drop("f")
    assert read(kept.path).files == []


def test_a_name_that_is_used_again_holds_the_new_file_alone(tmp_path: Path) -> None:
    """A rename over a file that was there leaves only what the new one holds."""
    kept = made(tmp_path)
    kept.add([("f", 0, 10, (Identity(A, 1, 1),)), ("f.tmp", 0, 20, (Identity(A, 2, 2),))])
    kept.rename("f.tmp", "f")
    assert read(kept.path).files == [Held("f", 20, False, (Identity(A, 2, 2),))]


def test_files_beyond_the_bound_are_forgotten_and_their_numbers_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of files before the last ones only the numbers stay, joined."""
    monkeypatch.setattr(manifest, "MOST_FILES", 2)
    monkeypatch.setattr(manifest, "PRUNE_EVERY", 1)
    kept = made(tmp_path)
    for at in range(5):
        kept.add([(f"f{at}", 0, 1, (Identity(A, 1 + at * 10, 10),))])
        kept.finish(f"f{at}", 1)
    seen = read(kept.path)
    assert [file.name for file in seen.files] == ["f3", "f4"]
    assert seen.past == [Identity(A, 1, 30)]


def test_old_files_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was finished longer ago than the bound is forgotten at the next open."""
    kept = made(tmp_path)
    kept.add([("f", 0, 1, (Identity(A, 1, 10),)), ("open", 0, 1, (Identity(A, 11, 1),))])
    kept.finish("f", 1)
    kept.close()
    monkeypatch.setattr(manifest, "KEEP_DAYS", -1)
    seen = read(made(tmp_path).path)
    assert [file.name for file in seen.files] == ["open"]
    assert seen.past == [Identity(A, 1, 10)]


def test_a_damaged_manifest_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A sink goes on beside a file that is no database: it is kept, a new one says that it has a gap."""
    path = manifest.path_of(tmp_path, "k1")
    path.write_bytes(b"no database at all" * 100)
    kept = made(tmp_path)
    kept.add([("f", 0, 100, (Identity(A, 1, 10),))])
    assert read(path).files == [Held("f", 100, False, (Identity(A, 1, 10),))]
    assert "could not be opened" in read(path).gap
    assert len(list(tmp_path.glob("outputs-k1.db.damaged-*"))) == 1
    assert sum("could not be" in record.message for record in caplog.records) == 1


def test_a_manifest_that_was_removed_is_a_gap(tmp_path: Path) -> None:
    """Somebody removes the file under a running sink: what it noted before is not known, and that is said."""
    kept = made(tmp_path)
    kept.add([("f", 0, 100, (Identity(A, 1, 10),))])
    for file in tmp_path.iterdir():
        os.unlink(file)
    kept.add([("f", 100, 200, (Identity(A, 11, 10),))])
    assert read(kept.path).files == [Held("f", 200, False, (Identity(A, 11, 10),))]
    assert read(kept.path).gap == "it was removed while the sink ran"


def test_a_manifest_that_comes_late_is_a_gap(tmp_path: Path) -> None:
    """A sink that has written before and finds no manifest says that it doesn't know what."""
    assert "had written before" in read(made(tmp_path, earlier=True).path).gap


def test_no_folder_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where no manifest can be made the sink goes on, with one line in its log."""
    kept = made(tmp_path / "nowhere")
    for at in range(3):
        kept.add([("f", at, at + 1, (Identity(A, 1 + at, 1),))])
    kept.cut("f", 1)
    kept.finish("f", 1)
    kept.close()
    assert len(caplog.records) == 1


def test_reading_what_is_no_manifest(tmp_path: Path) -> None:
    """A manifest that can't be read is an error that names it; one that isn't there is a gap."""
    path = tmp_path / "outputs-k1.db"
    assert read(path).gap == "there is no manifest"
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(DeliveryError, match=r"outputs-k1\.db"):
        read(path)
