"""The steps at which a program is killed: every one of put, answer, forward, receive, outputs, create and salvage.

A step names what the product calls there, and the program is killed before or after that call. A target is

    module:attribute               a function or method, where it is looked up (`agent.store.salvage:create`)
    module:os.rename               a function of another module, as this module sees it
    module:sqlite3~INSERT INTO x   a statement that starts so, on a connection that this module made

`since` is a target as well: only calls after the first call of that one count. A name that the product no longer has
ends the run with a message (crash_agent.py), and a step that isn't reached fails its test.
"""

from __future__ import annotations

from typing import NamedTuple

DATABASE, STORE, WRITER = "agent.store.database:Database", "agent.store.store", "agent.store.writer"
CREATION, SALVAGE, PLACES = "agent.store.creation", "agent.store.salvage", "agent.store.places:Places"
SQL, NEW = "agent.store.connection:sqlite3~", f"{CREATION}:sqlite3~"
PUT, FLUSH = f"{STORE}:Store.put", f"{STORE}:Store._flush_now"
FILES, TABLE = "agent.output_files", "aggregator.sinks.sqlite"
CALLED = "agent.avro.connection:ClientConnection.call"
BOTH = ("avro", "mqtt")
BEFORE = ("before",)
AROUND = ("before", "after")


class Step(NamedTuple):
    """`on`: who is killed. `by`: what comes in until then (mqtt, avro, netcat; empty: as the leg). `hit`: which call.

    `state` is the store that the program finds at its start: as it is, `new`, `damaged`, or `killed` (that it left when
    it was killed at the point `first`). `when`: before the call, which mostly is after the one of the step before; or
    after it, too.
    """

    name: str
    target: str
    on: str
    since: str = ""
    hit: int = 1
    legs: tuple[str, ...] = BOTH
    by: str = "mqtt"
    state: str = ""
    first: str = ""
    when: tuple[str, ...] = BEFORE


class Point(NamedTuple):
    """A step, and the side of its call."""

    step: Step
    when: str


def _put(on: str, by: str) -> list[Step]:
    """A put, from the channel to the answer of the writer's thread: what a collector takes in, an aggregator too."""
    return [
        Step(f"put {name} {on}", target, on, since, by=by, when=when)
        for name, target, since, when in (
            ("channel", "agent.channels.file:FileChannel.put_all", "", BEFORE),
            ("handed over", PUT, "", BEFORE),
            ("transaction", f"{SQL}BEGIN IMMEDIATE", PUT, BEFORE),
            ("numbers", "agent.store.received:Received.cover", PUT, BEFORE),
            ("row", f"{SQL}INSERT INTO batch", PUT, BEFORE),
            ("cursor", f"{SQL}INSERT OR REPLACE INTO channel", PUT, BEFORE),
            ("commit", f"{SQL}COMMIT", PUT, AROUND),
            ("posted", f"{WRITER}:Writer._post", f"{DATABASE}._put", ("after",)),
            ("told", f"{STORE}:Store.committed", "", AROUND),
        )
    ]


def _create(on: str, leg: str) -> list[Step]:
    """Each step of making a store and of the first opening."""
    steps = (
        ("lock", f"{STORE}:StoreLock", ""),
        ("file", f"{CREATION}:os.open", ""),
        ("connect", f"{CREATION}:sqlite3.connect", ""),
        ("page size", f"{NEW}PRAGMA page_size", ""),
        ("vacuum", f"{NEW}PRAGMA auto_vacuum", ""),
        ("schema", f"{NEW}BEGIN; PRAGMA application_id", ""),
        ("rename", f"{CREATION}:os.rename", ""),
        ("folder", f"{CREATION}:sync_folder", ""),
        ("journal", f"{SQL}PRAGMA journal_mode", ""),
        ("opening", f"{SQL}INSERT INTO opening", ""),
        ("opening's commit", f"{SQL}COMMIT", f"{DATABASE}.start"),
        ("reserve", "agent.store.space:os.posix_fallocate", ""),
        ("socket", f"{STORE}:control.serve", ""),
        ("channel", f"{PLACES}.add", ""),
        ("channel's commit", f"{SQL}COMMIT", f"{PLACES}.add"),
    )
    ends = ("rename", "folder", "opening's commit", "channel's commit")
    return [
        Step(f"create {name} {on}", target, on, since, 1, (leg,), "mqtt", "new", "", AROUND if name in ends else BEFORE)
        for name, target, since in steps
    ]


