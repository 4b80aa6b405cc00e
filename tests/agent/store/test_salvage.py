"""A damaged store: what is readable goes into a new one, what is missing is counted, the damaged file is kept."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.avro import record
from agent.errors import ChannelError
from agent.store import salvage as module
from agent.store import schema
from agent.store.connection import Damaged
from agent.store.database import Database
from agent.store.pages import Pages
from agent.store.requests import BuryRequest, Letter, Part, PutRequest
from agent.store.salvage import Report, resume, salvage
from agent.store.states import CursorState
from agent.store.streams import Transit

SENDER = b"s" * 16
A, B = 1, 2


def block(first: int, count: int, size: int = 200) -> bytes:
    """Events whose bodies say their number."""
    return record.encode([({"n": str(n)}, b"%d " % n + b"." * size) for n in range(first, first + count)])


def numbers(db: Database, channel: int = 0) -> list[int]:
    """What a channel has yet to deliver, by the bodies of the events."""
    state = db.channels[channel]
    out = []
    for row in db.read(channel, state.place.cursor, 1 << 40, 1 << 30):
        first = row.position - row.events + 1
        for at, (_, body) in enumerate(record.decode(row.block, row.events)):
            done = any(low <= first + at <= high for low, high in state.place.finished)
            if first + at > state.place.cursor and not done:
                out.append(int(body.split()[0]))
    return out


class Store:
    """A store of `batches` batches of ten events, for the channels whose masks take turns."""

    def __init__(self, folder: Path, batches: int = 40, masks: tuple[int, ...] = (A,), size: int = 200) -> None:
        self.path = folder / "headrace.db"
        self.db = Database(self.path)
        self.db.start(["a", "b"] if max(masks) > A else ["a"])
        self.origin = self.db.origin
        self.put = 0
        for i in range(batches):
            self.add(masks[i % len(masks)], size)

    def add(self, mask: int = A, size: int = 200, events: int = 10) -> None:
        transit = Transit(SENDER, "out", self.put, ((self.put + 1, events),), 0)
        part = Part(mask, block(self.put + 1, events, size), events, transit, None)
        self.db.apply([PutRequest([part], "in", {"offset": b"%d" % (self.put + events)})])
        self.put += events

    def deliver(self, channel: int, cursor: int, finished: tuple[tuple[int, int], ...] = (), done: int = 0) -> None:
        place = CursorState(cursor, finished, done or cursor, 0)
        self.db.apply([], {channel: place}, {channel: b"receipt %d" % cursor})

    def close(self) -> Path:
        """Closed properly: everything is in the database file."""
        self.db.close()
        return self.path

    def crash(self) -> Path:
        """What a kill leaves: the file and its WAL as they are."""
        kept = self.path.parent / "kept"
        kept.mkdir()
        for name in ("headrace.db", "headrace.db-wal"):
            shutil.copy(self.path.with_name(name), kept / name)
        self.db.close()
        for name in ("headrace.db", "headrace.db-wal"):
            self.path.with_name(name).unlink(missing_ok=True)
            os.rename(kept / name, self.path.with_name(name))
        kept.rmdir()
        return self.path


def flip(path: Path, at: int, bits: int = 0xFF) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ bits]))


def overwrite(path: Path, page: int, data: bytes | None = None) -> None:
    with path.open("r+b") as file:
        file.seek((page - 1) * schema.PAGE_SIZE)
        file.write(random.Random(page).randbytes(schema.PAGE_SIZE) if data is None else data)


def pages_of(path: Path, first: int) -> list[int]:
    """Numbers of the pages that begin with a byte."""
    data = path.read_bytes()
    return [i + 1 for i in range(1, len(data) // schema.PAGE_SIZE) if data[i * schema.PAGE_SIZE] == first]


def batch_leaves(path: Path) -> list[int]:
    """Leaves that hold batches, in the order of the file."""
    pages = Pages(path)
    try:
        return [n for n in pages_of(path, 0x0D) if SENDER in pages.page(n) and b"out" not in pages.page(n)]
    finally:
        pages.close()


def opened(path: Path) -> Database:
    """The new store, which SQLite finds sound."""
    db = Database(path)
    assert db.conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert db.conn.execute("PRAGMA page_size").fetchone() == (schema.PAGE_SIZE,)
    return db


def lost_events(report: Report) -> set[int]:
    return {n for _, first, count in report.lost for n in range(first, first + count)}


def check_complete(path: Path, report: Report, expected: set[int], channel: int = 0) -> None:
    """Each expected event is in the new store or counted as lost, and the depth says what is there."""
    db = opened(path)
    found = numbers(db, channel)
    state = db.channels[channel]
    db.close()
    assert sorted(set(found)) == found
    assert set(found) | lost_events(report) == expected
    assert not set(found) & lost_events(report)
    assert state.put_events - state.place.done_events >= len(found)
    assert report.damaged.exists()


def test_tables_are_those_of_the_schema() -> None:
    """The shapes that rows are recognised by come from the schema itself."""
    conn = sqlite3.connect(":memory:")
    conn.executescript(schema.TABLES)
    for table, columns in module._COLUMNS.items():
        kinds = [row[2][0].lower() for row in conn.execute(f"PRAGMA table_info({table})")]
        assert "".join(kinds) == columns
    assert len(module._COLUMNS) == 8


def test_sound_store_comes_out_as_it_went_in(tmp_path: Path) -> None:
    """Salvage of a file without a fault keeps every table's rows and loses nothing."""
    store = Store(tmp_path, masks=(A, B, A | B))
    store.deliver(0, 100, ((111, 120),), 70)
    letter = Letter("a", "in", store.origin, 7, 1, "too large", b"x" * 3000)
    store.db.apply([BuryRequest([letter])])
    path = store.close()
    before = tables(path)
    report = salvage(path, "a test")
    assert (report.lost, report.possibly_lost, report.notes) == ([], [], [])
    assert tables(path) == before
    opened(path).close()


