"""The rules of delivery (docs/delivery.md), walked at random over real stores.

A sender is a store with two channels, of which each may have three batches on the way; receivers are stores that keep
what comes from each channel apart. Between them messages are lost, come late or twice, and answers are lost. Stores are
killed, lose their last commits (a power cut under `synchronous = NORMAL`), are damaged and salvaged, cloned with their
rows, restored from a backup, thrown away. At the end everything is drained, and then

  - each event that a sender took in is in one of the receivers, for each of its channels, unless a rule excuses it;
  - no receiver has an event of one channel twice, by identity or by content, and identity and content go together;
  - the senders are empty: depth, counters and rows agree.

The second half breaks one rule on purpose: the walk must see each of them.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import ANY

import pytest

from agent.avro import record
from agent.event import Batch
from agent.store import received, schema
from agent.store.accounts import Accounts
from agent.store.coverage import Coverage
from agent.store.creation import create
from agent.store.database import Database
from agent.store.places import Places
from agent.store.queue import ChannelQueue, Segment
from agent.store.received import Received
from agent.store.requests import BuryRequest, Kept, Letter, Part, PutRequest
from agent.store.salvage import Report, salvage
from agent.store.schema import Row
from agent.store.streams import Identity, Runs, Transit, numbers_of

CHANNELS = "AB"
WALKS = 200


Number = tuple[bytes, int]


class Broken(Exception):
    """The promise is."""


class Message(NamedTuple):
    channel: str
    transit: Transit
    identity: tuple[Identity, ...]
    block: bytes


class Sender:
    """A store with the channels A and B, driven as the file channel drives it, but in step."""

    def __init__(self, world: World, folder: Path, readings: frozenset[int] = frozenset()) -> None:
        self.world, self.folder, self.readings = world, folder, readings
        self.open()

    def open(self) -> None:
        self.db = Database(self.folder / "headrace.db", "OFF")
        self.db.start(CHANNELS)
        self.queues = {name: ChannelQueue(*self.db.channel(name)) for name in CHANNELS}
        self.flying: dict[str, list[list[Segment]]] = {name: [] for name in CHANNELS}
        self.commits: list[tuple[int, frozenset[int]]] = [(self._wal(), self.readings)]

    def _wal(self) -> int:
        return (self.folder / "headrace.db-wal").stat().st_size

    def commit(self, *requests: PutRequest | BuryRequest, moved: str = "") -> None:
        places = {self.queues[name].id: self.queues[name].snapshot() for name in moved}
        results, rows = self.db.apply(requests, places)
        assert all(isinstance(result, Kept) for result in results)
        for row in rows:
            self.world.note(row)
            for queue in self.queues.values():
                if row.channels >> queue.id & 1:
                    queue.stored(row)
        self.commits.append((self._wal(), self.readings))

    def put(self) -> None:
        """One to three puts in one commit; some events come with an identity from further up."""
        rng = self.world.rng
        requests = []
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            channels = rng.choice(["A", "B", "AB", "AB"])
            new = [self.world.reading(channels) for _ in range(rng.randint(1, 5))]
            self.readings |= set(new)
            identity = (Identity(b"u" * 16, new[0], len(new)),) if rng.random() < 0.3 else None
            block = record.encode([({}, b"%d" % reading) for reading in new])
            mask = sum(1 << self.queues[name].id for name in channels)
            requests.append(PutRequest([Part(mask, block, len(new), None, identity)]))
        self.commit(*requests, moved=rng.choice(["", "A", "AB"]))

    def take(self, name: str, limit: int) -> list[Segment]:
        queue = self.queues[name]
        segments = queue.gather(limit, 1 << 20)
        while not segments and queue.behind:
            queue.loaded(self.db.read(queue.id, queue.read_to, 1 << 20, 4))
            segments = queue.gather(limit, 1 << 20)
        if segments:
            self.flying[name].append(segments)
        return segments

    def message(self, name: str, segments: list[Segment]) -> Message:
        identity = tuple(run for segment in segments for run in segment.identities())
        block = b"".join(segment.block for segment in segments)
        return Message(name, self.queues[name].transit(segments, None), identity, block)

    def answered(self, name: str, segments: list[Segment], accepted: bool) -> None:
        self.flying[name].remove(segments)
        if accepted:
            self.queues[name].finish(segments)
        else:
            self.queues[name].give_back(segments)

    def bury(self, name: str) -> None:
        segments = self.take(name, 1)
        if segments:
            self.flying[name].remove(segments)
            (reading,) = readings(segments[0].block, 1)
            letter = Letter(name, "", b"o" * 16, reading, 0, "poison", segments[0].block)
            place = self.queues[name].id, [(segment.first, segment.last) for segment in segments]
            self.commit(BuryRequest([letter], over=place))
            self.queues[name].finish(segments)
            self.world.excused.add((name, reading))

    def crash(self, tail: int = 0) -> None:
        """Killed; with `tail`, the last commits were not on the disk."""
        size, known = self.commits[max(0, len(self.commits) - 1 - tail)]
        folder = self.copy_files()
        if tail:
            with (folder / "headrace.db-wal").open("r+b") as file:
                file.truncate(size)
            self.world.excuse(self.readings - known)
        self.db.close()
        self.folder, self.readings = folder, known
        self.open()

    def inside(self) -> dict[str, dict[Number, int]]:
        """What each channel has yet to deliver, as the file has it: number -> position."""
        out: dict[str, dict[Number, int]] = {}
        for name in CHANNELS:
            state, _ = self.db.channel(name)
            place = state.place
            out[name] = {
                (row.origin, row.first + i): row.position - row.events + i + 1
                for row in self.db.read(state.id, place.cursor, 1 << 40, 1 << 30)
                for i in range(row.events)
            }
            for low, high in [(0, place.cursor), *place.finished]:
                out[name] = {number: at for number, at in out[name].items() if not low <= at <= high}
        return out

    def damage(self) -> None:
        """Killed, and some of the file is not what was written: what is missing after a salvage must be reported."""
        rng, before = self.world.rng, self.inside()
        if rng.random() < 0.5:
            self.db.checkpoint("TRUNCATE")
        self.folder = self.copy_files()
        self.db.close()
        path = self.folder / "headrace.db"
        again = any(self.folder.glob("*.damaged-*"))
        with path.open("r+b") as file:
            for _ in range(rng.choice([1, 1, 2, 5])):
                size = rng.choice([1, 1, 1, schema.PAGE_SIZE])
                file.seek(rng.randrange(path.stat().st_size) // size * size)
                file.write(rng.randbytes(size))
        report = salvage(path, "a walk", {0: "A", 1: "B"})
        self.open()
        after = self.inside()
        # Which origin a number is of can't be told where the row of its opening is gone; how many are missing can.
        needed = {origin for known in before.values() for origin, _ in known}
        named = needed <= {origin for origin, _, _ in self.db.openings.all}
        for name in CHANNELS:
            self.judge(report, before[name], after[name], f"channel {name} ", named)
        lost = {(origin, n) for origin, first, count in report.lost for n in range(first, first + count)}
        # Holes that an earlier salvage left may be taken for losses: their channels were set back.
        if named and not again and not lost <= {number for known in before.values() for number in known}:
            raise Broken("salvage calls lost what all have delivered")

    def judge(
        self, report: Report, before: Mapping[Number, int], after: Mapping[Number, int], channel: str, named: bool
    ) -> None:
        ranges = report.lost + report.possibly_lost
        reported = {(origin, n) for origin, first, count in ranges for n in range(first, first + count)}
        missing = before.keys() - after.keys()
        self.world.excuse(frozenset(self.world.named[number] for number in missing))
        notes = [note for note in report.notes if channel in note]
        # Of what was put last it may be known only how much it was: channels that share numbers count together.
        tail = max([at for number, at in before.items() if number not in missing], default=0)
        unknown = {number for number in missing - reported if before[number] < tail or not notes}
        if unknown and named:
            raise Broken(f"salvage does not miss {len(unknown)} events of {channel}")
        if any("yet to deliver" in note and not note.startswith(f"{len(missing)} ") for note in notes):
            raise Broken(f"salvage miscounts: {len(missing)} are missing, {notes}")

    def copy_files(self) -> Path:
        """The files as they are now: what a kill leaves, a clone has and a (forbidden, but made) backup keeps."""
        folder = self.world.folder()
        for file in self.folder.glob("headrace.db*"):
            shutil.copy(file, folder / file.name)
        return folder


class Receiver:
    """A store that keeps what comes from channel A and from channel B apart, and judges repeats."""

    def __init__(self, world: World) -> None:
        self.world, self.folder = world, world.folder()
        self.open()

    def open(self) -> None:
        self.db = Database(self.folder / "headrace.db", "OFF")
        self.db.start(CHANNELS)

    def crash(self) -> None:
        self.db.close()
        self.open()

    def receive(self, message: Message) -> None:
        """In one part or, as behind a multiplexing selector, in two."""
        mask = 1 << self.db.channel(message.channel)[0].id
        whole = Batch(None, message.block, message.transit.count, message.transit, message.identity)
        batches = [whole]
        if whole.count > 1 and self.world.rng.random() < 0.3:
            batches = [whole.pick(range(start, whole.count, 2)) for start in (0, 1)]
        parts = [Part(mask, b.block, b.count, b.transit, b.identity) for b in batches]
        ((result,), _) = self.db.apply([PutRequest(parts)])
        assert isinstance(result, Kept) and result.stored + result.repeats == whole.count

    def kept(self) -> Iterator[tuple[str, tuple[bytes, int], int]]:
        """(channel, identity, reading) of each stored event."""
        for name in CHANNELS:
            for row in self.db.read(self.db.channel(name)[0].id, 0, 1 << 40, 1 << 30):
                runs = schema.unpack_identity(row.identity or b"") or (Identity(row.origin, row.first, row.events),)
                ids = [(run.origin, run.first + i) for run in runs for i in range(run.count)]
                for identity, reading in zip(ids, readings(row.block, row.events), strict=True):
                    yield name, identity, reading


def readings(block: bytes, count: int) -> list[int]:
    return [int(body) for _, body in record.decode(block, count)]


class World:
    def __init__(self, seed: int, root: Path, empty: Path, damage: float = 0.0, waiting: int = 1) -> None:
        self.rng, self.root, self.empty = random.Random(seed), root, empty
        self.damage, self.waiting = damage, waiting
        self.folders = self.count = 0
        self.named: dict[Number, int] = {}
        self.expected: set[tuple[str, int]] = set()
        self.excused: set[tuple[str, int]] = set()
        self.backups: list[tuple[Path, frozenset[int]]] = []
        self.senders = [Sender(self, self.folder())]
        self.receivers = [Receiver(self), Receiver(self)]
        self.late: list[tuple[Receiver, Message]] = []

    def folder(self) -> Path:
        """A new one, with an empty store: making each anew would cost most of the time."""
        self.folders += 1
        path = self.root / str(self.folders)
        path.mkdir()
        shutil.copy(self.empty, path / "headrace.db")
        return path

    def reading(self, channels: str) -> int:
        self.count += 1
        self.expected |= {(name, self.count) for name in channels}
        return self.count

    def note(self, row: Row) -> None:
        """Which reading a store's number stands for."""
        for number, reading in enumerate(readings(row.block, row.events), row.first):
            self.named[row.origin, number] = reading

    def excuse(self, numbers: frozenset[int]) -> None:
        self.excused |= {(name, number) for name in CHANNELS for number in numbers}

    def send(self, sender: Sender, quiet: bool = False) -> None:
        name = self.rng.choice(CHANNELS)
        if len(sender.flying[name]) >= 3:
            sender.answered(name, self.rng.choice(sender.flying[name]), False)  # timed out
        segments = sender.take(name, self.rng.randint(1, 8))
        if not segments:
            return
        message, receiver = sender.message(name, segments), self.rng.choice(self.receivers)
        fates = ["ok", "ok", "ok", "lost", "no answer", "late", "repeat"] + ["waiting"] * self.waiting
        fate = "ok" if quiet else self.rng.choice(fates)
        if fate in ("ok", "no answer", "repeat"):
            receiver.receive(message)
        if fate in ("late", "repeat", "waiting"):
            self.late.append((receiver, message))
        if fate != "waiting":
            sender.answered(name, segments, fate in ("ok", "repeat"))

    def step(self) -> None:
        rng = self.rng
        sender, chance = rng.choice(self.senders), rng.random()
        if rng.random() < self.damage:
            sender.damage()
        elif chance < 0.30:
            sender.put()
        elif chance < 0.72:
            self.send(sender)
        elif chance < 0.80:
            sender.commit(moved=rng.choice(["A", "B", "AB"]))
        elif chance < 0.87 and self.late:
            receiver, message = self.late.pop(rng.randrange(len(self.late)))
            if receiver in self.receivers:
                receiver.receive(message)
        elif chance < 0.91:
            sender.crash(rng.randint(1, 3) if rng.random() < 0.3 else 0)
        elif chance < 0.925:
            sender.damage()
        elif chance < 0.94 and len(self.senders) < 3:
            self.senders.append(Sender(self, sender.copy_files(), sender.readings))
        elif chance < 0.95:
            self.backups.append((sender.copy_files(), sender.readings))
        elif chance < 0.96 and self.backups:
            folder, known = self.backups.pop()
            self.excuse(sender.readings - known)
            sender.db.close()
            self.senders[self.senders.index(sender)] = Sender(self, folder, known)
        elif chance < 0.975:
            sender.bury(rng.choice(CHANNELS))
        elif chance < 0.99:
            rng.choice(self.receivers).crash()
        elif chance < 0.995:
            self.lose(rng.randrange(2))

    def lose(self, which: int) -> None:
        """A receiver's store is gone for good."""
        self.excused |= {(name, reading) for name, _, reading in self.receivers[which].kept()}
        self.receivers[which].db.close()
        self.receivers[which] = Receiver(self)

    def drain(self) -> None:
        for sender in self.senders:
            for _ in range(10_000):
                for name in CHANNELS:
                    for segments in list(sender.flying[name]):
                        sender.answered(name, segments, False)
                self.send(sender, quiet=True)
                if not any(queue.depth or queue.behind for queue in sender.queues.values()):
                    break
            sender.commit(moved=CHANNELS)

    def check(self) -> None:
        stored = [list(receiver.kept()) for receiver in self.receivers]
        missing = self.expected - self.excused - {(name, reading) for kept in stored for name, _, reading in kept}
        if missing:
            raise Broken(f"{len(missing)} lost, such as {min(missing)}")
        names: dict[tuple[bytes, int], int] = {}
        for kept in stored:
            if len({(name, reading) for name, _, reading in kept}) != len(kept):
                raise Broken("a receiver stored an event twice")
            if len({(name, identity) for name, identity, _ in kept}) != len(kept):
                raise Broken("a receiver stored an identity twice")
            for _, identity, reading in kept:
                if names.setdefault(identity, reading) != reading:
                    raise Broken(f"one identity names the readings {reading} and {names[identity]}")
        if len(set(names.values())) != len(names):
            raise Broken("a reading has two identities")
        for sender in self.senders:
            for name in CHANNELS:
                state, _ = sender.db.channel(name)
                if state.put_events != state.place.done_events or state.place.finished:
                    raise Broken(f"channel {name} is drained and counts {state}")
                if state.put_bytes != state.place.done_bytes:
                    raise Broken(f"channel {name} is drained and counts {state}")
            if sender.db.conn.execute("SELECT count(*) FROM batch").fetchone() != (0,):
                raise Broken("rows are left that every channel has passed")

    def close(self) -> None:
        for db in [sender.db for sender in self.senders] + [receiver.db for receiver in self.receivers]:
            db.close()


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "headrace.db"
    create(path)
    return path