def _salvage(on: str, leg: str) -> list[Step]:
    """Each step of a salvage (agent/store/salvage.py has them numbered)."""
    run, renamed = f"{SALVAGE}:_Salvage.run", f"{SALVAGE}:_sync"
    steps = (
        ("called", "agent.store.recovery:_salvage", "", 1),
        ("new file", f"{SALVAGE}:create", "", 1),
        ("small tables", f"{SALVAGE}:_Salvage._small_tables", "", 1),
        ("batches", f"{SALVAGE}:_Salvage._batches", "", 1),
        ("tables written", f"{SALVAGE}:_Salvage._write_small_tables", "", 1),
        ("commit", f"{SALVAGE}:sqlite3~COMMIT", run, 1),
        ("journal", f"{SALVAGE}:sqlite3~PRAGMA journal_mode=WAL", run, 1),
        ("sync", f"{SALVAGE}:_sync", "", 1),
        ("rename 2", f"{SALVAGE}:os.rename", renamed, 1),
        ("folder 2", f"{SALVAGE}:sync_folder", renamed, 1),
        ("resume", f"{SALVAGE}:resume", renamed, 1),
        ("rename 4", f"{SALVAGE}:os.rename", renamed, 2),
        ("folder 4", f"{SALVAGE}:sync_folder", renamed, 2),
        ("rename 5", f"{SALVAGE}:os.rename", renamed, 3),
        ("folder 5", f"{SALVAGE}:sync_folder", renamed, 3),
    )
    return [
        Step(
            f"salvage {name} {on}", target, on, since, hit, (leg,), "mqtt", "damaged", "", BEFORE if hit < 3 else AROUND
        )
        for name, target, since, hit in steps
    ]


C, A = "collector", "aggregator"
MARKED, NUMBERED = f"{SQL}INSERT OR REPLACE INTO mark", f"{SQL}INSERT OR REPLACE INTO stream"
SYNCED = "files sync:after"

