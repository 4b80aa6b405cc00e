"""Record batches, against those of aiokafka and kafka-python."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from aiokafka.record.control_record import ABORT_MARKER, COMMIT_MARKER, ControlRecord
from aiokafka.record.default_records import DefaultRecordBatch
from hypothesis import given
from hypothesis import strategies as st
from kafka.record.default_records import DefaultRecordBatch as PythonBatch

from aggregator.topics import record_batch
from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.record_batch import Record, build, control, header, placed, records, rewritten, split, with_time
from tests.aggregator.topics import batches
from tests.aggregator.topics.batches import ROWS, Row, T, changed, sealed

READERS = [batches.read_by_aiokafka, batches.read_by_kafka_python]
FOREIGN = {
    "aiokafka": batches.by_aiokafka(ROWS),
    "aiokafka gzip": batches.by_aiokafka(ROWS, 1),
    "aiokafka snappy": batches.by_aiokafka(ROWS, 2),
    "aiokafka lz4": batches.by_aiokafka(ROWS, 3),
    "aiokafka zstd": batches.by_aiokafka(ROWS, 4),
    "kafka-python": batches.by_kafka_python(ROWS),
    "kafka-python gzip": batches.by_kafka_python(ROWS, 1),
    "librdkafka snappy": batches.as_librdkafka(batches.by_aiokafka(ROWS)),
}
foreign = pytest.mark.parametrize("batch", FOREIGN.values(), ids=FOREIGN.keys())

numbers = st.integers(0, 2**62)
blobs = st.none() | st.binary(max_size=80)
rows = st.tuples(numbers, blobs, blobs, st.lists(st.tuples(st.text(max_size=9), blobs), max_size=4).map(tuple))


def read(batch: bytes) -> list[tuple[int, Row]]:
    """(offset, row) each, by us."""
    return [(one.offset, (one.time, one.key, one.value, one.headers)) for one in records(batch)]


def code(call: Callable[..., object], *given: object) -> Code | None:
    """The code of the TopicsError that a call raises, None if it raises none."""
    try:
        call(*given)
    except TopicsError as error:
        return error.code
    return None


@pytest.mark.parametrize("reader", READERS)
def test_others_read_ours(reader: Callable[[bytes], list[tuple[int, Row]]]) -> None:
    """Headers, null keys and values, times before the first: as they were given."""
    assert reader(build(ROWS, base_offset=7)) == list(enumerate(ROWS, 7))


@pytest.mark.parametrize("reader", READERS)
@given(made=st.lists(rows, min_size=1, max_size=20))
def test_others_read_any_of_ours(reader: Callable[[bytes], list[tuple[int, Row]]], made: list[Row]) -> None:
    """Whatever the records."""
    assert reader(build(made)) == list(enumerate(made))


def test_ours_is_theirs() -> None:
    """Byte for byte what aiokafka writes for the same records, but for the leader epoch (-1 there)."""
    assert build(ROWS) == placed(batches.by_aiokafka(ROWS), 0)


def test_large_batches() -> None:
    """Offsets, times and lengths beyond those that are looked up."""
    many: list[Row] = [(T + 300 * at, None, b"v" * (at % 3 * 4095), ()) for at in range(9000)]
    assert batches.read_by_aiokafka(build(many)) == list(enumerate(many))
    assert read(build(many)) == list(enumerate(many))


@foreign
def test_we_read_theirs(batch: bytes) -> None:
    """Every compression, both framings of snappy."""
    assert read(batch) == list(enumerate(ROWS))


@given(made=st.lists(rows, min_size=1, max_size=20), kind=st.integers(0, 4))
def test_we_read_any_of_theirs(made: list[Row], kind: int) -> None:
    """Whatever the records and the compression."""
    assert read(batches.by_aiokafka(made, kind)) == list(enumerate(made))


def test_producer_and_transaction() -> None:
    """Other readers see the producer's three numbers and the transaction."""
    batch = DefaultRecordBatch(build(ROWS, producer=(2**40, 3, 2**31 - 1), transactional=True))
    assert (batch.producer_id, batch.producer_epoch, batch.base_sequence) == (2**40, 3, 2**31 - 1)
    assert batch.is_transactional and not batch.is_control_batch


def test_the_header_says_what_others_say() -> None:
    """Each field of the header as aiokafka and kafka-python read it."""
    batch = placed(build(ROWS, producer=(9, 1, 4)), 1000, 6)
    head, theirs = header(b"before" + batch, 6), PythonBatch(batch)
    assert head.size == len(batch) == theirs.size_in_bytes
    assert (head.base_offset, head.last_offset, head.leader_epoch) == (1000, theirs.last_offset, theirs.leader_epoch)
    assert (head.base_time, head.max_time, head.count) == (T, T + 70_000, theirs.records_count)
    assert head.next_sequence == theirs.last_sequence + 1 == 9