def tables(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every row, without the version and checksum of rows that salvage writes anew."""
    db = Database(path)
    out = {}
    for table in module._COLUMNS:
        rows = db.conn.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()
        out[table] = [row if table == "batch" else row[:-2] for row in rows]
    out["channel"] = [(*row[:4], row[4] - row[6]) for row in out["channel"]]
    db.close()
    return out


def test_header_page_overwritten(tmp_path: Path) -> None:
    """The header page holds none of our rows: nothing is lost with it."""
    path = Store(tmp_path).close()
    overwrite(path, 1)
    with pytest.raises((Damaged, sqlite3.DatabaseError)):
        Database(path)
    report = salvage(path, "file is not a database")
    assert (report.rows, report.events, report.lost) == (40, 400, [])
    check_complete(path, report, set(range(1, 401)))


@pytest.mark.parametrize("data", [None, bytes(1024)], ids=["random", "zeros"])
def test_interior_pages_overwritten(tmp_path: Path, data: bytes | None) -> None:
    """Leaves are found without the pages above them."""
    path = Store(tmp_path, 100).close()
    interior = pages_of(path, 0x05)
    assert interior
    for page in interior:
        overwrite(path, page, data)
    report = salvage(path, "malformed")
    assert (report.events, report.lost) == (1000, [])
    check_complete(path, report, set(range(1, 1001)))


@pytest.mark.parametrize("at", range(8))
def test_flipped_leaf_header(tmp_path: Path, at: int) -> None:
    """Whatever byte of a leaf's header is flipped, its cells are found."""
    path = Store(tmp_path).close()
    for page in batch_leaves(path)[1:4]:
        flip(path, (page - 1) * 1024 + at)
    report = salvage(path, "malformed")
    assert (report.events, report.lost) == (400, [])


def test_flipped_byte_in_a_block(tmp_path: Path) -> None:
    """A batch whose checksum doesn't fit is left out and counted by its numbers."""
    store = Store(tmp_path)
    path = store.close()
    at = path.read_bytes().index(b"155 ...")
    flip(path, at + 50, 1)
    with pytest.raises(Damaged):
        numbers(Database(path))
    report = salvage(path, "checksum")
    assert report.lost == [(store.origin, 151, 10)]
    check_complete(path, report, set(range(1, 401)))
    db = Database(path)
    assert [(row[1], row[2], row[3]) for row in db.lost()] == report.lost
    state = db.channels[0]
    assert state.put_events - state.place.done_events == 390
    assert state.put_bytes - state.place.done_bytes == sum(len(row.block) for row in db.read(0, 0, 1 << 40, 1000))
    db.close()


def test_flipped_bytes_in_the_free_list(tmp_path: Path) -> None:
    """A damaged free list costs nothing, and what lies on it has been delivered: it does not come back."""
    store = Store(tmp_path, 100)
    store.deliver(0, 900)
    path = store.close()
    head = int.from_bytes(path.read_bytes()[32:36], "big")
    assert head
    overwrite(path, head)
    report = salvage(path, "malformed")
    assert (report.events, report.lost) == (100, [])
    check_complete(path, report, set(range(901, 1001)))


def test_file_cut_in_the_middle(tmp_path: Path) -> None:
    """The half that is there is kept; the other one is counted, its end known from the channel's counters."""
    path = Store(tmp_path, 100).close()
    os.truncate(path, path.stat().st_size // 2 + 100)
    report = salvage(path, "malformed")
    assert 0 < report.events < 1000
    assert report.lost_events == 1000 - report.events
    check_complete(path, report, set(range(1, 1001)))


def test_wal_cut_in_the_middle_of_a_frame(tmp_path: Path) -> None:
    """What was committed before the cut is kept."""
    store = Store(tmp_path, 30)
    path = store.crash()
    wal = path.with_name("headrace.db-wal")
    os.truncate(wal, wal.stat().st_size * 2 // 3 + 17)
    overwrite(path, 1)
    twin = tmp_path / "twin"
    twin.mkdir()
    shutil.copy(wal, twin / "headrace.db-wal")
    shutil.copy(path, twin / "headrace.db")
    report = salvage(path, "malformed")
    assert 100 < report.events < 300
    db = opened(path)
    assert numbers(db) == list(range(1, report.events + 1))
    assert db.marks["in"]["offset"] == b"%d" % report.events
    assert db.streams[SENDER, "out"].coverage.ranges == [(1, report.events)]
    db.close()


def test_wal_is_read_as_sqlite_reads_it(tmp_path: Path) -> None:
    """Wherever the WAL is cut, salvage finds what SQLite finds."""
    path = Store(tmp_path, 4).crash()
    wal = path.with_name("headrace.db-wal")
    size = wal.stat().st_size
    for i, cut in enumerate(range(size, 0, -(size // 25))):
        one, two = tmp_path / f"{i}a", tmp_path / f"{i}b"
        for folder in (one, two):
            folder.mkdir()
            shutil.copy(path, folder / "headrace.db")
            shutil.copy(wal, folder / "headrace.db-wal")
            os.truncate(folder / "headrace.db-wal", cut)
        db = sqlite3.connect(one / "headrace.db")
        (expected,) = db.execute("SELECT coalesce(sum(count), 0) FROM batch").fetchone()
        db.close()
        assert salvage(two / "headrace.db", "a test").events == expected


def test_everything_in_the_wal(tmp_path: Path) -> None:
    """A file of length zero beside a WAL that has all of it."""
    path = Store(tmp_path, 20).crash()
    os.truncate(path, 0)
    report = salvage(path, "empty")
    check_complete(path, report, set(range(1, 201)))


@pytest.mark.parametrize("data", [b"", b"x", random.Random(1).randbytes(300_000), bytes(50_000)])
def test_nothing_to_salvage(tmp_path: Path, data: bytes) -> None:
    """Bytes of any other kind give an empty new store, and are kept."""
    path = tmp_path / "headrace.db"
    path.write_bytes(data)
    report = salvage(path, "no store")
    assert (report.rows, report.events, report.lost) == (0, 0, [])
    assert report.damaged.read_bytes() == data
    db = opened(path)
    db.start(["a"])
    db.close()


def test_hostile_leaf(tmp_path: Path) -> None:
    """Leaves made to send a reader astray (endless chains, huge lengths, pointers anywhere) are read to an end."""
    rng = random.Random(7)
    path = Store(tmp_path, 10).close()
    with path.open("ab") as file:
        for _ in range(300):
            page = bytearray(rng.randbytes(1024))
            page[:8] = b"\x0d\0\0" + rng.randrange(500).to_bytes(2, "big") + b"\0\0\0"
            for i in range(60):
                page[8 + 2 * i : 10 + 2 * i] = rng.randrange(200, 1000).to_bytes(2, "big")
            at = 500
            page[8:10] = at.to_bytes(2, "big")
            # A row of `receipt` with a blob of almost 2^56 bytes, and one whose chain leads to itself.
            head = b"\x00" + b"\xff" * 8 + b"\x00" + b"\x01\x04"
            cell = b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x05" + bytes([len(head) + 1]) + head
            page[at : at + len(cell)] = cell
            file.write(page)
    report = salvage(path, "a test")
    assert report.events == 100


def test_the_newer_copy_wins(tmp_path: Path) -> None:
    """Of two states of a row the one of the later transaction counts, wherever it stands."""
    store = Store(tmp_path, 20)
    for cursor in range(10, 160, 10):
        store.deliver(0, cursor)
    path = store.crash()
    report = salvage(path, "a test")
    assert (report.events, report.lost) == (50, [])
    db = opened(path)
    assert db.channels[0].place.cursor == 150
    assert db.receipts[0] == b"receipt 150"
    assert db.marks["in"]["offset"] == b"200"
    db.close()


def test_an_older_copy_serves_where_the_newer_is_gone(tmp_path: Path) -> None:
    """A channel's older state sets it back: it repeats, it loses nothing."""
    store = Store(tmp_path, 20)
    store.deliver(0, 50)
    store.db.checkpoint("TRUNCATE")
    store.add()
    store.deliver(0, 100)
    path = store.crash()
    wal = path.with_name("headrace.db-wal")
    os.truncate(wal, 32 + 24 + 500)
    report = salvage(path, "a test")
    db = opened(path)
    assert db.channels[0].place.cursor == 50
    assert numbers(db) == list(range(51, 201))
    assert report.lost == []
    db.close()


def test_what_was_received_stays_known(tmp_path: Path) -> None:
    """A repeat of a batch is recognised after a salvage, also of one that was lost: its sender has settled it."""
    store = Store(tmp_path)
    path = store.close()
    flip(path, path.read_bytes().index(b"155 ...") + 50)
    salvage(path, "checksum")
    db = opened(path)
    db.start()
    part = Part(A, block(151, 10), 10, Transit(SENDER, "out", 150, ((151, 10),), 0), None)
    ((kept,), rows) = db.apply([PutRequest([part])])
    assert (kept.stored, kept.repeats, rows) == (0, 10, [])  # type: ignore[union-attr]
    db.close()


def test_delivered_holes_of_a_multiplexed_store_are_not_lost(tmp_path: Path) -> None:
    """Where the counters say that all is there, a hole is a batch that was delivered and deleted."""
    store = Store(tmp_path, 40, masks=(A, B))
    store.deliver(1, 400, done=200)
    path = store.close()
    overwrite(path, 1)
    report = salvage(path, "a test")
    assert (report.events, report.lost, report.possibly_lost) == (200, [], [])


def test_holes_of_a_multiplexed_store_are_possibly_lost(tmp_path: Path) -> None:
    """Once something is missing, a hole that one channel has passed may be it."""
    store = Store(tmp_path, 40, masks=(A, B))
    store.deliver(1, 200, done=100)
    path = store.close()
    flip(path, path.read_bytes().index(b"25 ...") + 50)
    flip(path, path.read_bytes().index(b"255 ...") + 50)
    report = salvage(path, "a test")
    assert report.lost == [(store.origin, 251, 10)]
    assert report.possibly_lost[0] == (store.origin, 11, 30)  # 11-20 and 31-40 were delivered
    assert all(first <= 200 for _, first, _ in report.possibly_lost)
    assert any("10 events that channel a" in note for note in report.notes)
    db = opened(path)
    assert next(row[5] for row in db.lost()) == "lost: a test"
    for channel, inside in ((0, 190), (1, 90)):
        state = db.channels[channel]
        assert state.put_events - state.place.done_events == inside == len(numbers(db, channel))
    db.close()


def test_finished_above_the_cursor_is_not_lost(tmp_path: Path) -> None:
    """A batch that was delivered out of order and then damaged is missed by nobody."""
    store = Store(tmp_path)
    store.deliver(0, 100, ((151, 160),))
    path = store.close()
    flip(path, path.read_bytes().index(b"155 ...") + 50)
    report = salvage(path, "checksum")
    assert report.lost == []
    db = opened(path)
    assert numbers(db) == [*range(101, 151), *range(161, 401)]
    db.close()


def test_partly_delivered_row_is_kept(tmp_path: Path) -> None:
    """A cursor inside a batch leaves the rest of it."""
    store = Store(tmp_path)
    store.deliver(0, 105)
    path = store.close()
    overwrite(path, 1)
    report = salvage(path, "a test")
    check_complete(path, report, set(range(106, 401)))
    db = opened(path)
    state, row = db.channels[0], db.read(0, 105, 1 << 20, 1)[0]
    assert state.put_events - state.place.done_events == 295
    rest = len(row.block) - record.offsets(row.block, 10)[4]
    assert state.put_bytes - state.place.done_bytes == rest + sum(len(r.block) for r in db.read(0, 110, 1 << 40, 999))
    db.close()


def test_no_channel_survives(tmp_path: Path) -> None:
    """Batches whose channel can't be read are kept under an id's name, and the report says so."""
    store = Store(tmp_path)
    store.deliver(0, 100)
    path = store.close()
    overwrite(path, channel_page(path))
    report = salvage(path, "a test")
    db = opened(path)
    assert {c.id: c.name for c in db.channels.values()} == {0: "?0"}
    assert numbers(db)[-300:] == list(range(101, 401))
    assert "channel ?0" in report.notes[0]
    assert db.channels[0].put_events - db.channels[0].place.done_events == len(numbers(db))
    db.close()


def test_lost_channel_gets_the_name_that_the_caller_knows(tmp_path: Path) -> None:
    """Who has the store in memory names its channels; each has a row afterwards, at the end if nothing is inside."""
    path = Store(tmp_path).close()
    overwrite(path, channel_page(path))
    salvage(path, "a test", {0: "a", 3: "d"})
    db = opened(path)
    assert [(c.id, c.name, c.place.cursor) for c in db.channels.values()] == [(0, "a", 0), (3, "d", 400)]
    db.close()


def test_channel_of_the_configuration_takes_the_place_of_a_lost_one(tmp_path: Path) -> None:
    """Channels whose rows are gone get them back, by the order of the configuration, and nothing they had is lost."""
    path = Store(tmp_path, masks=(A, B)).close()
    overwrite(path, channel_page(path))
    salvage(path, "a test")
    db = opened(path)
    db.start(["a", "b", "c"])
    assert {c.id: c.name for c in db.channels.values()} == {0: "a", 1: "b", 2: "c"}
    for channel in (0, 1):
        assert numbers(db, channel) == [n for n in range(1, 401) if (n - 1) // 10 % 2 == channel]
    assert numbers(db, 2) == []
    db.close()


def channel_page(path: Path) -> int:
    conn = sqlite3.connect(path)
    (page,) = conn.execute("SELECT rootpage FROM sqlite_schema WHERE name='channel'").fetchone()
    conn.close()
    return int(page)


def test_numbers_follow_the_openings(tmp_path: Path) -> None:
    """What is missing is named under the origin that numbered it."""
    store = Store(tmp_path, 20)
    first = store.origin
    store.close()
    db = Database(store.path)
    db.start()
    store.db, second = db, db.origin
    for _ in range(20):
        store.add()
    path = store.close()
    for text in (b"195 ...", b"200 ...", b"201 ...", b"211 ..."):
        flip(path, path.read_bytes().index(text) + 30)
    report = salvage(path, "checksum")
    assert report.lost == [(first, 191, 10), (second, 1, 20)]


def test_dead_letters_survive(tmp_path: Path) -> None:
    """Dead letters are kept with their reason."""
    store = Store(tmp_path, 3)
    for i in range(10):
        store.db.apply([BuryRequest([Letter("a", "in", store.origin, i + 1, 5, f"reason {i}", b"y" * 2000)])])
    path = store.close()
    overwrite(path, 1)
    salvage(path, "a test")
    db = opened(path)
    assert [row[6] for row in db.letters.all()] == [f"reason {i}" for i in range(10)]
    db.close()


def test_second_damage_keeps_both_files(tmp_path: Path) -> None:
    """What was lost before stays counted, and an earlier damaged file is not overwritten."""
    store = Store(tmp_path)
    path = store.close()
    damaged = []
    for text in (b"55 ...", b"155 ..."):
        flip(path, path.read_bytes().index(text) + 50)
        damaged.append(salvage(path, "checksum").damaged)
    assert len({*damaged}) == 2 and all(file.exists() for file in damaged)
    db = opened(path)
    assert [row[2] for row in db.lost()] == [51, 151]
    db.close()


@pytest.mark.parametrize("seed", range(40))
def test_random_damage(tmp_path: Path, seed: int) -> None:
    """Whatever is damaged, each event is in the new store or counted, none twice, and the new store is sound."""
    rng = random.Random(seed)
    store = Store(tmp_path, 60, size=rng.choice([0, 20, 200, 400]))
    delivered = 10 * rng.randrange(30)
    store.deliver(0, delivered)
    path = store.crash() if seed % 2 else store.close()
    size = path.stat().st_size
    for _ in range(rng.choice([1, 3, 20])):
        kind = rng.random()
        if kind < 0.6 and size:
            flip(path, rng.randrange(size), 1 << rng.randrange(8))
        elif size > 1024:
            overwrite(path, rng.randrange(1, size // 1024 + 1), rng.choice([None, bytes(1024)]))
    report = salvage(path, "a test")
    db = opened(path)
    found = numbers(db) if db.channels else []
    known = all(c.name == "a" and c.place.cursor == delivered for c in db.channels.values()) and db.channels
    db.close()
    assert len(found) == len(set(found))
    if known:
        assert set(found) | lost_events(report) == set(range(delivered + 1, 601))
        assert not set(found) & lost_events(report)


@pytest.mark.fault
@pytest.mark.parametrize("wal", [False, True])
def test_killed_at_each_step(tmp_path: Path, wal: bool) -> None:
    """A kill at any step of a salvage leaves a store that opens, sound or to be salvaged again, with everything."""
    steps = 0
    while True:
        folder = tmp_path / str(steps)
        folder.mkdir()
        store = Store(folder, 20)
        path = store.crash() if wal else store.close()
        overwrite(path, 1)
        if not killed_at(steps, lambda path=path: salvage(path, "a test")):  # type: ignore[misc]
            break
        resume(path)
        try:
            db = Database(path)
        except (Damaged, sqlite3.DatabaseError):
            salvage(path, "again")
            db = Database(path)
        assert numbers(db) == list(range(1, 201)), steps
        db.close()
        assert not [f for f in folder.iterdir() if ".salvage" in f.name], steps
        kept = [f for f in folder.iterdir() if ".damaged" in f.name and not f.name.endswith("-wal")]
        assert len(kept) == 1 or (wal and not kept), steps  # with its WAL the file is sound: page 1 is in there
        steps += 1
    assert steps >= 8


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Run it in a child that dies before its system call number `step` that changes names or syncs."""
    child = os.fork()
    if child == 0:
        left = [step]

        def dying(real: Callable[..., object]) -> Callable[..., object]:
            def call(*args: object, **more: object) -> object:
                if left[0] == 0:
                    os._exit(9)
                left[0] -= 1
                return real(*args, **more)

            return call

        for name in ("rename", "unlink", "fsync", "open"):
            setattr(os, name, dying(getattr(os, name)))
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_no_room_for_the_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the new file can't be written the error names it and the remedy, and the damaged one stays in place."""
    path = Store(tmp_path).close()
    overwrite(path, 1)
    before = path.read_bytes()

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "create", full)
    with pytest.raises(ChannelError, match=r"headrace\.db\.salvage .*make room.*No space left"):
        salvage(path, "a test")
    assert path.read_bytes() == before