def walk(seed: int, root: Path, empty: Path, **mix: Any) -> None:
    """One walk; Broken, with the seed, if it ends badly. `mix` makes some steps more frequent (World)."""
    folder = root / f"walk {seed}"
    folder.mkdir()
    world = World(seed, folder, empty, **mix)
    try:
        for _ in range(world.rng.randint(10, 100)):
            world.step()
        world.drain()
        world.check()
    except Broken as error:
        raise Broken(f"walk {seed}: {error}") from None
    finally:
        world.close()
        shutil.rmtree(folder)


@pytest.mark.parametrize("start", range(0, WALKS, 20))
def test_nothing_is_lost_or_doubled(start: int, tmp_path: Path, empty: Path) -> None:
    """Whatever happens to messages and stores, each event arrives once."""
    for seed in range(start, start + 20):
        walk(seed, tmp_path, empty)


# ---- rules broken on purpose


def high_water(patch: pytest.MonkeyPatch) -> None:
    """A plain mark in place of ranges."""

    def fresh(self: Coverage, runs: Runs, settled: int = 0) -> Runs:
        mark = max([self.settled, settled, *(last for _, last in self.ranges)])
        return tuple((n, 1) for n in numbers_of(runs) if n > mark)

    patch.setattr(Coverage, "fresh", fresh)