def test_sequence_numbers_wrap() -> None:
    """Behind 2**31 - 1 comes 0, as kafka-python counts, too."""
    wrapping = build(ROWS, producer=(9, 1, 2**31 - 2))
    assert header(wrapping).next_sequence == PythonBatch(wrapping).last_sequence + 1 == 3
    assert header(build(ROWS, producer=(9, 1, 2**31 - 5))).next_sequence == 0


@pytest.mark.parametrize(
    ("made", "producer"),
    [([], (-1, -1, -1)), ([(1 << 63, None, None, ())], (-1, -1, -1)), (ROWS, (1, 1 << 15, 0)), (ROWS, (1, 0, 1 << 31))],
    ids=["no record", "time", "epoch", "sequence"],
)
def test_what_no_batch_can_hold(made: list[Row], producer: tuple[int, int, int]) -> None:
    """ValueError: no record, numbers out of range."""
    with pytest.raises(ValueError):
        build(made, producer=producer)


def test_times_too_far_apart() -> None:
    """A delta of more than 64 bits is a ValueError, too."""
    with pytest.raises(ValueError):
        build([(-(1 << 63), None, None, ()), ((1 << 63) - 1, None, None, ())])


@pytest.mark.parametrize(("commit", "marker"), [(True, COMMIT_MARKER), (False, ABORT_MARKER)])
def test_control_by_aiokafka(commit: bool, marker: ControlRecord) -> None:
    """aiokafka finds a transaction's end, of this producer and time."""
    batch = DefaultRecordBatch(control(commit, 77, 2, T))
    assert batch.validate_crc() and batch.is_control_batch and batch.is_transactional
    assert (batch.producer_id, batch.producer_epoch, batch.base_sequence) == (77, 2, -1)
    (one,) = batch
    assert (ControlRecord.parse(one.key), one.timestamp, one.offset) == (marker, T, 0)


@pytest.mark.parametrize("commit", [True, False])
def test_control_by_kafka_python(commit: bool) -> None:
    """kafka-python finds the same."""
    (one,) = PythonBatch(control(commit, 77, 2, T))
    assert (one.commit, one.abort, one.version) == (commit, not commit, 0)


def test_control_value() -> None:
    """The value is Kafka's EndTransactionMarker: version 0, coordinator epoch 0."""
    (one,) = records(control(True, 77, 2, T))
    assert one == Record(0, T, b"\0\0\0\1", bytes(6), ())
    assert header(control(True, 77, 2, T)).is_control


def test_placed_changes_nothing_else() -> None:
    """Base offset and leader epoch are written; every other byte stays, and the CRC is right."""
    batch = batches.by_aiokafka(ROWS, 4)
    put = placed(memoryview(batch), 2**40, 5)
    assert put[8:12] + put[16:] == batch[8:12] + batch[16:]
    assert (header(put).base_offset, header(put).leader_epoch) == (2**40, 5)
    assert batches.read_by_aiokafka(put) == list(enumerate(ROWS, 2**40))


@foreign
def test_time_of_appending(batch: bytes) -> None:
    """All records have it, for other readers and for us; the rest stays."""
    stamped = with_time(batch, T + 9)
    rows_then = [(at, (T + 9, *row[1:])) for at, row in enumerate(ROWS)]
    assert read(stamped) == batches.read_by_aiokafka(stamped) == rows_then
    assert stamped[:17] == batch[:17] and stamped[61:] == batch[61:]


def test_split() -> None:
    """Batches one after another, each as it is, without a copy."""
    whole = [batches.by_aiokafka(ROWS, 3), build(ROWS[:1], producer=(5, 0, 0), transactional=True)]
    parts = split(memoryview(b"".join(whole)), 1 << 20)
    assert [bytes(part) for part in parts] == whole
    assert all(isinstance(part, memoryview) for part in parts)


