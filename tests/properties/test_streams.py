"""Labels of a batch: there and back, and from a hostile peer; runs and identities, cut like what they stand for."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import RemoteProtocolError
from agent.store import schema
from agent.store.streams import (
    NUMBER_LIMIT,
    RUN_LIMIT,
    Identity,
    Runs,
    Transit,
    from_metadata,
    identities_of,
    numbers_of,
    runs_of,
    slice_identity,
    slice_runs,
    to_metadata,
)

ORIGINS = st.binary(min_size=16, max_size=16)
FEW_ORIGINS = st.sampled_from([b"a" * 16, b"b" * 16])
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
RUNS = st.sets(st.integers(1, 200), min_size=1, max_size=50).map(lambda numbers: runs_of(sorted(numbers)))
SINGLES = st.lists(st.tuples(FEW_ORIGINS, st.integers(1, 40)), max_size=40)


@st.composite
def transits(draw: st.DrawFn) -> Transit:
    """Any that a sender may make; numbers up to the limit."""
    shift = draw(st.sampled_from([0, 1 << 33, NUMBER_LIMIT - 300]))
    numbers = tuple((first + shift, count) for first, count in draw(RUNS))
    after = draw(st.integers(0, numbers[0][0] - 1))
    chain = draw(st.none() | st.tuples(ORIGINS, st.integers(0, NUMBER_LIMIT - 1)))
    return Transit(draw(ORIGINS), draw(NAMES), after, numbers, draw(st.integers(0, NUMBER_LIMIT - 1)), chain)


def spread(runs: tuple[Identity, ...]) -> list[tuple[bytes, int]]:
    return [(run.origin, run.first + i) for run in runs for i in range(run.count)]


@given(transits() | st.none(), SINGLES)
def test_labels_come_back(transit: Transit | None, ids: list[tuple[bytes, int]]) -> None:
    """What a sender labels a batch with is what its receiver reads."""
    if transit is not None:
        ids = (ids * transit.count)[: transit.count] if ids else []
    identity = identities_of(ids) or None
    count = transit.count if transit else len(ids)
    assert from_metadata(to_metadata(transit, identity), count) == (transit, identity)


@given(transits(), st.integers(-2, 400))
def test_labels_fit_their_batch(transit: Transit, count: int) -> None:
    """Labels of a batch of another length are refused."""
    if count != transit.count:
        with pytest.raises(RemoteProtocolError, match="do not fit"):
            from_metadata(to_metadata(transit, None), count)


LABELS = ["stream", "after", "numbers", "settled", "chain", "identity"]


@given(st.dictionaries(st.sampled_from(["headrace." + name for name in LABELS]), st.binary(max_size=80)))
def test_any_bytes_as_labels(meta: dict[str, bytes]) -> None:
    """Labels of any bytes are refused by one error, or are none."""
    try:
        transit, identity = from_metadata(meta, 1)
    except RemoteProtocolError:
        return
    assert transit is None or transit.count == 1
    assert identity is None or sum(run.count for run in identity) == 1


@given(transits(), st.sampled_from(LABELS), st.data())
def test_damaged_labels(transit: Transit, label: str, data: st.DataObject) -> None:
    """A label with some bytes changed is refused, or says something that a sender could say."""
    meta = to_metadata(transit, identities_of([(b"i" * 16, n) for n in range(1, transit.count + 1)]))
    text = bytearray(meta.get("headrace." + label, b"0"))
    for at in data.draw(st.lists(st.integers(0, len(text) - 1), min_size=1, max_size=3)):
        text[at] = data.draw(st.sampled_from(list(b"0123456789abcf+-,:/ \xff\x00_")))
    meta["headrace." + label] = bytes(text)
    try:
        read, identity = from_metadata(meta, transit.count)
    except RemoteProtocolError:
        return
    assert read is not None and identity is not None
    assert len(read.origin) == 16 and 0 < len(read.channel) <= 255
    assert 0 <= read.after < read.numbers[0][0] and 0 <= read.settled < NUMBER_LIMIT
    assert all(a[0] + a[1] <= b[0] and a[1] > 0 for a, b in pairwise(read.numbers))
    assert sum(run.count for run in identity) == read.count == transit.count
    assert all(run.first > 0 and len(run.origin) == 16 for run in identity)


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("numbers", b"5+1,5+1"),
        ("numbers", b"5+1,4+1"),
        ("numbers", b"3+2"),
        ("numbers", b"5+0,6+2"),
        ("numbers", b"5+-2,9+4"),
        ("numbers", b" 5+2"),
        ("numbers", "٥+2".encode()),
        ("numbers", b"4611686018427387904+2"),
        ("numbers", b""),
        ("after", b"-1"),
        ("after", b"1_0"),
        ("settled", b"9" * 5000),
        ("stream", b"00/x"),
        ("stream", b"61 " * 16 + b"/x"),
        ("stream", b"61" * 16 + b"/"),
        ("stream", b"61" * 16 + b"/" + b"x" * 256),
        ("stream", b"61" * 16),
        ("chain", b"61" * 16),
        ("identity", b"61" * 16 + b":0+2"),
        ("identity", b"61" * 15 + b":1+2"),
    ],
)
def test_refused_label(label: str, text: bytes) -> None:
    """Each of these is an error of the peer's, by name."""
    meta = to_metadata(Transit(b"a" * 16, "c", 3, ((5, 2),), 0), (Identity(b"b" * 16, 1, 2),))
    with pytest.raises(RemoteProtocolError, match="headrace labels"):
        from_metadata({**meta, f"headrace.{label}": text}, 2)


def test_too_many_runs() -> None:
    """A batch in more runs than the limit is refused."""
    numbers = tuple((n, 1) for n in range(1, 2 * RUN_LIMIT + 4, 2))
    with pytest.raises(RemoteProtocolError):
        from_metadata(to_metadata(Transit(b"a" * 16, "c", 0, numbers, 0), None), len(numbers))


@given(RUNS, st.integers(0, 220), st.integers(0, 220))
def test_slice_runs(runs: Runs, start: int, stop: int) -> None:
    """A slice of runs is the runs of the slice."""
    assert slice_runs(runs, start, stop) == runs_of(list(numbers_of(runs))[start:stop])


@given(SINGLES, st.integers(0, 45), st.integers(0, 45))
def test_slice_identity(ids: list[tuple[bytes, int]], start: int, stop: int) -> None:
    """A slice of identities names the same events."""
    assert spread(slice_identity(identities_of(ids), start, stop)) == ids[start:stop]


@given(SINGLES)
def test_identities_are_few_runs(ids: list[tuple[bytes, int]]) -> None:
    """Identities in runs name the same events in the same order, and neighbours are joined."""
    runs = identities_of(ids)
    assert spread(runs) == ids
    assert all(a.origin != b.origin or a.first + a.count != b.first for a, b in pairwise(runs))


@given(st.lists(st.builds(Identity, ORIGINS, st.integers(0, NUMBER_LIMIT), st.integers(1, NUMBER_LIMIT))).map(tuple))
def test_identity_packed(runs: tuple[Identity, ...]) -> None:
    """Identity runs come back from a row as they went in."""
    assert schema.unpack_identity(schema.pack_identity(runs)) == runs


@given(st.binary(max_size=60))
def test_identity_from_any_bytes(data: bytes) -> None:
    """Any bytes are identity runs or are refused by one error."""
    try:
        runs = schema.unpack_identity(data)
    except RemoteProtocolError:
        return
    assert all(len(run.origin) == 16 and run.first >= 0 and run.count > 0 for run in runs)