def no_cut(patch: pytest.MonkeyPatch) -> None:
    """A batch that overlaps what is known is stored whole."""
    patch.setattr(received, "cut", lambda part, new: part)


def volatile_ranges(patch: pytest.MonkeyPatch) -> None:
    """What was received is not kept with the events."""
    patch.setattr(Received, "write", lambda self, key, stream, version: None)


def origin_a_file(patch: pytest.MonkeyPatch) -> None:
    """The origin and its numbers go on through a reopening."""
    real = Database.start

    def start(self: Database, *args: Any) -> None:
        real(self, *args)
        self.openings.origin, self.openings.base, _ = self.openings.all[0]

    patch.setattr(Database, "start", start)


def one_stream(patch: pytest.MonkeyPatch) -> None:
    """The channels of a store share a stream."""
    patch_transit(patch, lambda t: Transit(t.origin, "x", t.after, t.numbers, t.settled))


def settled_when_sent(patch: pytest.MonkeyPatch) -> None:
    """What precedes a batch counts as done, though it may be on its way."""
    patch_transit(patch, lambda t: Transit(t.origin, t.channel, t.after, t.numbers, t.after))


def after_is_zero(patch: pytest.MonkeyPatch) -> None:
    """A batch covers everything before it."""
    patch_transit(patch, lambda t: Transit(t.origin, t.channel, 0, t.numbers, t.settled))