PLAIN = build(ROWS)
BAD = {
    "nothing": (b"", Code.INVALID_RECORD),
    "a header cut off": (PLAIN[:60], Code.CORRUPT_MESSAGE),
    "cut off": (PLAIN[:-1], Code.CORRUPT_MESSAGE),
    "a tail": (PLAIN + b"\0", Code.CORRUPT_MESSAGE),
    "a length of -1": (changed(PLAIN, ">i", 8, -1), Code.CORRUPT_MESSAGE),
    "a length of 48": (changed(PLAIN, ">i", 8, 48), Code.CORRUPT_MESSAGE),
    "a greater length": (changed(PLAIN, ">i", 8, 2**31 - 1), Code.CORRUPT_MESSAGE),
    "magic 0": (changed(PLAIN, ">b", 16, 0), Code.UNSUPPORTED_FOR_MESSAGE_FORMAT),
    "magic 1": (changed(PLAIN, ">b", 16, 1)[:34], Code.UNSUPPORTED_FOR_MESSAGE_FORMAT),
    "magic 3": (changed(PLAIN, ">b", 16, 3), Code.CORRUPT_MESSAGE),
    "the CRC": (PLAIN[:17] + bytes(4) + PLAIN[21:], Code.CORRUPT_MESSAGE),
    "a byte of the records": (PLAIN[:-1] + b"\1", Code.CORRUPT_MESSAGE),
    "a count too large": (changed(PLAIN, ">i", 57, 6), Code.INVALID_RECORD),
    "a last delta too large": (changed(PLAIN, ">i", 23, 5), Code.INVALID_RECORD),
    "no records": (changed(changed(PLAIN, ">i", 57, 0), ">i", 23, -1), Code.INVALID_RECORD),
    "a control batch": (control(True, 1, 1, T), Code.INVALID_RECORD),
    "a producer without a sequence": (build(ROWS, producer=(5, 0, -1)), Code.INVALID_RECORD),
    "a transaction without a producer": (build(ROWS, producer=(-1, 0, 0), transactional=True), Code.INVALID_RECORD),
    "compression 5": (changed(PLAIN, ">h", 21, 5), Code.UNSUPPORTED_COMPRESSION_TYPE),
    "the second": (PLAIN + PLAIN[:-1], Code.CORRUPT_MESSAGE),
}


@pytest.mark.parametrize(("data", "expected"), BAD.values(), ids=BAD.keys())
def test_what_split_refuses(data: bytes, expected: Code) -> None:
    """Each fault with the code that a producer understands."""
    assert code(split, memoryview(data), 1 << 20) == expected


def test_the_limit_is_each_batchs() -> None:
    """Two batches of just the limit pass, one of a byte more doesn't."""
    assert len(split(memoryview(PLAIN * 2), len(PLAIN))) == 2
    assert code(split, memoryview(PLAIN * 2), len(PLAIN) - 1) == Code.MESSAGE_TOO_LARGE


@foreign
def test_cut_off_anywhere(batch: bytes) -> None:
    """No beginning of a batch is read or split; only TopicsError is raised."""
    for at in range(1, len(batch), 1 if len(batch) < 1000 else 37):
        assert code(list, records(batch[:at])) == Code.CORRUPT_MESSAGE
        assert code(split, memoryview(batch)[:at], 1 << 20) == Code.CORRUPT_MESSAGE


SMALL = [(time, key, value and value[:9], headers) for time, key, value, headers in ROWS]
SMALL_FOREIGN = {kind: batches.by_aiokafka(SMALL * 3, kind) for kind in range(5)}


@pytest.mark.parametrize("kind", range(5))
@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_damaged_anywhere(kind: int, flip: int) -> None:
    """A changed byte is found by the CRC; where that isn't meant to cover it, it changes no record's content."""
    batch = SMALL_FOREIGN[kind]
    for at in range(8, len(batch)):
        bad = batch[:at] + bytes([batch[at] ^ flip]) + batch[at + 1 :]
        expected = None if 12 <= at < 16 else Code.CORRUPT_MESSAGE
        if at == 16 and bad[16] < 2:
            expected = Code.UNSUPPORTED_FOR_MESSAGE_FORMAT
        assert code(list, records(bad)) == expected, at


@pytest.mark.parametrize("kind", range(5))
@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_malformed_under_a_right_crc(kind: int, flip: int) -> None:
    """What a hostile producer sends is read as something or refused with TopicsError, by compaction, too."""
    batch = SMALL_FOREIGN[kind]
    for at in range(21, len(batch)):
        bad = changed(batch, ">B", at, batch[at] ^ flip)
        code(list, records(bad))
        code(rewritten, bad, lambda one: one.key is None)
        code(split, memoryview(bad), 1 << 20)


@given(payload=st.binary(max_size=40), kind=st.integers(0, 7), count=st.integers(-2, 4))
def test_noise_under_a_right_crc(payload: bytes, kind: int, count: int) -> None:
    """Random records of any claimed compression and count: TopicsError or records."""
    batch = changed(sealed(PLAIN, payload, kind), ">i", 57, count)
    code(list, records(batch))
    code(rewritten, batch, lambda one: False)