# fmt: off
STEPS = [
    # put: at the collector by either input, at the aggregator by either leg
    *_put(C, ""),
    *_put(A, "mqtt"),
    Step("put marks", MARKED, C),
    Step("put stream", NUMBERED, C, by="avro"),
    Step("receive marks", MARKED, A, legs=("mqtt",)),
    Step("receive stream", NUMBERED, A),
    # answer: PUBACK, Avro OK, netcat OK
    Step("puback made", "agent.mqtt.packet:pubacks", C),
    Step("puback leaves", "agent.mqtt.connection:Connection.ping", C, "agent.mqtt.packet:pubacks", when=AROUND),
    Step("puback read", "agent.mqtt.window:Window.answered", C, "agent.mqtt.window:Window.acknowledged", when=AROUND),
    Step(
        "ok leaves",
        "agent.sources.avro:AvroPeer._flush",
        C,
        "agent.sources.avro:AvroPeer._keep",
        by="avro",
        when=AROUND,
    ),
    Step("netcat ok leaves", "agent.sources.netcat:Client._answer", C, by="netcat", when=AROUND),
    # receive: the receiver's side of the forward leg
    Step("receive made", "agent.avro.connection:ServerConnection.answer", A, legs=("avro",)),
    Step(
        "receive answer leaves",
        "agent.sources.avro:AvroPeer._flush",
        A,
        "agent.sources.avro:AvroPeer._keep",
        legs=("avro",),
        when=AROUND,
    ),
    Step("receive unpacked", "agent.mqtt.leg:unpack", A, legs=("mqtt",)),
    Step("receive confirms", "agent.sources.mqtt:MqttSource._answer", A, PUT, legs=("mqtt",), when=AROUND),
    Step("receive confirmation leaves", "agent.mqtt.connection:Connection.ping", A, PUT, legs=("mqtt",), when=AROUND),
    # forward
    Step("forward avro send", "agent.sinks.avro:AvroSink.send", C, legs=("avro",)),
    Step("forward frame", CALLED, C, legs=("avro",)),
    Step("forward frame left", "agent.sinks.avro:Link._forget_answered", C, CALLED, legs=("avro",)),
    Step("forward second frame left", "agent.sinks.avro:Link._forget_answered", C, CALLED, 2, legs=("avro",)),
    Step("forward answer came", "agent.sinks.avro:Link.buffer_updated", C, CALLED, legs=("avro",), when=AROUND),
    Step("forward packed", "agent.mqtt.leg:pack", C, legs=("mqtt",)),
    Step("forward published", "agent.mqtt.publisher:Publisher.publish", C, legs=("mqtt",), when=AROUND),
    Step(
        "forward second published", "agent.mqtt.publisher:Publisher.publish", C, hit=2, legs=("mqtt",), when=("after",)
    ),
    Step("forward broker has it", "agent.mqtt.publisher:Publisher.acknowledged", C, legs=("mqtt",), when=("after",)),
    Step("forward confirmation came", "agent.sinks.mqtt:MqttSink._answers", C, legs=("mqtt",), when=AROUND),
    Step("forward committed", "agent.channels.file:FileTake.commit", C, when=AROUND),
    Step("forward cursor moved", f"{STORE}:Store.moved", C, when=("after",)),
    # the cursor's commit
    Step("cursor flush", FLUSH, C),
    Step("cursor row", f"{SQL}INSERT OR REPLACE INTO channel", C, FLUSH),
    Step("cursor rows go", f"{SQL}DELETE FROM batch", C, FLUSH),
    Step("cursor commit", f"{SQL}COMMIT", C, FLUSH, when=AROUND),
    # outputs
    Step("files opened", f"{FILES}:OutputFiles.open", A),
    Step("files first receipt", "agent.channels.file:FileChannel.keep_receipt", A, when=AROUND),
    Step("files append", f"{FILES}:OutputFiles.append", A),
    Step("files journal", f"{FILES}:Journal.add", A),
    Step("files made", f"{FILES}:OutputFiles._make", A),
    Step("files written", f"{FILES}:os.pwrite", A, f"{FILES}:OutputFiles._make", 2, when=AROUND),
    Step("files sync", f"{FILES}:os.fdatasync", A, f"{FILES}:OutputFiles._make", 2, when=AROUND),
    Step("files second batch", f"{FILES}:os.fdatasync", A, f"{FILES}:OutputFiles._make", 3, when=("after",)),
    Step("files receipt", f"{FILES}:OutputFiles._receipt", A, f"{FILES}:OutputFiles.append"),
    Step("files confirmed", f"{FILES}:OutputFiles.confirm", A),
    Step("files receipt's row", f"{SQL}INSERT OR REPLACE INTO receipt", A, f"{FILES}:OutputFiles.confirm"),
    Step("files receipt's commit", f"{SQL}COMMIT", A, f"{STORE}:Store._flush_now", when=AROUND),
    Step("files cut back", f"{FILES}:OutputFiles._cut_back", A, state="killed", first=SYNCED, when=AROUND),
    Step("files removed", f"{FILES}:sync_folder", A, f"{FILES}:OutputFiles._cut_back", state="killed", first=SYNCED),
    Step("files new journal", f"{FILES}:Journal.restart", A, state="killed", first=SYNCED, when=AROUND),
    Step(
        "files new receipt",
        "agent.channels.file:FileChannel.keep_receipt",
        A,
        state="killed",
        first=SYNCED,
        when=AROUND,
    ),
    Step("table rows", f"{TABLE}:Table.insert", A),
    Step("table transaction", f"{TABLE}:sqlite3~BEGIN IMMEDIATE", A, f"{TABLE}:Table.insert"),
    Step("table insert", f"{TABLE}:sqlite3~INSERT OR IGNORE", A),
    Step("table commit", f"{TABLE}:sqlite3~COMMIT", A, f"{TABLE}:Table.insert", when=AROUND),
    Step("table stored", f"{TABLE}:SqliteSink.send", A),
    # stores
    *_create(C, "avro"),
    *_create(A, "mqtt"),
    *_salvage(C, "avro"),
    *_salvage(A, "mqtt"),
]
# fmt: on

POINTS = {f"{step.name}:{when}": Point(step, when) for step in STEPS for when in step.when}


def points(leg: str) -> list[str]:
    """The names of those on a leg."""
    return [name for name, point in POINTS.items() if leg in point.step.legs]