def patch_transit(patch: pytest.MonkeyPatch, change: Callable[[Transit], Transit]) -> None:
    real = ChannelQueue.transit
    patch.setattr(ChannelQueue, "transit", lambda self, *args: change(real(self, *args)))


def across_a_gap(patch: pytest.MonkeyPatch) -> None:
    """A take joins what comes before and after a batch that is on its way."""
    patch.setattr(Segment, "number", property(lambda self: ANY))


def first_channel_deletes(patch: pytest.MonkeyPatch) -> None:
    """A row goes when one of its channels has passed it."""
    patch.setattr(
        Places,
        "_delete_passed",
        lambda self, low, high, cursors: self.conn.execute(
            "DELETE FROM batch WHERE position > ? AND position <= ?", (low, high)
        ),
    )


def returned_is_finished(patch: pytest.MonkeyPatch) -> None:
    """A batch that was not accepted is not sent again."""
    patch.setattr(ChannelQueue, "give_back", ChannelQueue.finish)


def own_identity(patch: pytest.MonkeyPatch) -> None:
    """A store names what it receives anew."""
    patch.setattr(Segment, "identities", lambda self: (Identity(b"x" * 16, self.first, self.events),))


def losses_uncounted(patch: pytest.MonkeyPatch) -> None:
    """Salvage does not say what is missing."""
    patch.setattr(Accounts, "_judge", lambda self, gaps: None)


MIX: dict[Callable[[pytest.MonkeyPatch], None], dict[str, Any]] = {
    across_a_gap: {"waiting": 8},
    losses_uncounted: {"damage": 0.1},
}
"""What makes a rule's breach frequent enough to be seen soon."""


@pytest.mark.parametrize(
    "rule",
    [
        high_water, no_cut, volatile_ranges, origin_a_file, one_stream, settled_when_sent, after_is_zero,
        across_a_gap, first_channel_deletes, returned_is_finished, own_identity,
        losses_uncounted,
    ],
)  # fmt: skip
def test_a_broken_rule_is_seen(
    rule: Callable[[pytest.MonkeyPatch], None], tmp_path: Path, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The walk would tell if a rule were broken."""
    rule(monkeypatch)
    with pytest.raises(Broken):
        for seed in range(WALKS):
            walk(seed, tmp_path, empty, **MIX.get(rule, {}))