VARINT_LONG = b"\x80" * 9 + b"\x02"
MALFORMED = {
    "a record longer than the data": b"\x7e\0\0\0\1\1\0",
    "a record of negative length": b"\1\0\0\0\1\1\0",
    "a record shorter than its fields": b"\x0a\0\0\0\1\1\0",
    "a record longer than its fields": b"\x0e\0\0\0\1\1\0\0",
    "a key of length -2": b"\x0c\0\0\0\3\1\0",
    "a value past the end": b"\x0c\0\0\0\1\x7e\0",
    "-1 headers": b"\x0c\0\0\0\1\1\1",
    "a header without a key": b"\x10\0\0\0\1\1\2\1\1",
    "2**31 headers": b"\x16\0\0\0\1\1\x80\x80\x80\x80\x10\0\0",
    "a number of 65 bits": b"\x1e\0" + VARINT_LONG + b"\0\1\1\0",
    "a number without an end": b"\x1e\0" + b"\xff" * 13,
    "bytes behind the records": b"\x0c\0\0\0\1\1\0\0",
    "a record missing": b"",
    "an offset behind the last": b"\x0c\0\0\2\1\1\0",
    "an offset before the first": b"\x0c\0\0\1\1\1\0",
}


@pytest.mark.parametrize("payload", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_records(payload: bytes) -> None:
    """CORRUPT_MESSAGE, whatever doesn't fit."""
    one = build([(T, None, None, ())])
    assert one[61:] == b"\x0c\0\0\0\1\1\0"
    assert code(list, records(sealed(one, payload))) == Code.CORRUPT_MESSAGE


def test_offsets_that_do_not_rise() -> None:
    """Two records of one offset are CORRUPT_MESSAGE."""
    two = build([(T, None, None, ())] * 2)
    assert code(list, records(sealed(two, b"\x0c\0\0\0\1\1\0" * 2))) == Code.CORRUPT_MESSAGE


def test_header_keys_that_are_no_text() -> None:
    """Bytes that are no UTF-8 are replaced, as Java's clients do."""
    one = sealed(build([(T, None, None, ())]), b"\x12\0\0\0\1\1\2\2\xff\1")
    assert [record.headers for record in records(one)] == [(("\ufffd", None),)]


def test_the_bound_of_a_reader() -> None:
    """A batch that takes more than `most` decompressed is CORRUPT_MESSAGE."""
    batch = batches.by_aiokafka([(T, None, bytes(100_000), ())], 4)
    assert len(batch) < 300 and len(list(records(batch, 100_100))) == 1
    assert code(list, records(batch, 99_999)) == Code.CORRUPT_MESSAGE


@foreign
def test_rewritten(batch: bytes) -> None:
    """What is kept keeps offset, time, headers; so do the batch's ends, producer, compression. Others read it."""
    batch = placed(changed(batch, ">qhi", 43, 9, 1, 4), 100, 3)
    left = rewritten(batch, lambda one: one.offset in (102, 103))
    assert left is not None
    expected = [(102, ROWS[2]), (103, ROWS[3])]
    before, after = header(batch), header(left)
    readers = READERS if after.compression < 2 else READERS[:1]  # kafka-python has no other here
    assert all(reader(left) == expected for reader in (read, *readers))
    kept = {"base_offset", "leader_epoch", "last_delta", "base_time", "producer_id", "producer_epoch", "base_sequence",
            "attributes"}  # fmt: skip
    assert all(getattr(before, name) == getattr(after, name) for name in kept)
    assert (after.count, after.max_time, after.size) == (2, T - 5, len(left))


def test_rewritten_with_a_time_of_appending() -> None:
    """That time stays the time of all that is left."""
    left = rewritten(with_time(PLAIN, T + 9), lambda one: one.offset == 3)
    assert left is not None
    assert read(left) == batches.read_by_aiokafka(left) == [(3, (T + 9, *ROWS[3][1:]))]


def test_rewritten_twice() -> None:
    """A batch with holes can be compacted again."""
    once = rewritten(PLAIN, lambda one: one.offset != 2)
    twice = once and rewritten(once, lambda one: one.offset != 0)
    assert twice and [offset for offset, _ in read(twice)] == [1, 3, 4]
    assert header(twice).last_delta == 4


@foreign
def test_nothing_to_rewrite(batch: bytes) -> None:
    """All kept: the batch as it is, compressed as it was. None kept: no batch."""
    assert rewritten(memoryview(batch), lambda _: True) == batch
    assert rewritten(batch, lambda _: False) is None


def test_damage_is_not_sealed() -> None:
    """A batch whose CRC is wrong isn't written anew with a right one."""
    assert code(rewritten, PLAIN[:-1] + b"\1", lambda one: one.offset == 0) == Code.CORRUPT_MESSAGE


def test_a_time_that_no_header_holds() -> None:
    """A base time and a delta whose sum has more than 64 bits can't become a batch's greatest time."""
    late = changed(build([(0, None, None, ()), (10, None, None, ())]), ">q", 27, 2**63 - 1)
    assert code(rewritten, late, lambda one: one.offset == 1) == Code.CORRUPT_MESSAGE


def test_the_default_bound() -> None:
    """64 MiB a batch, whatever it was compressed to."""
    assert record_batch.MOST == 64 << 20
