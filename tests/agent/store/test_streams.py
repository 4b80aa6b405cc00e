"""How labels look on the wire: fixed, because other versions read them."""

from __future__ import annotations

from agent.event import Batch, Event
from agent.store.streams import Identity, Transit, from_metadata, runs_of, to_metadata

ORIGIN = bytes(range(16))
HEX = b"000102030405060708090a0b0c0d0e0f"


def test_labels_as_text() -> None:
    """The labels are readable text: origin in hexadecimal, numbers as first+count."""
    transit = Transit(ORIGIN, "c1", 7, ((9, 2), (12, 1)), 5, (b"z" * 16, 40))
    meta = to_metadata(transit, (Identity(ORIGIN, 3, 2), Identity(b"z" * 16, 1, 1)))
    assert meta == {
        "headrace.stream": HEX + b"/c1",
        "headrace.after": b"7",
        "headrace.numbers": b"9+2,12+1",
        "headrace.settled": b"5",
        "headrace.chain": b"7a" * 16 + b":40",
        "headrace.identity": HEX + b":3+2," + b"7a" * 16 + b":1+1",
    }


def test_batch_without_labels() -> None:
    """A peer that is not ours sends none: no stream, no identity."""
    assert from_metadata({"other": b"x"}, 3) == (None, None)
    assert to_metadata(None, None) == {}


def test_a_channel_name_may_hold_a_slash() -> None:
    """Only the first slash divides origin and channel."""
    transit = Transit(ORIGIN, "a/b", 0, ((1, 1),), 0)
    assert from_metadata(to_metadata(transit, None), 1)[0] == transit


def test_runs() -> None:
    """Ascending numbers in runs of neighbours; a transit's last and count follow from them."""
    runs = runs_of([1, 2, 3, 7, 9, 10])
    assert runs == ((1, 3), (7, 1), (9, 2))
    transit = Transit(ORIGIN, "c", 0, runs, 0)
    assert (transit.last, transit.count) == (10, 6)


def test_a_part_of_a_batch_says_what_precedes_it() -> None:
    """`after` of a part is the number before its first, also where a run ends there."""
    batch = Batch(
        [Event({}, b"%d" % n) for n in (4, 5, 9, 10)],
        transit=Transit(ORIGIN, "c", 2, ((4, 2), (9, 2)), 1),
        identity=(Identity(b"i" * 16, 1, 4),),
    )
    part = batch.part(2, 4)
    assert part.transit == Transit(ORIGIN, "c", 5, ((9, 2),), 1)
    assert part.identity == (Identity(b"i" * 16, 3, 2),)
    assert [event.body for event in part.events] == [b"9", b"10"]


def test_picked_events_keep_number_and_identity() -> None:
    """An event that is left out leaves a hole; the others keep their names."""
    batch = Batch(
        [Event({}, b"%d" % n) for n in range(1, 5)],
        transit=Transit(ORIGIN, "c", 0, ((1, 4),), 0),
        identity=(Identity(b"i" * 16, 11, 4),),
    )
    picked = batch.pick([0, 1, 3])
    assert picked.transit == Transit(ORIGIN, "c", 0, ((1, 2), (4, 1)), 0)
    assert picked.identity == (Identity(b"i" * 16, 11, 2), Identity(b"i" * 16, 14, 1))
